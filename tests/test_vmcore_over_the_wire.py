"""A Linux guest's dump, once it has come over the wire: what other people's tools read in it.

One guest is crashed by its own shell, its NIC carries its memory out, and the server stores it;
``bytes-equal`` has been ruled on by then. Here the readers have their say, and each of their
answers is held against a witness that is no part of the dump: the guest's console, what QEMU's
monitor said of the CPU, the file ``info.*``. Two of the tests damage one byte, to show that the
readers would notice.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from bench.play import play
from bench.progress import Silent
from bench.scenario import parse_scenario
from netdump import elfnotes
from netdump.elfnotes import CpuStatus
from netdump.vmcoreinfo import KERNEL_MAP
from tests.fakes import nothing
from tests.vmcore_tools import (
    banner_by_drgn,
    dmesg_by_makedumpfile,
    notes_of,
    open_by_drgn,
    registers_by_drgn,
    stack_by_drgn,
    symbol_by_drgn,
)

ROOT = Path(__file__).parent.parent
STORY = """
title = "The dump of a Linux guest is opened"
why = "A dump is good when people can use it."
tiers = ["qemu"]
[machine]
kind = "linux"
memory = "128 MiB"
cpus = 2
crash = "sysrq"
[nic]
rx_ring = 512
[[case]]
profile = "netdump2"
expect = { outcome = "complete" }
"""
MESSAGE = "sysrq triggered crash"
LAST_WORDS = f"Kernel panic - not syncing: {MESSAGE}"
#: A kernel dump header has room for so much of a version, and a newline that says: it was cut.
VERSION_ROOM = 190
#: Bytes of code that are compared to tell two places apart.
CODE = 64

pytestmark = pytest.mark.qemu


@dataclass(frozen=True)
class Run:
    """What a run left; nothing but files."""

    folder: Path
    passed: bool
    oracles: dict[str, str]

    @property
    def vmcore(self) -> Path:
        (stored,) = self.folder.glob("dumps/vmcore.*.0")
        return stored

    @property
    def console(self) -> str:
        text = (self.folder / "console.log").read_text(encoding="utf-8", errors="replace")
        return text.replace("\r", "")

    @cached_property
    def info(self) -> dict[str, str]:
        """``info.*``: what stands before the colon -> what stands behind it."""
        (path,) = self.folder.glob("dumps/info.*.0")
        pairs = (line.partition(": ") for line in path.read_text().splitlines())
        return {key: value for key, _, value in pairs}

    @property
    def parked(self) -> int:
        """Where the panicked CPU stood, by QEMU's monitor: a physical address."""
        lines = (self.folder / "events.jsonl").read_text().splitlines()
        events = [event for event in map(json.loads, lines) if event["kind"] == "parked"]
        ((place,),) = (event["at"] for event in events)
        return int(place)

    @cached_property
    def cpus(self) -> list[CpuStatus]:
        """The dump's NT_PRSTATUS notes: found by pyelftools, read by our own parser."""
        return elfnotes.cpus(notes_of(self.vmcore))

    @property
    def panicked(self) -> CpuStatus:
        """The CPU that the kernel's last words name; QEMU counts pids from 1."""
        found = re.search(rf"{re.escape(LAST_WORDS)}\n.*?CPU: (\d+) ", self.console)
        assert found, self.console[-2000:]
        (cpu,) = (cpu for cpu in self.cpus if cpu.pid == int(found[1]) + 1)
        return cpu


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Run]]:
    """Plays the story when it is first asked for: by then it is known that QEMU is there."""
    runs = tmp_path_factory.mktemp("runs")
    kept: list[Run] = []

    def play_it() -> Run:
        if not kept:
            kept.append(_play(runs))
        return kept[0]

    with pytest.MonkeyPatch.context() as patch:
        # For the server's process, where the bench is not installed.
        patch.setenv("PYTHONPATH", str(ROOT))
        yield play_it
    shutil.rmtree(runs)  # pytest would keep the last three dumps


@pytest.fixture
def run(_played_or_skipped: None, once: Callable[[], Run]) -> Run:
    return once()


def _play(runs: Path) -> Run:
    result = play(
        parse_scenario(STORY, "opened", "opened.toml"),
        tier="qemu",
        seed=1,
        runs=runs,
        progress=Silent(),
        before_tap=nothing,
    )
    (case,) = result.cases
    return Run(Path(result.run_folder), result.passed, dict(case.oracles))


@pytest.fixture
def damage(run: Run, tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Makes a copy of the dump in which one byte, at a file offset, has one bit flipped."""
    copy = tmp_path / "damaged"

    def flip(offset: int) -> Path:
        shutil.copyfile(run.vmcore, copy)
        with copy.open("r+b") as file:
            file.seek(offset)
            (byte,) = file.read(1)
            file.seek(offset)
            file.write(bytes([byte ^ 1]))
        return copy

    yield flip
    copy.unlink(missing_ok=True)


def offset_of(vmcore: Path, physical: int) -> int:
    """Where a byte of physical memory is in the file, by pyelftools."""
    with vmcore.open("rb") as file:
        for segment in ELFFile(file).iter_segments("PT_LOAD"):
            inside = physical - int(segment["p_paddr"])
            if 0 <= inside < int(segment["p_filesz"]):
                return int(segment["p_offset"]) + inside
    raise AssertionError(f"{physical:#x} is not in {vmcore}")


# --- what the tools say ---------------------------------------------------------------------------


def test_the_dump_that_is_read_here_is_whole(run: Run) -> None:
    assert run.passed
    assert run.oracles["bytes-equal"] == "held"


def test_drgn_reads_the_banner_that_the_console_showed(run: Run) -> None:
    # The first line that the kernel prints.
    first = run.console.split("\n", 1)[0]
    banner = banner_by_drgn(run.vmcore)
    assert banner.startswith("Linux version ")
    assert first.partition("] ")[2] == banner


def test_drgn_and_our_parser_read_the_same_registers(run: Run) -> None:
    by_drgn = registers_by_drgn(run.vmcore)
    assert by_drgn.keys() == {1, 2}
    for cpu in run.cpus:
        ours = {name: value for name, value in cpu.registers.items() if name != "orig_rax"}
        theirs = by_drgn[cpu.pid]
        assert {name: theirs[name] for name in ours} == ours


def test_the_panicked_cpu_stands_where_qemus_monitor_found_it(run: Run) -> None:
    """RIP is in a note, the place comes from the monitor; the dump's page tables join them."""
    program = open_by_drgn(run.vmcore)
    (other,) = (cpu for cpu in run.cpus if cpu != run.panicked)
    here = program.read(run.parked, CODE, True)
    assert program.read(run.panicked.registers["rip"], CODE) == here
    assert program.read(other.registers["rip"], CODE) != here


def test_the_stack_of_the_panicked_cpu_tells_the_way_to_the_panic(run: Run) -> None:
    """Youngest first: pvpanic's notifier runs, called by panic, called by SysRq, by a write."""
    calls = stack_by_drgn(run.vmcore, run.panicked.registers)
    way = ["panic", "sysrq_handle_crash", "write_sysrq_trigger", "vfs_write"]
    assert [name for name in dict.fromkeys(calls) if name in way] == way
    assert "atomic_notifier_call_chain" in calls[: calls.index("panic")]
    # It is in a module, whose symbols are not the kernel's own.
    assert symbol_by_drgn(run.vmcore, run.panicked.registers["rip"]) == ""


def test_the_other_cpu_was_stopped(run: Run) -> None:
    (other,) = (cpu for cpu in run.cpus if cpu != run.panicked)
    assert "panic" not in stack_by_drgn(run.vmcore, other.registers)


def test_makedumpfile_reads_the_last_words(run: Run) -> None:
    log = dmesg_by_makedumpfile(run.vmcore)
    assert banner_by_drgn(run.vmcore) in log.splitlines()[0]
    before, _, after = log.partition(LAST_WORDS + "\n")
    assert "sysrq: Trigger a crash" in before
    assert re.match(r"\[ *\d+\.\d+\] CPU: \d (?:UID: 0 )?PID: 1 Comm: sh ", after), after[:400]


def test_the_info_file_names_kernel_and_panic(run: Run) -> None:
    assert run.info["Version String"] == banner_by_drgn(run.vmcore)[:VERSION_ROOM]
    assert run.info["Panic String"] == MESSAGE
    assert "Dump complete" in run.info
    assert run.info["Dump Length"].startswith(f"{run.vmcore.stat().st_size}B ")


# --- and what they say of a damaged one -----------------------------------------------------------


def test_a_damaged_byte_of_the_kernel_is_seen_by_drgn(
    run: Run, damage: Callable[[int], Path]
) -> None:
    program = open_by_drgn(run.vmcore)
    physical = program.symbol("linux_banner").address - KERNEL_MAP  # no KASLR: phys_base is 0
    damaged = damage(offset_of(run.vmcore, physical))
    assert banner_by_drgn(damaged) == "M" + banner_by_drgn(run.vmcore)[1:]


def test_a_damaged_byte_of_the_log_is_seen_by_makedumpfile(
    run: Run, damage: Callable[[int], Path]
) -> None:
    # Once in all of memory: panic() keeps the message without the words before it.
    (found,) = re.finditer(re.escape(LAST_WORDS.encode()), run.vmcore.read_bytes())
    log = dmesg_by_makedumpfile(damage(found.start()))
    assert LAST_WORDS not in log
    assert LAST_WORDS.replace("Kernel", "Jernel", 1) in log
