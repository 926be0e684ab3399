"""A run with a QEMU is ended, by whatever means, at whatever moment: what is left of it?

The command runs as a user's would, in a session of its own. A moment is told by what lies in its
run folder: a guest that prints, a dump that grows.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.runs import scratch_home
from guest.qemu.vm import CONSOLE, PROGRAM
from tests.patience import HANG_S
from tests.qemu_rig import alive, interfaces, wait_until_gone

pytestmark = pytest.mark.qemu

ROOT = Path(__file__).parent.parent
MOMENT_S, END_S = HANG_S, HANG_S

HEAD = """
title = "a test"
why   = "a test"
tiers = ["qemu"]
"""
#: As slow as a stock client is, so that there is time to strike.
LINUX = """
[machine]
kind   = "linux"
memory = "96 MiB"
cpus   = 1
[nic]
rx_ring = 512
[[case]]
profile = "{profile}"
expect  = {{ outcome = "complete" }}
"""
HALTED = """
[machine]
memory = "128 MiB"
[nic]
rx_ring = 512
[[case]]
profile = "freebsd-14"
expect  = { outcome = "complete" }
"""


@dataclass
class Run:
    """A command under way."""

    process: subprocess.Popen[str]
    runs: Path

    def partial(self, pattern: str) -> list[Path]:
        return list(self.runs.glob(f".partial-*/{pattern}"))

    def family(self) -> dict[int, str]:
        """Its processes, and those of its children: pid -> command line."""
        parents: dict[int, int] = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
            except OSError:  # it ended meanwhile
                continue
        found = {self.process.pid}
        while more := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= more
        return {pid: _command(pid) for pid in found}

    def await_moment(self, reached: Callable[[Run], bool]) -> dict[int, str]:
        """Wait for it; the processes that live then."""
        deadline = time.monotonic() + MOMENT_S
        while not reached(self):
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline, "the moment did not come"
            time.sleep(0.01)
        family = self.family()
        assert any(PROGRAM in command for command in family.values()), "QEMU is there"
        return family

    def end(self, number: int) -> tuple[int, str]:
        """Strike; the exit status, and what it said at last. Ctrl-C strikes all of its group."""
        send = os.killpg if number == signal.SIGINT else os.kill
        send(self.process.pid, number)
        _, said = self.process.communicate(timeout=END_S)
        return self.process.returncode, said


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def named(words: str) -> list[str]:
    """Processes that have this in their command line."""
    commands = [_command(int(path.name)) for path in Path("/proc").glob("[0-9]*")]
    return [command for command in commands if words in command]


def boots(run: Run) -> bool:
    return any(path.stat().st_size for path in run.partial(CONSOLE))


def dumps(run: Run) -> bool:
    return any(path.stat().st_size > 1 << 20 for path in run.partial("dumps/vmcore.*.partial"))


Start = Callable[[str], Run]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts the command; afterwards nothing may be left but the folder of its runs."""
    here, temporary = tmp_path / "here", tmp_path / "temporary"
    here.mkdir()
    temporary.mkdir()
    started: list[Run] = []

    def command(story: str) -> Run:
        (tmp_path / "story.toml").write_text(HEAD + story)
        words = [str(tmp_path / "story.toml"), "--tier", "qemu", "--runs", str(tmp_path / "runs")]
        process = subprocess.Popen(
            [sys.executable, "-m", "bench", "run", *words, "--quiet"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=here,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)},
            start_new_session=True,
        )
        started.append(Run(process, tmp_path / "runs"))
        return started[-1]

    before = interfaces(), set(os.listdir("/dev/shm"))
    try:
        yield command
    finally:
        for run in started:
            if run.process.poll() is None:
                run.process.kill()
                run.process.communicate()
    assert named(str(tmp_path)) == []
    assert interfaces() == before[0]
    assert set(os.listdir("/dev/shm")) - {scratch_home().name} <= before[1]
    assert not list(here.iterdir())
    assert not list(temporary.iterdir())


def gone(family: dict[int, str]) -> list[str]:
    """Of these processes, those that live on."""
    deadline = time.monotonic() + HANG_S
    return [
        command
        for pid, command in family.items()
        if alive(pid) and not wait_until_gone(pid, max(0.0, deadline - time.monotonic()))
    ]


def test_a_run_that_ends_by_itself_leaves_its_folder_and_nothing_else(start: Start) -> None:
    run = start(LINUX.format(profile="netdump2"))
    family = run.await_moment(boots)
    out, said = run.process.communicate(timeout=HANG_S)
    assert run.process.returncode == 0, out + said
    assert gone(family) == []
    (folder,) = run.runs.iterdir()
    assert folder.name == "story-qemu-seed1-1"
    names = {path.name for path in folder.iterdir()}
    assert {"verdict.json", "console.log", "qemu.log", "qemu.command", "dumps"} <= names
    assert all(path.is_file() or path.is_dir() for path in folder.rglob("*")), "no pipe, no socket"


@pytest.mark.parametrize(
    ("number", "status", "words"),
    [
        (signal.SIGINT, 130, "interrupted; nothing was left behind"),
        (signal.SIGTERM, 143, "terminated; nothing was left behind"),
    ],
)
@pytest.mark.parametrize(
    ("story", "moment"), [(LINUX.format(profile="freebsd-14"), boots), (HALTED, dumps)]
)
def test_a_run_that_is_told_to_end_leaves_nothing(
    story: str, moment: Callable[[Run], bool], number: int, status: int, words: str, start: Start
) -> None:
    run = start(story)
    family = run.await_moment(moment)
    ended, said = run.end(number)
    assert (ended, said) == (status, f"netdump-bench: {words}\n")
    assert gone(family) == []
    assert list(run.runs.iterdir()) == []


@pytest.mark.parametrize("moment", [boots, dumps])
def test_of_a_run_that_is_killed_the_next_one_clears_the_rest_away(
    moment: Callable[[Run], bool], start: Start
) -> None:
    run = start(LINUX.format(profile="freebsd-14"))
    family = run.await_moment(moment)
    assert run.end(signal.SIGKILL)[0] == -signal.SIGKILL
    assert gone(family) == [], "they die with their parent"
    (left,) = run.runs.iterdir()
    assert left.name == ".partial-story-qemu-seed1-1"
    again = start(HALTED.replace("128 MiB", "1 MiB"))
    _, said = again.process.communicate(timeout=HANG_S)
    assert again.process.returncode == 0, said
    assert f"removed {left}, left by a run that was killed" in said
    assert [path.name for path in run.runs.iterdir()] == ["story-qemu-seed1-1"]


def test_a_run_leaves_nothing_in_dev_shm(tmp_path: Path) -> None:
    """A /dev/shm of its own: the machine's belongs to others, too."""
    run = f"{sys.executable} -m bench run clean-dump --tier qemu --quiet --runs {tmp_path}"
    done = subprocess.run(
        [
            "unshare",
            "--mount",
            "sh",
            "-ec",
            f"mount -t tmpfs t /dev/shm; {run} >&2; ls -A /dev/shm",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=END_S,
    )
    if done.returncode and done.stderr.startswith(("unshare:", "mount:")):
        pytest.skip(f"no mount of its own: {done.stderr.strip()}; cure: be root")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
