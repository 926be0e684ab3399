"""The real server, as a child process on the host's end of a TAP.

It is started in the namespace's own thread, so its sockets are the namespace's; and with
PR_SET_PDEATHSIG, so that it does not outlive a bench that is killed. All that it prints goes to one
file, the evidence of every failure below. No wait is unbounded.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench.servers.child import start_child
from bench.wire.namespace import Namespace

#: A server hangs when it takes longer, seconds. One that ends is noticed at once.
START_TIMEOUT_S: Final = 120.0
STOP_TIMEOUT_S: Final = 120.0
_TAIL: Final = 4_000
#: Characters of what it printed that a verdict quotes.
_LAST: Final = 500


class ServerLaunchFailure(Exception):
    """The server did not come up. Carries the command, the exit status and what it printed."""

    def __init__(self, command: Sequence[str], status: int | None, output: str) -> None:
        self.command = list(command)
        self.status = status
        self.output = output
        ended = "did not say that it listens in time" if status is None else f"exited {status}"
        super().__init__(
            f"{' '.join(command)}\n{ended}; it printed:\n{output[-_TAIL:] or '(nothing)'}"
        )


class ServerProcess:
    """``python -m server`` in a namespace; a ``DumpServer`` and a context manager."""

    def __init__(
        self,
        namespace: Namespace,
        dumpdir: Path,
        log: Path,
        *,
        bind: str = "198.18.0.1",
        port: int = 20023,
        options: Sequence[str] = (),
        command: Sequence[str] = (sys.executable, "-m", "server"),
    ) -> None:
        """``log`` collects what it prints, over all its lives."""
        self.address = (bind, port)
        self.dumpdir = dumpdir
        self.log = log
        self.command = [
            *command,
            *("--bind", bind, "--port", str(port), "--dumpdir", str(dumpdir)),
            *options,
        ]
        self._namespace = namespace
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def start(self) -> None:
        if self.running:
            return
        self.dumpdir.mkdir(parents=True, exist_ok=True)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        ready, tell_ready = os.pipe()
        try:
            with self.log.open("ab") as log:
                before = log.tell()
                try:
                    self._child = self._namespace.run(self._spawn, log.fileno(), tell_ready)
                finally:
                    os.close(tell_ready)
            # It says where it listens, or ends: either way the pipe becomes readable.
            answer = select.poll()  # select(2) knows no descriptor beyond 1023
            answer.register(ready, select.POLLIN)
            came = answer.poll(START_TIMEOUT_S * 1000)
            if came and os.read(ready, 64):
                return
        finally:
            os.close(ready)
        if not came:
            self.kill()
        status = self._child.wait(STOP_TIMEOUT_S) if came else None
        raise ServerLaunchFailure(self.command, status, self._printed(before))

    def stop(self) -> None:
        """SIGTERM; SIGKILL if it doesn't end within ``STOP_TIMEOUT_S``."""
        if self._child is None:
            return
        if self.running:
            self.resume()
            self._child.terminate()
        try:
            self._child.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.wait(STOP_TIMEOUT_S)

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
        return len(os.listdir(f"/proc/{self._child.pid}/fd"))

    def trouble(self) -> list[str]:
        output = self.output()
        if not self.running:
            return [f"the server ended with status {self.status}: {output[-_LAST:].strip()}"]
        if "Traceback" in output:
            return [f"the server raised: {output[output.index('Traceback') :][:_LAST]}"]
        return []

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child else None

    @property
    def status(self) -> int | None:
        """Exit status of the last child; negative: the signal that ended it; None: it lives."""
        return self._child.poll() if self._child else None

    def output(self) -> str:
        """All that it printed so far, over all its lives."""
        return self._printed(0)

    def __enter__(self) -> ServerProcess:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _signal(self, number: signal.Signals) -> None:
        if self._child is not None and self.running:
            self._child.send_signal(number)

    def _printed(self, start: int) -> str:
        with self.log.open("rb") as log:
            log.seek(start)
            return log.read().decode(errors="replace")

    def _spawn(self, log: int, tell_ready: int) -> subprocess.Popen[bytes]:
        """Runs in the namespace's thread, which lives as long as the child may."""
        return start_child([*self.command, "--ready-fd", str(tell_ready)], log, (tell_ready,))
