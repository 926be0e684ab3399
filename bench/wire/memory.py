"""A link in memory, with two ends: the sim tier's wire, deterministic to the nanosecond.

A frame that leaves one end at time t arrives at the other at t + latency; with a line rate, it
first waits its turn and its own length on the line (plus preamble, FCS and gap, 24 bytes). Nothing
happens by itself: ``receive`` looks at the clock and hands over what has arrived by then, in order
of arrival. An end that nobody reads holds ``capacity`` frames and drops the rest, counted.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.clock import Clock
from bench.wire.contracts import MINIMUM_FRAME
from nic_models.frames import Frames

#: Preamble and start delimiter 8, FCS 4, inter-frame gap 12 bytes.
LINE_OVERHEAD: Final = 24


def serve_in_turn(
    arrivals: NDArray[np.int64], service_ns: NDArray[np.int64], free_at: int
) -> NDArray[np.int64]:
    """When each of a row of customers is done, with one server that serves them in order.

    ``arrivals`` and ``service_ns`` are int64 (n,), ns; ``free_at`` is when the server is done with
    everybody before. The recurrence done[i] = max(done[i-1], arrival[i]) + service[i], unrolled.
    """
    total = np.cumsum(service_ns)
    lead = arrivals - (total - service_ns)
    if len(lead):
        lead[0] = max(lead[0], free_at)
    done: NDArray[np.int64] = total + np.maximum.accumulate(lead)
    return done


class MemoryEnd:
    """One end of a ``MemoryLink``; a ``Wire``."""

    def __init__(self, clock: Clock, latency_ns: int, bits_per_second: int, capacity: int) -> None:
        self.dropped = 0
        """Frames that arrived at this end while its queue was full."""
        self._peer: MemoryEnd = self
        self._clock = clock
        self._latency_ns = latency_ns
        self._bits_per_second = bits_per_second
        self._capacity = capacity
        self._line_free_at = 0
        self._queue = Frames.empty()
        self._incoming: list[Frames] = []
        self._waiting = 0
        self._open = True

    def send(self, frames: Frames) -> None:
        if not len(frames) or not (self._open and self._peer._open):
            return
        leaves = frames.time_ns
        if self._bits_per_second:
            on_line = np.maximum(frames.lengths, MINIMUM_FRAME) + LINE_OVERHEAD
            service = on_line * 8_000_000_000 // self._bits_per_second
            leaves = serve_in_turn(leaves, service, self._line_free_at)
            self._line_free_at = int(leaves[-1])
        self._peer._arrive(frames.at(leaves + self._latency_ns))

    def receive(self) -> Frames:
        if self._incoming:
            self._queue = _by_arrival(Frames.concat([self._queue, *self._incoming]))
            self._incoming.clear()
        if not len(self._queue):
            return self._queue
        ready = int(np.searchsorted(self._queue.time_ns, self._clock.now_ns(), side="right"))
        if not ready:
            return Frames.empty()
        arrived = self._queue.take(slice(0, ready))
        left = self._queue.take(slice(ready, None))
        self._queue = left if len(left) else Frames.empty()
        self._waiting -= ready
        return arrived

    def next_arrival_ns(self) -> int | None:
        """When the next frame that is under way arrives here; None: nothing is under way."""
        firsts = [
            int(batch.time_ns.min()) for batch in (self._queue, *self._incoming) if len(batch)
        ]
        return min(firsts, default=None)

    def close(self) -> None:
        self._open = False
        self._queue = Frames.empty()
        self._incoming.clear()
        self._waiting = 0

    def _arrive(self, frames: Frames) -> None:
        room = self._capacity - self._waiting
        if len(frames) > room:
            self.dropped += len(frames) - room
            frames = frames.take(slice(0, room))
        if len(frames):
            self._incoming.append(frames)
            self._waiting += len(frames)


class MemoryLink:
    """A full-duplex link. Times in ns; ``bits_per_second`` 0 = frames take no time on the line."""

    def __init__(
        self,
        clock: Clock,
        *,
        latency_ns: int = 50_000,
        bits_per_second: int = 0,
        capacity: int = 65_536,
    ) -> None:
        self.machine_end = MemoryEnd(clock, latency_ns, bits_per_second, capacity)
        self.host_end = MemoryEnd(clock, latency_ns, bits_per_second, capacity)
        self.machine_end._peer, self.host_end._peer = self.host_end, self.machine_end


def _by_arrival(frames: Frames) -> Frames:
    """Stable: frames that arrive together stay in the order in which they were sent."""
    times = frames.time_ns
    if (times[1:] >= times[:-1]).all():
        return frames
    return frames.take(np.argsort(times, kind="stable"))
