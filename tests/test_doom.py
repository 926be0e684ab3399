"""A machine that is lost in the middle of its dump: so many frames have left it, and then none."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.utils import RawPcapNgReader

from bench.board import Board, MachineLost
from bench.clock import Budget, VirtualClock
from bench.progress import Silent
from bench.runner import run_scenario
from bench.scenario import parse_scenario
from bench.story.doom import Doom
from bench.verdict import CaseResult
from nic_models.frames import Frames
from tests import wire_frames as wf
from tests.fakes import FakeWire, NotingSilicon, nothing

#: A doorbell.
TAIL = 0x10


class Struck(Exception):
    """What the strike raised."""


def strike() -> NoReturn:
    raise Struck


#: Frames of a dump's life, each unlike the others: some of them carry data.
DATA = [wf.vmcore(number, size=20) for number in range(12)]
OTHERS = [
    wf.datagram(wf.message(wf.HERALD, 1)),
    wf.datagram(wf.message(wf.KDH, 7, bytes(64)), dport=40000),
    wf.datagram(wf.message(wf.FINISHED, 9), dport=40000),
    wf.arp_request(),
    b"\x01" * 60,
]
life = st.lists(st.sampled_from([*DATA, *OTHERS]), max_size=30)


@given(life, st.integers(1, 12), st.lists(st.integers(1, 8), max_size=30))
def test_so_many_data_frames_pass_with_all_before_them_and_nothing_later(
    frames: list[bytes], after: int, cuts: list[int]
) -> None:
    wire = FakeWire()
    doom = Doom(wire, after, strike)
    places = [index for index, frame in enumerate(frames) if frame in DATA]
    dies = len(places) >= after
    left, struck = list(frames), 0
    for size in [*cuts, len(frames) or 1]:
        try:
            doom.send(Frames.of(left[:size]))
        except Struck:
            struck += 1
        left = left[size:]
    assert wire.sent == (frames[: places[after - 1] + 1] if dies else frames)
    assert struck == dies, "it dies once, in the very call"


def test_what_comes_in_and_the_end_of_the_wire_are_as_ever() -> None:
    wire = FakeWire()
    doom = Doom(wire, 1, strike)
    assert not len(doom.receive())
    doom.close()
    assert wire.closed == 1


def test_a_lost_machine_does_nothing_any_more() -> None:
    wire = FakeWire()
    done: list[str] = []
    silicon = NotingSilicon(done.append)
    clock = VirtualClock()

    def lose() -> NoReturn:
        board.lose("it lost its power after 2 frames of its dump")

    board = Board(
        clock,
        silicon,
        {TAIL: "tail"},
        Doom(wire, 2, lose),
        nothing,
        Budget(clock, 10**9),
        nothing,
    )
    silicon.to_send = Frames.of(DATA[:5])
    with pytest.raises(MachineLost, match="lost its power after 2 frames"):
        board.write32(TAIL, 5)
    assert wire.sent == DATA[:2]
    done.clear()
    silicon.to_send = Frames.of(DATA[5:])
    for act in (
        board.turn,
        lambda: board.read32(0),
        lambda: board.write32(TAIL, 6),
        lambda: board.write32(0x20, 0),
        lambda: board.delay_us(1000),
    ):
        with pytest.raises(MachineLost, match="lost its power"):
            act()
    assert done == []
    assert wire.sent == DATA[:2]


# --- and what is made of it -----------------------------------------------------------------------

STORY = """
title = "a test"
why   = "a test"
tiers = ["sim"]

[machine]
memory     = "2 MiB"
lost       = "power"
lost_after = {after}

[nic]
rx_ring = 256

[[case]]
profile = "{profile}"
expect  = {{ outcome = "{outcome}" }}
"""


def lost(folder: Path, profile: str, after: int, outcome: str = "lost") -> CaseResult:
    text = STORY.format(after=after, profile=profile, outcome=outcome)
    (case,) = run_scenario(
        parse_scenario(text, "made", "made.toml"),
        tier="sim",
        why_this_tier="",
        seed=1,
        run_folder=folder,
        progress=Silent(),
    ).cases
    return case


def data_frames(folder: Path) -> int:
    """How many of them were seen on the wire."""
    message = struct.pack(">I", wf.VMCORE)
    with RawPcapNgReader(str(folder / "wire.pcapng")) as packets:
        return sum(p[34:36] == b"\x4e\x38" and p[42:46] == message for p, _ in packets)


@pytest.mark.sim
@pytest.mark.parametrize("profile", ["netdump2", "freebsd-14"])
def test_half_a_dump_is_kept_as_half_a_dump(profile: str, tmp_path: Path) -> None:
    case = lost(tmp_path, profile, 700)
    assert case.met, case.unmet
    assert case.outcome == "lost"
    assert case.why == "it lost its power after 700 frames of its dump"
    assert data_frames(tmp_path) == 700
    assert case.oracles["ack-means-kept"] == "held"
    assert "broken" not in case.oracles.values()
    (stored,) = (tmp_path / "dumps").glob("vmcore.*")
    assert stored.name.endswith(".partial")
    assert 0 < stored.stat().st_size <= case.dump_bytes


@pytest.mark.sim
def test_a_machine_whose_dump_was_over_before_is_not_lost(tmp_path: Path) -> None:
    case = lost(tmp_path, "netdump2", 1_000_000, "complete")
    assert case.met, case.unmet
    assert case.outcome == "complete"


@pytest.mark.sim
def test_the_last_frame_of_the_data_can_be_the_last_of_all(tmp_path: Path) -> None:
    whole = lost(tmp_path / "whole", "netdump2", 1_000_000, "complete")
    assert whole.met, whole.unmet
    count = data_frames(tmp_path / "whole")
    case = lost(tmp_path / "lost", "netdump2", count)
    assert case.met, case.unmet
    (stored,) = (tmp_path / "lost" / "dumps").glob("vmcore.*")
    assert stored.name.endswith(".partial"), "no FINISHED has come"
