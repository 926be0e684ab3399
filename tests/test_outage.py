"""A server that is lost in the middle of a dump, and one that comes back."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.clock import VirtualClock
from bench.errors import BadInput
from bench.story.outage import Outage
from nic_models.frames import Frames
from tests import wire_frames as wf
from tests.scenario_rig import made, played

STORY = """
[machine]
memory = "1 MiB"
load = "none"
[nic]
rx_ring = 256
[client]
retries = 5
[server]
{server}
[[case]]
profile = "netdump2"
expect = {{ outcome = "{outcome}" }}
"""


class Sent:
    """A wire and a server that write down what became of them."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def send(self, frames: Frames) -> None:
        self.said.append(f"{len(frames)} frames")

    def receive(self) -> Frames:
        return Frames.empty()

    def close(self) -> None: ...

    def kill(self) -> None:
        self.said.append("killed")

    def start(self) -> None:
        self.said.append("started")


def test_it_goes_when_so_much_has_come_and_comes_back_so_much_later() -> None:
    seen, clock = Sent(), VirtualClock()
    wire = Outage(seen, seen, clock, 3, 5)  # type: ignore[arg-type]
    wire.send(Frames.of([wf.arp_request(), wf.vmcore(1), wf.vmcore(2)]))
    assert seen.said == ["3 frames"], "two of data"
    wire.send(Frames.of([wf.vmcore(3), wf.vmcore(4)]))
    assert seen.said[1:] == ["2 frames", "killed"]
    clock.delay_us(4_999)
    wire.receive()
    assert seen.said[-1] == "killed"
    clock.delay_us(1)
    wire.receive()
    wire.send(Frames.of([wf.vmcore(5)]))
    assert seen.said[3:] == ["started", "1 frames"], "once"


def test_so_often_each_as_many_frames_after_it_came_up() -> None:
    seen, clock = Sent(), VirtualClock()
    wire = Outage(seen, seen, clock, 2, 5, 2)  # type: ignore[arg-type]
    for _ in range(4):
        wire.send(Frames.of([wf.vmcore(1), wf.vmcore(2)]))
        wire.send(Frames.of([wf.vmcore(3), wf.vmcore(4)]))
        clock.delay_us(5_000)
    lives = [said for said in seen.said if said != "2 frames"]
    assert lives == ["killed", "started"] * 2, "what comes while it is gone kills nobody"


@pytest.mark.sim
@pytest.mark.parametrize("profile", ["netdump2", "freebsd-14"])
def test_a_dump_whose_server_comes_back_is_whole(profile: str, tmp_path: Path) -> None:
    text = STORY.format(server="lost_after = 100\nback_ms = 20\nlost_times = 5", outcome="complete")
    (case,) = played(made(text.replace("netdump2", profile)), "sim", tmp_path).cases
    assert case.met, case.unmet


@pytest.mark.sim
def test_a_dump_whose_server_is_lost_fails_and_what_was_acknowledged_is_there(
    tmp_path: Path,
) -> None:
    text = STORY.format(server="lost_after = 100", outcome="failed")
    result = played(made(text), "sim", tmp_path)
    (case,) = result.cases
    assert case.met, case.unmet
    assert case.oracles["ack-means-kept"] == "held"
    (left,) = Path(result.run_folder).glob("dumps/vmcore.*.partial")
    assert 0 < left.stat().st_size < 1 << 20


@pytest.mark.parametrize(
    ("server", "says"),
    [
        ("back_ms = 20", "it never goes: give lost_after"),
        ("lost_after = 9\nlost_times = 2", "none comes up again: give back_ms"),
        ("present = false\nlost_after = 3", "there is no server"),
    ],
)
def test_what_can_not_be_is_told(server: str, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        made(STORY.format(server=server, outcome="failed"))
