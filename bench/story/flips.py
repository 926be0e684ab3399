"""One bit flips inside the machine, on the dump's way out of it.

    station   what holds the bit                     when it flips
    memory    memory that is dumped                  after the panic: the truth has been taken, and
                                                     no checksum been made of it
    buffer    what the NIC reads by DMA              when every checksum has been made of it; it
                                                     stays flipped, also for a retransmission
    nic       the NIC's transmit FIFO                once, on the way to the wire; the UDP checksum
                                                     was made in software, before
    nic-sums  the FIFO of a NIC that makes the       once, before it makes that checksum
              UDP checksum itself

``netdump2`` and TFTP's client send from memory, so there the buffer is memory itself; a stock
client's is the 64 KiB that it copies a chunk to. A bit is counted in the dump, from its first octet
on; of ``memory`` from the first octet of memory on, for what lies before is made anew after the
panic. Each flips once.

Which frame carries an octet, netdump's says itself. A block of TFTP's only has a number, so its
place is a multiple of the first block's length, which is that of all but the last.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.judge.tftp import AT_DATA, Transfer
from bench.wire.actions import mend
from bench.wire.contracts import Wire
from bench.wire.kinds import CODE, classify, leading_words
from netdump.contracts import DebugnetMethods, Event, FrameBlock, Memory, TxBatch
from netdump.dumper import DumpImage
from netdump.messages import HEADER, HEADER_SIZE
from nic_models.frames import Frames

Ints = NDArray[np.int64]

#: Octets of a frame before netdump's header, and before the dump's.
_BELOW: Final = 42
_AT_MESSAGE: Final = _BELOW + HEADER_SIZE
#: Of a DATA, 16-bit words: UDP's length, which counts two headers, and the block's number.
_UDP_LENGTH, _BLOCK, _UDP_AND_TFTP = 19, 22, 12
STATIONS: Final = ("memory", "buffer", "nic", "nic-sums")


def flip_memory(memory: Memory, image: DumpImage, bit: int) -> None:
    """Of what is dumped, at once. ``ValueError`` if there is no such bit."""
    place = bit // 8
    for segment in image.segments:
        if place < segment.length:
            memory.buffer[segment.physical + place] ^= 0x80 >> bit % 8
            return
        place -= segment.length
    raise ValueError(f"machine.flip_bit = {bit}: no so many bits of memory are dumped")


class Carriers:
    """Looks for an octet of the dump among the frames that a client sends; show it all of them."""

    def __init__(self) -> None:
        self._transfer = Transfer()
        self._blksize = 0

    def find(self, frames: Frames, place: int) -> tuple[int, int] | None:
        """The first frame that carries the octet, and the column where it lies; None: none does.

        Only the beginnings of the frames are looked at, so there need be no more of them.
        """
        kinds = classify(frames)
        for kind, first, extents in (
            ("vmcore", _AT_MESSAGE, self._of_messages),
            ("data", AT_DATA, self._of_blocks),
        ):
            rows = np.flatnonzero(kinds == CODE[kind])
            if not len(rows):
                continue
            starts, lengths = extents(frames.take(rows))
            found = (starts <= place) & (place < starts + lengths)
            if found.any():
                row = int(np.argmax(found))
                return int(rows[row]), first + place - int(starts[row])
        return None

    def _of_messages(self, frames: Frames) -> tuple[Ints, Ints]:
        octets = np.ascontiguousarray(frames.data[:, _BELOW:_AT_MESSAGE])
        rows = octets.view(HEADER)[:, 0]
        return rows["offset"].astype(np.int64), rows["length"].astype(np.int64)

    def _of_blocks(self, frames: Frames) -> tuple[Ints, Ints]:
        words = leading_words(frames, _BLOCK + 1).astype(np.int64)
        numbers = self._transfer.numbers(words[:, _BLOCK])
        self._transfer.highest = max(self._transfer.highest, int(numbers.max()))
        lengths = words[:, _UDP_LENGTH] - _UDP_AND_TFTP
        self._blksize = self._blksize or int(lengths[0])
        return numbers * self._blksize, lengths


class FlippingBuffer:
    """A driver's debugnet methods; the buffer that a batch is read from by DMA decays."""

    def __init__(self, inner: DebugnetMethods, memory: Memory, bit: int) -> None:
        self._inner = inner
        self._memory = memory
        self._bit: int | None = bit
        self._carriers = Carriers()

    @property
    def mac(self) -> bytes:
        return self._inner.mac

    @property
    def mtu(self) -> int:
        return self._inner.mtu

    def link_up(self) -> bool:
        return self._inner.link_up()

    def event(self, what: Event) -> None:
        self._inner.event(what)

    def transmit(self, batch: TxBatch) -> int:
        if self._bit is None:
            return self._inner.transmit(batch)
        lengths = batch.header_lengths + batch.payload_lengths
        heads = Frames(batch.headers, lengths, np.zeros(len(batch), np.int64))
        if found := self._carriers.find(heads, self._bit // 8):
            row, column = found
            at = int(batch.payload_addresses[row]) + column - int(batch.header_lengths[row])
            self._memory.buffer[at] ^= 0x80 >> self._bit % 8
            self._bit = None
        return self._inner.transmit(batch)

    def poll(self, budget: int) -> FrameBlock:
        return self._inner.poll(budget)


class FlippingNic:
    """The machine's end of the wire; a frame flips in the NIC, before it gets there."""

    def __init__(self, inner: Wire, bit: int, *, sums: bool) -> None:
        """``sums``: it makes the UDP checksum afterwards."""
        self._inner = inner
        self._bit: int | None = bit
        self._sums = sums
        self._carriers = Carriers()

    def send(self, frames: Frames) -> None:
        if self._bit is not None and (found := self._carriers.find(frames, self._bit // 8)):
            row, column = found
            frames = Frames(frames.data.copy(), frames.lengths, frames.time_ns)
            frames.data[row, column] ^= 0x80 >> self._bit % 8
            if self._sums:
                mend(frames.data[row], int(frames.lengths[row]))
            self._bit = None
        self._inner.send(frames)

    def receive(self) -> Frames:
        return self._inner.receive()

    def close(self) -> None:
        self._inner.close()
