"""A switch in memory: several machines, one line to the host, and a queue before it that is finite.

The shape of a rack whose machines die together: each has a cable of its own to the switch, as fast
as its NIC, and one line leads on to the server. What arrives while the line is busy waits, in order
of arrival; what arrives while ``queue_frames`` wait is dropped, counted for its sender ("drop
tail"). The way back has no queue: acks are few.

Two rules make it exact and repeatable:

1. Machines take turns, so the frames of one stretch of time come in one machine after the other. A
   frame goes into the queue only when every machine has had its turn beyond that time: only then is
   it known who was first.
2. Nothing happens by itself: the host's ``receive`` looks at the clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.clock import Clock
from bench.wire.contracts import MINIMUM_FRAME
from bench.wire.memory import LINE_OVERHEAD, MemoryLink
from nic_models.frames import Frames

_BROADCAST: Final = np.full(6, 0xFF, np.uint8)


class Port:
    """A machine's end of its cable; a ``Wire``."""

    def __init__(self, clock: Clock, mac: bytes, latency_ns: int) -> None:
        self.mac: Final = np.frombuffer(mac, np.uint8)
        self.dropped = 0
        """Its frames that the queue had no room for."""
        self.passed = 0
        """Octets of its frames that found room."""
        self.seen_ns: int | None = 0
        """All that it sent until then is here; None: it is closed, and sends no more."""
        self.link = MemoryLink(clock, latency_ns=latency_ns)
        self._clock = clock

    def send(self, frames: Frames) -> None:
        self.link.machine_end.send(frames)

    def receive(self) -> Frames:
        self.seen_ns = self._clock.now_ns()
        return self.link.machine_end.receive()

    def close(self) -> None:
        self.seen_ns = None


class Switch:
    """The host's end of the line; a ``Wire``. Times in ns."""

    def __init__(
        self,
        clock: Clock,
        macs: Sequence[bytes],
        *,
        bits_per_second: int,
        queue_frames: int,
        latency_ns: int = 50_000,
    ) -> None:
        """A port for each of the machines' MACs."""
        self.ports = [Port(clock, mac, latency_ns) for mac in macs]
        self._clock = clock
        self._bits_per_second = bits_per_second
        self._room = queue_frames
        self._latency_ns = latency_ns
        self._early = [Frames.empty() for _ in macs]  # arrived, and perhaps not the first
        self._line = Frames.empty()  # in the queue, stamped with when each has left
        self._leaving: deque[int] = deque()  # the same times, of those not left at the last arrival
        self._free_at = 0

    def send(self, frames: Frames) -> None:
        to = frames.data[:, :6]
        everybody = (to == _BROADCAST).all(axis=1)
        for port in self.ports:
            mine = everybody | (to == port.mac).all(axis=1)
            port.link.host_end.send(frames.take(mine))

    def receive(self) -> Frames:
        now = self._clock.now_ns()
        seen = [port.seen_ns + self._latency_ns for port in self.ports if port.seen_ns is not None]
        arrived, whose = self._arrived(min(now, *seen) if seen else now)
        if len(arrived):
            self._line = Frames.concat([self._line, self._queue_up(arrived, whose)])
        left = int(np.searchsorted(self._line.time_ns, now, side="right"))
        gone = self._line.take(slice(0, left))
        self._line = self._line.take(slice(left, None))
        return gone

    def close(self) -> None:
        for port in self.ports:
            port.close()

    def _arrived(self, until_ns: int) -> tuple[Frames, NDArray[np.int64]]:
        """What arrived by then, in order of time, and the number of its port."""
        parts, whose = [], []
        for number, port in enumerate(self.ports):
            early = Frames.concat([self._early[number], port.link.host_end.receive()])
            count = int(np.searchsorted(early.time_ns, until_ns, side="right"))
            self._early[number] = early.take(slice(count, None))
            parts.append(early.take(slice(0, count)))
            whose.append(np.full(count, number))
        both, numbers = Frames.concat(parts), np.concatenate(whose)
        order = np.argsort(both.time_ns, kind="stable")
        return both.take(order), numbers[order]

    def _queue_up(self, frames: Frames, whose: NDArray[np.int64]) -> Frames:
        """Those that find room, stamped with when each has left."""
        on_line = np.maximum(frames.lengths, MINIMUM_FRAME) + LINE_OVERHEAD
        service = (on_line * 8_000_000_000 // self._bits_per_second).tolist()
        leaving, taken, left = self._leaving, [], []
        for i, arrival in enumerate(frames.time_ns.tolist()):
            while leaving and leaving[0] <= arrival:
                leaving.popleft()
            port = self.ports[int(whose[i])]
            if len(leaving) > self._room:  # one of them is on the line
                port.dropped += 1
                continue
            self._free_at = max(self._free_at, arrival) + service[i]
            leaving.append(self._free_at)
            port.passed += int(frames.lengths[i])
            taken.append(i)
            left.append(self._free_at)
        return frames.take(np.array(taken, np.intp)).at(np.array(left, np.int64))
