"""The wire side of transmission: the transmit FIFO, and when its frames leave.

*The FIFO is small*: its share of the packet buffer, 64 KiB less PBA (8254x SDM 13.4.16), bounds how
far the DMA runs ahead of the wire. A descriptor's data enters when it fits as a whole, and a
frame's bytes leave when its last bit does.

The engine has no clock: ``advance(now)`` plays everything up to ``now``. A doorbell is seen by the
first ``advance`` after it, so no frame starts before it was rung; until then ``next_event_ns`` says
"at once". Between two calls memory is read late, never early; whoever changes memory meanwhile and
wants the exact moment calls ``advance`` at each ``next_event_ns``.

A stretch of time is played at once. While descriptors are plain (see ``Fetcher.peek``) the lengths
ahead are known, hence when each frame leaves, hence how far the DMA has come at the stretch's end.
With an odd descriptor ahead, time goes from one departure to the next.

Switching TCTL.EN off lets the frame on the wire finish and keeps the rest (13.4.33). While the link
is down the MAC is stopped (8.6.5.2): frames wait in the FIFO and in the ring.

A rate of None is an infinitely fast wire: all that was rung leaves in the next ``advance``.
"""

from __future__ import annotations

from typing import Any, Final

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
_NOTHING: Final = np.empty(0, np.int64)
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
        self._fifo = Frames.empty()  # whole frames, the one on the wire first
        self._queued = 0  # their bytes
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
        self._fifo = Frames.empty()
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
        if self._rung and self._running() and (len(self._fifo) or self.fetcher.pending(tail)):
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
        blocks: list[Frames] = []
        while self._leaves is not None and self._leaves <= self._now:
            blocks.append(self._stretch(self._leaves, rate))
        self._seen_tail = self.fetcher.ring.tail
        self._fetch(self._seen_tail, 0)
        self._start(max(self._now, self._wire_free), rate)
        return Frames.concat(blocks)

    def _stretch(self, leaves: int, rate: int) -> Frames:
        """Play to ``now``, or to ``leaves`` if what is ahead is odd or stopped; what has left."""
        tail = self._seen_tail
        ahead = self.fetcher.peek(tail) if self._running() else None
        if ahead is None:
            ahead, until = _NOTHING, leaves
        else:
            until = self._now
        lengths = np.concatenate((self._fifo.lengths, ahead))
        taken = _wire_ns(lengths + (PREAMBLE + FCS_BYTES), rate) + _gap_ns(rate)
        ends = leaves + np.cumsum(taken) - taken[0]
        left = int(np.searchsorted(ends, until, side="right"))
        if self._running():
            self._fetch(tail, int(lengths[:left].sum()))
        sent = self._fifo.take(slice(0, left)).at(ends[:left])
        self._fifo = self._fifo.take(slice(left, None))
        self._queued -= int(sent.lengths.sum())
        self._wire_free = int(ends[left - 1]) + _gap_ns(rate)
        self._leaves = None
        if not len(self._fifo):
            self._fetch(tail, 0)
        self._start(self._wire_free, rate)
        return sent

    def _fetch(self, tail: int, leaving: int) -> None:
        """Fill the FIFO, of which ``leaving`` bytes make room meanwhile."""
        if not self._running():
            return
        fetcher = self.fetcher
        fetcher.blocked = False
        if not fetcher.pending(tail):
            return
        blocks = [self._fifo]
        while fetcher.pending(tail) and not fetcher.blocked:
            block = fetcher.fetch(tail, fetcher.fifo_size + leaving - self.fifo_used)
            blocks.append(block)
            self._queued += int(block.lengths.sum())
        self._fifo = Frames.concat(blocks)

    def _start(self, at_ns: int, rate: int) -> None:
        """Put the first frame on the wire, if it is idle."""
        if self._leaves is None and len(self._fifo) and self._running():
            length = int(self._fifo.lengths[0])
            self._leaves = at_ns + int(_wire_ns(PREAMBLE + length + FCS_BYTES, rate))

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


def _wire_ns(lengths: Any, rate: int) -> Any:
    """Nanoseconds of ``lengths`` bytes (a number or an array) at ``rate`` bit/s, rounded up."""
    return -(-lengths * 8_000_000_000 // rate)


def _gap_ns(rate: int) -> int:
    return int(_wire_ns(GAP, rate))
