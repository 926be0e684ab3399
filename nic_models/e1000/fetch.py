"""The memory side of transmission: descriptors in, whole frames out (8254x SDM 3.3, 3.4).

*Fetched is done*: a descriptor's data is read from memory here, then head moves past it and, where
RS is set, DD is written. DD says nothing of the wire. What is still in the ring is only an address:
software that overwrites the buffer before DD sends what it wrote last, or a torn mixture.

What becomes of odd descriptors:

    null address, or length 0       transfers no data; DD if RS asks (3.3.3.1). So what lies at
                                    physical address 0 can't be sent from there: copy it first
    IFCS, IC                        count with EOP only (3.3.3.1)
    no IFCS                         the last four bytes of the data are the FCS
    no EOP before the tail          the bytes wait for the rest of their frame

and where the manual forbids and does not say, the frame is dropped and counted, its descriptors
are completed like any other, and the ring goes on: more than 16288 bytes or than the FIFO less 80,
data outside memory (a master abort), DEXT descriptors and IC, which this model does not implement,
an FCS of software's own that is wrong (every receiver would drop it), EOP after no data.

Not modelled: prefetch and write-back thresholds (TXDCTL; a descriptor is read when its data is,
and the write-back is immediate and touches STA alone, as with WTHRESH = 0), VLAN insertion.
"""

from __future__ import annotations

import zlib
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from nic_models.e1000.descriptors import SIZE, TX_CMD, TX_LENGTH_MAX, TX_READ, TX_STA
from nic_models.e1000.dma import DmaPort
from nic_models.e1000.plain import odd_descriptors, plain_frames
from nic_models.e1000.registers import INT
from nic_models.e1000.ring import Ring
from nic_models.e1000.stats import Counters
from nic_models.frames import Frames

#: Shortest frame, without FCS; TCTL.PSP pads to it.
SHORTEST: Final = 60
FCS_BYTES: Final = 4

#: Bytes of the FIFO that a frame must leave free. 8254x SDM 3.3.7.
_HEADROOM: Final = 80
#: Descriptors looked at in one go: bounds the memory of a fetch, and its cost when room is scarce.
_BLOCK: Final = 1024
_BLOCK_SCARCE: Final = 8
_BYTES_A_DESCRIPTOR: Final = 256

_EOP: Final = int(TX_CMD.EOP)
_IFCS: Final = int(TX_CMD.IFCS)
_IC: Final = int(TX_CMD.IC)
_RS: Final = int(TX_CMD.RS)
_DEXT: Final = int(TX_CMD.DEXT)
_DD: Final = int(TX_STA.DD)
_TXDW: Final = int(INT.TXDW)
_TXQE: Final = int(INT.TXQE)


class Fetcher:
    """Reads descriptors and their data, and assembles frames."""

    def __init__(self, dma: DmaPort, counters: Counters) -> None:
        self.ring = Ring()
        self.pad = False  # TCTL.PSP
        self.fifo_size = 0  # bytes; bounds a frame
        self.causes = 0  # interrupt causes since the device last took them
        self.blocked = False  # the last fetch ended because ``room`` did
        self._dma = dma
        self._counters = counters
        self._partial = b""  # data of a frame whose EOP has not been fetched
        self._fault = ""  # the counter that this frame will bump instead of being sent

    def reset(self) -> None:
        """CTRL.RST: the ring's registers and the unfinished frame are gone."""
        self.ring = Ring()
        self.pad = False
        self.causes = 0
        self._partial = b""
        self._fault = ""

    @property
    def partial_bytes(self) -> int:
        """Bytes fetched of a frame that is not whole yet."""
        return len(self._partial)

    def pending(self, tail: int) -> int:
        """Descriptors from head to ``tail``; 0 on a ring that cannot run."""
        ring = self.ring
        if tail >= ring.count or not ring.usable(self._dma.size):
            return 0
        return ring.owned(tail)

    def peek(self, tail: int) -> NDArray[np.int64] | None:
        """Lengths of the frames that are whole up to ``tail``, int64; None if any is not plain.

        Plain is what every ordinary driver writes: data at an address, IFCS at the end, nothing of
        the table above. Nothing is fetched.
        """
        ring = self.ring
        count = self.pending(tail)
        straight = min(count, ring.count - ring.head)
        blocks = [
            self._dma.descriptors(ring.base, first, length, TX_READ)
            for first, length in ((ring.head, straight), (0, count - straight))
            if length
        ]
        if not blocks:
            return np.empty(0, np.int64)
        block = np.concatenate(blocks)
        command = block["cmd"]
        end = command & _EOP != 0
        if self._fault or odd_descriptors(self._dma.array, block).any():
            return None
        fetched = np.cumsum(block["length"], dtype=np.int64) + len(self._partial)
        lengths = np.diff(fetched[end], prepend=0)
        if lengths.size and int(lengths.max()) > self._longest():
            return None
        padded: NDArray[np.int64] = np.maximum(lengths, SHORTEST if self.pad else 0)
        return padded

    def _longest(self) -> int:
        """Bytes of the longest frame that the FIFO takes."""
        return max(min(TX_LENGTH_MAX, self.fifo_size - _HEADROOM), 0)

    def fetch(self, tail: int, room: int) -> Frames:
        """Fetch descriptors up to ``tail`` or the ring's end, while their data fits in ``room``.

        ``room`` in bytes. Returns the frames that became whole, without a time; head has moved
        past what was fetched.
        """
        ring = self.ring
        block_size = min(_BLOCK, _BLOCK_SCARCE + room // _BYTES_A_DESCRIPTOR)
        count = min(self.pending(tail), ring.count - ring.head, block_size)
        if not count:
            return Frames.empty()
        block = self._dma.descriptors(ring.base, ring.head, count, TX_READ)
        stop = self._longest()
        self.blocked = False
        if not self._partial and not self._fault:
            shortest = SHORTEST if self.pad else 0
            frames, done = plain_frames(self._dma.array, block, stop, room, shortest)
            if done:
                self._complete(block[:done])
                return self._padded(frames)
        else:  # one frame is begun: with its end, what follows may be plain again
            ends = np.flatnonzero(block["cmd"] & _EOP)
            block = block[: int(ends[0]) + 1] if len(ends) else block
        data = self._frame_rows(block, stop)
        width = data.shape[1]
        size, memory, out = self._dma.size, self._dma.bytes, data.reshape(-1).data
        fault, partial = self._fault, self._partial
        position = len(partial)
        out[:position] = partial
        row = done = 0
        lengths: list[int] = []
        for address, length, command in zip(
            block["address"].tolist(),
            block["length"].tolist(),
            block["cmd"].tolist(),
            strict=True,
        ):
            end = position + length
            source_end = address + length
            if (
                address
                and source_end <= size
                and end - row <= stop
                and not command & _DEXT
                and not fault
            ):
                if length > room:
                    self.blocked = True
                    break
                out[position:end] = memory[address:source_end]
                position = end
                room -= length
            elif not fault:
                if command & _DEXT:
                    fault = "tx_unsupported"
                elif not address:
                    self._counters.tx_null += bool(length)
                elif length:
                    fault = "tx_aborted" if source_end > size else "tx_oversize"
                if fault:
                    room += position - row
                    position = row
            done += 1
            if command & _EOP:
                length = self._close(out[row : row + width], position - row, command, fault)
                if length:
                    room -= max(0, length - (position - row))  # what padding added
                    lengths.append(length)
                    row += width
                position = row
                fault = ""
        self._partial, self._fault = bytes(out[row:position]), fault
        if done:
            self._complete(block[:done])
        whole = len(lengths)
        return Frames(data[:whole], np.array(lengths, np.int64), np.zeros(whole, np.int64))

    def _padded(self, frames: Frames) -> Frames:
        """TCTL.PSP."""
        short = frames.lengths < SHORTEST
        if not (self.pad and short.any()):
            return frames
        data, lengths = frames.data, frames.lengths
        if data.shape[1] < SHORTEST:
            data = np.pad(data, ((0, 0), (0, SHORTEST - data.shape[1])))
        head = data[:, :SHORTEST]
        head[np.arange(SHORTEST) >= lengths[:, None]] = 0
        return Frames(data, np.maximum(lengths, SHORTEST), frames.time_ns)

    def _frame_rows(self, block: NDArray[Any], stop: int) -> NDArray[np.uint8]:
        """A wide enough, uninitialised row for each frame of the block, and one for the rest."""
        totals = np.add.accumulate(block["length"], dtype=np.int64)
        marks = totals[(block["cmd"] & _EOP).astype(bool)].tolist()
        edges = [0, *marks, int(totals[-1])]
        longest = len(self._partial) + max(map(int.__sub__, edges[1:], edges))
        return np.empty((len(marks) + 1, max(min(longest, stop), SHORTEST)), np.uint8)

    def _close(self, row: memoryview, length: int, command: int, fault: str) -> int:
        """EOP: the frame's length without FCS, or 0 for a frame that is not sent."""
        counters = self._counters
        if not fault and command & _IC:
            fault = "tx_unsupported"
        elif not fault and not length:
            fault = "tx_empty"
        elif not fault and not command & _IFCS:
            length -= FCS_BYTES
            own = int.from_bytes(row[max(length, 0) : length + FCS_BYTES], "little")
            if length <= 0 or zlib.crc32(row[:length]) != own:
                fault = "tx_bad_fcs"
        elif not fault and length < SHORTEST and self.pad:
            row[length:SHORTEST] = bytes(SHORTEST - length)
            length = SHORTEST
        if fault:
            setattr(counters, fault, getattr(counters, fault) + 1)
            return 0
        return length

    def _complete(self, block: NDArray[Any]) -> None:
        """Write DD where RS asks, and move head past the block."""
        ring = self.ring
        reported = np.flatnonzero(block["cmd"] & _RS)
        if len(reported):
            block["sta"][reported] = _DD
            self.causes |= _TXDW
            # Logged as the descriptors that the write-backs span; each is one byte.
            first, last = int(reported[0]), int(reported[-1])
            at = ring.base + ring.head * SIZE
            self._dma.note_writes([(at + first * SIZE, at + last * SIZE + SIZE)], len(reported))
        ring.head = (ring.head + len(block)) % ring.count
        if ring.head == ring.tail:
            self.causes |= _TXQE
