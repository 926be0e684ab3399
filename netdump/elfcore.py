"""A full dump is an ELF core: a header, then physical memory, segment by segment.

An ELF64 little-endian ET_CORE, one PT_LOAD for each physical segment, in order, and the segments'
octets from the next page boundary on without gaps. In two flavours, a table below:

    0      64                             header_size (pages)
    | Ehdr |         Phdr 0 | Phdr 1 | ...       0 | segment 0 | segment 1 | ...    freebsd
    | Ehdr | PT_NOTE Phdr | Phdr 0 | ... | notes 0 | segment 0 | segment 1 | ...    linux

* ``FREEBSD`` is dumpsys_generic() (sys/kern/kern_dump.c), octet for octet where it is defined. Its
  quirks: the OS ABI is "standalone", ``e_version`` is left 0, ``p_vaddr`` repeats the physical
  address, and there are no notes.
* ``LINUX`` is /proc/vmcore (kernel/crash_core.c, fs/proc/vmcore.c): the notes (``elfnotes.py``)
  come first, and ``p_vaddr`` is where the kernel sees that memory in its direct map. Whoever does
  not know the direct map leaves 0, as QEMU's dump-guest-memory does.

What readers make of the Linux flavour, as tried:

* makedumpfile 1.7.2 looks for the program headers right behind the ELF header, whatever ``e_phoff``
  says: so they are there. (QEMU 7.2 puts a section header between them, and makedumpfile does not
  read its dumps.)
* drgn 0.3 and makedumpfile take any ``p_vaddr``: they walk the page tables that VMCOREINFO names.
  But drgn believes ``p_vaddr``: with 0, or the physical address, following a null pointer reads
  memory; with the direct map it is an error, as it was in the kernel.
* Without a VMCOREINFO note a core is a process's to drgn, and makedumpfile finds no log.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from netdump.elfnotes import parse_notes
from netdump.errors import LocalError

EM_X86_64 = 62
EM_AARCH64 = 183
PAGE_SIZE = 4096

_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR = struct.Struct("<IIQQQQQQ")
_ET_CORE = 4
_PT_LOAD = 1
_PT_NOTE = 4
_PF_R, _PF_RWX = 4, 7
_PHNUM_MAX = 0xFFFE  # 0xffff (PN_XNUM) would move the count elsewhere
_NOTE_ALIGN = 4


@dataclass(frozen=True, slots=True)
class Flavour:
    """What two kernels' cores do not have in common. Sizes and alignment in octets."""

    name: str
    os_abi: int
    e_version: int
    section_header_size: int
    load_flags: int
    load_align: int
    identity_mapped: bool
    """p_vaddr is the physical address; else that of the direct map, if it is known."""
    has_notes: bool


FREEBSD = Flavour("freebsd", 255, 0, 64, _PF_R, PAGE_SIZE, identity_mapped=True, has_notes=False)
LINUX = Flavour("linux", 0, 1, 0, _PF_RWX, 0, identity_mapped=False, has_notes=True)
FLAVOURS = {flavour.name: flavour for flavour in (FREEBSD, LINUX)}


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of physical memory: its address and its length in octets."""

    physical: int
    length: int


@dataclass(frozen=True, slots=True)
class ElfLayout:
    """Where everything is in the dump file; sizes and offsets in octets.

    ``offsets[i]`` is where ``segments[i]`` begins; ``notes_offset`` is where notes would.
    """

    segments: tuple[Segment, ...]
    header_size: int
    offsets: tuple[int, ...]
    total: int
    notes_offset: int


def layout(segments: Sequence[Segment], notes_size: int = 0) -> ElfLayout:
    """Lay the segments out, behind ``notes_size`` octets of notes.

    Raises LocalError unless the segments ascend without overlap.
    """
    for segment in segments:
        if segment.physical < 0 or segment.length <= 0 or _end(segment) > 1 << 64:
            raise LocalError(f"{segment!r}: a segment has a 64-bit address and a positive length")
    for one, next_one in pairwise(segments):
        if _end(one) > next_one.physical:
            raise LocalError(f"{one!r} and {next_one!r} overlap or are out of order: sort them")
    headers = len(segments) + (notes_size > 0)
    if headers > _PHNUM_MAX:
        raise LocalError(f"{headers} program headers: an ELF header counts at most {_PHNUM_MAX}")
    # Both structures are multiples of 8: the notes are aligned where the program headers end.
    notes_offset = _EHDR.size + headers * _PHDR.size
    header_size = -(-(notes_offset + notes_size) // PAGE_SIZE) * PAGE_SIZE
    *offsets, total = accumulate((segment.length for segment in segments), initial=header_size)
    return ElfLayout(tuple(segments), header_size, tuple(offsets), total, notes_offset)


def segment_offsets(segments: Sequence[Segment], notes_size: int = 0) -> tuple[int, ...]:
    """Where each segment begins in the dump file, octets."""
    return layout(segments, notes_size).offsets


def build_header(
    segments: Sequence[Segment],
    machine: int = EM_X86_64,
    *,
    flavour: Flavour = FREEBSD,
    notes: bytes = b"",
    direct_map: int | None = None,
) -> bytes:
    """The ELF header, program headers and notes, padded with zeros to whole pages of 4096 octets.

    ``notes``: what ``elfnotes.build_notes`` makes. ``direct_map``: the virtual address of physical
    address 0. Both are for flavours that know them. Raises LocalError.
    """
    where = layout(segments, len(notes))
    _check(flavour, notes, direct_map, where)
    ident = bytes([0x7F, *b"ELF", 2, 1, 1, flavour.os_abi]).ljust(16, b"\0")  # ELF64, LSB, current
    phdrs = [_note_header(where.notes_offset, len(notes))] if notes else []
    phdrs += [
        _load_header(flavour, segment, offset, direct_map)
        for segment, offset in zip(where.segments, where.offsets, strict=True)
    ]
    ehdr = _EHDR.pack(
        *(ident, _ET_CORE, machine, flavour.e_version, 0, _EHDR.size, 0, 0),
        *(_EHDR.size, _PHDR.size, len(phdrs), flavour.section_header_size, 0, 0),
    )
    return b"".join((ehdr, *phdrs, notes)).ljust(where.header_size, b"\0")


def _check(flavour: Flavour, notes: bytes, direct_map: int | None, where: ElfLayout) -> None:
    if notes and not flavour.has_notes:
        raise LocalError(f"a dump of the {flavour.name} flavour has no notes", notes)
    # A reader's complaint would come after the crash, when nobody can mend them.
    parse_notes(notes)
    if direct_map is None:
        return
    if flavour.identity_mapped:
        raise LocalError(f"p_vaddr of the {flavour.name} flavour is the physical address")
    highest = max((_end(segment) for segment in where.segments), default=0)
    if direct_map < 0 or direct_map % PAGE_SIZE or direct_map + highest > 1 << 64:
        raise LocalError(f"direct map @ {direct_map:#x}: a page, and room for {highest:#x} octets")


def _note_header(offset: int, size: int) -> bytes:
    return _PHDR.pack(_PT_NOTE, 0, offset, 0, 0, size, size, _NOTE_ALIGN)


def _load_header(flavour: Flavour, segment: Segment, offset: int, direct_map: int | None) -> bytes:
    known = direct_map is not None or flavour.identity_mapped
    virtual = segment.physical + (direct_map or 0) if known else 0
    return _PHDR.pack(
        *(_PT_LOAD, flavour.load_flags, offset, virtual, segment.physical),
        *(segment.length, segment.length, flavour.load_align),
    )


def _end(segment: Segment) -> int:
    return segment.physical + segment.length
