"""The peer that does not know: ordinary frames that go on arriving after the panic.

Whoever was talking to the machine goes on talking to it for a while. The NIC's old rings are still
armed: each of these frames would be written to memory that is about to be dumped, had the panic
driver not stopped the NIC first; and when it runs again, each has to be refused.
"""

from __future__ import annotations

import numpy as np

from bench.clock import Clock
from bench.wire.contracts import Observer, Wire
from nic_models.frames import Frames


class LatePeer:
    """A wire on which frames that were announced arrive in their time."""

    def __init__(self, inner: Wire, *, clock: Clock, observer: Observer | None = None) -> None:
        self.heard = 0
        """Announced frames that have arrived."""
        self._inner = inner
        self._clock = clock
        self._observer = observer
        self._coming = Frames.empty()

    def will_say(self, frames: Frames) -> None:
        """These arrive when their time comes; in order of time."""
        self._coming = Frames.concat([self._coming, frames])

    def send(self, frames: Frames) -> None:
        self._inner.send(frames)

    def receive(self) -> Frames:
        arrived = self._inner.receive()
        if not len(self._coming):
            return arrived
        ready = int(np.searchsorted(self._coming.time_ns, self._clock.now_ns(), side="right"))
        if not ready:
            return arrived
        late = self._coming.take(slice(0, ready))
        self._coming = self._coming.take(slice(ready, None))
        self.heard += ready
        if self._observer:
            note = "a peer that does not know that the machine is dead"
            self._observer("to-client", late, dict.fromkeys(range(ready), note))
        return Frames.concat([late, arrived])

    def close(self) -> None:
        self._inner.close()
