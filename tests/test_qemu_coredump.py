"""QEMU's dump of a machine, read back: what is in it, and what is refused."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from guest.qemu.coredump import CoreDump, parse
from guest.qemu.errors import QemuError

EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
PHDR = struct.Struct("<IIQQQQQQ")
LOAD, NOTE = 1, 4
U64 = (1 << 64) - 1


@dataclass
class Core:
    """A core file as ELF's own text has it; each field can be made wrong."""

    parts: list[tuple[int, int, bytes]] = field(default_factory=list)
    """(type, physical address, contents)."""
    ident: bytes = b"\x7fELF\x02\x01\x01"
    headers_at: int = EHDR.size
    header_size: int = PHDR.size
    count: int | None = None
    offset: int | None = None
    """Of the first part."""
    length: int | None = None

    def pack(self) -> bytes:
        count = len(self.parts) if self.count is None else self.count
        table, contents = b"", b""
        begin = EHDR.size + PHDR.size * len(self.parts)
        for number, (kind, physical, data) in enumerate(self.parts):
            offset, length = begin + len(contents), len(data)
            if number == 0:
                offset = offset if self.offset is None else self.offset
                length = length if self.length is None else self.length
            table += PHDR.pack(kind, 0, offset, 0, physical, length, length, 0)
            contents += data
        machine = (4, 62, 1, 0)
        sizes = (self.header_size, count, 0, 0, 0)
        head = EHDR.pack(self.ident, *machine, self.headers_at, 0, 0, EHDR.size, *sizes)
        return head + table + contents


def parsed(data: bytes) -> CoreDump:
    fd = os.memfd_create("core")
    try:
        os.write(fd, data)
        return parse(fd)
    finally:
        os.close(fd)


HIGH, LOW = bytes(range(100)), b"low memory"
GOOD = [(NOTE, 0, b"a note "), (LOAD, 1 << 32, HIGH), (LOAD, 0x1000, LOW), (NOTE, 0, b"and more")]


def test_a_core_is_its_notes_and_its_memory_by_physical_address() -> None:
    core = parsed(Core(GOOD).pack())
    assert core.notes == b"a note and more"
    assert [(address, block.tobytes()) for address, block in core.blocks] == [
        (0x1000, LOW),
        (1 << 32, HIGH),
    ]
    assert core.read(0x1000, len(LOW)).tobytes() == LOW
    assert core.read((1 << 32) + 10, 5).tobytes() == HIGH[10:15]
    assert core.read((1 << 32) + 100, 0).tobytes() == b""


@pytest.mark.parametrize(
    ("start", "length"),
    [(0, 1), (0xFFF, 2), (0x1000, 11), (0x1009, 2), (0x100B, 0), ((1 << 32) - 1, 1), (U64, 1)],
)
def test_what_is_not_ram_is_refused_with_what_is(start: int, length: int) -> None:
    with pytest.raises(QemuError, match=r"0x1000\.\.0x100a, 0x100000000\.\.0x100000064"):
        parsed(Core(GOOD).pack()).read(start, length)


def test_a_core_without_memory_has_nothing_to_read() -> None:
    with pytest.raises(QemuError, match="is not RAM"):
        parsed(Core([(NOTE, 0, b"only this")]).pack()).read(0, 1)


def test_a_core_that_was_cut_anywhere_is_refused() -> None:
    whole = Core([(NOTE, 0, b"note"), (LOAD, 0, b"memory")]).pack()
    assert parsed(whole).blocks
    for length in range(len(whole)):
        with pytest.raises(QemuError):
            parsed(whole[:length])


HOSTILE = {
    "32 bits": Core(GOOD, ident=b"\x7fELF\x01\x01\x01"),
    "big-endian": Core(GOOD, ident=b"\x7fELF\x02\x02\x01"),
    "no ELF": Core(GOOD, ident=b"MDMP"),
    "more headers than there are": Core(GOOD, count=0xFFFE),
    "PN_XNUM: the number is elsewhere": Core(GOOD, count=0xFFFF),
    "headers beyond the end": Core(GOOD, headers_at=1 << 40),
    "headers beyond what an index can be": Core(GOOD, headers_at=U64),
    "headers of another size": Core(GOOD, header_size=32),
    "a note beyond the end": Core(GOOD, offset=1 << 40),
    "a note longer than the file": Core(GOOD, length=1 << 40),
    "memory beyond the end": Core(GOOD[1:], offset=U64),
    "memory longer than the file": Core(GOOD[1:], length=U64),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_core_that_lies_is_refused(kind: str) -> None:
    with pytest.raises(QemuError, match="dump-guest-memory wrote"):
        parsed(HOSTILE[kind].pack())


GOOD_BYTES = Core(GOOD).pack()


@example(b"", [])
@example(bytes(EHDR.size), [])
@given(
    st.binary(max_size=200),
    st.lists(st.tuples(st.integers(0, len(GOOD_BYTES) - 1), st.integers(0, 255)), max_size=8),
)
def test_whatever_the_bytes_are_nothing_but_a_qemu_error_comes_of_it(
    garbage: bytes, flips: list[tuple[int, int]]
) -> None:
    bent = bytearray(GOOD_BYTES)
    for place, value in flips:
        bent[place] = value
    for data in (garbage, b"\x7fELF\x02\x01" + garbage, bytes(bent)):
        try:
            core = parsed(data)
        except QemuError:
            continue
        assert sum(len(block) for _, block in core.blocks) <= len(data) * len(core.blocks)
