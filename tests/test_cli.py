"""The command: exit statuses, one clear line for each mistake, and nothing left behind."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import cli
from bench.errors import BadInput, MachineLacks
from bench.runs import RunFolder
from bench.scenario import load_scenario
from bench.tiers import Choice, choose_tier
from tests.fakes import FakeRunner, probes

Play = Callable[[Path], None]


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> FakeRunner:
    return FakeRunner(monkeypatch)


def run(tmp_path: Path, *words: str) -> int:
    return cli.main(["run", "clean-dump", "--tier", "sim", "--runs", str(tmp_path), *words])


# --- run ------------------------------------------------------------------------------------------


def test_a_run_that_went_as_expected_ends_0_and_one_that_did_not_ends_1(
    tmp_path: Path, runner: FakeRunner, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path) == 0
    assert "clean-dump: PASSED, on tier sim" in capsys.readouterr().out
    runner.met = False
    assert run(tmp_path) == 1
    assert "NOT AS EXPECTED" in capsys.readouterr().out


def test_a_run_leaves_a_folder_with_its_verdict_its_story_and_its_replay(
    tmp_path: Path, runner: FakeRunner
) -> None:
    assert run(tmp_path, "--seed", "7", "--quiet") == 0
    folder = tmp_path / "clean-dump-sim-seed7-1"
    verdict = json.loads((folder / "verdict.json").read_text())
    assert verdict["run_folder"] == str(folder)
    assert verdict["replay"].endswith(f"netdump-bench replay {folder}")
    assert (folder / "scenario.toml").read_text() == load_scenario("clean-dump").text
    assert (folder / "replay").stat().st_mode & 0o111
    assert runner.seed == 7
    run(tmp_path, "--seed", "7", "--quiet")
    assert {p.name for p in tmp_path.iterdir()} == {
        "clean-dump-sim-seed7-1",
        "clean-dump-sim-seed7-2",
    }


def test_json_is_one_document_on_stdout_and_nothing_else(
    tmp_path: Path, runner: FakeRunner, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "--json") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["scenario"] == "clean-dump"
    assert captured.err == ""


def test_one_profile_is_played_alone(tmp_path: Path, runner: FakeRunner) -> None:
    run(tmp_path, "--profile", "freebsd-14", "--quiet")
    assert runner.scenario is not None
    assert runner.scenario.profiles == ("freebsd-14",)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run", "promsc-panic"], 'did you mean "promisc-panic"?'),
        (["run", "clean-dump", "--tier", "tapp"], 'did you mean "tap"?'),
        (["run", "nmi-panic", "--tier", "sim"], "is not played on tier sim"),
        (["run", "clean-dump", "--profile", "netdump3"], 'did you mean "netdump2"?'),
        (["run", "lossy-wire", "--profile", "patch-2010"], "has no case for the profile"),
        (["run", "clean-dump", "--seed", "-1"], "is not a seed"),
        (["run", "clean-dump", "--seed", "x"], "is not a seed"),
        (["run"], "NAME|FILE"),
        (["rum", "x"], "invalid choice"),
        (["replay", "nowhere"], "nowhere is no run folder"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("netdump-bench: ")
    assert says in captured.err


def test_with_json_a_mistake_is_a_document_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "promsc-panic", "--json"]) == 2
    document = json.loads(capsys.readouterr().out)
    assert document["status"] == 2
    assert "promisc-panic" in document["error"]


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert "usage: netdump-bench" in capsys.readouterr().err


def test_interrupted_in_mid_run_nothing_is_left_behind(
    tmp_path: Path, runner: FakeRunner, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(folder: Path) -> None:
        (folder / "half").write_text("a dump")
        raise KeyboardInterrupt

    runner.act = interrupt
    assert run(tmp_path) == 130
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err.splitlines()[-1] == (
        "netdump-bench: interrupted; nothing was left behind"
    )


def test_a_full_disk_is_one_line_and_exit_2(
    tmp_path: Path, runner: FakeRunner, capsys: pytest.CaptureFixture[str]
) -> None:
    def fill(folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(folder / "wire.pcapng"))

    runner.act = fill
    assert run(tmp_path, "--quiet") == 2
    assert f"can't write to {tmp_path}: No space left on device" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_output_folder_that_is_a_file_is_one_line_and_exit_2(
    tmp_path: Path, runner: FakeRunner, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert run(tmp_path / "file") == 2
    assert run(tmp_path / "file" / "deeper") == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert all("can't write to" in line for line in errors)


def test_an_error_of_our_own_is_not_taken_for_a_disk_at_fault(
    tmp_path: Path, runner: FakeRunner
) -> None:
    def blunder(folder: Path) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file", "/elsewhere")

    runner.act = blunder
    with pytest.raises(FileNotFoundError):
        run(tmp_path, "--quiet")
    assert list(tmp_path.iterdir()) == []


# --- tiers ----------------------------------------------------------------------------------------


def test_the_most_real_tier_of_the_list_is_played() -> None:
    assert choose_tier(load_scenario("clean-dump"), None, probes()) == Choice("tap")


def test_a_tier_that_this_machine_lacks_falls_to_the_next_and_says_why_and_the_cure() -> None:
    choice = choose_tier(load_scenario("clean-dump"), None, probes(tap=False, qemu=False))
    no = "not {0}: no {0} here (cure: get a {0})"
    assert choice == Choice("sim", f"{no.format('tap')}; {no.format('qemu')}", "simulated")


def test_a_tier_that_was_demanded_does_not_fall() -> None:
    with pytest.raises(MachineLacks, match=r"tier tap: no tap here \(cure: get a tap\)") as caught:
        choose_tier(load_scenario("clean-dump"), "tap", probes(tap=False))
    assert caught.value.status == 3


# --- replay ---------------------------------------------------------------------------------------


def test_a_replay_says_that_outcome_and_bytes_are_the_same_and_leaves_nothing_new(
    tmp_path: Path, runner: FakeRunner, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, "--seed", "3", "--quiet")
    folder = tmp_path / "clean-dump-sim-seed3-1"
    runner.seed = 0
    assert cli.main(["replay", str(folder), "--quiet"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "the same outcome, and the same bytes in 1 event logs and captures" in said
    assert (runner.seed, runner.tier) == (3, "sim")
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"outcome": "failed"}, "ANOTHER OUTCOME"),
        ({"events": "another\n"}, "1 of 1 files differ: events.jsonl"),
    ],
)
def test_a_replay_that_differs_ends_1_and_is_kept(
    tmp_path: Path,
    runner: FakeRunner,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, str],
    says: str,
) -> None:
    run(tmp_path, "--quiet")
    for what, value in change.items():
        setattr(runner, what, value)
    assert cli.main(["replay", str(tmp_path / "clean-dump-sim-seed1-1"), "--quiet"]) == 1
    assert says in " ".join(capsys.readouterr().out.split())
    assert (tmp_path / "clean-dump-sim-seed1-2").is_dir()


def test_a_replay_as_json_says_what_differs(
    tmp_path: Path, runner: FakeRunner, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, "--quiet")
    capsys.readouterr()
    runner.events = "another\n"
    assert cli.main(["replay", str(tmp_path / "clean-dump-sim-seed1-1"), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["same"], document["outcome_same"]) == (False, True)
    assert document["files_same"] == {"events.jsonl": False}


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"scenario": 1}'])
def test_a_folder_with_a_strange_verdict_is_bad_input(tmp_path: Path, content: str) -> None:
    (tmp_path / "verdict.json").write_text(content)
    assert cli.main(["replay", str(tmp_path)]) == 2


# --- run folders ----------------------------------------------------------------------------------


def test_what_a_killed_run_left_is_cleared_away_by_the_next(tmp_path: Path) -> None:
    def die_in_mid_run() -> None:
        folder = RunFolder(tmp_path, "x")
        (folder.path / "half").write_text("")
        os._exit(9)

    child = multiprocessing.get_context("fork").Process(target=die_in_mid_run)
    child.start()
    child.join(10)
    assert (tmp_path / ".partial-x-1" / "half").exists()
    with RunFolder(tmp_path, "x") as folder:
        assert list(folder.path.iterdir()) == []
        folder.keep()
    assert [p.name for p in tmp_path.iterdir()] == ["x-1"]


def test_two_runs_at_once_get_numbers_of_their_own(tmp_path: Path) -> None:
    with RunFolder(tmp_path, "x") as one, RunFolder(tmp_path, "x") as two:
        assert one.final.name == "x-1"
        assert two.final.name == "x-2"
        two.keep()
        one.keep()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x-1", "x-2"]


def test_an_unwritable_folder_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    with pytest.raises(BadInput, match="can't write to"):
        RunFolder(tmp_path / "f", "x")


# --- the other commands ---------------------------------------------------------------------------


def test_list_names_every_scenario_and_its_title(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "promisc-panic Panic with the NIC in promiscuous mode" in told
    assert cli.main(["list", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    row = next(r for r in document["scenarios"] if r["name"] == "promisc-panic")
    assert row["profiles"] == ["netdump2", "freebsd-14", "patch-2010"]
    assert row["tiers"] == ["tap", "qemu", "sim"]


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("netdump-bench ")


# --- with the real runner -------------------------------------------------------------------------


@pytest.mark.sim
def test_a_story_is_played_judged_kept_and_replayed_to_the_byte(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", "clean-dump", "--tier", "sim", "--runs", str(tmp_path), "--json"]) == 0
    verdict = json.loads(capsys.readouterr().out)
    assert [(c["profile"], c["outcome"], c["met"]) for c in verdict["cases"]] == [
        (profile, "complete", True)
        for profile in ("netdump2", "netdump2", "freebsd-14", "patch-2010")
    ]
    folder = Path(verdict["run_folder"])
    captures = sorted(folder.glob("cases/*/wire.pcapng"))
    assert len(captures) == 4
    assert all(path.read_bytes()[:4] == b"\x0a\x0d\x0d\x0a" for path in captures)
    assert cli.main(["replay", str(folder), "--json"]) == 0
    replayed = json.loads(capsys.readouterr().out)
    assert replayed["same"] is True
    assert len(replayed["files_same"]) == 8
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.sim
def test_a_story_that_expects_what_does_not_come_ends_1_and_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(
        'title = "A"\nwhy = "B"\n[machine]\nmemory = "1 MiB"\n[nic]\nrx_ring = 256\n'
        '[[case]]\nprofile = "netdump2"\nexpect = { outcome = "failed" }\n'
    )
    assert cli.main(["run", str(path), "--tier", "sim", "--runs", str(tmp_path), "--quiet"]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "netdump2, polled: complete, NOT as expected (failed)" in said
    assert "missing expected failed, came complete" in said


@pytest.mark.sim
def test_a_step_that_the_work_does_not_have_is_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "step.toml"
    path.write_text(
        'title = "A"\nwhy = "B"\n[machine]\nmemory = "1 MiB"\npanic_during = "transmit"\n'
        'panic_at = "write TDTT"\n[nic]\nrx_ring = 256\n'
        '[[case]]\nprofile = "netdump2"\nexpect = { outcome = "complete" }\n'
    )
    assert cli.main(["run", str(path), "--tier", "sim", "--runs", str(tmp_path), "--quiet"]) == 2
    assert "no step 'write TDTT'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.tap
def test_a_deadlock_is_told_on_a_real_tap(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from bench.wire.tap import can_tap

    found = can_tap()
    if not found.ok:
        pytest.skip(f"{found.why}; {found.cure}")
    assert cli.main(["run", "lock-held-panic", "--runs", str(tmp_path), "--quiet"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "lock-held-panic: PASSED, on tier tap" in said
    assert "deadlock, as expected" in said
    assert "held by stopped CPU" in said


@pytest.mark.sim
def test_a_part_that_leaves_the_process_is_no_success(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A machine of somebody's own: what it does in its story is not contained."""
    (tmp_path / "machine.py").write_text(
        "import sys\nfrom bench.kinds import MachineKind\n"
        "def story(*_): sys.exit(0)\n"
        "MACHINE = MachineKind(name='leaver', says='', story=story)\n"
    )
    path = tmp_path / "leaver.toml"
    path.write_text(
        'title = "t"\nwhy = "w"\ntiers = ["sim"]\n[machine]\nkind = "machine.py:MACHINE"\n'
        '[[case]]\nprofile = "netdump2"\nexpect = { outcome = "complete" }\n'
    )
    assert cli.main(["run", str(path), "--quiet", "--runs", str(tmp_path / "runs")]) == 1
    told = capsys.readouterr().err
    assert f"a part ended the command: SystemExit: 0 ({tmp_path}/machine.py:3 story)" in told
    assert told.count("\n") == 1
