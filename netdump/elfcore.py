"""A full dump is an ELF core: a header, then physical memory, segment by segment.

The layout is that of FreeBSD's dumpsys_generic() (sys/kern/kern_dump.c), octet for octet where it
is defined: an ELF64 little-endian ET_CORE whose OS ABI is "standalone", one PT_LOAD for each
physical segment, in order, and the segments' octets from the next page boundary on without gaps.

    0     64                        header_size (pages)
    | Ehdr | Phdr 0 | Phdr 1 | ... 0 | segment 0 | segment 1 | ...

Two quirks are FreeBSD's: ``e_version`` is left 0, and ``p_vaddr`` repeats the physical address.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from netdump.errors import LocalError

EM_X86_64 = 62
EM_AARCH64 = 183
PAGE_SIZE = 4096

_IDENT = bytes([0x7F, *b"ELF", 2, 1, 1, 255]).ljust(16, b"\0")  # ELF64, LSB, current, standalone
_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR = struct.Struct("<IIQQQQQQ")
_ET_CORE = 4
_PT_LOAD = 1
_PF_R = 4
_SHDR_SIZE = 64
_PHNUM_MAX = 0xFFFE  # 0xffff (PN_XNUM) would move the count elsewhere


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of physical memory: its address and its length in octets."""

    physical: int
    length: int


@dataclass(frozen=True, slots=True)
class ElfLayout:
    """Where everything is in the dump file; sizes and offsets in octets.

    ``offsets[i]`` is where ``segments[i]`` begins.
    """

    segments: tuple[Segment, ...]
    header_size: int
    offsets: tuple[int, ...]
    total: int


def layout(segments: Sequence[Segment]) -> ElfLayout:
    """Lay the segments out. Raises LocalError unless they ascend without overlap."""
    for segment in segments:
        if segment.physical < 0 or segment.length <= 0 or _end(segment) > 1 << 64:
            raise LocalError(f"{segment!r}: a segment has a 64-bit address and a positive length")
    for one, next_one in pairwise(segments):
        if _end(one) > next_one.physical:
            raise LocalError(f"{one!r} and {next_one!r} overlap or are out of order: sort them")
    if len(segments) > _PHNUM_MAX:
        raise LocalError(f"{len(segments)} segments: an ELF header counts at most {_PHNUM_MAX}")
    header_size = -(-(_EHDR.size + len(segments) * _PHDR.size) // PAGE_SIZE) * PAGE_SIZE
    *offsets, total = accumulate((segment.length for segment in segments), initial=header_size)
    return ElfLayout(tuple(segments), header_size, tuple(offsets), total)


def segment_offsets(segments: Sequence[Segment]) -> tuple[int, ...]:
    """Where each segment begins in the dump file, octets."""
    return layout(segments).offsets


def build_header(segments: Sequence[Segment], machine: int = EM_X86_64) -> bytes:
    """The ELF and program headers, padded with zeros to whole pages of 4096 octets."""
    where = layout(segments)
    ehdr = _EHDR.pack(
        *(_IDENT, _ET_CORE, machine, 0, 0, _EHDR.size, 0, 0),
        *(_EHDR.size, _PHDR.size, len(where.segments), _SHDR_SIZE, 0, 0),
    )
    phdrs = b"".join(
        _PHDR.pack(
            *(_PT_LOAD, _PF_R, offset, segment.physical, segment.physical),
            *(segment.length, segment.length, PAGE_SIZE),
        )
        for segment, offset in zip(where.segments, where.offsets, strict=True)
    )
    return (ehdr + phdrs).ljust(where.header_size, b"\0")


def _end(segment: Segment) -> int:
    return segment.physical + segment.length
