"""What is promised of a real guest's dump is worth what it notices: defects, planted and seen.

Each case is one that goes well without its defect: ``takeover-live-rings`` and ``nmi-panic`` play
them at every test of the scenarios.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.progress import Silent
from bench.runner import run_scenario
from bench.scenario import parse_scenario
from bench.story import told
from bench.story.crashed import PEER_FRAMES, PEER_PACE_NS
from bench.story.linux import LinuxStory
from bench.verdict import CaseResult
from guest.linux.guest import LinuxGuest
from guest.qemu.coredump import CoreDump
from nic_models.e1000 import bringup
from nic_models.e1000.registers import Reg
from tests.patience import HANG_S
from tests.qemu_rig import leaves_nothing

pytestmark = pytest.mark.qemu

STORY = """
title = "a test"
why   = "a test"
tiers = ["qemu"]

[machine]
kind         = "linux"
memory       = "96 MiB"
cpus         = 1
load         = "{load}"
dead_time_ms = {dead_time_ms}

[nic]
rx_ring = 512

[[case]]
profile = "netdump2"
expect  = {{ outcome = "complete" }}
"""


def play(folder: Path, load: str = "none", dead_time_ms: int = 0) -> CaseResult:
    text = STORY.format(load=load, dead_time_ms=dead_time_ms)
    with leaves_nothing():
        (case,) = run_scenario(
            parse_scenario(text, "made", "made.toml"),
            tier="qemu",
            why_this_tier="",
            seed=1,
            run_folder=folder,
            progress=Silent(),
        ).cases
    return case


def test_a_takeover_that_does_not_stop_the_nic_is_seen_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The peer does not know, and the old rings lie in memory that is about to be dumped.

    It speaks before the takeover, and again while the driver should have stopped the NIC. Between
    the two the NIC comes to rest, however long that takes here, and what it wrote is found out.
    """
    stories: list[LinuxStory] = []
    take_stock = LinuxStory._take_stock

    def remembered(story: LinuxStory, taken_over: bool) -> None:
        if not taken_over:
            stories.append(story)
        take_stock(story, taken_over)

    def only_wait(
        read: Callable[[int], int], write: Callable[[int, int], None], delay: Callable[[int], None]
    ) -> int:
        story = stories.pop()
        story._peer_speaks()
        delay(PEER_FRAMES["light"] * PEER_PACE_NS // 1000 + bringup.QUIESCE_US)
        assert story._silicon.settle(HANG_S)
        return read(Reg.RCTL)

    monkeypatch.setattr(LinuxStory, "_take_stock", remembered)
    monkeypatch.setattr(told, "AT_REST_S", HANG_S)
    monkeypatch.setattr(bringup, "stop", only_wait)
    case = play(tmp_path, load="light", dead_time_ms=50)
    assert not case.met
    assert case.nic_wrote_pages, "what was written before is nobody's fault"
    assert case.oracles["panic-hygiene"] == "broken"
    assert "outside the arena changed" in case.oracle_reasons["panic-hygiene"]


def test_parking_that_leaves_memory_changed_is_seen_in_memory_and_in_the_dump(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    park = LinuxGuest.park

    def leave_them(guest: LinuxGuest) -> list[int]:
        (place,) = park(guest)
        guest.vm.ram[place : place + 4] = list(bytes.fromhex("faf4ebfd"))
        return [place]

    monkeypatch.setattr(LinuxGuest, "park", leave_them)
    case = play(tmp_path)
    assert not case.met
    assert case.oracles["panic-hygiene"] == case.oracles["bytes-equal"] == "broken"
    assert case.first_difference is not None
    assert case.first_difference.stored.startswith("fa")
    assert case.nic_wrote_pages == 0, "no NIC writes there"


def test_a_machine_that_ran_on_behind_its_truth_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    freeze = LinuxGuest.freeze

    def let_it_run(guest: LinuxGuest) -> CoreDump:
        core = freeze(guest)
        guest.monitor.execute("cont")
        time.sleep(0.05)
        guest.monitor.execute("stop")
        return core

    monkeypatch.setattr(LinuxGuest, "freeze", let_it_run)
    case = play(tmp_path)
    assert not case.met
    assert case.oracles["panic-hygiene"] == case.oracles["bytes-equal"] == "broken"
