"""A server that is a child process of ours, on the host's end of a TAP: what all of them share.

It is started in the namespace's own thread, so its sockets are the namespace's; and with
PR_SET_PDEATHSIG, so that it does not outlive a bench that is killed. It leads a process group, and
whatever else has come of it when it has ended is ended too, in that group and out of it: nobody may
keep its port. What it
prints is the evidence of every failure below (``printed.py``). No wait is unbounded.
"""

from __future__ import annotations

import os
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, Final, Self

from bench.servers import ServerProtocol
from bench.servers.names import DumpNames, StoredDump
from bench.servers.printed import SAID, PrintedLog, raised
from bench.servers.processes import Brood, network_here, open_descriptors
from bench.servers.rest import at_rest
from bench.wire.namespace import Namespace

#: A server hangs when it takes longer, seconds. One that ends is noticed at once.
START_TIMEOUT_S: Final = 120.0
STOP_TIMEOUT_S: Final = 120.0
_TAIL: Final = 4_000


class ServerLaunchFailure(Exception):
    """The server did not come up. Carries the command, the exit status and what it printed."""

    def __init__(self, command: Sequence[str], status: int | None, output: str) -> None:
        self.command = list(command)
        self.status = status
        self.output = output
        how = "did not listen in time" if status is None else how_it_ended(status)
        said = output[-_TAIL:].strip()
        last = said.splitlines()[-1] if said else "it printed nothing"
        last += " (does it go into the background? it is to stay in front)" if status == 0 else ""
        super().__init__(f"{' '.join(command)}\nprinted:\n{said}\nthe server {how}: {last}")


def how_it_ended(status: int) -> str:
    """An exit status, or the signal of a negative one, in words."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


class NativeServer(ABC):
    """A ``DumpServer`` and a context manager; how it is started and known to listen is the kind's.

    ``command``: what is started, for evidence.
    """

    protocol: ServerProtocol
    names: DumpNames
    notes: Sequence[str] = ()
    #: How it is told to end in good order.
    ends_by: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(
        self,
        namespace: Namespace,
        dumpdir: Path,
        log: Path,
        address: tuple[str, int],
        command: Sequence[str],
    ) -> None:
        """``log`` gets what it prints, over all its lives, as ``PrintedLog`` has it."""
        self.address = address
        self.dumpdir = dumpdir
        self.log = log
        self._log = PrintedLog(log)
        self.command = list(command)
        self._namespace = namespace
        self._child: subprocess.Popen[bytes] | None = None
        self._brood = Brood(namespace.run(network_here))
        self._ended_by_us = False

    @abstractmethod
    def _spawn(self, log: int) -> subprocess.Popen[bytes]:
        """Start it, with a descriptor for what it prints; called in the namespace's thread, which
        lives as long as the child may.
        """

    @abstractmethod
    def _listens(self, printed_from: int) -> bool:
        """Wait until it listens; False if it ended, or did not within ``START_TIMEOUT_S``.

        ``printed_from``: where in the log what it prints begins.
        """

    @property
    def running(self) -> bool:
        return self.status is None and self._child is not None

    def start(self) -> None:
        if self.running:
            return
        self.dumpdir.mkdir(parents=True, exist_ok=True)
        self._ended_by_us = False
        before = self._log.total
        theirs = self._log.open()
        try:
            self._child = self._namespace.run(self._spawn, theirs)
        except BaseException:
            self._log.close()
            raise
        finally:
            os.close(theirs)
        try:
            listens = self._listens(before)
        except BaseException:
            self.kill()
            raise
        if listens:
            return
        status = self.status
        self.kill()
        raise ServerLaunchFailure(self.command, status, self._log.text(before))

    def stop(self) -> None:
        """SIGTERM; SIGKILL if it doesn't end within ``STOP_TIMEOUT_S``."""
        if self._child is None:
            return
        if self.running:
            self.resume()
            self._ended_by_us = True
            self._child.send_signal(self.ends_by)
        if not self._ends_within(STOP_TIMEOUT_S):
            self.kill()

    def kill(self) -> None:
        if self._child is not None and self.running:
            self._ended_by_us = True
            self._signal(signal.SIGKILL)
            self._ends_within(STOP_TIMEOUT_S)

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def restart(self) -> None:
        self.kill()
        self.start()

    def fd_count(self) -> int:
        if self._child is None or not self.running:
            return 0
        return open_descriptors(self._child.pid)

    def at_rest(self) -> bool:
        return self._child is None or not self.running or at_rest(self._child.pid)

    def stored(self) -> list[StoredDump]:
        return self.names.dumps_in(self.dumpdir)

    def trouble(self, said: Sequence[str] = ()) -> list[str]:
        output = self.output()
        found = raised(output, said)
        if self.status is not None and not self._ended_by_us:
            found.append(f"the server {how_it_ended(self.status)}: {output[-SAID:].strip()}")
        return found

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child else None

    @property
    def status(self) -> int | None:
        """Exit status of the last child; negative: the signal that ended it; None: it lives."""
        if self._child is None or not self._ends_within(0):
            return None
        return self._child.returncode

    def output(self) -> str:
        """What it printed so far, over all its lives."""
        return self._log.text()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _signal(self, number: signal.Signals) -> None:
        """To all of its group: what it forked stands still with it, and ends with it."""
        if self._child is not None and self.running:
            with suppress(ProcessLookupError):
                os.killpg(self._child.pid, number)

    def _ends_within(self, seconds: float) -> bool:
        """Wait for its end, and see to it that nothing of its group is left.

        As soon as the end is known: while anybody is left in the group its number is not given
        away, and nobody else's can have it yet.
        """
        if self._child is None or self._child.returncode is not None:
            return True
        try:
            self._child.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        with suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGKILL)
        self._brood.end()
        self._log.close()
        return True
