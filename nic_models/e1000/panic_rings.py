"""The two rings of the panic path: batches in, batches out, nothing but the arena touched.

Pure data structures over memory: no register is read or written here, no lock taken, no time spent
waiting. ``debugnet`` rings the doorbells. Everything is reserved once, at boot.

Transmit (8254x SDM 3.4). A frame takes two descriptors, its headers and its payload by address, or
one if it has no payload. Descriptor i owns slot i of the header ring, so a header is overwritten
exactly when its descriptor is reclaimed. The last descriptor of a frame has EOP and RS; DD there
means that the frame's memory has been read. One slot stays empty: TDH = TDT means an empty ring.
A descriptor with address 0 transfers nothing (3.3.3.1), so a payload at physical address 0, the
first of any whole-memory dump, goes by way of a bounce buffer.

Receive (8254x SDM 3.2). Descriptor i owns buffer i for ever: nothing is allocated, so nothing can
run out. Long packets are off (RCTL.LPE), so a frame always fits its buffer; one that still
comes in pieces is dropped, all its pieces, and counted.

Both rings start poisoned: what the silicon does before they are made valid shows.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from nic_models.contracts import DmaMemory, TxBatch
from nic_models.e1000.descriptors import (
    POISON,
    RX_ERRORS_FRAME,
    RX_STATUS,
    SIZE,
    TX_CMD,
    TX_STA,
)
from nic_models.frames import Frames

#: Bytes a slot of the header ring. Ethernet, IPv4 with options, UDP and netdump take 126.
HEADER_SLOT: Final = 128
#: Bytes a receive buffer: RCTL.BSIZE = 0.
RX_BUFFER: Final = 2048
#: The longest payload that may lie at physical address 0.
BOUNCE: Final = 16 << 10
#: Alignment of ring bases; the silicon wants 16, FreeBSD gives it 128.
RING_ALIGN: Final = 128

# Bytes 8 to 15 of a descriptor, as one little-endian word: length in bits 15:0, the transmit
# command in 31:24, status in 39:32, receive errors in 47:40.
_FIRST: Final = int(TX_CMD.IFCS) << 24
_LAST: Final = int(TX_CMD.IFCS | TX_CMD.EOP | TX_CMD.RS) << 24
_TX_DONE: Final = int(TX_STA.DD)
_RX_DONE: Final = int(RX_STATUS.DD)
_RX_EOP: Final = int(RX_STATUS.EOP) << 32
_RX_BAD: Final = RX_ERRORS_FRAME << 40


def spans(first: int, run: int, count: int) -> tuple[slice, slice]:
    """The slices that ``run`` descriptors from ``first`` cover; the second is empty without a wrap.

    ``first`` < ``count`` and ``run`` <= ``count``.
    """
    head = min(run, count - first)
    return slice(first, first + head), slice(0, run - head)


class PanicTxRing:
    """Frames waiting to leave."""

    def __init__(self, memory: DmaMemory, count: int) -> None:
        """Reserve a ring of ``count`` descriptors (a multiple of 8) and its header slots."""
        self.count: Final = count
        self.base: Final = memory.reserve(count * SIZE, RING_ALIGN)
        self.tail = 0
        self._used = 0
        self._headers_at = memory.reserve(count * HEADER_SLOT, HEADER_SLOT)
        # One is enough: whatever is in flight from address 0 is the same memory.
        self._bounce_at = memory.reserve(BOUNCE, HEADER_SLOT)
        buffer = self._buffer = memory.buffer
        self._ring = buffer[self.base : self.base + count * SIZE]
        self._words = self._ring.view("<i8").reshape(count, 2)
        self._status = self._ring[12::SIZE]
        headers = buffer[self._headers_at : self._headers_at + count * HEADER_SLOT]
        self._headers = headers.reshape(count, HEADER_SLOT)
        self._ends = np.zeros(count, np.bool_)  # descriptors that are the last of their frame

    @property
    def free(self) -> int:
        """Descriptors that may be written."""
        return self.count - 1 - self._used

    def clear(self) -> int:
        """Empty and poison the ring, whatever was in it; how many frames that were."""
        ends = self._ends
        lost = sum(
            int(np.count_nonzero(ends[span]))
            for span in spans((self.tail - self._used) % self.count, self._used, self.count)
        )
        self._ring[:] = POISON
        self._ends[:] = False
        self.tail = self._used = 0
        return lost

    def push(self, batch: TxBatch) -> int:
        """Write descriptors for as many whole frames as fit; how many. The caller writes TDT.

        Raises:
            ValueError: headers are wider than a slot.
        """
        width = batch.headers.shape[1]
        if width > HEADER_SLOT:
            raise ValueError(
                f"headers of {width} bytes do not fit a slot of {HEADER_SLOT}: put the rest in the"
                " payload"
            )
        has_payload = batch.payload_lengths > 0
        stops = np.cumsum(has_payload + 1)  # descriptors up to and with each frame
        frames = int(np.searchsorted(stops, self.free, side="right"))
        if not frames:
            return 0
        has_payload, stops = has_payload[:frames], stops[:frames]
        used = int(stops[-1])
        starts = stops - 1 - has_payload
        slots = (self.tail + starts) % self.count
        self._headers[slots, :width] = batch.headers[:frames]
        words = np.empty((used, 2), np.int64)
        words[starts, 0] = self._headers_at + slots * HEADER_SLOT
        words[starts, 1] = batch.header_lengths[:frames] + _FIRST
        addresses = self._not_null(batch.payload_addresses[:frames], batch.payload_lengths)
        if has_payload.all():
            words[1::2, 0] = addresses
            words[1::2, 1] = batch.payload_lengths[:frames]
        else:
            behind = starts[has_payload] + 1
            words[behind, 0] = addresses[has_payload]
            words[behind, 1] = batch.payload_lengths[:frames][has_payload]
        ends = np.zeros(used, np.bool_)
        ends[stops - 1] = True
        words[stops - 1, 1] |= _LAST
        head, wrapped = spans(self.tail, used, self.count)
        split = head.stop - head.start
        self._words[head], self._words[wrapped] = words[:split], words[split:]
        self._ends[head], self._ends[wrapped] = ends[:split], ends[split:]
        self.tail = (self.tail + used) % self.count
        self._used += used
        return frames

    def _not_null(
        self, addresses: NDArray[np.int64], lengths: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """The addresses, with those of payload at 0 moved to the bounce buffer, filled.

        Raises:
            ValueError: such a payload is longer than the buffer.
        """
        null = np.flatnonzero((addresses == 0) & (lengths[: len(addresses)] > 0))
        if not null.size:
            return addresses
        longest = int(lengths[null].max())
        if longest > BOUNCE:
            raise ValueError(f"{longest} bytes of payload at address 0: {BOUNCE} at most")
        at = self._bounce_at
        self._buffer[at : at + longest] = self._buffer[:longest]
        addresses = addresses.copy()
        addresses[null] = at
        return addresses

    def reclaim(self) -> int:
        """Free the descriptors of frames that are done; how many frames. At most one lap."""
        if not self._used:
            return 0
        first = (self.tail - self._used) % self.count
        if self._status[self.tail - 1] & _TX_DONE:  # written back in order: all are done
            free = self._used
            ends = self._window(self._ends, first)
        else:
            ends = self._window(self._ends, first)
            waiting = ends & (self._window(self._status, first) & _TX_DONE == 0)
            done = np.flatnonzero(ends[: int(waiting.argmax())])
            free = int(done[-1]) + 1 if done.size else 0
        self._used -= free
        return int(np.count_nonzero(ends[:free]))

    def _window(self, column: NDArray[Any], first: int) -> NDArray[Any]:
        """The used descriptors' part of a column, in ring order."""
        head, wrapped = spans(first, self._used, self.count)
        return np.concatenate((column[head], column[wrapped])) if wrapped.stop else column[head]


class PanicRxRing:
    """Buffers waiting to be filled."""

    def __init__(self, memory: DmaMemory, count: int) -> None:
        """Reserve a ring of ``count`` descriptors (a multiple of 8) and its buffers."""
        self.count: Final = count
        self.base: Final = memory.reserve(count * SIZE, RING_ALIGN)
        self.errors = 0
        """Descriptors dropped: bad frames, and pieces of long ones."""
        self._next = 0
        self._in_frame = False  # the last descriptor taken did not end its frame
        self._buffers_at = memory.reserve(count * RX_BUFFER, RX_BUFFER)
        buffer = memory.buffer
        self._ring = buffer[self.base : self.base + count * SIZE]
        self._words = self._ring.view("<i8").reshape(count, 2)
        self._status = self._ring[12::SIZE]
        buffers = buffer[self._buffers_at : self._buffers_at + count * RX_BUFFER]
        self._buffers = buffers.reshape(count, RX_BUFFER)

    @property
    def tail(self) -> int:
        """RDT: the last descriptor handled, which the silicon may not fill yet."""
        return (self._next - 1) % self.count

    def clear(self) -> None:
        """Poison ring and buffers, then make every descriptor ready to be filled."""
        self._ring[:] = POISON
        self._buffers[:] = POISON
        self._words[:, 0] = self._buffers_at + np.arange(self.count) * RX_BUFFER
        self._words[:, 1] = 0
        self._next = 0
        self._in_frame = False

    def take(self, budget: int) -> Frames:
        """Copy out what at most ``budget`` descriptors hold, and make them ready again.

        The caller writes RDT. The driver has no clock: the frames' time is 0.
        """
        run = self._done(budget)
        if not run:
            return Frames.empty()
        head, wrapped = spans(self._next, run, self.count)
        words = self._words[head, 1].copy()
        if wrapped.stop:
            words = np.concatenate((words, self._words[wrapped, 1]))
        lengths = np.minimum(words & 0xFFFF, RX_BUFFER)
        width = int(lengths.max())
        data = np.concatenate((self._buffers[head, :width], self._buffers[wrapped, :width]))
        self._words[head, 1] = 0
        self._words[wrapped, 1] = 0
        self._next = (self._next + run) % self.count
        frames = Frames(data, lengths, np.zeros(run, np.int64))
        good = words & (_RX_EOP | _RX_BAD) == _RX_EOP
        if self._in_frame or not good.all():
            ends = words & _RX_EOP != 0
            good[1:] &= ends[:-1]
            good[0] &= not self._in_frame
            self._in_frame = not ends[-1]
            self.errors += run - int(np.count_nonzero(good))
            frames = frames.take(good)
        return frames

    def _done(self, budget: int) -> int:
        """How many descriptors from the next on have DD; at most ``budget``."""
        if budget < 1 or not self._status[self._next] & _RX_DONE:
            return 0
        run = 0
        for span in spans(self._next, min(budget, self.count - 1), self.count):
            waiting = self._status[span] & _RX_DONE == 0
            if waiting.any():
                return run + int(waiting.argmax())
            run += len(waiting)
        return run
