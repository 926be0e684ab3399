"""The receive engine: wire -> filter -> receive FIFO -> DMA -> ring (8254x SDM 3.2).

The rules:

1. A frame that passes the filter goes to memory at once while the silicon owns descriptors; when
   head meets tail it waits in the FIFO (PBA KiB of the packet buffer), and when that is full it is
   missed: MPC, and cause RXO. Order is never changed.
2. A frame longer than the buffer size (RCTL.BSIZE, BSEX) spreads over as many descriptors as it
   needs; only the last has EOP. If the ring runs out in mid-frame the rest waits.
3. The write-back puts length, status, errors and a zero checksum in bytes 8 to 15. A null address
   takes no data: DD is set, nothing else changes, and the frame goes to the next (3.2.5).
4. RCTL.EN off: arriving frames are lost without a trace in the statistics, and the FIFO keeps
   what it has. A driver that takes over a NIC without a reset can meet its predecessor's frames.

Frames reach this model without FCS. With RCTL.SECRC off the FCS is computed, stored and counted in
the length. What is shorter than 60 bytes is padded with zeros: a TAP hands such frames over, but no
sender's MAC could have put them on a wire.

A buffer outside memory is a master abort: the data is lost, and the descriptor comes back with
RXE set, so that software drops the frame. (The manual doesn't say; hardware that wrote good status
for data that went nowhere would be the other choice.)

Not modelled: checksum offload (IXSM is always set), VLAN stripping, PIF, bad frames (RCTL.SBP),
interrupt delays (RDTR, RADV: RXT0 is immediate, as with 0), flow control.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nic_models.e1000.descriptors import RX_ERRORS, RX_READ, RX_STATUS, SIZE
from nic_models.e1000.dma import DmaPort
from nic_models.e1000.fetch import FCS_BYTES, SHORTEST
from nic_models.e1000.filters import ReceiveFilter
from nic_models.e1000.plain import FEWEST, plain_store
from nic_models.e1000.registers import (
    INT,
    RCTL,
    RCTL_BSIZE_SHIFT,
    RCTL_RDMTS_SHIFT,
    RDMTS_DIVISOR_SHIFT,
    RX_BUFFER_SIZES,
    Reg,
)
from nic_models.e1000.ring import Ring
from nic_models.e1000.stats import Counters, Statistics
from nic_models.frames import Frames

#: Longest frame without FCS: a tagged one, and with RCTL.LPE. 8254x SDM 13.7.15.
LONGEST: Final = 1518
LONGEST_LPE: Final = 16384 - FCS_BYTES

#: Bytes 8 to 15 of the write-back face as one word: the length is added to these.
_MORE: Final = int(RX_STATUS.DD) << 32
_LAST: Final = int(RX_STATUS.DD | RX_STATUS.EOP | RX_STATUS.IXSM) << 32
_LAST_OF_ONE: Final = _MORE | _LAST
_ABORTED: Final = int(RX_ERRORS.RXE) << 40

_EN: Final = int(RCTL.EN)
_LPE: Final = int(RCTL.LPE)
_SECRC: Final = int(RCTL.SECRC)
_RXT0: Final = int(INT.RXT0)
_RXDMT0: Final = int(INT.RXDMT0)
_RXO: Final = int(INT.RXO)
#: Descriptors filled in one go.
_BLOCK: Final = 1024


class Receiver:
    """Frames in; descriptors, memory and counts out."""

    def __init__(
        self, dma: DmaPort, mac: bytes, statistics: Statistics, counters: Counters
    ) -> None:
        self.ring = Ring()
        self.filter = ReceiveFilter(mac)
        self.link = False
        self.fifo_size = 0  # bytes
        self.causes = 0  # interrupt causes since the device last took them
        self._rctl = 0
        self._buffer_size = 2048
        self._dma = dma
        self._statistics = statistics
        self._counters = counters
        self._fifo: deque[memoryview] = deque()
        self._fifo_used = 0
        self._stored = 0  # bytes of the first waiting frame that are in memory already
        self._spoilt = False  # part of that frame met a master abort

    def reset(self) -> None:
        """CTRL.RST: ring registers, filter and FIFO."""
        self._counters.rx_lost_in_reset += len(self._fifo)
        self.ring = Ring()
        self.filter.reset()
        self.causes = 0
        self._rctl = 0
        self._buffer_size = 2048
        self._fifo.clear()
        self._fifo_used = 0
        self._stored = 0
        self._spoilt = False

    @property
    def rctl(self) -> int:
        """RCTL as last written."""
        return self._rctl

    @property
    def fifo_used(self) -> int:
        """Bytes in the receive FIFO."""
        return self._fifo_used

    def control(self, value: int) -> None:
        """RCTL was written."""
        self._rctl = value
        size = value >> RCTL_BSIZE_SHIFT & 3
        self._buffer_size = RX_BUFFER_SIZES[int(bool(value & RCTL.BSEX)), size]
        self.drain()

    def doorbell(self) -> None:
        """RDT was written."""
        if self._rctl & _EN and not self.ring.usable(self._dma.size):
            self._counters.rx_ring_faults += 1
        self.drain()

    def drain(self) -> None:
        """Move waiting frames to memory, as far as the silicon owns descriptors."""
        if self._fifo and self._rctl & _EN:
            for _ in range(self._deliver(self._fifo)):
                self._fifo_used -= len(self._fifo.popleft())

    def receive(self, frames: Frames) -> None:
        """Frames at the PHY, in order of time."""
        count = len(frames)
        if not count:
            return
        if not self.link:
            self._counters.rx_link_down += count
            return
        if not self._rctl & _EN:
            self._counters.rx_disabled += count
            return
        data, lengths = _padded(frames)
        verdict = self.filter.judge(data, self._rctl)
        self._statistics.add(Reg.TPR, count)
        self._statistics.add(Reg.TORL, int(lengths.sum()) + FCS_BYTES * count)
        kept = verdict.accepted & (lengths <= self._longest())
        if not kept.all():
            self._count_refused(verdict.accepted, kept)
        index = np.flatnonzero(kept)
        if not len(index):
            return
        done = self._store_plain(data, lengths, index)
        if done < len(index):
            rest = index[done:]
            missed = self._store(_rows(data, rest, lengths[rest], fcs=not self._rctl & _SECRC))
            if missed:
                index = np.delete(index, [done + i for i in missed])
        self._count_good(lengths[index], verdict.broadcast[index], verdict.group[index])

    def _longest(self) -> int:
        return LONGEST_LPE if self._rctl & _LPE else LONGEST

    def _store_plain(
        self, data: NDArray[np.uint8], lengths: NDArray[np.int64], index: NDArray[np.intp]
    ) -> int:
        """Those frames of ``index`` from the front that are plain and have descriptors, up to the
        ring's end: to memory. How many they are.
        """
        ring, dma = self.ring, self._dma
        if self._fifo or self._stored or not self._rctl & _SECRC or not ring.usable(dma.size):
            return 0
        free = ring.owned(ring.tail)
        count = min(free, ring.count - ring.head, len(index))
        index = index[:count]
        sizes = lengths[index]
        if count < FEWEST or int(sizes.max()) > self._buffer_size:
            return 0
        block = dma.descriptors(ring.base, ring.head, count, RX_READ)
        addresses = block["address"].copy()
        if not plain_store(dma.array, addresses, data[index], sizes):
            return 0
        block["rest"] = sizes | _LAST_OF_ONE
        starts = addresses.astype(np.int64)
        at = ring.base + ring.head * SIZE
        ranges = list(zip(starts.tolist(), (starts + sizes).tolist(), strict=True))
        dma.note_writes([*ranges, (at, at + count * SIZE)], int(sizes.sum()) + count * SIZE // 2)
        ring.head = (ring.head + count) % ring.count
        self.causes |= _RXT0
        self._counters.rx_frames += count
        self._check_threshold(free)
        return count

    def _store(self, items: list[memoryview]) -> list[int]:
        """To memory, or to the FIFO, or nowhere: the indexes of the frames that were missed."""
        done = 0 if self._fifo else self._deliver(items)
        missed = []
        for i in range(done, len(items)):
            item = items[i]
            # A frame whose head is in memory already keeps its place, whatever the FIFO's size.
            begun = not self._fifo and self._stored
            if begun or self._fifo_used + len(item) <= self.fifo_size:
                self._fifo.append(memoryview(bytes(item)))
                self._fifo_used += len(item)
            else:
                missed.append(i)
        self._statistics.add(Reg.RNBC, len(items) - done)
        if missed:
            self._statistics.add(Reg.MPC, len(missed))
            self._counters.rx_missed += len(missed)
            self.causes |= _RXO
        return missed

    def _deliver(self, items: Sequence[memoryview]) -> int:
        """Fill descriptors with frames from the front of ``items``; how many are in memory whole.

        ``_stored`` says how much of the next one is.
        """
        ring, dma = self.ring, self._dma
        if not ring.usable(dma.size):
            return 0
        free_before = ring.owned(ring.tail)
        done = good = 0
        pending = iter(items)
        item = next(pending, None)
        while item is not None and (free := ring.owned(ring.tail)):
            count = min(free, ring.count - ring.head, _BLOCK)
            block = dma.descriptors(ring.base, ring.head, count, RX_READ)
            words: list[int] = []
            ranges: list[tuple[int, int]] = []
            offset, size, buffer_size, memory = self._stored, dma.size, self._buffer_size, dma.bytes
            written = 0
            for address in block["address"].tolist():
                if item is None:
                    break
                if not address:
                    self._counters.rx_null += 1
                    words.append(int(block["rest"][len(words)]) | _MORE)
                    continue
                take = min(len(item) - offset, buffer_size)
                end = address + take
                if end <= size:
                    memory[address:end] = item[offset : offset + take]
                    ranges.append((address, end))
                    written += take
                else:
                    self._spoilt = True
                offset += take
                word = take | _MORE
                if offset == len(item):
                    word |= _LAST
                    if self._spoilt:
                        word |= _ABORTED
                        self._counters.rx_aborted += 1
                        self._spoilt = False
                    else:
                        good += 1
                    done += 1
                    item = next(pending, None)
                    offset = 0
                words.append(word)
            self._stored = offset
            block["rest"][: len(words)] = words
            at = ring.base + ring.head * SIZE
            ranges.append((at, at + len(words) * SIZE))
            dma.note_writes(ranges, written + len(words) * SIZE // 2)
            ring.head = (ring.head + len(words)) % ring.count
        if done:
            self.causes |= _RXT0
            self._counters.rx_frames += good
        self._check_threshold(free_before)
        return done

    def _check_threshold(self, free_before: int) -> None:
        shift = RDMTS_DIVISOR_SHIFT[self._rctl >> RCTL_RDMTS_SHIFT & 3]
        threshold = self.ring.count >> shift
        if self.ring.owned(self.ring.tail) <= threshold < free_before:
            self.causes |= _RXDMT0

    def _count_refused(self, accepted: NDArray[np.bool_], kept: NDArray[np.bool_]) -> None:
        filtered = len(accepted) - int(accepted.sum())
        oversize = int((accepted & ~kept).sum())
        self._counters.rx_filtered += filtered
        self._counters.rx_oversize += oversize
        self._statistics.add(Reg.ROC, oversize)
        self._statistics.add(Reg.RLEC, oversize)

    def _count_good(
        self,
        lengths: NDArray[np.int64],
        broadcast: NDArray[np.bool_],
        group: NDArray[np.bool_],
    ) -> None:
        total, add = int(lengths.sum()), self._statistics.add
        add(Reg.GPRC, len(lengths))
        add(Reg.GORCL, total + FCS_BYTES * len(lengths))
        self._counters.rx_bytes += total
        groups = int(group.sum())
        if groups:
            broadcasts = int(broadcast.sum())
            add(Reg.BPRC, broadcasts)
            add(Reg.MPRC, groups - broadcasts)


def _padded(frames: Frames) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Data and lengths, with nothing shorter than 60 bytes."""
    data, lengths = frames.data, frames.lengths
    short = lengths < SHORTEST
    if not short.any():
        return data, lengths
    wide = np.zeros((len(frames), max(data.shape[1], SHORTEST)), np.uint8)
    wide[:, : data.shape[1]] = data
    wide[:, :SHORTEST][np.arange(SHORTEST) >= lengths[:, None]] = 0
    return wide, np.maximum(lengths, SHORTEST)


def _rows(
    data: NDArray[np.uint8], index: NDArray[np.intp], lengths: NDArray[np.int64], *, fcs: bool
) -> list[memoryview]:
    """The chosen frames as bytes, with their FCS or without."""
    data = np.ascontiguousarray(data)
    width = data.shape[1]
    flat = data.reshape(-1).data
    rows = [
        flat[at : at + length]
        for at, length in zip((index * width).tolist(), lengths.tolist(), strict=True)
    ]
    if fcs:
        return [memoryview(bytes(row) + zlib.crc32(row).to_bytes(4, "little")) for row in rows]
    return rows
