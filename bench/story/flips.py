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

``netdump2`` sends from memory, so there the buffer is memory itself; a stock client's is the 64 KiB
that it copies a chunk to. A bit is counted in the dump, from its first octet on; of ``memory`` from
the first octet of memory on, for what lies before is made anew after the panic. Each flips once.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.wire.actions import mend
from bench.wire.contracts import Wire
from netdump.contracts import DebugnetMethods, Event, FrameBlock, Memory, TxBatch
from netdump.dumper import DumpImage
from netdump.messages import HEADER, HEADER_SIZE, MessageType
from nic_models.frames import Frames

#: Octets of a frame before netdump's header.
_BELOW: Final = 42
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


def _carrier(heads: NDArray[np.uint8], place: int) -> tuple[int, int] | None:
    """Of frames' beginnings, uint8 (n, >= 66), the first that carries that octet of the dump, and
    where in its payload.
    """
    if heads.shape[1] < _BELOW + HEADER_SIZE:
        return None
    octets = np.ascontiguousarray(heads[:, _BELOW : _BELOW + HEADER_SIZE])
    rows = octets.view(HEADER)[:, 0]
    start, length = rows["offset"].astype(np.int64), rows["length"].astype(np.int64)
    found = (rows["type"] == MessageType.VMCORE) & (start <= place) & (place < start + length)
    if not found.any():
        return None
    row = int(np.argmax(found))
    return row, place - int(start[row])


class FlippingBuffer:
    """A driver's debugnet methods; the buffer that a batch is read from by DMA decays."""

    def __init__(self, inner: DebugnetMethods, memory: Memory, bit: int) -> None:
        self._inner = inner
        self._memory = memory
        self._bit: int | None = bit

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
        if self._bit is not None and (found := _carrier(batch.headers, self._bit // 8)):
            row, at = found
            self._memory.buffer[int(batch.payload_addresses[row]) + at] ^= 0x80 >> self._bit % 8
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

    def send(self, frames: Frames) -> None:
        if self._bit is not None and (found := _carrier(frames.data, self._bit // 8)):
            row, at = found
            frames = Frames(frames.data.copy(), frames.lengths, frames.time_ns)
            frames.data[row, _BELOW + HEADER_SIZE + at] ^= 0x80 >> self._bit % 8
            if self._sums:
                mend(frames.data[row], int(frames.lengths[row]))
            self._bit = None
        self._inner.send(frames)

    def receive(self) -> Frames:
        return self._inner.receive()

    def close(self) -> None:
        self._inner.close()
