"""The wire side of transmission: the transmit FIFO, and when its frames leave.

*The FIFO is small*: its share of the packet buffer, 64 KiB less PBA (8254x SDM 13.4.16), bounds how
far the DMA runs ahead of the wire. A descriptor's data enters when it fits as a whole, and a
frame's bytes leave when its last bit does.

The engine has no clock: ``advance(now)`` plays everything up to ``now``. A doorbell is seen by the
first ``advance`` after it, so no frame starts before it was rung; until then ``next_event_ns`` says
"at once". For exact times of DMA call ``advance`` at each ``next_event_ns``: between two calls
memory is read late, never early.

Switching TCTL.EN off lets the frame on the wire finish and keeps the rest (13.4.33). While the link
is down the MAC is stopped (8.6.5.2): frames wait in the FIFO and in the ring.

A rate of None is an infinitely fast wire: all that was rung leaves in the next ``advance``.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import numpy as np

from nic_models.e1000.dma import DmaPort
from nic_models.e1000.fetch import FCS_BYTES, Fetcher
from nic_models.e1000.registers import Reg
from nic_models.e1000.stats import Counters, Statistics
from nic_models.frames import Frames

#: Bytes of wire time besides frame and FCS: preamble with start delimiter, inter-frame gap.
PREAMBLE: Final = 8
GAP: Final = 12

_UNLIMITED: Final = 1 << 62
_GOOD: Final = 60  # a shorter frame, without FCS, is not counted as good


class Transmitter:
    """Doorbells in, frames with their times out."""

    def __init__(
        self, dma: DmaPort, statistics: Statistics, counters: Counters, rate_bps: int | None
    ) -> None:
        self.fetcher = Fetcher(dma, counters)
        self.enabled = False  # TCTL.EN
        self.link = False
        self._dma = dma
        self._statistics = statistics
        self._counters = counters
        self._rate = rate_bps
        self._fifo: deque[tuple[memoryview, int]] = deque()  # row, length
        self._queued = 0  # bytes of the whole frames in the FIFO
        self._rung = False  # something happened that no advance() has seen
        self._seen_tail = 0  # the tail that the last advance() saw
        self._leaves: int | None = None  # when the frame on the wire ends
        self._wire_free = 0  # when the next one may start
        self._now = 0

    def reset(self) -> None:
        """CTRL.RST: ring registers, FIFO, and the frame on the wire are gone."""
        self._counters.tx_lost_in_reset += len(self._fifo)
        self.fetcher.reset()
        self.enabled = False
        self._fifo.clear()
        self._queued = 0
        self._rung = False
        self._seen_tail = 0
        self._leaves = None

    def doorbell(self) -> None:
        """TDT was written."""
        self._rung = True
        if self.enabled and not self.fetcher.ring.usable(self._dma.size):
            self._counters.tx_ring_faults += 1

    def switch(self, enabled: bool, link: bool) -> None:
        """TCTL.EN or the link may have changed."""
        self.enabled, self.link = enabled, link
        self._rung = True
        if not link:
            self._leaves = None  # cut; it starts again when the link is back

    @property
    def fifo_used(self) -> int:
        """Bytes in the transmit FIFO."""
        return self._queued + self.fetcher.partial_bytes

    @property
    def fifo_frames(self) -> int:
        """Whole frames in the transmit FIFO, the one on the wire included."""
        return len(self._fifo)

    def next_event_ns(self) -> int | None:
        """When ``advance`` has something to do; None = not before software acts."""
        tail = self.fetcher.ring.tail
        if self._rung and self._running() and (self._fifo or self.fetcher.pending(tail)):
            return self._now
        return self._leaves

    def advance(self, now_ns: int) -> Frames:
        """Play up to ``now_ns``; the frames that have left by then, each stamped with its end."""
        self._now = max(self._now, now_ns)
        self._rung = False
        frames = self._at_once() if self._rate is None else self._at_rate(self._rate)
        if len(frames):
            self._count(frames)
        return frames

    def _at_once(self) -> Frames:
        blocks = []
        if self._running():
            tail = self.fetcher.ring.tail
            while self.fetcher.pending(tail):
                blocks.append(self.fetcher.fetch(tail, _UNLIMITED))
        return Frames.concat(blocks).at(self._now)

    def _at_rate(self, rate: int) -> Frames:
        sent: list[tuple[memoryview, int]] = []
        ends: list[int] = []
        while self._leaves is not None and self._leaves <= self._now:
            frame = self._fifo.popleft()
            self._queued -= frame[1]
            sent.append(frame)
            ends.append(self._leaves)
            self._wire_free = self._leaves + _wire_ns(GAP, rate)
            self._leaves = None
            self._go_on(self._seen_tail, self._wire_free, rate)
        self._seen_tail = self.fetcher.ring.tail
        self._go_on(self._seen_tail, max(self._now, self._wire_free), rate)
        return _packed(sent, ends)

    def _go_on(self, tail: int, at_ns: int, rate: int) -> None:
        """Refill the FIFO, and start its first frame at ``at_ns`` if the wire is idle."""
        if not self._running():
            return
        fetcher = self.fetcher
        fetcher.blocked = False
        while fetcher.pending(tail) and not fetcher.blocked:
            block = fetcher.fetch(tail, fetcher.fifo_size - self.fifo_used)
            if len(block):
                width = block.data.shape[1]
                flat = block.data.reshape(-1).data
                for at, length in zip(
                    range(0, len(flat), width), block.lengths.tolist(), strict=True
                ):
                    self._fifo.append((flat[at : at + width], length))
                    self._queued += length
        if self._leaves is None and self._fifo:
            length = self._fifo[0][1]
            self._leaves = at_ns + _wire_ns(PREAMBLE + length + FCS_BYTES, rate)

    def _running(self) -> bool:
        return self.enabled and self.link

    def _count(self, frames: Frames) -> None:
        total = int(frames.lengths.sum())
        count = len(frames)
        self._counters.tx_frames += count
        self._counters.tx_bytes += total
        add = self._statistics.add
        add(Reg.TPT, count)
        add(Reg.TOTL, total + FCS_BYTES * count)
        if int(frames.lengths.min()) < _GOOD:
            good = frames.lengths[frames.lengths >= _GOOD]
            count, total = len(good), int(good.sum())
        add(Reg.GPTC, count)
        add(Reg.GOTCL, total + FCS_BYTES * count)


def _wire_ns(length: int, rate: int) -> int:
    """Nanoseconds of ``length`` bytes at ``rate`` bit/s, rounded up."""
    return -(-length * 8_000_000_000 // rate)


def _packed(frames: list[tuple[memoryview, int]], ends: list[int]) -> Frames:
    if not frames:
        return Frames.empty()
    lengths = np.array([length for _, length in frames], np.int64)
    width = int(lengths.max())
    data = np.zeros((len(frames), width), np.uint8)
    flat = data.reshape(-1).data
    for at, (row, length) in zip(range(0, data.size, width), frames, strict=True):
        flat[at : at + length] = row[:length]
    return Frames(data, lengths, np.array(ends, np.int64))
