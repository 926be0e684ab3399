"""Faults with a setting, from the scenario file to the verdict: what was done, what came of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from scapy.utils import RawPcapNgReader

from bench.report import paragraphs
from bench.verdict import CaseResult, RunResult
from bench.wire.kinds import KINDS, classify
from nic_models.frames import Frames
from tests.scenario_rig import made, played

STORY = """
[machine]
memory = "1 MiB"
load = "light"
[nic]
rx_ring = 256
[[wire.fault]]
does = "{does}"
{fault}
[[case]]
profile = "{profile}"
expect = {expect}
"""
#: The 21st frame of data, and nothing else.
DATA = 'direction = "to-server"\nkind = "vmcore"\nindex = 20\n'
ACK = 'direction = "to-client"\nkind = "ack"\nindex = 20\n'
COMPLETE = '{ outcome = "complete" }'


@dataclass
class Played:
    """What a run left."""

    result: RunResult
    frames: list[tuple[bytes, str]]
    """Frame and comment, in the order of the capture: before any fault."""
    events: list[dict[str, Any]]

    @property
    def case(self) -> CaseResult:
        (case,) = self.result.cases
        return case

    @property
    def struck(self) -> list[tuple[str, str]]:
        """Kind of the frame and what a fault did to it."""
        return [(kind_of(frame), note) for frame, note in self.frames if "(rule " in note]

    def event(self, kind: str) -> dict[str, Any]:
        return next(event for event in self.events if event["kind"] == kind)


def kind_of(frame: bytes) -> str:
    return KINDS[int(classify(Frames.of([frame]))[0])]


def story(
    runs: Path,
    does: str,
    fault: str,
    profile: str = "freebsd-14",
    tier: str = "sim",
    expect: str = COMPLETE,
) -> Played:
    text = STORY.format(does=does, fault=fault, profile=profile, expect=expect)
    result = played(made(text, tier), tier, runs)
    folder = Path(result.run_folder)
    with RawPcapNgReader(str(folder / "wire.pcapng")) as packets:
        frames = [(data, b"".join(meta.comments or []).decode()) for data, meta in packets]
    lines = (folder / "events.jsonl").read_text().splitlines()
    found = Played(result, frames, [json.loads(line) for line in lines])
    assert found.case.met, found.case.unmet
    return found


def wire_says(found: Played) -> str:
    """The line of the verdict that says what befell frames."""
    return next(p.text for p in paragraphs(found.result) if p.label == "wire")


# --- delay ----------------------------------------------------------------------------------------


@pytest.mark.sim
def test_a_frame_that_is_late_makes_a_client_that_waits_for_it_late_by_as_much(
    tmp_path: Path,
) -> None:
    sound = story(tmp_path / "sound", "duplicate", ACK)
    late = story(tmp_path / "late", "delay", f"{DATA}delay_us = 50_000")
    assert late.struck == [
        ("vmcore", "delayed by 50000 us (rule 1: number 20 of vmcore to-server)")
    ]
    assert late.case.wire == {"delay": 1}
    assert wire_says(late) == "1 delayed."
    assert late.case.seconds - sound.case.seconds == pytest.approx(0.05, abs=0.001)
    assert late.case.retransmissions == 0, "a second of patience is more than that"


@pytest.mark.sim
def test_an_ack_that_is_later_than_the_clients_patience_costs_a_retransmission(
    tmp_path: Path,
) -> None:
    expect = '{ outcome = "complete", retransmissions = 1 }'
    found = story(tmp_path, "delay", f"{ACK}delay_us = 2_000_000", expect=expect)
    assert [kind for kind, _ in found.struck] == ["ack"]
    assert found.event("retransmit")["frames"] == 1
    assert found.case.seconds > 1


@pytest.mark.sim
def test_when_the_late_ack_comes_it_is_known_for_one_of_the_past(tmp_path: Path) -> None:
    """Every ack of an eighth is a second late: each is there before the end, and is refused."""
    fault = 'direction = "to-client"\nkind = "ack"\nindex = "20, 200"\ndelay_us = 1_500_000\n'
    expect = '{ outcome = "complete", retransmissions = ">0", refused = "ack-late" }'
    found = story(tmp_path, "delay", fault, expect=expect)
    assert found.case.wire == {"delay": 2}


@pytest.mark.tap
@pytest.mark.parametrize("profile", ["freebsd-14", "netdump2"])
def test_in_real_time_a_delay_is_real(profile: str, tmp_path: Path) -> None:
    """The HERALD: no client goes on without its ack, or says it again sooner than in 0.2 s."""
    fault = 'direction = "to-server"\nkind = "herald"\nindex = 0\ndelay_us = 100_000\n'
    found = story(tmp_path, "delay", fault, profile, "tap")
    assert [kind for kind, _ in found.struck] == ["herald"]
    assert found.case.wire == {"delay": 1}
    before, after = found.event("arp-resolved"), found.event("acks")
    assert after["time_ns"] - before["time_ns"] >= 100_000_000


# --- reorder --------------------------------------------------------------------------------------


@pytest.mark.sim
@pytest.mark.parametrize(("by_frames", "late"), [(1, False), (25, False), (26, True), (500, True)])
def test_a_frame_is_held_until_as_many_have_passed_as_the_file_says(
    by_frames: int, late: bool, tmp_path: Path
) -> None:
    """25 frames are behind it in its chunk of 46, and none of the next comes without its ack."""
    sound = story(tmp_path / "sound", "duplicate", ACK)
    found = story(tmp_path / "found", "reorder", f"{DATA}by_frames = {by_frames}")
    ((kind, note),) = found.struck
    assert kind == "vmcore"
    assert note.startswith(f"held back until {by_frames} more have passed (rule 1")
    assert wire_says(found) == "1 overtaken."
    assert found.case.retransmissions == 0
    # Let go all the same, after 64 calls to the wire: two in each poll of 0.5 ms.
    waited = found.case.seconds - sound.case.seconds
    assert waited == pytest.approx(0.016 if late else 0, abs=0.002)


@pytest.mark.sim
def test_a_sliding_window_takes_a_long_overtaking_for_a_loss(tmp_path: Path) -> None:
    expect = '{ outcome = "complete", retransmissions = ">0" }'
    found = story(tmp_path, "reorder", f"{DATA}by_frames = 700", "netdump2", expect=expect)
    assert [kind for kind, _ in found.struck] == ["vmcore"]
    assert found.event("retransmit")["frames"] == 1


@pytest.mark.sim
def test_a_probe_that_brings_the_only_copy_counts_as_a_retransmission(tmp_path: Path) -> None:
    """The last message is lost: nothing overtakes it, so it is sent again as a probe. A tap with a
    slow server may make any frame the last one in flight.
    """
    sound = story(tmp_path / "sound", "duplicate", ACK, "netdump2")
    last = [kind_of(frame) for frame, _ in sound.frames].count("vmcore") - 1
    fault = f'direction = "to-server"\nkind = "vmcore"\nindex = {last}\n'
    expect = '{ outcome = "complete", retransmissions = ">0" }'
    found = story(tmp_path, "drop", fault, "netdump2", expect=expect)
    assert (found.case.retransmissions, found.case.probes) == (0, 1)


# --- truncate -------------------------------------------------------------------------------------


@pytest.mark.sim
@pytest.mark.parametrize("profile", ["freebsd-14", "netdump2"])
@pytest.mark.parametrize("length", [14, 60, 1513])
def test_a_frame_of_data_that_is_cut_is_sent_again(
    length: int, profile: str, tmp_path: Path
) -> None:
    expect = '{ outcome = "complete", retransmissions = ">0" }'
    found = story(tmp_path, "truncate", f"{DATA}length = {length}", profile, expect=expect)
    assert found.struck == [
        (
            "vmcore",
            f"cut from 1514 to {length} bytes (rule 1: number 20 of vmcore to-server)",
        )
    ]
    assert wire_says(found) == "1 cut short."
    assert found.case.oracles["bytes-equal"] == "held"


@pytest.mark.sim
def test_a_frame_that_is_short_already_is_not_cut(tmp_path: Path) -> None:
    found = story(tmp_path, "truncate", f"{ACK}length = 60")
    assert (found.struck, found.case.wire, found.case.retransmissions) == ([], {"truncate": 0}, 0)


@pytest.mark.sim
def test_an_ack_that_is_cut_to_its_ethernet_header_is_refused(tmp_path: Path) -> None:
    expect = '{ outcome = "complete", retransmissions = 1, refused = "ip-version" }'
    found = story(tmp_path, "truncate", f"{ACK}length = 14", expect=expect)
    assert found.case.wire == {"truncate": 1}


# --- what is none of the protocol's ---------------------------------------------------------------


@pytest.mark.sim
def test_frames_of_no_other_kind_can_be_struck_too(tmp_path: Path) -> None:
    """The machine's own traffic, before the panic."""
    found = story(tmp_path, "drop", 'kind = "other"\ndirection = "to-server"\nindex = 0\n')
    assert found.struck == [("other", "dropped (rule 1: number 0 of other to-server)")]
    assert found.case.retransmissions == 0
