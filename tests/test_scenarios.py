"""The stories themselves: every one is played, in memory and on a real TAP, and what it leaves."""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from bench.errors import BadInput
from bench.progress import Silent
from bench.runner import run_scenario
from bench.scenario import Scenario, list_scenarios, load_scenario
from bench.story.synthetic import SyntheticStory
from bench.tiers import ROWS, Row
from bench.verdict import CaseResult, RunResult
from guest.synthetic import MachineConfig, SyntheticMachine
from server import folder
from server.machine import Machine
from tests.foreign import with_memory, with_sweep
from tests.patience import HANG_S
from tests.qemu_rig import children, interfaces
from tests.scenario_rig import made, played

ROOT = Path(__file__).parent.parent
NAMES = list_scenarios()


def on(tier: str) -> list[str]:
    """The scenarios that are played on a tier."""
    return [name for name in NAMES if tier in load_scenario(name).tiers]


#: Stop and wait costs a millisecond a block: 64 MiB would be minutes, and say no more.
SMALLER: Final = {"tftp-dump": 4 << 20}


#: Where the clock and the processes are real, a sweep of 46 or of 3 times 19 runs is minutes. In
#: memory all are played, and by `make scenario`; here those on either side of each edge of the
#: hole, and some steps: before the lock, between descriptors, before and behind the doorbell.
EDGES: Final = {
    "ack-alias-hole": (46, 59, 60, 77, 78, 91),
    "panic-mid-transmit": (1, 5, 9, 13, 16),
}


def as_tested(name: str, tier: str) -> Scenario:
    scenario = load_scenario(name)
    if name in SMALLER:
        scenario = with_memory(scenario, SMALLER[name])
    if name in EDGES and tier != "sim":
        scenario = with_sweep(scenario, EDGES[name])
    return scenario


def complaints(result: RunResult) -> list[str]:
    """What was expected and did not come, and why a run was not judged at all."""
    return [
        f"{case.name}: {line}"
        for case in result.cases
        if not case.met
        for line in (*case.unmet, f"{case.outcome}: {case.why}")
    ]


# --- every scenario, in memory --------------------------------------------------------------------


@pytest.mark.sim
@pytest.mark.parametrize("name", on("sim"))
def test_a_scenario_passes_in_memory(name: str, tmp_path: Path) -> None:
    result = played(as_tested(name, "sim"), "sim", tmp_path)
    assert result.passed, complaints(result)
    assert os.listdir(tmp_path) == [Path(result.run_folder).name], "one folder, and nothing else"


@pytest.mark.sim
def test_the_machines_of_a_sweep_do_not_pile_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten that died with 64 MiB each would be gigabytes, before the collector thinks of them."""
    held: list[int] = []

    def boot(config: MachineConfig, **wanted: object) -> SyntheticMachine:
        machine = SyntheticMachine(config, **wanted)  # type: ignore[arg-type]
        held.append(shared_memory())
        return machine

    monkeypatch.setattr("bench.story.synthetic.SyntheticMachine", boot)
    text = '[machine]\nmemory = "16 MiB"\n[nic]\nrx_ring = 256\n[[wire.fault]]\ndoes = "drop"\n'
    text += 'index = 0\n[[case]]\nprofile = "netdump2"\nexpect = { outcome = "complete" }\n'
    text += 'sweep = { over = "lost-frame", values = "100..103" }\n'
    before = shared_memory()
    gc.collect()
    gc.disable()
    try:
        assert played(made(text), "sim", tmp_path).passed
    finally:
        gc.enable()
    assert len(held) == 4
    assert min(held) - before >= 16 << 20, "a machine's memory is there, and is counted"
    assert max(held) - before < 32 << 20, "and never a second one's"
    assert shared_memory() - before < 1 << 20


def shared_memory() -> int:
    """Bytes of memfds and the like that this process has mapped and touched."""
    (kib,) = re.findall(r"RssShmem:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(kib) << 10


# --- a run is a function of scenario and seed -----------------------------------------------------

#: Chance, bystanders, a load, three clients: all that could be random is in it.
LIVELY = """
[machine]
memory = "1 MiB"
load = "heavy"
[nic]
rx_ring = 256
promiscuous = true
[client]
polls = 200
[[wire.fault]]
does = "drop"
chance = 0.01
[[wire.fault]]
does = "reorder"
chance = 0.01
[[wire.bystander]]
sends = "broadcast-noise"
every = "7 frames"
[[case]]
profile = "netdump2"
expect = { outcome = "complete" }
[[case]]
profile = "freebsd-14"
expect = { outcome = "complete" }
"""

_PLAY = """
import sys
from pathlib import Path
from typing import Final
from tests.scenario_rig import made, played
from tests.test_scenarios import LIVELY
assert played(made(LIVELY), "sim", Path(sys.argv[1]), seed=3).passed
"""


def left(runs: Path) -> dict[str, bytes]:
    """Event logs, captures and stored dumps of the one run in a folder."""
    (run,) = runs.iterdir()
    kinds = ("wire.pcapng", "events.jsonl")
    return {
        str(path.relative_to(run)): path.read_bytes()
        for path in run.rglob("*")
        if path.is_file() and (path.name in kinds or "dumps" in path.parts)
    }


@pytest.mark.sim
def test_the_same_seed_leaves_the_same_bytes_and_another_seed_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In another boot of the machine, too."""
    for name, seed in (("one", 3), ("two", 3), ("other", 4)):
        assert played(made(LIVELY), "sim", tmp_path / name, seed).passed
    with monkeypatch.context() as patch:
        patch.setattr(folder, "this_machine", lambda: Machine("another boot"))
        assert played(made(LIVELY), "sim", tmp_path / "later", 3).passed
    elsewhere = tmp_path / "elsewhere"
    subprocess.run(
        [sys.executable, "-c", _PLAY, str(elsewhere)],
        env={**os.environ, "PYTHONHASHSEED": "4711", "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        check=True,
        timeout=HANG_S,
    )
    one = left(tmp_path / "one")
    assert sum(name.endswith("wire.pcapng") for name in one) == 2
    assert sum(name.endswith("events.jsonl") for name in one) == 2
    assert sum("/dumps/vmcore." in name for name in one) >= 2
    assert left(tmp_path / "two") == one
    assert left(elsewhere) == one
    assert left(tmp_path / "later") == one
    other = left(tmp_path / "other")
    for name in one:
        if Path(name).name.startswith(("wire", "events", "vmcore")):
            assert other.get(name) != one[name], name


# --- the stock client is as fast as FreeBSD's -----------------------------------------------------

STOCK = """
[machine]
memory = "{memory}"
load = "none"
[nic]
rx_ring = 256
[server]
rescue = false
strict_finish = false
{fault}
[[case]]
profile = "freebsd-14"
expect = {{ oracle_broken = "device-truth" }}
"""


def stock(memory: str, loss: str, tmp_path: Path) -> CaseResult:
    """A dump by FreeBSD's client to a stock server; ``loss`` each way."""
    fault = f'[[wire.fault]]\ndoes = "drop"\nchance = "{loss}"' if loss else ""
    (case,) = run_scenario(
        made(STOCK.format(memory=memory, fault=fault)),
        tier="sim",
        why_this_tier="",
        seed=1,
        run_folder=tmp_path,
        progress=Silent(),
    ).cases
    return case


@pytest.mark.sim
@pytest.mark.parametrize(
    ("memory", "loss", "slowest", "fastest"),
    [
        # FreeBSD 13's own client and netdumpd, through a TAP, MTU 1500: 42 to 55 MB/s. Two delays
        # of 500 us for each 64 KiB allow 65.5 at most.
        ("4 MiB", "", 42, 65.5),
        # 0.14 to 0.18, and 0.06: each frame that is lost costs a second. A factor of two either
        # way, for so small a dump has few losses.
        ("4 MiB", "1 %", 0.07, 0.36),
        ("2 MiB", "5 %", 0.03, 0.12),
    ],
)
def test_the_stock_client_is_as_fast_as_the_one_that_was_measured(
    memory: str, loss: str, slowest: float, fastest: float, tmp_path: Path
) -> None:
    case = stock(memory, loss, tmp_path)
    rate = case.dump_bytes / case.seconds / 1e6
    assert slowest < rate < fastest
    if loss:
        # Every lossy dump that was measured was called complete by both sides, and none was exact.
        assert case.outcome == "silent-hole"
        assert case.error is None
    else:
        assert (case.outcome, case.retransmissions) == ("complete", 0)


# --- every scenario, on a TAP ---------------------------------------------------------------------


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What was run may leave its run folder; no process, interface, descriptor or file besides."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # for the server, where the bench is not installed
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr("tempfile.tempdir", None)
    before = children(), interfaces(), open_files()
    yield
    gc.collect()  # a mapped file is open until then
    assert children() <= before[0], "a child process is left"
    assert interfaces() == before[1], "an interface is left"
    assert open_files() <= before[2], "a descriptor is left"
    assert not list(here.iterdir()), "a file is left in the working directory"
    assert not list(temporary.iterdir()), "a temporary file is left"


@pytest.mark.tap
@pytest.mark.usefixtures("leaves_nothing")
@pytest.mark.parametrize("name", on("tap"))
def test_a_scenario_passes_on_a_tap(name: str, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    result = played(as_tested(name, "tap"), "tap", runs)
    assert result.passed, complaints(result)
    assert os.listdir(runs) == [Path(result.run_folder).name]


@pytest.mark.qemu
@pytest.mark.usefixtures("leaves_nothing")
@pytest.mark.parametrize("name", on("qemu"))
def test_a_scenario_passes_on_qemus_nic(name: str, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    result = played(as_tested(name, "qemu"), "qemu", runs)
    assert result.passed, complaints(result)
    assert os.listdir(runs) == [Path(result.run_folder).name]


@pytest.mark.tap
@pytest.mark.usefixtures("leaves_nothing")
def test_64_mib_arrive_byte_for_byte_on_a_tap(tmp_path: Path) -> None:
    text = '[machine]\nmemory = "64 MiB"\n[[case]]\nprofile = "netdump2"\n'
    text += 'expect = { outcome = "complete" }\n'
    runs = tmp_path / "runs"
    result = played(made(text, "tap"), "tap", runs)
    assert result.passed, complaints(result)
    (case,) = result.cases
    assert case.oracles["bytes-equal"] == "held"
    assert case.dump_bytes == (64 << 20) + 4096
    (stored,) = Path(result.run_folder).glob("dumps/vmcore.*.0")
    assert stored.stat().st_size == case.dump_bytes


SWEEP = """
[machine]
memory = "1 MiB"
load = "light"
panic_during = "transmit"
[nic]
rx_ring = 256
[[case]]
profile = "netdump2"
sweep = { over = "panic-step", values = "every" }
expect = { outcome = "complete" }
"""


@pytest.mark.tap
@pytest.mark.usefixtures("leaves_nothing")
def test_steps_are_counted_on_the_tier_that_plays_and_a_miscount_is_no_bad_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A life that takes another course than when it was counted is the bench's own breakdown."""
    rows: list[Row] = []
    count = SyntheticStory.count_steps

    def one_too_many(story: SyntheticStory) -> int:
        rows.append(story._stage.row)
        return count(story) + 1

    monkeypatch.setattr(SyntheticStory, "count_steps", one_too_many)
    result = played(made(SWEEP, "tap"), "tap", tmp_path / "runs")
    *others, last = result.cases
    assert rows == [ROWS["tap"]]
    assert all(case.met for case in others)
    assert (last.outcome, result.not_judged) == ("broke-down", True)
    assert f"no step {last.sweep_value}" in last.why


@pytest.mark.tap
@pytest.mark.usefixtures("leaves_nothing")
def test_a_step_that_the_user_names_and_the_work_does_not_have_is_bad_input(
    tmp_path: Path,
) -> None:
    scenario = made(SWEEP.replace('"every"', '"17..99"'), "tap")
    with pytest.raises(BadInput, match=r"transmit has no step [0-9]+: it has"):
        played(scenario, "tap", tmp_path / "runs")


@pytest.mark.tap
@pytest.mark.usefixtures("leaves_nothing")
def test_a_run_that_breaks_off_leaves_nothing_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class PowerCut(Exception):
        pass

    def cut(*_: object) -> None:
        raise PowerCut

    monkeypatch.setattr("bench.runner._judge", cut)
    runs = tmp_path / "runs"
    with pytest.raises(PowerCut):
        played(load_scenario("clean-dump"), "tap", runs)
    assert not list(runs.iterdir())
