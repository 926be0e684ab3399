"""Playing on QEMU, seen from the command: what is refused, what falls back, what breaks down."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench import cli
from bench.errors import MachineLacks
from bench.headroom import Room
from bench.play import probes_for
from bench.runs import RunFolder, clear_scratch, scratch, scratch_home
from bench.scenario import ScenarioError, load_scenario, parse_scenario
from bench.story.stage import CLIENT_MAC, HOST_MAC
from bench.story.synthetic import SyntheticStory
from bench.tiers import choose_tier, missing_packages
from guest.linux.image import GuestImageUnavailable
from guest.qemu.errors import QemuGone
from guest.synthetic import SyntheticMachine
from nic_models.frames import Frames
from tests.fakes import probes, works
from tests.patience import HANG_S

HEAD = 'title = "a test"\nwhy = "a test"\ntiers = ["qemu"]\n'
CASE = '[[case]]\nprofile = "netdump2"\nexpect = { outcome = "complete" }\n'


# --- what a Linux guest can't be ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("machine", "nic", "says"),
    [
        ('memory = "16 MiB"', "", "machine.memory: a Linux guest boots in whole MiB of memory"),
        ('memory = "100001 KiB"', "", "machine.memory"),
        ('memory = "128 MiB"\narena = "260 KiB"', "", "machine.arena"),
        ('memory = "128 MiB"\ncpus = 65', "", "machine.cpus: a Linux guest has 64 CPUs at most"),
        ('memory = "128 MiB"\npanic_during = "transmit"', "", "machine.panic_during"),
        ('memory = "128 MiB"\nstarve_mbufs = true', "", "machine.starve_mbufs"),
        ('memory = "128 MiB"\nnetconsole = true', "", "machine.netconsole"),
        ('memory = "128 MiB"', 'mode = "locked"', "nic.mode: in a Linux guest our driver's locks"),
        ('memory = "128 MiB"\ncrash = "nmmi"', "", 'did you mean "nmi"?'),
    ],
)
def test_what_no_linux_guest_can_do_is_refused_where_it_is_written(
    machine: str, nic: str, says: str
) -> None:
    text = f'{HEAD}[machine]\nkind = "linux"\n{machine}\n[nic]\n{nic}\n{CASE}'
    with pytest.raises(ScenarioError) as refused:
        parse_scenario(text, "made", "made.toml")
    assert says in str(refused.value)
    assert str(refused.value).startswith("made.toml:")


def test_a_tier_on_which_no_case_can_be_played_is_refused() -> None:
    text = HEAD.replace('["qemu"]', '["qemu", "sim"]')
    text += '[machine]\nkind = "linux"\nmemory = "128 MiB"\n' + CASE
    with pytest.raises(ScenarioError, match=r"tiers\[2\]: no case can be played on sim"):
        parse_scenario(text, "made", "made.toml")


def test_only_a_guest_boots_again_after_a_reset() -> None:
    text = f'{HEAD}[machine]\nlost = "reset"\n{CASE}'
    with pytest.raises(
        ScenarioError, match=r"machine\.lost: a synthetic machine does not boot again"
    ):
        parse_scenario(text, "made", "made.toml")


# --- what falls back ------------------------------------------------------------------------------


def unavailable(**_: object) -> None:
    raise GuestImageUnavailable("no mirror answers", "plug the cable in")


def test_a_guest_that_cant_be_had_costs_the_tier_and_only_where_it_is_demanded_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bench.qemu_nic.can_qemu", works)
    monkeypatch.setattr("guest.linux.image.guest_image", unavailable)
    story = load_scenario("takeover-live-rings")
    found = {**probes_for(story, "qemu", Path("runs")), "tap": works}
    choice = choose_tier(story, None, found)
    assert choice.tier == "tap"
    assert choice.why == ("not qemu: no Linux guest: no mirror answers (cure: plug the cable in)")
    with pytest.raises(MachineLacks, match="tier qemu: no Linux guest: no mirror answers"):
        choose_tier(story, "qemu", found)


def test_without_a_tap_qemus_wire_ends_at_the_simulated_host_and_the_verdict_says_so() -> None:
    story = load_scenario("nmi-panic")
    with_tap = choose_tier(story, None, probes())
    assert (with_tap.tier, with_tap.host, with_tap.why) == ("qemu", "namespace", "")
    without = choose_tier(story, "qemu", probes(tap=False))
    assert (without.tier, without.host) == ("qemu", "simulated")
    assert without.why == (
        "no TAP: the wire ends at the simulated host, with the server in process"
        " (no tap here (cure: get a tap))"
    )


def test_without_memory_for_it_no_guest_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.qemu_nic.can_qemu", works)
    monkeypatch.setattr("bench.play.memory_room", lambda: [Room(64 << 20, "a group's limit")])
    made: list[object] = []
    monkeypatch.setattr("guest.linux.image.guest_image", lambda **chosen: made.append(chosen))
    with pytest.raises(MachineLacks, match="MiB"):
        probes_for(load_scenario("nmi-panic"), "qemu", Path("runs"))
    assert not made


def test_why_there_is_no_tap_is_said_once() -> None:
    choice = choose_tier(load_scenario("clean-dump"), None, probes(tap=False))
    assert (choice.tier, choice.host) == ("qemu", "simulated")
    assert choice.why.count("no tap here") == 1
    assert "not tap: no tap here" in choice.why


def test_a_story_without_a_guest_asks_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guest.linux.image.guest_image", unavailable)
    assert probes_for(load_scenario("clean-dump"), "tap", Path("runs")) is not None


def test_make_is_told_which_packages_a_story_lacks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert missing_packages(load_scenario("nmi-panic"), None) == ["qemu"]
    assert missing_packages(load_scenario("clean-dump"), None) == []
    assert missing_packages(load_scenario("clean-dump"), "qemu") == ["qemu"]
    assert cli.main(["needs", "nmi-panic"]) == 0
    assert capsys.readouterr().out == "qemu\n"
    program = tmp_path / "qemu-system-x86_64"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert missing_packages(load_scenario("nmi-panic"), None) == []


# --- what breaks down -----------------------------------------------------------------------------


def test_a_case_that_breaks_down_costs_no_other_and_the_status_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    boot = SyntheticStory.boot
    booted: list[str] = []

    def fails_once(story: SyntheticStory) -> None:
        booted.append(story._case.name)
        if len(booted) == 2:
            raise QemuGone("QEMU was ended by signal 9")
        boot(story)

    monkeypatch.setattr(SyntheticStory, "boot", fails_once)
    status = cli.main(["run", "clean-dump", "--tier", "sim", "--runs", str(tmp_path), "--json"])
    document = json.loads(capsys.readouterr().out)
    assert status == 3
    assert [case["outcome"] for case in document["cases"]] == [
        *("complete", "broke-down", "complete", "complete")
    ]
    assert document["cases"][1]["why"] == "QEMU was ended by signal 9"
    assert not document["passed"]
    assert (Path(document["run_folder"]) / "verdict.json").exists()


# --- measurements leave nothing -------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("bench.runs.scratch_home", lambda: tmp_path / "scratch")
    return tmp_path / "scratch"


def test_a_measurement_takes_its_folder_with_it(home: Path) -> None:
    with scratch("guest") as folder:
        (folder.path / "dump").write_bytes(bytes(100))
        assert folder.path.is_relative_to(home)
    assert not home.exists()


def test_what_a_killed_measurement_left_is_cleared_by_the_next_run_of_anything(home: Path) -> None:
    code = (
        "import os, signal\nfrom pathlib import Path\nfrom bench.runs import RunFolder\n"
        f"folder = RunFolder(Path({str(home)!r}), 'guest')\n"
        "(folder.path / 'dump').write_bytes(bytes(100))\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = str(Path(__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": root},
        timeout=HANG_S,
        check=False,
    )
    assert done.returncode == -9
    (left,) = home.iterdir()
    with RunFolder(home, "another") as alive:
        assert alive.cleared == [left]
        assert clear_scratch() == [], "what lives is left alone"
        assert alive.path.exists()


def test_the_scratch_folder_is_in_memory_and_ones_own() -> None:
    assert scratch_home().name == f"netdump-bench-{os.getuid()}"


# --- what QEMU does beside us ---------------------------------------------------------------------


@pytest.mark.qemu
def test_a_frame_that_qemu_takes_while_the_truth_is_read_is_the_nics_doing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    live, panic = SyntheticStory.live, SyntheticMachine.panic
    stories: list[SyntheticStory] = []
    late = CLIENT_MAC + HOST_MAC + b"\x08\x00" + bytes(range(1, 251))

    def remembered(story: SyntheticStory) -> str:
        stories.append(story)
        return live(story)

    def panic_and_frame(
        machine: SyntheticMachine, cause: str | None = None, cpu: int | None = None
    ) -> None:
        panic(machine, cause, cpu)
        nic = stories[-1]._silicon
        nic.deliver(Frames.of([late]))
        assert nic.settle(HANG_S)

    monkeypatch.setattr(SyntheticStory, "live", remembered)
    monkeypatch.setattr(SyntheticMachine, "panic", panic_and_frame)
    status = cli.main(["run", "clean-dump", "--tier", "qemu", "--runs", str(tmp_path), "--json"])
    document = json.loads(capsys.readouterr().out)
    assert status == 0, document
    assert len(stories) == len(document["cases"]) > 0
    assert all(case["nic_wrote_pages"] >= 1 for case in document["cases"])
