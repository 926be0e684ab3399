"""The full dump's ELF core, read by an independent ELF library and by hand."""

from __future__ import annotations

import io

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import given, settings
from hypothesis import strategies as st

from netdump.elfcore import (
    EM_AARCH64,
    PAGE_SIZE,
    Segment,
    build_header,
    layout,
    segment_offsets,
)
from netdump.errors import LocalError

PROPERTY = settings(max_examples=60, deadline=None)

TWO = (Segment(0x1000, 0x9E000), Segment(0x100000, 0xF00000))


@st.composite
def memories(draw: st.DrawFn) -> list[Segment]:
    """Ascending segments with holes between them."""
    at = 0
    segments = []
    for hole, pages in draw(
        st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), max_size=150)
    ):
        at += hole * PAGE_SIZE
        segments.append(Segment(at, pages * PAGE_SIZE))
        at += pages * PAGE_SIZE
    return segments


def test_the_first_octets_are_those_of_dumpsys_generic() -> None:
    header = build_header(TWO)
    assert len(header) == 4096
    assert header[:64] == bytes.fromhex(
        "7f454c46 020101ff 0000000000000000"  # ELF64 LSB, OS ABI standalone
        "0400 3e00 00000000 0000000000000000"  # ET_CORE, x86-64; e_version stays 0
        "4000000000000000 0000000000000000 00000000"
        "4000 3800 0200 4000 0000 0000"
    )
    assert header[64:120] == bytes.fromhex(
        "01000000 04000000 0010000000000000 0010000000000000 0010000000000000"
        "00e0090000000000 00e0090000000000 0010000000000000"
    )
    assert not any(header[64 + 2 * 56 :])


def test_an_elf_reader_finds_physical_memory_in_the_dump() -> None:
    memory = bytes(range(256)) * 64  # 16 KiB
    segments = [Segment(0x1000, 0x1000), Segment(0x3000, 0x1000)]
    body = b"".join(memory[s.physical : s.physical + s.length] for s in segments)
    dump = build_header(segments) + body
    assert len(dump) == layout(segments).total
    elf = ELFFile(io.BytesIO(dump))
    assert elf["e_type"] == "ET_CORE"
    assert elf.get_machine_arch() == "x64"
    for found, segment in zip(elf.iter_segments(), segments, strict=True):
        assert found["p_paddr"] == segment.physical
        assert found.data() == memory[segment.physical : segment.physical + segment.length]


def test_another_machine_is_named_in_the_header() -> None:
    elf = ELFFile(io.BytesIO(build_header(TWO, EM_AARCH64)))
    assert elf["e_machine"] == "EM_AARCH64"


@given(segments=memories())
@PROPERTY
def test_every_segment_has_its_place_and_none_is_left_over(segments: list[Segment]) -> None:
    where = layout(segments)
    header = build_header(segments)
    assert len(header) == where.header_size
    assert len(header) % PAGE_SIZE == 0
    found = list(ELFFile(io.BytesIO(header)).iter_segments("PT_LOAD"))
    assert [(s["p_paddr"], s["p_filesz"]) for s in found] == [
        (s.physical, s.length) for s in segments
    ]
    assert tuple(s["p_offset"] for s in found) == where.offsets == segment_offsets(segments)
    assert where.total == len(header) + sum(s.length for s in segments)


def test_seventy_two_segments_fill_the_first_page_and_one_more_needs_a_second() -> None:
    segments = [Segment(i * PAGE_SIZE, PAGE_SIZE) for i in range(73)]
    assert layout(segments[:72]).header_size == 4096
    assert layout(segments).header_size == 8192


@pytest.mark.parametrize(
    "segments",
    [
        [Segment(0, 0)],
        [Segment(-4096, 4096)],
        [Segment(2**64 - 4096, 8192)],
        [Segment(0, 8192), Segment(4096, 4096)],
        [Segment(8192, 4096), Segment(0, 4096)],
        [Segment(i * 4096, 4096) for i in range(0xFFFF)],
    ],
)
def test_a_memory_map_that_cannot_be_is_refused(segments: list[Segment]) -> None:
    with pytest.raises(LocalError):
        build_header(segments)
