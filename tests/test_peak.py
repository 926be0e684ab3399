"""What a run holds, looked at from outside, beside what was foretold and what is promised."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import bench.runs as runs_module
from bench.contestants import CONTESTANTS, LARGE, Contestant, named, scenario
from bench.footprint import footprint
from bench.peak import ChildFailed, peak_of, python
from bench.runs import scratch
from bench.scenario import expand_cases
from bench.tiers import MIB, ROWS

TIMEOUT_S = 200.0
DUMP = 128

HOLDS = """\
import mmap, os, subprocess, sys, time
fd = os.memfd_create("both")
os.ftruncate(fd, 64 << 20)
ours = mmap.mmap(fd, 64 << 20)
ours.write(bytes(64 << 20))
child = "import mmap, sys; m = mmap.mmap(int(sys.argv[1]), 64 << 20); sum(m[::4096]); input()"
other = subprocess.Popen(
    [sys.executable, "-c", child, str(fd)], pass_fds=[fd], stdin=subprocess.PIPE
)
time.sleep(1.5)
other.communicate(b"\\n")
print("done")
"""


def test_memory_that_a_family_shares_counts_once_and_that_of_children_counts() -> None:
    said, peak = peak_of([sys.executable, "-c", HOLDS], 60)
    assert said.splitlines()[-1] == "done"
    assert 64 * MIB < peak < 2 * 64 * MIB


STARTS = """\
import os, subprocess, sys
held = b"x" * (64 << 20)
os.mkfifo(sys.argv[1])
subprocess.Popen(["/bin/sh", "-c", 'sleep 1; : >"$0"', sys.argv[1]])
# Its child opens the pipe before it executes: until somebody writes, it runs in our memory.
opened = [(os.POSIX_SPAWN_OPEN, 0, sys.argv[1], os.O_RDONLY, 0)]
os.waitpid(os.posix_spawn("/bin/true", ["true"], {}, file_actions=opened), 0)
"""


def test_a_child_that_has_not_executed_its_program_yet_holds_nothing_of_its_own(
    tmp_path: Path,
) -> None:
    _, peak = peak_of([sys.executable, "-c", STARTS, str(tmp_path / "pipe")], 60)
    assert 64 * MIB < peak < 2 * 64 * MIB


def test_a_command_that_fails_says_why() -> None:
    with pytest.raises(ChildFailed, match=r"^no such dump$"):
        peak_of([sys.executable, "-c", "raise SystemExit('no such dump')"], 60)
    with pytest.raises(ChildFailed, match="ended with status -9"):
        peak_of(["sleep", "60"], 0.1)


def test_every_contestant_has_a_name_of_its_own() -> None:
    every = dict.fromkeys([*CONTESTANTS, *LARGE])
    assert len({str(one) for one in every}) == len(every)
    assert all(named(str(one)) == one for one in every)
    for one in every:
        (case,) = expand_cases(scenario(one, DUMP))
        assert (case.machine.memory, case.machine.kind) == (DUMP * MIB, one.machine or "synthetic")


def hold(contestant: Contestant) -> None:
    _, peak = peak_of(python("bench.contestants", str(contestant), str(DUMP)), TIMEOUT_S)
    (case,) = expand_cases(scenario(contestant, DUMP))
    times, more = ROWS[contestant.tier].mark
    assert DUMP * MIB < peak <= footprint(case, contestant.tier).memory
    assert peak <= (times * DUMP + more) * MIB


@pytest.mark.sim
def test_a_run_in_memory_holds_no_more_than_was_foretold() -> None:
    hold(Contestant("sim", "netdump2", "10 Gbit/s"))


@pytest.mark.tap
def test_a_run_on_a_tap_holds_no_more_than_was_foretold() -> None:
    hold(Contestant("tap", "netdump2"))


@pytest.mark.qemu
@pytest.mark.tap
def test_a_run_with_a_qemu_holds_no_more_than_was_foretold() -> None:
    hold(Contestant("qemu", "netdump2"))


def test_measurements_that_end_do_not_take_each_others_home_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    monkeypatch.setattr(runs_module, "scratch_home", lambda: home)
    mkdir, ends = Path.mkdir, iter([True, False, True, True])

    def another_ends_first(path: Path, *arguments: Any, **named: Any) -> None:
        if path.name.startswith(".partial") and next(ends, False):
            home.rmdir()
        mkdir(path, *arguments, **named)

    monkeypatch.setattr(Path, "mkdir", another_ends_first)
    for _ in range(2):
        with scratch("run") as folder:
            assert folder.path.is_dir()
        assert not home.exists()
