"""Our own server, as a child process on the host's end of a TAP.

It tells by a descriptor that it listens (``--ready-fd``), and so does its end: the pipe is closed.
"""

from __future__ import annotations

import os
import select
import subprocess
from collections.abc import Sequence
from pathlib import Path

from bench.again import module
from bench.servers.child import start_child
from bench.servers.names import OURS
from bench.servers.native import START_TIMEOUT_S, STOP_TIMEOUT_S, NativeServer
from bench.wire.namespace import Namespace


class ServerProcess(NativeServer):
    """``python -m server`` in a namespace."""

    protocol = "netdump2"
    names = OURS

    def __init__(
        self,
        namespace: Namespace,
        dumpdir: Path,
        log: Path,
        *,
        bind: str = "198.18.0.1",
        port: int = 20023,
        options: Sequence[str] = (),
        command: Sequence[str] = (*module("server"),),
    ) -> None:
        """``log`` gets what it prints, over all its lives."""
        place = ("--bind", bind, "--port", str(port), "--dumpdir", str(dumpdir))
        super().__init__(namespace, dumpdir, log, (bind, port), [*command, *place, *options])
        self._ready = -1

    def _spawn(self, log: int) -> subprocess.Popen[bytes]:
        self._ready, tell_ready = os.pipe()
        try:
            command = [*self.command, "--ready-fd", str(tell_ready)]
            return start_child(command, log, (tell_ready,))
        except BaseException:
            os.close(self._ready)
            raise
        finally:
            os.close(tell_ready)

    def _listens(self, printed_from: int) -> bool:
        # It says where it listens, or ends: either way the pipe becomes readable.
        try:
            answer = select.poll()  # select(2) knows no descriptor beyond 1023
            answer.register(self._ready, select.POLLIN)
            came = answer.poll(START_TIMEOUT_S * 1000)
            if came and os.read(self._ready, 64):
                return True
        finally:
            os.close(self._ready)
        if came:
            self._ends_within(STOP_TIMEOUT_S)
        return False
