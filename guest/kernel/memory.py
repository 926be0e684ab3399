"""Physical memory: one flat buffer, and the panic arena above it.

    base       (0x1000)                 base + size         base + size + arena_size
    | (unused) | ordinary memory ---------> | panic arena ------> |
               allocate() goes up           reserve() goes up

``base`` is 0, unless something else lies below: a PC has its firmware under 1 MiB. A machine whose
system was not told of an arena has it elsewhere (``arena_at``).

Two rules. Ordinary memory is what the machine lives in and what a dump must bring home; the arena
is set aside at boot, is no part of any dump, and is all that a panic path may write to. Both are
handed out once and never taken back: what a boot needs, and nothing a boot does not.

Page 0 is never handed out: address 0 means "nothing" to devices and to readers of dumps.
"""

from __future__ import annotations

import os
from typing import Final

import numpy as np
from numpy.typing import NDArray

from guest.kernel.guard import PanicGuard
from guest.kernel.mapping import FreezableMemory, Mapping
from guest.kernel.truth import Truth

PAGE_SIZE: Final = 4096

#: Fresh arena memory is filled with this, so that what is read before it was written shows.
POISON: Final = 0xFF


class OutOfMemory(Exception):
    """A region of physical memory has no room for what was asked of it."""

    def __init__(self, region: str, asked: int, free: int, cure: str) -> None:
        super().__init__(
            f"{region} has {free} bytes left, {asked} are wanted (alignment included): {cure}"
        )
        self.region = region
        self.asked = asked
        self.free = free


class PhysicalMemory:
    """``buffer`` is all of it; an index is a physical address."""

    def __init__(
        self,
        size: int,
        arena_size: int,
        guard: PanicGuard | None = None,
        *,
        base: int = 0,
        buffer: NDArray[np.uint8] | None = None,
        buffer_fd: int | None = None,
        arena_at: int | None = None,
    ) -> None:
        """``size`` bytes of ordinary memory and ``arena_size`` more of arena, in whole pages.

        ``guard`` hears of ordinary memory that is asked for in a panic. ``buffer``: memory that is
        there already, index = physical address, and the descriptor that it is a mapping of, for
        ``share``; default: fresh memory, zeros. ``arena_at``: where the arena begins; default:
        above ordinary memory.

        Raises:
            ValueError: a size is no multiple of a page, there is less than two pages of memory, or
                the buffer is too small.
        """
        if size % PAGE_SIZE or arena_size % PAGE_SIZE or size < 2 * PAGE_SIZE or arena_size < 0:
            raise ValueError(
                f"memory of {size} bytes with an arena of {arena_size}: give whole pages of"
                f" {PAGE_SIZE} bytes, and two of them at least"
            )
        top = base + size
        arena = top if arena_at is None else arena_at
        end = max(top, arena + arena_size)
        self._own = FreezableMemory(end) if buffer is None else None
        if self._own is not None:
            buffer = self._own.array
        assert buffer is not None, "given, or our own"
        if base % PAGE_SIZE or arena % PAGE_SIZE or len(buffer) < end:
            raise ValueError(
                f"memory from {base:#x} to {end:#x} does not fit whole pages of a"
                f" buffer of {len(buffer):#x} bytes"
            )
        self.buffer: Final[NDArray[np.uint8]] = buffer
        self.base: Final = base
        """Where ordinary memory begins."""
        self.size: Final = size
        """Bytes of ordinary memory."""
        self.arena: Final = (arena, arena + arena_size)
        """[start, end) of the panic arena."""
        self._guard = guard
        self._buffer_fd = buffer_fd
        self._shared = False
        self._ordinary = max(base, PAGE_SIZE)
        self._arena = arena
        self._top: Final = top

    @property
    def ordinary(self) -> NDArray[np.uint8]:
        """Ordinary memory, uint8 (size,), a view."""
        return self.buffer[self.base : self._top]

    @property
    def arena_used(self) -> int:
        """Bytes of the arena that are reserved."""
        return self._arena - self.arena[0]

    @property
    def ordinary_free(self) -> int:
        """Bytes that ``allocate`` still has."""
        return self._top - self._ordinary

    def allocate(self, size: int, align: int) -> int:
        """Ordinary memory, at boot; a physical address. Its contents are whatever lay there.

        Raises:
            OutOfMemory: there is not enough left.
        """
        if self._guard is not None:
            self._guard.report("memory-outside-arena", f"{size} bytes of ordinary memory asked for")
        start = _align_up(self._ordinary, align)
        if start + size > self._top:
            asked = start + size - self._ordinary
            raise OutOfMemory(
                "ordinary memory", asked, self.ordinary_free, "give the machine more memory"
            )
        self._ordinary = start + size
        return start

    def reserve(self, size: int, align: int) -> int:
        """A piece of the panic arena, poisoned; a physical address. For boot time.

        Raises:
            OutOfMemory: the arena is exhausted.
        """
        start = _align_up(self._arena, align)
        end = self.arena[1]
        if start + size > end:
            asked = start + size - self._arena
            raise OutOfMemory(
                "the panic arena",
                asked,
                end - self._arena,
                "give the machine a larger arena, or its NIC smaller rings",
            )
        self._arena = start + size
        self.buffer[start : start + size] = POISON
        return start

    def share(self) -> int:
        """A descriptor of all of it, for another process to map; the caller closes it.

        Raises:
            ValueError: it was made on a buffer without a descriptor.
        """
        self._shared = True
        fd = self._buffer_fd if self._own is None else self._own.fd
        if fd is None:
            raise ValueError("this memory is no mapping of a file that could be shared")
        return os.dup(fd)

    def freeze(self) -> Truth:
        """What ordinary memory holds now. Memory of our own is kept without a copy (``mapping``);
        what another process maps too has to be copied.
        """
        start, end = self.base, self._top
        if self._own is not None and not self._shared:
            kept = self._own.freeze(end)
            return Truth([(start, kept.array[start:])], kept)
        kept = Mapping(self.size)
        kept.array[:] = self.ordinary
        return Truth([(start, kept.array)], kept)

    def release(self) -> None:
        """Give memory of our own back: nobody will look at it any more."""
        if self._own is not None:
            self._own.release()


def _align_up(address: int, align: int) -> int:
    if align < 1 or align & (align - 1):
        raise ValueError(f"alignment {align} is not a power of two")
    return (address + align - 1) & -align
