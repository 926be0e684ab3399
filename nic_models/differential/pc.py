"""The PC that both devices of a comparison are in: its memory, and where it has none.

It is QEMU's, without firmware and without software. Our model gets an array of the same size.
"""

from __future__ import annotations

from typing import Final

#: The card's own address, on both sides.
MAC: Final = bytes.fromhex("525400123456")
#: Bytes of memory, from physical address 0.
MEMORY: Final = 2 << 20
#: Where a PC has no memory for DMA below its top: VGA and ROMs. Traces keep away from it, as from
#: everything between 2 GiB and 4 GiB, where other devices are.
HOLE: Final = range(0xA_0000, 0x10_0000)
#: Where traces put rings and data: compared after every step; the rest at the end of a trace.
WORK: Final = range(0x10_0000, MEMORY)


def reachable(start: int, length: int) -> bool:
    """Whether the bytes lie in memory, as DMA sees it on this PC."""
    return start + length <= MEMORY and not (start < HOLE.stop and start + length > HOLE.start)


def unanswered(start: int, length: int) -> bool:
    """Whether the bytes lie where surely nothing answers: neither memory nor another device."""
    end = start + length
    return (start >= MEMORY and end <= 1 << 31) or (start >= 1 << 33 and end <= 1 << 38)


def overlap(one: range, other: range) -> bool:
    """Whether two ranges of addresses share a byte."""
    return one.start < other.stop and other.start < one.stop
