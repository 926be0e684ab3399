"""Which function an offset of a shared library lies in: its symbol table, read from the file.

dladdr(3) knows exported names alone; the function that breaks a rule is a static one as a rule. ELF
has those in .symtab, until strip takes it away (gABI, chapter 4: sections, symbol table). ELF of 64
bits, little-endian, which is what this bench runs on.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_HEADER: Final = struct.Struct("<4sBB10xHHIQQQIHHHHHH")
_SECTION: Final = struct.Struct("<IIQQQQIIQQ")
_SYMBOL: Final = struct.Struct("<IBBHQQ")
_SEGMENT: Final = struct.Struct("<IIQQQQQQ")
_SHT_SYMTAB, _SHT_DYNSYM = 2, 11
_PT_LOAD: Final = 1
_STT_FUNC: Final = 2


class NotElf(ValueError):
    """The file is no shared library of this kind."""


@dataclass(frozen=True, slots=True)
class Symbols:
    """Functions of one library."""

    file: str
    functions: tuple[tuple[int, int, str], ...]
    """Offset in the image, size, name; sorted."""

    def at(self, offset: int) -> str:
        """``em_poll+0x1c (mine.so)``; where no function has it, ``mine.so+0x11c``."""
        for start, size, name in self.functions:
            if start <= offset < start + size:
                return f"{name}+{offset - start:#x} ({self.file})"
        return f"{self.file}+{offset:#x}"


def read_symbols(path: Path) -> Symbols:
    """Raises ``NotElf``, ``OSError``."""
    data = path.read_bytes()
    try:
        return Symbols(path.name, tuple(sorted(_functions(data))))
    except (struct.error, UnicodeDecodeError, IndexError):
        raise NotElf(f"{path}: a damaged ELF file") from None


def _functions(data: bytes) -> set[tuple[int, int, str]]:
    if len(data) < _HEADER.size:
        raise NotElf("not an ELF file")
    magic, bits, order, _type, _machine, _version, _entry, phoff, shoff, *rest = (
        _HEADER.unpack_from(data)
    )
    if magic != b"\x7fELF" or (bits, order) != (2, 1):
        raise NotElf("not an ELF file of 64 bits, little-endian")
    _flags, _ehsize, phentsize, phnum, shentsize, shnum, _shstrndx = rest
    segments = [_SEGMENT.unpack_from(data, phoff + i * phentsize) for i in range(phnum)]
    lowest = min((s[3] & -4096 for s in segments if s[0] == _PT_LOAD), default=0)
    sections = [_SECTION.unpack_from(data, shoff + i * shentsize) for i in range(shnum)]
    found: set[tuple[int, int, str]] = set()
    for _name, kind, _f, _addr, offset, size, link, _info, _align, each in sections:
        if kind not in (_SHT_SYMTAB, _SHT_DYNSYM) or not each:
            continue
        strings = sections[link][4]
        for at in range(offset, offset + size, each):
            name_at, info, _other, section, value, length = _SYMBOL.unpack_from(data, at)
            if info & 15 == _STT_FUNC and section and length:
                start = strings + name_at
                name = data[start : data.index(b"\0", start)].decode()
                found.add((value - lowest, length, name))
    return found
