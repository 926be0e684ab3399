"""Many runs of one scenario: alike or not, and what is kept of those that are odd."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import cli
from bench.headroom import Room
from bench.repeat import Repeated, Trial, differences, outcomes, rows
from tests.qemu_rig import alive

pytestmark = pytest.mark.sim

#: Loss that leaves the stock client's dump whole for some seeds, and with a silent hole for others.
CHANCY = """
title = "a test"
why = "a test"
tiers = ["sim"]
[machine]
memory = "1 MiB"
load = "none"
[nic]
rx_ring = 256
[server]
rescue = false
strict_finish = false
[[wire.fault]]
does = "drop"
chance = "0.05 %"
[[case]]
profile = "freebsd-14"
expect = { outcome = "complete" }
"""


def case(outcome: str = "complete", met: bool = True, **more: Any) -> dict[str, Any]:
    return {
        "name": "netdump2",
        "outcome": outcome,
        "error": None,
        "met": met,
        "oracles": {"bytes-equal": "held" if met else "broken"},
        "unmet": [] if met else [f"expected complete, came {outcome}"],
        "why": "",
        "paused_s": 0.0,
        "frames": 7,
        **more,
    }


def trial(seed: int, *cases: dict[str, Any], folder: Path | None = None) -> Trial:
    status = 0 if all(c["met"] for c in cases) else 1
    document = {
        "tier": "tap",
        "host": "namespace",
        "cases": list(cases),
        "run_folder": str(folder or ""),
    }
    return Trial(seed, status, document, 1.5)


# --- what is alike --------------------------------------------------------------------------------


def test_runs_that_differ_in_counts_alone_are_alike() -> None:
    found = Repeated("x", [trial(1, case(frames=7)), trial(2, case(frames=9, paused_s=2.0))])
    assert (found.alike, found.status) == (True, 0)
    assert list(rows(found)) == [("2", "1..2", "1 complete: as expected (1 disturbed)", "1.5")]
    assert list(differences(found)) == []


@pytest.mark.parametrize(
    "other",
    [
        [case("failed", met=False)],
        [case(error="ETIMEDOUT")],
        [case(oracles={"bytes-equal": "broken"})],
        [case(), case(name="again")],
    ],
)
def test_another_outcome_error_oracle_or_case_is_odd(other: list[dict[str, Any]]) -> None:
    found = Repeated("x", [trial(1, case()), trial(2, case()), trial(3, *other)])
    assert (found.alike, found.status) == (False, 1)
    assert [row[1] for row in rows(found)] == ["1..2", "3"]


def test_a_run_that_says_why_it_has_no_verdict_is_of_the_kind_of_its_message() -> None:
    lacks = Trial(7, 3, {"error": "no TAP", "status": 3}, 0.5)
    assert outcomes(lacks) == "no TAP"
    assert Repeated("x", [lacks, lacks]).status == 3
    assert Repeated("x", [lacks, trial(8, case())]).status == 1
    assert outcomes(Trial(7, 1, {}, 0.5)) == (
        "ended with status 1 and without a verdict: it printed nothing"
    )


def test_a_run_without_a_verdict_is_no_success() -> None:
    silent = Trial(7, 0, {}, 0.5)
    assert Repeated("x", [silent, silent]).status == 1
    assert Repeated("x", [trial(1, case()), silent]).status == 1
    assert Repeated("x", [Trial(7, 0, {"error": "no TAP"}, 0.5)]).status == 1


def test_numbers_in_a_message_make_no_kind_of_their_own() -> None:
    said = ("there are 1,234 MiB", "there are 999 MiB", "there is no TAP")
    short, shorter, other = (Trial(n, 3, {"error": s}, 0.5) for n, s in enumerate(said))
    assert Repeated("x", [short, shorter]).alike
    assert not Repeated("x", [short, other]).alike


def test_a_run_that_crashed_tells_its_last_words_and_its_signal() -> None:
    crashed = Trial(3, -11, {}, 0.5, said="Traceback:\nMemoryError: no more\n")
    assert outcomes(crashed) == "ended with signal 11 and without a verdict: MemoryError: no more"
    found = Repeated("x", [crashed])
    assert found.status == 128 + 11
    assert "seed 3 said: Traceback:" in list(differences(found))


def test_a_run_that_was_disturbed_is_of_no_kind_and_the_others_may_be_alike() -> None:
    why = "It came to failed; the bench did not run for 12 s at once"
    stopped = trial(2, case("disturbed", met=False, why=why, paused_s=12.0))
    found = Repeated("x", [trial(1, case()), stopped, trial(3, case())])
    assert (found.alike, found.status) == (True, 3)
    assert found.as_json()["not_judged"] == [2]
    assert [row[:2] for row in rows(found)] == [("2", "1, 3"), ("1", "2")]
    assert list(differences(found)) == [f"seed 2: not judged: {why}"]
    assert Repeated("x", [stopped]).status == 3


def test_another_host_is_another_kind_and_the_rows_say_which() -> None:
    other = trial(2, case())
    other.document["host"] = "simulated"
    found = Repeated("x", [trial(1, case()), other])
    assert not found.alike
    assert [row[2] for row in rows(found)] == [
        "1 complete: as expected, on tap, namespace",
        "1 complete: as expected, on tap, simulated",
    ]


def test_a_case_too_many_or_too_few_is_told() -> None:
    more = trial(2, case(name="another"))
    assert list(differences(Repeated("x", [trial(1, case()), more]))) == [
        "seed 2: another: no case of seed 1",
        "seed 2: netdump2: is missing",
    ]


def test_what_is_odd_is_told_with_its_seed_and_its_reason() -> None:
    found = Repeated("x", [trial(1, case()), trial(2, case()), trial(3, case("failed", met=False))])
    assert list(differences(found)) == ["seed 3: netdump2: failed: expected complete, came failed"]


# --- what is kept ---------------------------------------------------------------------------------


def test_ordinary_runs_go_and_odd_ones_stay_with_one_to_compare(tmp_path: Path) -> None:
    found = Repeated("x")
    for seed in range(1, 6):
        folder = tmp_path / str(seed)
        folder.mkdir()
        odd = case("failed", met=False) if seed in (3, 5) else case()
        found.add(trial(seed, odd, folder=folder))
    found.finish()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "3", "5"]
    assert sorted(found.kept) == [1, 3, 5]


def test_where_all_is_well_nothing_is_kept(tmp_path: Path) -> None:
    found = Repeated("x")
    for seed in (1, 2):
        (tmp_path / str(seed)).mkdir()
        found.add(trial(seed, case(), folder=tmp_path / str(seed)))
    found.finish()
    assert list(tmp_path.iterdir()) == []


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture
def chancy(tmp_path: Path) -> str:
    (tmp_path / "chancy.toml").write_text(CHANCY)
    return str(tmp_path / "chancy.toml")


def test_a_flake_is_found_and_its_runs_are_kept(
    tmp_path: Path, chancy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    words = ["run", chancy, "--seed", "4", "--repeat", "3", "-j", "2", "--runs", str(runs)]
    assert cli.main([*words, "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["scenario"], document["runs"], document["alike"]) == ("chancy", 3, False)
    assert sorted(seed for kind in document["kinds"] for seed in kind["seeds"]) == [4, 5, 6]
    kept = [folder for kind in document["kinds"] for folder in kind["folders"]]
    assert sorted(map(str, runs.iterdir())) == sorted(kept)
    for folder in kept:
        verdict = json.loads((Path(folder) / "verdict.json").read_text())
        (kind,) = [kind for kind in document["kinds"] if verdict["seed"] in kind["seeds"]]
        assert kind["outcomes"].startswith(f"1 {verdict['cases'][0]['outcome']}")


def test_runs_that_are_alike_are_told_in_one_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", "no-server", "--tier", "sim", "--repeat", "2", "--runs", str(tmp_path)]
    assert cli.main(words) == 0
    told = capsys.readouterr()
    assert "no-server: 2 runs, all alike" in told.out
    assert "1..2" in told.out
    assert "seed 1: " in told.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--repeat", "0"], "'0' is no number from 1 to 10,000"),
        (["--repeat", "many"], "'many' is no number"),
        (["-j", "2"], "give --repeat, too"),
        (["--repeat", "2", "--seed", str((1 << 63) - 1)], "beyond 2^63-1"),
        (["--repeat", "2", "--tier", "smi"], 'did you mean "sim"?'),
    ],
)
def test_what_can_not_be_repeated_is_one_line_and_2(
    words: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", "clean-dump", "--quiet", "--runs", str(tmp_path), *words]) == 2
    told = capsys.readouterr()
    assert says in told.err + told.out
    assert list(tmp_path.iterdir()) == []


def test_runs_that_would_not_fit_into_memory_together_are_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bench.play.memory_room", lambda: [Room(500 << 20, "that is all")])
    words = ["run", "clean-dump", "--tier", "sim", "--quiet", "--runs", str(tmp_path)]
    assert cli.main([*words, "--repeat", "20", "-j", "10"]) == 3
    assert "10 at a time, needs" in capsys.readouterr().err
    assert cli.main([*words, "--repeat", "1", "-j", "10"]) == 0


def test_ctrl_c_ends_all_runs_and_leaves_nothing(tmp_path: Path) -> None:
    words = ["run", "clean-dump", "--tier", "sim", "--repeat", "50", "-j", "2"]
    with subprocess.Popen(
        [sys.executable, "-m", "bench", *words, "--runs", str(tmp_path)],
        stderr=subprocess.PIPE,
        text=True,
    ) as command:
        assert command.stderr is not None
        assert command.stderr.readline().startswith("seed ")
        children = [int(pid) for pid in _children(command.pid)]
        command.send_signal(signal.SIGINT)
        said = command.stderr.read()
    assert command.returncode == 130
    assert "interrupted; nothing was left behind" in said
    assert not [pid for pid in children if alive(pid)]
    assert os.listdir(tmp_path) == []


def _children(pid: int) -> list[str]:
    """Of all its threads."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [child for task in tasks for child in task.read_text().split()]
