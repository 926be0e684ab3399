"""The dump as TFTP can carry it: one stream, written once, front to back, cut into equal blocks.

TFTP has no offsets. Nothing can be put in its place later, so it has to be settled beforehand where
the kernel dump header goes: in front, as the patch of 2010 had it, or behind, as FreeBSD has it
since version 12. It goes *behind*:

* The file is a core dump from its first byte on. What lies behind an ELF core does no harm; 512
  bytes in front of one make a file that no debugger opens, and put every page off its boundary.
* A whole header at the end is the one sign in the file that the end was reached. TFTP has no other:
  a stock server keeps what it has of a transfer that broke off, under the same name.
* The reason that moved FreeBSD's, a length that is known only at the end, will hold here when dumps
  are compressed.

What speaks for the front is that half a dump says whose it is. The file's name can say that. The
length need not be in front for the server's sake: ``tsize`` brings it there before the first byte.

A block is sent from where it lies in memory. One in which a stretch of memory ends and the next
begins has no one place; it is copied to one of its own, in the arena. There is one such place for
each end of a stretch, reserved at boot: so no block is copied over another that may be in flight.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from netdump.contracts import Memory
from netdump.dumper import DumperInfo, DumpImage
from netdump.kdh import KDH_SIZE
from netdump.tftp.packets import DEFAULT_BLKSIZE

_ALIGN: Final = 64


class Stream:
    """A dump image and its header. Make it at boot; ``begin`` it in the panic."""

    def __init__(self, memory: Memory, image: DumpImage, most_blksize: int) -> None:
        """No block will be longer than ``most_blksize``, or than the protocol's default."""
        self.length = image.length + KDH_SIZE
        """Octets, header and all."""
        self._memory = memory
        self._image = image
        self._slot = max(most_blksize, DEFAULT_BLKSIZE)
        self._header_at = memory.reserve(KDH_SIZE, _ALIGN)
        # The ELF header ends somewhere, and so does each segment.
        self._slots_at = memory.reserve((1 + len(image.segments)) * self._slot, _ALIGN)
        self._starts = np.zeros(0, np.int64)
        self._addresses = np.zeros(0, np.int64)

    def begin(self, header: bytes, info: DumperInfo) -> None:
        """Put the header in its place, and see where everything lies.

        Raises ``DumpRefused`` where the dump core does not let it be written.
        """
        at = self._header_at
        self._memory.buffer[at : at + KDH_SIZE] = np.frombuffer(header, np.uint8)
        starts: list[int] = []
        addresses: list[int] = []
        end = -1
        for piece in self._image.pieces(info):
            if piece.address != end:
                starts.append(piece.offset)
                addresses.append(piece.address)
            end = piece.address + piece.length
        self._starts = np.array([*starts, self._image.length], np.int64)
        self._addresses = np.array([*addresses, at], np.int64)

    def blocks(
        self, first: int, count: int, blksize: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Physical addresses and lengths of blocks ``first`` (from 0) and those after it.

        The last block of all is the one that is shorter than ``blksize``; it may be empty.
        """
        offsets = np.arange(first, first + count, dtype=np.int64) * blksize
        lengths = np.clip(self.length - offsets, 0, blksize)
        which = np.searchsorted(self._starts, offsets, side="right") - 1
        addresses = self._addresses[which] + (offsets - self._starts[which])
        ends = np.append(self._starts[1:], self.length)[which]
        for i in np.flatnonzero(offsets + lengths > ends).tolist():
            addresses[i] = self._gather(int(which[i]), int(offsets[i]), int(lengths[i]))
        return addresses, lengths

    def _gather(self, stretch: int, offset: int, length: int) -> int:
        """Copy a block that lies in several places to its own; the address of that."""
        memory, place = self._memory.buffer, self._slots_at + stretch * self._slot
        starts = [*self._starts.tolist(), self.length]
        at, end = offset, offset + length
        while at < end:
            step = min(end, starts[stretch + 1]) - at
            source = int(self._addresses[stretch]) + at - starts[stretch]
            target = place + at - offset
            memory[target : target + step] = memory[source : source + step]
            at += step
            stretch += 1
        return place
