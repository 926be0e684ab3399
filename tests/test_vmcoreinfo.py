"""VMCOREINFO, and where a kernel sees all of physical memory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netdump.elfnotes import MalformedNotes
from netdump.vmcoreinfo import KERNEL_MAP, direct_map, parse_vmcoreinfo, vmcoreinfo_note

GIB = 1 << 30
TEXT = b"""OSRELEASE=6.1.0-41-amd64
BUILD-ID=eb4fbcd037e7
PAGESIZE=4096
SYMBOL(init_top_pgt)=ffffffff8ce10000
OFFSET(uts_namespace.name)=0
NUMBER(phys_base)=-25165824
NUMBER(pgtable_l5_enabled)=0
KERNELOFFSET=a400000
CRASHTIME=1795524609
"""


def test_the_kernel_tells_of_itself_in_lines() -> None:
    note = vmcoreinfo_note(TEXT)
    assert (note.name, note.type) == ("VMCOREINFO", 0)
    info = parse_vmcoreinfo(note.desc + b"\0\0")
    assert list(info) == [line.split("=")[0] for line in TEXT.decode().splitlines()]
    assert info["OSRELEASE"] == "6.1.0-41-amd64"
    assert info["OFFSET(uts_namespace.name)"] == "0"
    assert int(info["NUMBER(phys_base)"]) == -0x1800000


@given(st.binary(max_size=80) | st.text("AB_-()=0a.\n\r\0é ", max_size=40).map(str.encode))
@settings(max_examples=200)
def test_any_octets_are_lines_or_a_typed_error(text: bytes) -> None:
    with suppress(MalformedNotes):  # anything else fails here
        info = parse_vmcoreinfo(text)
        assert parse_vmcoreinfo("".join(f"{k}={v}\n" for k, v in info.items()).encode()) == info


def test_a_line_that_is_none_is_told_with_its_number() -> None:
    with pytest.raises(MalformedNotes, match=r"line 2 is no KEY=value: 'what\?'"):
        parse_vmcoreinfo(b"PAGESIZE=4096\nwhat?\n")


# --- the direct map -------------------------------------------------------------------------------


class Tables:
    """x86-64 page tables in a little physical memory, the top one @ ``top``."""

    top = 0x10000

    def __init__(self, five_levels: bool = False, encrypted: int = 0) -> None:
        self.memory = np.zeros(0x20000, np.uint8)
        self.shifts = [48, 39, 30, 21, 12] if five_levels else [39, 30, 21, 12]
        self.encrypted = encrypted
        self._free = self.top + 4096

    def map(self, virtual: int, physical: int, page: int = 12) -> None:
        """Map one page of ``1 << page`` octets."""
        table = self.top
        for shift in self.shifts:
            entries = self.memory[table : table + 4096].view("<u8")
            slot = virtual >> shift & 511
            if shift == page:
                large = 0x1080 if page > 12 else 0  # PS, and PAT where an address is not
                entries[slot] = physical | large | self.encrypted | 1 << 63 | 0x63
                return
            if not entries[slot]:
                entries[slot] = self._free | self.encrypted | 0x67
                self._free += 4096
            table = int(entries[slot]) & 0xFFFFF000

    def read(self, physical: int, length: int) -> bytes:
        return self.memory[physical : physical + length].tobytes()

    def info(self) -> dict[str, str]:
        return {
            "SYMBOL(init_top_pgt)": f"{KERNEL_MAP + 0x1000000 + self.top:x}",
            "NUMBER(phys_base)": str(-0x1000000),
            "NUMBER(pgtable_l5_enabled)": str(int(len(self.shifts) == 5)),
            "NUMBER(sme_mask)": str(self.encrypted),
        }


@pytest.mark.parametrize("page", [12, 21, 30])
@pytest.mark.parametrize(
    ("five_levels", "base"),
    [
        (False, 0xFFFF_8880_0000_0000),  # Linux >= 4.20 without KASLR
        (False, 0xFFFF_8800_0000_0000),  # older
        (False, 0xFFFF_892F_C000_0000),  # where KASLR put one
        (True, 0xFF11_0000_0000_0000),
        (True, 0xFF40_8FB2_8000_0000),
    ],
)
def test_the_direct_map_is_where_physical_address_0_is_mapped(
    page: int, five_levels: bool, base: int
) -> None:
    tables = Tables(five_levels)
    tables.map(KERNEL_MAP, 0, 21)  # the kernel image, vmalloc: all higher
    tables.map(0xFFFF_C900_0000_0000, 0x5000)
    tables.map(0x40_0000, 0x7000)  # a process
    tables.map(base, 0, page)
    tables.map(base + GIB, GIB, 30)
    assert direct_map(tables.info(), tables.read) == base


def test_the_first_page_may_be_missing() -> None:
    tables = Tables()
    tables.map(0xFFFF_8880_0000_3000, 0x3000)
    assert direct_map(tables.info(), tables.read) == 0xFFFF_8880_0000_0000


def test_encrypted_memory_has_a_bit_more_in_its_addresses() -> None:
    tables = Tables(encrypted=1 << 47)
    tables.map(0xFFFF_8880_0020_0000, 0x20_0000, 21)
    assert direct_map(tables.info(), tables.read) == 0xFFFF_8880_0000_0000


def moved(tables: Tables) -> None:
    tables.map(0xFFFF_8880_0000_0000, 0x5000)


def nothing(tables: Tables) -> None:
    tables.map(0x40_0000, 0x7000)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [(moved, "is not of the direct map"), (nothing, "maps nothing from slot 272 on")],
)
def test_page_tables_that_do_not_say_are_told(spoil: Callable[[Tables], None], reason: str) -> None:
    tables = Tables()
    spoil(tables)
    with pytest.raises(MalformedNotes, match=reason):
        direct_map(tables.info(), tables.read)


@pytest.mark.parametrize("key", ["SYMBOL(init_top_pgt)", "NUMBER(phys_base)"])
def test_what_vmcoreinfo_leaves_out_is_named(key: str) -> None:
    tables = Tables()
    info = tables.info()
    with pytest.raises(MalformedNotes, match="is no number"):
        direct_map(info | {key: "x"}, tables.read)
    del info[key]
    with pytest.raises(MalformedNotes, match=f"has no {key[:6]}"):
        direct_map(info, tables.read)
