"""ELF notes: by hand, by pyelftools, by drgn, and whatever octets come instead."""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import given, settings
from hypothesis import strategies as st

from netdump.elfcore import LINUX, Segment, build_header
from netdump.elfnotes import (
    CORE,
    NT_PRSTATUS,
    REGISTERS,
    CpuStatus,
    MalformedNotes,
    Note,
    build_notes,
    cpu_note,
    cpus,
    parse_notes,
)
from netdump.errors import LocalError
from netdump.vmcoreinfo import vmcoreinfo_note
from tests import vmcore_tools

PROPERTY = settings(max_examples=200)

names = st.text(st.characters(min_codepoint=1, max_codepoint=127), max_size=20)
notes = st.builds(Note, names, st.integers(0, (1 << 32) - 1), st.binary(max_size=50))
rows = st.lists(notes, max_size=6)


def test_a_note_is_three_words_a_name_and_a_text_on_multiples_of_four() -> None:
    row = [Note("CORE", 1, b"abcde"), Note("", 7, b""), Note("VMCOREINFO", 0, b"A=1\n")]
    assert build_notes(row) == bytes.fromhex(
        "05000000 05000000 01000000 434f524500000000 6162636465000000"
        "00000000 00000000 07000000"
        "0b000000 04000000 00000000 564d434f5245494e464f0000 413d310a"
    )
    assert parse_notes(build_notes(row)) == row


@given(row=rows)
@PROPERTY
def test_what_is_built_is_what_is_read(row: list[Note]) -> None:
    blob = build_notes(row)
    assert len(blob) % 4 == 0
    assert parse_notes(blob) == row


@given(row=rows)
@PROPERTY
def test_pyelftools_reads_the_same_notes(row: list[Note]) -> None:
    # It unpacks the texts of CORE and GNU notes, and here they are any octets.
    row = [note for note in row if note.name not in ("CORE", "GNU", "")]
    elf = ELFFile(io.BytesIO(build_header([], flavour=LINUX, notes=build_notes(row))))
    found = [note for segment in elf.iter_segments() for note in segment.iter_notes()]
    assert [(n["n_name"], n["n_descsz"], n["n_descdata"]) for n in found] == [
        (note.name, len(note.desc), note.desc) for note in row
    ]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Notes with one octet changed: most often still something to read."""
    blob = bytearray(draw(rows.filter(bool).map(build_notes)))
    blob[draw(st.integers(0, len(blob) - 1))] = draw(st.integers(0, 255))
    return bytes(blob)


@given(blob=st.binary(max_size=200) | damaged())
@PROPERTY
def test_any_octets_are_notes_or_a_typed_error(blob: bytes) -> None:
    with suppress(MalformedNotes):  # anything else fails here
        row = parse_notes(blob)
        assert parse_notes(build_notes(row)) == row


@given(row=st.lists(notes, min_size=1, max_size=4), data=st.data())
@PROPERTY
def test_a_row_that_is_cut_inside_a_note_is_noticed(row: list[Note], data: st.DataObject) -> None:
    whole, before = build_notes(row), build_notes(row[:-1])
    meat = len(whole) - (-len(row[-1].desc) % 4)
    cut = data.draw(st.integers(len(before) + 1, meat - 1))
    with pytest.raises(MalformedNotes, match=f"@ {len(before)}"):
        parse_notes(whole[:cut])
    assert parse_notes(whole[:meat]) == row  # the last padding is nobody's loss


@pytest.mark.parametrize(
    ("blob", "reason"),
    [
        (bytes(11), "11 octets @ 0 are no note header"),
        (b"\xff" * 12, "a name of 4294967295 octets"),
        (bytes.fromhex("04000000 00000000 01000000") + b"CORE", "one NUL"),
        (bytes.fromhex("04000000 00000000 01000000") + b"a\0b\0", "one NUL"),
        (bytes.fromhex("02000000 00000000 01000000") + b"\xe9\0\0\0", "no ASCII text"),
    ],
)
def test_a_malformed_note_is_told_with_its_place(blob: bytes, reason: str) -> None:
    with pytest.raises(MalformedNotes, match=reason) as refused:
        parse_notes(blob)
    assert isinstance(refused.value, LocalError)
    assert refused.value.reason == "malformed-notes"


@pytest.mark.parametrize("note", [Note("a\0b", 0, b""), Note("é", 0, b""), Note("a", 1 << 32, b"")])
def test_a_note_that_cannot_be_written_is_refused(note: Note) -> None:
    with pytest.raises(MalformedNotes):
        build_notes([note])


# --- the CPUs -------------------------------------------------------------------------------------


def test_a_cpu_is_an_elf_prstatus_of_x86_64() -> None:
    note = cpu_note(CpuStatus(0x1234, {name: at for at, name in enumerate(REGISTERS, 0xA0)}))
    assert (note.name, note.type, len(note.desc)) == (CORE, NT_PRSTATUS, 336)
    assert note.desc[32:36] == bytes.fromhex("34120000")
    words = memoryview(note.desc[112:328]).cast("Q")
    assert list(words) == list(range(0xA0, 0xA0 + 27))
    # Offsets of struct user_regs_struct, from <sys/user.h>.
    offsets = {"rbp": 4, "rax": 10, "rip": 16, "rflags": 18, "rsp": 19, "gs_base": 22, "gs": 26}
    assert {name: REGISTERS.index(name) for name in offsets} == offsets
    assert not any(note.desc[:32] + note.desc[36:112] + note.desc[328:])


def test_a_cpu_that_is_not_in_long_mode_is_an_elf_prstatus_of_i386() -> None:
    """Offsets of QEMU's x86_elf_prstatus (target/i386/arch_dump.c)."""
    desc = bytearray(144)
    for offset, value in {24: 1, 72: 0xB0, 96: 0xA0, 120: 0x1000_0000, 132: 0x7000}.items():
        desc[offset : offset + 4] = value.to_bytes(4, "little")
    (cpu,) = cpus([Note(CORE, NT_PRSTATUS, bytes(desc))])
    registers = {name: value for name, value in cpu.registers.items() if value}
    assert cpu.pid == 1
    assert registers == {"rbx": 0xB0, "rax": 0xA0, "rip": 0x1000_0000, "rsp": 0x7000}
    (wide,) = cpus([cpu_note(cpu)])
    assert {name: value for name, value in wide.registers.items() if value} == registers


def test_the_cpus_are_found_among_other_notes() -> None:
    one, two = CpuStatus(1, {"rip": 5}), CpuStatus(2, {"rsp": 1 << 63})
    row = [Note("QEMU", 0, b"x"), cpu_note(one), Note(CORE, 3, b"y"), cpu_note(two)]
    found = cpus(parse_notes(build_notes(row)))
    assert [cpu.pid for cpu in found] == [1, 2]
    assert found[0].registers == dict.fromkeys(REGISTERS, 0) | {"rip": 5}
    assert found[1].registers["rsp"] == 1 << 63


def test_a_cpu_of_another_architecture_is_not_guessed_at() -> None:
    with pytest.raises(MalformedNotes, match="NT_PRSTATUS of 392 octets"):
        cpus([Note(CORE, NT_PRSTATUS, bytes(392))])


@pytest.mark.parametrize(
    "cpu", [CpuStatus(1, {"eip": 0}), CpuStatus(1, {"rip": 1 << 64}), CpuStatus(-1, {})]
)
def test_a_cpu_that_cannot_be_is_refused(cpu: CpuStatus) -> None:
    with pytest.raises(MalformedNotes):
        cpu_note(cpu)


def test_drgn_finds_the_registers_of_every_cpu(tmp_path: Path) -> None:
    stood = {pid: {name: pid << 32 | at for at, name in enumerate(REGISTERS)} for pid in (1, 2, 7)}
    row = [cpu_note(CpuStatus(pid, registers)) for pid, registers in stood.items()]
    blob = build_notes([*row, vmcoreinfo_note(b"OSRELEASE=6.1.0\n")])
    core = tmp_path / "vmcore"
    core.write_bytes(build_header([Segment(0, 4096)], flavour=LINUX, notes=blob) + bytes(4096))
    found = vmcore_tools.registers_by_drgn(core)
    for registers in stood.values():
        del registers["orig_rax"]
    assert found == stood
