"""ELF notes: what a kernel says beside its memory.

A PT_NOTE segment is a row of notes, each a header of three 32-bit words and two texts::

    0       4       8     12
    | namesz | descsz | type | name, NUL ... | desc ... |

Rules:

1. name and desc begin at multiples of 4, also in ELF64 (Linux, QEMU and every reader take it so,
   whatever the gABI says of 8). The sizes count what is there: the name's NUL, but no padding.
2. Whoever reads must not guess where the next note begins. A length that leads out of the blob is
   an error, not an end; only the last note's padding may be missing.

Two notes make a core a *Linux kernel's* core: NT_PRSTATUS, one for each CPU, and VMCOREINFO
(``vmcoreinfo.py``). QEMU's dump-guest-memory writes both, and a note of its own for each CPU (name
"QEMU"), which no kernel writes.

NT_PRSTATUS is ``struct elf_prstatus`` of x86-64, 336 octets. It was made for processes; of a CPU,
``pr_pid`` at 32 and the 27 registers of ``struct user_regs_struct`` at 112 mean something. Linux
puts the pid of the CPU's task there, QEMU 7.2 the CPU's number + 1. Of a machine whose first CPU is
not in long mode QEMU writes the struct of i386, 144 octets, which is read too: ``pr_pid`` at 24 and
17 registers at 72, of the same names but for their width. Only one of x86-64 is ever written.
Sources: include/linux/elfcore.h, arch/x86/include/asm/user_64.h; QEMU target/i386/arch_dump.c.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain

from netdump.errors import LocalError

CORE = "CORE"
NT_PRSTATUS = 1
VMCOREINFO = "VMCOREINFO"

#: The registers of an NT_PRSTATUS, in their order there.
REGISTERS = (
    *("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8"),
    *("rax", "rcx", "rdx", "rsi", "rdi", "orig_rax", "rip", "cs", "rflags", "rsp", "ss"),
    *("fs_base", "gs_base", "ds", "es", "fs", "gs"),
)

#: Those of i386, by the names of the same registers above.
_REGISTERS_386 = (
    *("rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rax", "ds", "es", "fs", "gs"),
    *("orig_rax", "rip", "cs", "rflags", "rsp", "ss"),
)

_NHDR = struct.Struct("<III")
_PRSTATUS = struct.Struct(f"<32xI76x{len(REGISTERS)}Q8x")
assert _PRSTATUS.size == 336
_PRSTATUS_386 = struct.Struct(f"<24xI44x{len(_REGISTERS_386)}I4x")
assert _PRSTATUS_386.size == 144


class MalformedNotes(LocalError):
    """Octets that are no row of ELF notes, or a note that is not what its name says."""

    reason = "malformed-notes"


@dataclass(frozen=True, slots=True)
class Note:
    """One note: who defined it, its type in that name's numbering, and what it says."""

    name: str
    type: int
    desc: bytes


@dataclass(frozen=True, slots=True)
class CpuStatus:
    """A CPU as it stood: ``pid`` as explained above, ``registers`` by the names of REGISTERS."""

    pid: int
    registers: Mapping[str, int]


def parse_notes(blob: bytes) -> list[Note]:
    """The notes of a PT_NOTE segment, in order. Raises MalformedNotes."""
    notes = []
    at = 0
    while at < len(blob):
        if len(blob) - at < _NHDR.size:
            raise MalformedNotes(f"{len(blob) - at} octets @ {at} are no note header", blob[at:])
        name_size, desc_size, kind = _NHDR.unpack_from(blob, at)
        name_at = at + _NHDR.size
        desc_at = name_at + _padded(name_size)
        end = desc_at + desc_size
        if end > len(blob):
            raise MalformedNotes(
                f"note @ {at} has a name of {name_size} octets and a text of {desc_size}, which"
                f" end @ {end}, beyond the {len(blob)} octets there are",
                blob[at:],
            )
        notes.append(Note(_name(blob[name_at : name_at + name_size], at), kind, blob[desc_at:end]))
        at = desc_at + _padded(desc_size)
    return notes


def build_notes(notes: Iterable[Note]) -> bytes:
    """The PT_NOTE segment of these notes, padded to a multiple of 4. Raises MalformedNotes."""
    return b"".join(chain.from_iterable(_pieces(note) for note in notes))


def cpu_note(cpu: CpuStatus) -> Note:
    """The NT_PRSTATUS of a CPU; a register that is not named is 0."""
    if unknown := cpu.registers.keys() - set(REGISTERS):
        raise MalformedNotes(f"x86-64 has no register {', '.join(sorted(unknown))}")
    values = [cpu.registers.get(name, 0) for name in REGISTERS]
    try:
        return Note(CORE, NT_PRSTATUS, _PRSTATUS.pack(cpu.pid, *values))
    except struct.error:
        raise MalformedNotes(f"a pid has 32 bits, a register 64: {cpu}") from None


def cpus(notes: Iterable[Note]) -> list[CpuStatus]:
    """The CPUs among the notes, in order. Raises MalformedNotes."""
    return [_cpu(note.desc) for note in notes if (note.name, note.type) == (CORE, NT_PRSTATUS)]


def _cpu(desc: bytes) -> CpuStatus:
    if len(desc) == _PRSTATUS_386.size:
        pid, *values = _PRSTATUS_386.unpack(desc)
        return CpuStatus(pid, dict(zip(_REGISTERS_386, values, strict=True)))
    if len(desc) != _PRSTATUS.size:
        raise MalformedNotes(
            f"an NT_PRSTATUS of {len(desc)} octets; x86-64's has {_PRSTATUS.size}", desc
        )
    pid, *values = _PRSTATUS.unpack(desc)
    return CpuStatus(pid, dict(zip(REGISTERS, values, strict=True)))


def _name(octets: bytes, at: int) -> str:
    """A note's name without its NUL. A note without a name has no octets there at all."""
    if not octets:
        return ""
    name, nul, rest = octets.partition(b"\0")
    if not nul or rest or not name.isascii():
        raise MalformedNotes(f"note @ {at}: its name {octets!r} is no ASCII text with one NUL")
    return name.decode("ascii")


def _pieces(note: Note) -> tuple[bytes, bytes, bytes]:
    name = note.name.encode("ascii", "replace") + b"\0" if note.name else b""
    if "\0" in note.name or not note.name.isascii():
        raise MalformedNotes(f"{note.name!r}: a note's name is ASCII text without NUL")
    if not 0 <= note.type < 1 << 32:
        raise MalformedNotes(f"note {note.name!r}: type {note.type} has more than 32 bits")
    return (
        _NHDR.pack(len(name), len(note.desc), note.type),
        name.ljust(_padded(len(name)), b"\0"),
        note.desc.ljust(_padded(len(note.desc)), b"\0"),
    )


def _padded(size: int) -> int:
    return -(-size // 4) * 4
