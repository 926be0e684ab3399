"""The full dump's ELF core, read by an independent ELF library and by hand."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import given, settings
from hypothesis import strategies as st

from guest.synthetic import PhysicalMemory, fill
from netdump.dumper import DumperInfo, DumpImage, DumpRefused
from netdump.elfcore import (
    EM_AARCH64,
    FLAVOURS,
    FREEBSD,
    LINUX,
    PAGE_SIZE,
    Flavour,
    Segment,
    build_header,
    layout,
    segment_offsets,
)
from netdump.elfnotes import CpuStatus, Note, build_notes, cpu_note
from netdump.errors import LocalError
from netdump.kdh import KernelDumpHeader
from netdump.vmcoreinfo import vmcoreinfo_note
from tests.server_rig import DRAWN, HOST, Rig

PROPERTY = settings(max_examples=60)

TWO = (Segment(0x1000, 0x9E000), Segment(0x100000, 0xF00000))
DIRECT_MAP = 0xFFFF_8880_0000_0000
NOTES = build_notes(
    [cpu_note(CpuStatus(1, {"rip": 0xFFFF_FFFF_8100_0000})), vmcoreinfo_note(b"OSRELEASE=6.1.0\n")]
)


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


def test_freebsd_is_what_a_dump_is_unless_it_is_told_otherwise() -> None:
    assert build_header(TWO) == build_header(TWO, flavour=FREEBSD)
    assert FLAVOURS == {"freebsd": FREEBSD, "linux": LINUX}


def test_a_linux_core_begins_as_proc_vmcore_does() -> None:
    header = build_header(TWO, flavour=LINUX, notes=NOTES, direct_map=DIRECT_MAP)
    assert len(header) == 4096
    assert header[:64] == bytes.fromhex(
        "7f454c46 02010100 0000000000000000"  # ELF64 LSB, OS ABI System V
        "0400 3e00 01000000 0000000000000000"  # ET_CORE, x86-64, EV_CURRENT
        "4000000000000000 0000000000000000 00000000"
        "4000 3800 0300 0000 0000 0000"
    )
    size = len(NOTES).to_bytes(8, "little").hex()
    assert header[64:176] == bytes.fromhex(
        f"04000000 00000000 e800000000000000 {16 * '0'} {16 * '0'} {size} {size} 0400000000000000"
        "01000000 07000000 0010000000000000 0010000080 88ffff 0010000000000000"
        f"00e0090000000000 00e0090000000000 {16 * '0'}"
    )
    assert header[232:].rstrip(b"\0") == NOTES.rstrip(b"\0")


def test_an_elf_reader_finds_notes_and_memory_in_a_linux_core() -> None:
    memory = bytes(range(256)) * 64
    segments = [Segment(0, 0x1000), Segment(0x2000, 0x2000)]
    body = b"".join(memory[s.physical : s.physical + s.length] for s in segments)
    header = build_header(segments, flavour=LINUX, notes=NOTES, direct_map=DIRECT_MAP)
    elf = ELFFile(io.BytesIO(header + body))
    assert (elf["e_type"], elf["e_version"]) == ("ET_CORE", "EV_CURRENT")
    first, *loads = elf.iter_segments()
    assert [(n["n_name"], n["n_type"], n["n_descsz"]) for n in first.iter_notes()] == [
        ("CORE", "NT_PRSTATUS", 336),
        ("VMCOREINFO", 0, 16),
    ]
    for found, segment in zip(loads, segments, strict=True):
        assert found["p_paddr"] == segment.physical
        assert found["p_vaddr"] == DIRECT_MAP + segment.physical
        assert found.data() == memory[segment.physical : segment.physical + segment.length]


def test_who_does_not_know_the_direct_map_claims_no_virtual_address() -> None:
    elf = ELFFile(io.BytesIO(build_header(TWO, flavour=LINUX)))
    assert [(s["p_type"], s["p_vaddr"]) for s in elf.iter_segments()] == [("PT_LOAD", 0)] * 2


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


@given(
    segments=memories(),
    desc=st.binary(max_size=9000),
    direct_map=st.none() | st.integers(0, 1 << 40).map(lambda page: page * PAGE_SIZE),
)
@PROPERTY
def test_notes_of_any_size_push_the_memory_to_the_next_page(
    segments: list[Segment], desc: bytes, direct_map: int | None
) -> None:
    notes = build_notes([Note("VMCOREINFO", 0, desc)])
    where = layout(segments, len(notes))
    header = build_header(segments, flavour=LINUX, notes=notes, direct_map=direct_map)
    assert len(header) == where.header_size
    assert where.notes_offset % 4 == 0
    assert 0 <= where.header_size - (where.notes_offset + len(notes)) < PAGE_SIZE
    elf = ELFFile(io.BytesIO(header))
    assert elf.get_segment(0).data() == notes
    found = list(elf.iter_segments("PT_LOAD"))
    assert tuple(s["p_offset"] for s in found) == where.offsets
    assert where.offsets == segment_offsets(segments, len(notes))
    assert [s["p_vaddr"] for s in found] == [
        0 if direct_map is None else direct_map + s.physical for s in segments
    ]


def test_notes_that_fill_the_page_to_its_last_octet_need_no_second() -> None:
    for spare, pages in ((0, 1), (1, 2)):
        desc = bytes(PAGE_SIZE - 64 - 2 * 56 - 16 + spare)
        header = build_header([TWO[0]], flavour=LINUX, notes=build_notes([Note("abc", 0, desc)]))
        assert len(header) == pages * PAGE_SIZE


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


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ({"flavour": FREEBSD, "notes": NOTES}, "freebsd flavour has no notes"),
        ({"flavour": FREEBSD, "direct_map": DIRECT_MAP}, "freebsd flavour is the physical"),
        ({"flavour": LINUX, "notes": NOTES[:-20]}, "beyond"),
        ({"flavour": LINUX, "direct_map": 0x123}, "direct map @ 0x123"),
        ({"flavour": LINUX, "direct_map": -4096}, "direct map @ -0x1000"),
        ({"flavour": LINUX, "direct_map": (1 << 64) - 4096}, "room for 0x1000000 octets"),
    ],
)
def test_what_a_flavour_cannot_say_is_refused(what: dict[str, object], reason: str) -> None:
    with pytest.raises(LocalError, match=reason):
        build_header(TWO, **what)  # type: ignore[arg-type]


def test_a_note_counts_among_the_program_headers() -> None:
    segments = [Segment(i * 4096, 4096) for i in range(0xFFFE)]
    assert layout(segments).header_size == layout(segments[1:], 4).header_size
    with pytest.raises(LocalError, match="65535 program headers"):
        layout(segments, 4)


# --- on its way -----------------------------------------------------------------------------------


def linux_image(memory: PhysicalMemory, notes: bytes) -> DumpImage:
    segments = [(0, 0xA0000), (0x100000, 0x100000)]
    return DumpImage(memory, segments, flavour=LINUX, notes=notes, direct_map=DIRECT_MAP)


def test_a_header_of_several_pages_is_sent_from_the_arena() -> None:
    memory = PhysicalMemory(2 << 20, 32 << 10)
    fill(memory.buffer[: 2 << 20], seed=7)
    notes = build_notes([vmcoreinfo_note(b"A=1\n" * 3000)])
    image = linux_image(memory, notes)
    stream = b"".join(
        memory.buffer[piece.address : piece.address + piece.length].tobytes()
        for piece in image.pieces(DumperInfo(unlimited=True))
    )
    assert len(image.header) == 3 * PAGE_SIZE
    assert len(stream) == image.length
    truth = memory.buffer.tobytes()
    assert stream == image.header + truth[:0xA0000] + truth[0x100000:0x200000]
    note, low, high = ELFFile(io.BytesIO(stream)).iter_segments()
    assert note.data() == notes
    assert (low["p_vaddr"], high["p_vaddr"]) == (DIRECT_MAP, DIRECT_MAP + 0x100000)


def test_a_dump_that_is_refused_has_taken_nothing_from_the_arena() -> None:
    memory = PhysicalMemory(1 << 20, 4096)
    with pytest.raises(LocalError):
        DumpImage(memory, [(0, 4096)], notes=NOTES)
    with pytest.raises(DumpRefused):
        DumpImage(memory, [(0, 100)], flavour=LINUX, notes=NOTES)
    DumpImage(memory, [(0, 4096)])  # the arena's only page is still there


@pytest.mark.parametrize("flavour", FLAVOURS.values(), ids=FLAVOURS)
def test_the_server_keeps_the_cores_of_both(tmp_path: Path, flavour: Flavour) -> None:
    memory = PhysicalMemory(1 << 20, 8 << 10)
    fill(memory.buffer[: 1 << 20], seed=11)
    notes = NOTES if flavour.has_notes else b""
    image = DumpImage(memory, [(0, 0x20000), (0x40000, 0x30000)], flavour=flavour, notes=notes)
    stream = b"".join(
        memory.buffer[piece.address : piece.address + piece.length].tobytes()
        for piece in image.pieces(DumperInfo(unlimited=True))
    )
    rig = Rig(tmp_path)
    assert rig.dump(rig.open(), stream, KernelDumpHeader(dumplength=image.length), DRAWN + 1)
    with (tmp_path / f"vmcore.{HOST}.0").open("rb") as file:
        elf = ELFFile(file)
        kept = [(s["p_paddr"], s.data()) for s in elf.iter_segments("PT_LOAD")]
        assert kept == [
            (s.physical, memory.buffer[s.physical : s.physical + s.length].tobytes())
            for s in image.segments
        ]
        assert [s.data() for s in elf.iter_segments("PT_NOTE")] == [notes] * flavour.has_notes
