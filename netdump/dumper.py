"""The dump core: what is written where, and the one place that says whether it may be.

A dump is a stream of bytes, offset 0 upwards, contiguous: ELF header pages, then every dumped
stretch of physical memory in ascending order (``elfcore.py``). Architecture code would produce it;
the dumper callback takes it in pieces that are block-sized, block-aligned and no longer than
``maxiosize``. Here the pieces break at multiples of ``maxiosize`` of the *stream*, so that the
first chunk is as full as the others.

Two remarks of the 2010 review live here. "Pull the mediaoffset and mediasize checking into common
code": ``check_bounds`` is that code, called for every write. "A reserved size of 0 meaning no limit
sounds slightly worrying": ``DumperInfo.unlimited`` is the flag that was asked for; with
``size_zero_is_unlimited`` the historic reading can be shown next to it.
Source: FreeBSD sys/kern/kern_shutdown.c, dump_check_bounds.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from netdump.contracts import Memory
from netdump.elfcore import FREEBSD, Flavour, Segment, build_header
from netdump.errors import LocalError

BLOCK_SIZE = 4096
#: MAXDUMPPGS pages: the most a dumper takes at once, and the size of netdump's static buffer.
MAX_IO_SIZE = 64 * 1024


class DumpRefused(LocalError):
    """The dump core would not let a write happen. ``errno`` is what the kernel would return."""

    reason = "dump-refused"

    def __init__(self, code: int, why: str) -> None:
        # Python calls this one by its other name.
        name = "EOPNOTSUPP" if code == errno.EOPNOTSUPP else errno.errorcode[code]
        super().__init__(f"{name}: {why}")
        self.errno = code


@dataclass(frozen=True, slots=True)
class DumperInfo:
    """Where a dump may go. Offsets and sizes in bytes."""

    media_offset: int = 0
    media_size: int = 0
    unlimited: bool = False
    size_zero_is_unlimited: bool = False
    block_size: int = BLOCK_SIZE
    max_io_size: int = MAX_IO_SIZE

    @property
    def bounded(self) -> bool:
        if self.unlimited:
            return False
        return not (self.size_zero_is_unlimited and self.media_size == 0)


def check_bounds(info: DumperInfo, offset: int, length: int) -> None:
    """Raise ``DumpRefused`` unless ``length`` bytes may be written at ``offset``."""
    if length == 0:
        return
    if info.bounded and (
        offset < info.media_offset or offset - info.media_offset + length > info.media_size
    ):
        end = info.media_offset + info.media_size
        raise DumpRefused(
            errno.ENOSPC,
            f"write of {length} bytes at {offset:#x} is outside {info.media_offset:#x}..{end:#x}",
        )
    if length > info.max_io_size:
        raise DumpRefused(errno.ENOSPC, f"write of {length} bytes; {info.max_io_size} at most")
    for name, value in (("length", length), ("offset", offset)):
        if value % info.block_size:
            raise DumpRefused(errno.EINVAL, f"{name} {value} is no multiple of {info.block_size}")


@dataclass(frozen=True, slots=True)
class Piece:
    """``length`` bytes of memory at physical ``address``, at ``offset`` of the dump."""

    offset: int
    address: int
    length: int


class DumpImage:
    """The stream that a set of memory segments makes.

    The ELF header needs a place to be sent from: its pages are taken from the panic arena when the
    image is planned, at boot. So the notes have their size by then.
    """

    def __init__(
        self,
        memory: Memory,
        segments: Sequence[tuple[int, int]],
        *,
        flavour: Flavour = FREEBSD,
        notes: bytes = b"",
        direct_map: int | None = None,
    ) -> None:
        """``segments``: (physical start, length), ascending, in whole blocks.

        The others are those of ``elfcore.build_header``.
        """
        self.segments = tuple(Segment(start, length) for start, length in segments)
        for segment in self.segments:
            if segment.physical % BLOCK_SIZE or segment.length % BLOCK_SIZE:
                raise DumpRefused(errno.EINVAL, f"{segment} is not made of whole blocks")
        self._header = build_header(
            self.segments, flavour=flavour, notes=notes, direct_map=direct_map
        )
        self._memory = memory
        self._header_at = memory.reserve(len(self._header), BLOCK_SIZE)
        self.length = len(self._header) + sum(segment.length for segment in self.segments)

    @property
    def header(self) -> bytes:
        return self._header

    def pieces(self, info: DumperInfo) -> Iterator[Piece]:
        """Every piece in order, checked against ``info``; ``DumpRefused`` if one may not go."""
        view = self._memory.buffer[self._header_at : self._header_at + len(self._header)]
        view[:] = np.frombuffer(self._header, np.uint8)
        offset = 0
        stretches = [(self._header_at, len(self._header))]
        stretches += [(segment.physical, segment.length) for segment in self.segments]
        for address, length in stretches:
            end = address + length
            while address < end:
                step = min(end - address, info.max_io_size - offset % info.max_io_size)
                check_bounds(info, info.media_offset + offset, step)
                yield Piece(offset, address, step)
                address += step
                offset += step
