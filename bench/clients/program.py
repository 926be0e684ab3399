"""A client's process: started in the machine's namespace, watched, and ended with all it started.

Nothing waits for it: ``look`` says whether it runs, and takes what it has printed. What it prints
goes to a log, of which the first MiB is kept; its last line is what a failure is told by.

It is a process group of its own, and SIGKILL ends the group: when the client has ended, too, for
what it has left running would go on sending. So is what has left the group. The client is reaped
after that, so its number is still its own.
"""

from __future__ import annotations

import errno
import os
import pwd
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.errors import BadInput, MachineLacks
from bench.servers.child import start_child
from bench.servers.processes import Brood, network_here

#: Bytes of its output that are kept, and the longest last line.
LOG_BYTES: Final = 1 << 20
LINE: Final = 500
#: After SIGKILL a process hangs in the kernel if it takes longer, seconds.
KILL_TIMEOUT_S: Final = 120.0
_READ: Final = 1 << 16
#: Reads in one look: who prints without end must not keep us from the wire.
_READS: Final = 4

Inside = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Ended:
    """How a client ended. ``status`` is negative for a signal."""

    status: int
    last_line: str

    @property
    def claims_success(self) -> bool:
        return self.status == 0

    @property
    def signal(self) -> str:
        """The name of the signal that ended it; "" where none did."""
        if self.status >= 0:
            return ""
        try:
            return signal.Signals(-self.status).name
        except ValueError:  # a real-time signal
            return f"signal {-self.status}"

    def __str__(self) -> str:
        """As a failure: a sentence."""
        how = f"{self.signal} ended it" if self.signal else f"it ended with status {self.status}"
        return f"{how}; its last line: {self.last_line}" if self.last_line else f"{how}, silent"


class ClientProgram:
    """One client. ``start``, ``look`` again and again, ``end``; ``kill`` at any time."""

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
        user: str | None = None,
    ) -> None:
        self.command = list(command)
        self.printed = 0
        """Bytes so far."""
        self._log = log.open("wb", buffering=0)
        self._tail = b""
        self._output = -1
        self._environment = {**os.environ, **(environment or {})}
        self._user = user
        self._child: subprocess.Popen[bytes] | None = None
        self._brood: Brood | None = None

    def start(self, run: Inside, reads: Path | None = None) -> None:
        """Start it; ``run`` calls a function in the namespace's thread, which outlives it.
        ``reads``: a file that it is to read.

        Raises:
            BadInput: it can't be executed, there is no such user, or that user can't read the file.
            MachineLacks: we may not be that user.
        """
        if self._user is not None and reads is not None:
            with open(os.devnull, "wb") as nothing:
                words = ["/bin/sh", "-c", 'test -r "$0"', str(reads)]
                tried = self._spawn(run, words, nothing.fileno())
            if tried.wait(KILL_TIMEOUT_S):
                raise BadInput(
                    f"the client's user {self._user} may not read {reads}: with --runs name a"
                    " folder where that user may go"
                )
        self._brood = Brood(run(network_here))
        self._environment |= self._brood.environment
        self._output, theirs = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._output, False)
        try:
            self._child = self._spawn(run, self.command, theirs)
        finally:
            os.close(theirs)

    def _spawn(self, run: Inside, words: Sequence[str], output: int) -> subprocess.Popen[bytes]:
        owner = None if self._user is None else user_of(self._user)
        try:
            child: subprocess.Popen[bytes] = run(
                start_child, words, output, environment=self._environment, user=owner
            )
            return child
        except OSError as error:
            says = f"the client {words[0]}: {error.strerror}"
            if owner is not None and error.errno == errno.EACCES:
                raise BadInput(f"{says}: its user {self._user} may not execute it") from None
            if owner is not None and error.errno in (errno.EPERM, errno.EINVAL):
                raise MachineLacks(
                    f"the client can't be run as {self._user}: {error.strerror} (cure: play as"
                    " root, and not in a user namespace)"
                ) from None
            raise BadInput(f"{says}; is it for this machine, and its interpreter there?") from None

    def look(self) -> bool:
        """Whether it runs."""
        self._take_output()
        return self._runs()

    def end(self) -> Ended:
        """Of one that has ended: how. What it had left running ends, too."""
        child = self._started()
        self._kill_group()
        status = child.wait(KILL_TIMEOUT_S)
        self._take_output()
        return Ended(status, last_line(self._tail))

    def kill(self) -> None:
        """End it, and all it started; twice is harmless."""
        if self._child is not None and self._child.returncode is None:
            self._kill_group()
            self._child.wait(KILL_TIMEOUT_S)
        if self._output >= 0:
            self._take_output()
            os.close(self._output)
            self._output = -1
        self._log.close()

    def _started(self) -> subprocess.Popen[bytes]:
        assert self._child is not None, "it was started"
        return self._child

    def _runs(self) -> bool:
        # Not reaped: its number stays its own until its group has been ended.
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self._started().pid, flags) is None

    def _kill_group(self) -> None:
        try:
            os.killpg(self._started().pid, signal.SIGKILL)
        except PermissionError:  # a member that has become another user: its kernel says who
            self._started().kill()
        except ProcessLookupError:
            pass
        if self._brood is not None:
            self._brood.end()

    def _take_output(self) -> None:
        for _ in range(_READS):
            try:
                octets = os.read(self._output, _READ)
            except BlockingIOError:
                return
            if not octets:
                return
            room = max(LOG_BYTES - self.printed, 0)
            if room:
                self._log.write(octets[:room])
            self.printed += len(octets)
            self._tail = (self._tail + octets)[-2 * LINE :]


def last_line(output: bytes) -> str:
    """The last line that is not blank, fit for a terminal."""
    lines = [line for line in output.decode(errors="replace").splitlines() if line.strip()]
    text = lines[-1].strip() if lines else ""
    return "".join(c if c.isprintable() else "?" for c in text)[-LINE:]


def user_of(name: str) -> tuple[int, int]:
    """(uid, gid) of a user's name or number. A number needs no entry."""
    try:
        found = pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
        return found.pw_uid, found.pw_gid
    except KeyError:
        if name.isdecimal():
            return int(name), int(name)
        raise BadInput(f'there is no user "{name}" to run the client as') from None
