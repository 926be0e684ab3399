"""Tools that others wrote, reading our dumps of Linux guests: drgn, makedumpfile.

A dump is good when people can use it, so these answer the first questions of anybody who opens
one: which kernel, what did it say last, where did the CPUs stand. None of them needs debug info.
Where a tool is missing the test is skipped, with the cure; pytest counts these and tells the
reasons.

What works in drgn 0.3 without debug info: symbols (from the dump's own kallsyms) and memory, by
virtual address through the dump's page tables. ``threads()``, ``crashed_thread()`` and dmesg do
not: they need the kernel's types. So the registers are asked of a second core, a header with the
notes of the CPUs alone. Without VMCOREINFO that is a process's core to drgn, its threads the CPUs.
"""

from __future__ import annotations

import importlib
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile

from netdump.elfcore import LINUX, PAGE_SIZE, build_header
from netdump.elfnotes import CORE, Note, build_notes, parse_notes
from tests.patience import HANG_S

#: How long a tool may take with a dump of some 256 MiB, seconds.
#: Of x86-64 Linux: THREAD_SIZE, 16 KiB, with nothing mapped behind.
_STACK_PAGES = 4
_KERNEL_MAP = 0xFFFF_FFFF_8000_0000


def notes_of(path: Path) -> list[Note]:
    """The notes of a dump, found by pyelftools."""
    with path.open("rb") as file:
        segments = ELFFile(file).iter_segments("PT_NOTE")
        return [note for segment in segments for note in parse_notes(segment.data())]


def open_by_drgn(path: Path) -> Any:
    """A drgn ``Program`` of the dump, with the kernel's symbols."""
    program = _drgn().Program()
    program.set_core_dump(path)
    assert "IS_LINUX_KERNEL" in str(program.flags), f"to drgn {path} is no kernel's core"
    kallsyms = importlib.import_module("drgn.helpers.linux.kallsyms")
    finder = kallsyms.load_vmlinux_kallsyms(program)
    program.register_symbol_finder("kallsyms", finder, enable_index=0)
    return program


def banner_by_drgn(path: Path) -> str:
    """The kernel's ``linux_banner``, "Linux version ...", read from the dumped memory."""
    program = open_by_drgn(path)
    banner: bytes = program.read_c_string(program.symbol("linux_banner").address)
    return banner.decode().strip()


def registers_by_drgn(path: Path) -> dict[int, dict[str, int]]:
    """For each NT_PRSTATUS, by its pid: the registers, by the names of ``elfnotes.REGISTERS``.

    drgn has no orig_rax.
    """
    cpus = build_notes(note for note in notes_of(path) if note.name == CORE)
    with tempfile.NamedTemporaryFile(prefix="cpus-") as file:
        file.write(build_header([], flavour=LINUX, notes=cpus))
        file.flush()
        program = _drgn().Program()
        program.set_core_dump(file.name)
        return {
            thread.tid: {
                name.replace(".", "_"): value
                for name, value in thread.stack_trace()[0].registers().items()
            }
            for thread in program.threads()
        }


def symbol_by_drgn(path: Path, address: int) -> str:
    """The kernel symbol that an address is in, "" for none (a module's code has none here)."""
    return _symbol(open_by_drgn(path), address)


def stack_by_drgn(path: Path, registers: Mapping[str, int]) -> list[str]:
    """The symbols that the words of a CPU's stack point into, youngest call first.

    A call trace as kernels printed it before they had unwinders: old words are among them. The CPU
    that panicked has "panic" there.
    """
    program = open_by_drgn(path)
    words = [word for word in _stack(program, registers["rsp"]) if word >= _KERNEL_MAP]
    return [symbol for word in words if (symbol := _symbol(program, word))]


def dmesg_by_makedumpfile(path: Path) -> str:
    """The kernel's log, out of the dumped memory."""
    tool = shutil.which("makedumpfile")
    if tool is None:
        pytest.skip("no makedumpfile; cure: apt-get install makedumpfile")
    with tempfile.TemporaryDirectory(prefix="dmesg-") as folder:
        log = Path(folder) / "dmesg"
        command = [tool, "--dump-dmesg", str(path), str(log)]
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=HANG_S
        )
        said = (done.stdout + done.stderr)[-800:]
        assert done.returncode == 0, f"{' '.join(command)}: status {done.returncode}: {said}"
        return log.read_text(errors="replace")


def _stack(program: Any, top: int) -> list[int]:
    """The words from the stack pointer on, at most to where the stack's mapping ends."""
    words: list[int] = []
    at = -(-top // 8) * 8
    for _ in range(_STACK_PAGES):
        size = PAGE_SIZE - at % PAGE_SIZE
        try:
            words += memoryview(program.read(at, size)).cast("Q")
        except _drgn().FaultError:
            break
        at += size
    return words


def _symbol(program: Any, address: int) -> str:
    try:
        return str(program.symbol(address).name)
    except LookupError:
        return ""


def _drgn() -> Any:
    try:
        return importlib.import_module("drgn")
    except ModuleNotFoundError:
        pytest.skip("no drgn; cure: pip install 'drgn>=0.3'")
