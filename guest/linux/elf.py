"""As much of ELF64 as a kernel, its modules and a static program have to be asked.

Section and segment tables are read by the offsets in the file header (elf(5)); all that they name
must lie inside the file. Nothing is relocated, nothing is copied before it is wanted.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

EM_X86_64: Final = 62
PT_INTERP, PT_NOTE = 3, 4
_SHT_NOBITS: Final = 8

_EHDR: Final = struct.Struct("<4sBB10xHHIQQQIHHHHHH")
_PHDR: Final = struct.Struct("<IIQQQQQQ")
_SHDR: Final = struct.Struct("<IIQQQQIIQQ")
_NHDR: Final = struct.Struct("<III")
_CLASS64, _LITTLE = 2, 1


class BadElf(Exception):
    """This is no ELF64 file, or a damaged one; the message says what is wrong."""


@dataclass(frozen=True, slots=True)
class Note:
    """One note: who defined its type, the type, and the descriptor's octets."""

    owner: bytes
    type: int
    desc: bytes


class Elf:
    """A little-endian ELF64 file, in memory."""

    def __init__(self, data: bytes) -> None:
        """Raises ``BadElf``: no such file, or its tables lie outside it."""
        self._data = data
        if len(data) < _EHDR.size or data[:4] != b"\x7fELF":
            raise BadElf("this is no ELF file")
        header = _EHDR.unpack_from(data)
        if header[1:3] != (_CLASS64, _LITTLE):
            raise BadElf("this ELF file is not a 64-bit little-endian one")
        self.machine: Final[int] = header[4]
        phoff, shoff = header[7:9]
        phentsize, phnum, shentsize, shnum, self._names = header[11:16]
        self._segments = self._table(_PHDR, phoff, phentsize, phnum, "segment")
        self._sections = self._table(_SHDR, shoff, shentsize, shnum, "section")

    def segments(self, kind: int) -> list[bytes]:
        """The contents in the file of all segments of a type (``PT_...``), in the file's order."""
        return [
            self._slice(offset, size, "a segment")
            for type_, _, offset, _, _, size, *_ in self._segments
            if type_ == kind
        ]

    def section(self, name: bytes) -> bytes | None:
        """The contents of the first section of that name; None if there is none."""
        if not self._names < len(self._sections):
            return None
        strings = self._contents(self._names)
        for number, section in enumerate(self._sections):
            start = section[0]
            if strings[start : start + len(name) + 1] == name + b"\0":
                return self._contents(number)
        return None

    def notes(self) -> Iterator[Note]:
        """All notes of the PT_NOTE segments (4-octet alignment, as Linux lays them out)."""
        for segment in self.segments(PT_NOTE):
            at = 0
            while at + _NHDR.size <= len(segment):
                name_size, desc_size, type_ = _NHDR.unpack_from(segment, at)
                name = at + _NHDR.size
                desc = name + _padded(name_size)
                if desc + desc_size > len(segment):
                    raise BadElf(f"a note at octet {at} of its segment is longer than the segment")
                owner = segment[name : name + name_size].rstrip(b"\0")
                yield Note(owner, type_, segment[desc : desc + desc_size])
                at = desc + _padded(desc_size)

    def _contents(self, number: int) -> bytes:
        _, type_, _, _, offset, size, *_ = self._sections[number]
        return b"" if type_ == _SHT_NOBITS else self._slice(offset, size, f"section {number}")

    def _table(
        self, layout: struct.Struct, offset: int, entry: int, count: int, what: str
    ) -> list[tuple[int, ...]]:
        if not count:
            return []
        if entry != layout.size:
            raise BadElf(f"its {what} table has entries of {entry} octets, not {layout.size}")
        return list(layout.iter_unpack(self._slice(offset, entry * count, f"the {what} table")))

    def _slice(self, offset: int, size: int, what: str) -> bytes:
        if offset + size > len(self._data):
            raise BadElf(
                f"{what} is said to be octets {offset} to {offset + size}"
                f" of a file of {len(self._data)}"
            )
        return self._data[offset : offset + size]


def _padded(size: int) -> int:
    return (size + 3) & ~3
