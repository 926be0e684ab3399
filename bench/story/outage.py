"""The moment at which the server is lost: when so many frames of data have come to it.

A wire round the bare one, so that what a fault has lost does not count. The server is killed, as by
kill -9; frames go on to where it was. Later another one may come up over the same folder, which
knows of the first what lies there; and may be killed in its turn, so many frames later.
"""

from __future__ import annotations

import numpy as np

from bench.clock import Clock
from bench.servers import DumpServer
from bench.wire.contracts import Wire
from bench.wire.kinds import DATA, classify
from nic_models.frames import Frames


class Outage:
    """Kills the server after ``after`` data frames; brings it up ``back_ms`` later; all that so
    many ``times``. A ``Wire``."""

    def __init__(
        self,
        inner: Wire,
        server: DumpServer,
        clock: Clock,
        after: int,
        back_ms: int | None,
        times: int = 1,
    ) -> None:
        self._after = after
        self._times = times
        self._inner = inner
        self._server = server
        self._clock = clock
        self._left = after
        self._back_ns = None if back_ms is None else back_ms * 10**6
        self._due_ns: int | None = None

    def send(self, frames: Frames) -> None:
        self._look()
        self._inner.send(frames)
        if self._left <= 0 or self._due_ns is not None:
            return
        self._left -= int(np.count_nonzero(np.isin(classify(frames), DATA)))
        if self._left <= 0:
            self._server.kill()
            self._times -= 1
            if self._back_ns is not None:
                self._due_ns = self._clock.now_ns() + self._back_ns

    def receive(self) -> Frames:
        self._look()
        return self._inner.receive()

    def close(self) -> None:
        self._inner.close()

    def _look(self) -> None:
        if self._due_ns is not None and self._clock.now_ns() >= self._due_ns:
            self._due_ns = None
            self._server.start()
            if self._times > 0:
                self._left = self._after
