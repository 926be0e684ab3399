"""A static ring for a dump that is not sent as memory has it.

A sliding window sends straight from memory, and again from there what was lost. What was compressed
or encrypted lies in no memory of the machine's, and can't be made again: cipher and compressor go
one way. So it lies in a ring in the panic arena, reserved at boot, until it is acknowledged::

    offset in the dump     kept             cut              made
    ...  acknowledged       | in flight      | no message yet | free ...
    place in the ring: offset modulo capacity

Rules:

1. A place is free when all frames up to there are acknowledged, and not before.
2. What there is no room for waits in the maker's own buffer (``Outbound``'s octets of one piece),
   and no more is made until it has gone.
3. The capacity is a whole number of messages, so each is cut whole, and none lies across the end.
4. With no room there is nothing to send now. The window asks again when it has heard something:
   what fills the ring is in flight, so there is something to hear.

So a window is never larger than the ring: at 1448 octets a message 181 frames, 2 ms of a line of 1
Gbit/s. A copy of a frame that was acknowledged meanwhile may still wait in the NIC's ring. If its
place is written again, that copy goes out with octets that its checksums were not made of: the UDP
checksum refuses it, and the message's CRC32C or tag. Where there are none of these, at a stock
server, one such copy in 65,536 passes, and changes what is stored already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from netdump.window import FRAGMENT, fragment

#: Octets of the panic arena.
RING_SIZE: Final = 256 * 1024
_NOTHING_NOW: Final = np.zeros(0, FRAGMENT)


def fragments(
    octets: Iterator[bytes],
    memory: NDArray[np.uint8],
    ring_at: int,
    size: int,
    kept: Callable[[], int | None],
) -> Iterator[NDArray[np.void]]:
    """``octets``, in tables of messages of ``size`` octets that lie in the ring; an empty table:
    none now, ask again.

    ``memory``: uint8, by physical address; the ring is the ``RING_SIZE`` octets from ``ring_at``
    on. ``kept()``: all before that offset of the dump is acknowledged; None: all that was given.
    """
    capacity = RING_SIZE // size * size
    ring = memory[ring_at : ring_at + capacity]
    cut = made = 0
    for piece in octets:
        left = np.frombuffer(piece, np.uint8)
        while len(left):
            known = kept()
            room = capacity - made + (cut if known is None else known)
            if not room:
                yield _NOTHING_NOW
                continue
            place = made % capacity
            taken = min(len(left), room, capacity - place)
            ring[place : place + taken] = left[:taken]
            left = left[taken:]
            made += taken
            if whole := (made - cut) // size * size:
                yield from _tables(cut, cut + whole, ring_at, capacity, size)
                cut += whole
    if made > cut:
        yield from _tables(cut, made, ring_at, capacity, size)


def _tables(
    start: int, end: int, ring_at: int, capacity: int, size: int
) -> Iterator[NDArray[np.void]]:
    """The octets [start, end) of the dump, where they lie in the ring."""
    while start < end:
        place = start % capacity
        length = min(end - start, capacity - place)
        yield fragment(start, ring_at + place, length, size)
        start += length
