"""VMCOREINFO: what a Linux kernel tells the tools that will read its dump.

A note (name "VMCOREINFO", type 0) of text lines, ``KEY=value`` or ``KIND(key)=value``, made at boot
(kernel/crash_core.c); QEMU gets it through ``-device vmcoreinfo``. It is why a dump can be read
without debug info: it has the release, the KASLR offset, and where page tables, log and kallsyms
are. Symbols and KERNELOFFSET are hexadecimal, NUMBERs decimal and perhaps negative.

One thing that tools would like is not in it: where the kernel sees all physical memory, one to one
(PAGE_OFFSET; KASLR moves it). It is ``p_vaddr`` of the segments of /proc/vmcore. A kernel knows it;
from outside, ``direct_map`` finds it with two rules of x86-64 (Documentation/x86/x86_64/mm.rst):

1. the direct map is the lowest thing that the kernel's page tables (init_top_pgt) map: from slot
   272 (before Linux 4.20) or 273 of the top level on;
2. it begins with physical address 0, so the lowest mapped page, less its physical address, is the
   base, which is a multiple of 1 GiB.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import numpy as np

from netdump.elfnotes import VMCOREINFO, MalformedNotes, Note

#: Virtual address of physical address NUMBER(phys_base): __START_KERNEL_map.
KERNEL_MAP = 0xFFFF_FFFF_8000_0000

_LINE = re.compile(r"[A-Za-z][\w-]*(\([^()\s]+\))?=.*")
_PAGE = 4096
_FIRST_SLOT = 272
_PRESENT = 1
_LEAF = 1 << 7
_ADDRESS = 0x000F_FFFF_FFFF_F000
_LEVELS = (48, 39, 30, 21, 12)
_CANONICAL = 0xFFFF_0000_0000_0000, 0xFE00_0000_0000_0000
_GIB = 1 << 30


def vmcoreinfo_note(text: bytes) -> Note:
    return Note(VMCOREINFO, 0, text)


def parse_vmcoreinfo(text: bytes) -> dict[str, str]:
    """Key, as written with its kind, to value: ``{"NUMBER(phys_base)": "0", ...}``.

    Raises MalformedNotes for what is no such text.
    """
    found = {}
    for number, octets in enumerate(text.rstrip(b"\0").splitlines(), 1):
        line = octets.decode("ascii", "backslashreplace")
        if not _LINE.fullmatch(line):
            raise MalformedNotes(f"VMCOREINFO line {number} is no KEY=value: {line[:80]!r}")
        key, _, value = line.partition("=")
        found[key] = value
    return found


def direct_map(info: Mapping[str, str], read: Callable[[int, int], bytes]) -> int:
    """The virtual address of physical address 0; ``read(physical, length)`` reads memory.

    Raises MalformedNotes where VMCOREINFO or the page tables do not say.
    """
    table = _number(info, "SYMBOL(init_top_pgt)", 16) - KERNEL_MAP
    table += _number(info, "NUMBER(phys_base)", 10)
    # Memory encryption (SME) puts a bit of its own among those of the address.
    mask = _ADDRESS & ~_number({"NUMBER(sme_mask)": "0", **info}, "NUMBER(sme_mask)", 10)
    five = _number({"NUMBER(pgtable_l5_enabled)": "0", **info}, "NUMBER(pgtable_l5_enabled)", 10)
    virtual = _CANONICAL[bool(five)]
    first = _FIRST_SLOT
    for shift in _LEVELS[not five :]:
        entries = np.frombuffer(read(table, _PAGE), "<u8")
        present = np.flatnonzero(entries[first:] & np.uint64(_PRESENT))
        if not present.size:
            raise MalformedNotes(f"the page table @ {table:#x} maps nothing from slot {first} on")
        slot = first + int(present[0])
        entry = int(entries[slot])
        virtual |= slot << shift
        table, first = entry & mask, 0
        if entry & _LEAF or shift == _LEVELS[-1]:
            break
    base = virtual - (table & -(1 << shift))
    if base % _GIB:
        raise MalformedNotes(f"the lowest kernel page, {virtual:#x}, is not of the direct map")
    return base


def _number(info: Mapping[str, str], key: str, radix: int) -> int:
    try:
        return int(info[key], radix)
    except KeyError:
        raise MalformedNotes(f"VMCOREINFO has no {key}: is it that of an x86-64 kernel?") from None
    except ValueError:
        raise MalformedNotes(f"VMCOREINFO: {key}={info[key]!r} is no number") from None
