"""A run is a world of its own: what it leaves in a kernel reaches no other run, and no verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.judge.evidence import gather
from bench.progress import Silent
from bench.runner import run_scenario
from bench.scenario import Scenario, parse_scenario
from bench.story.stage import CLIENT_IP, CLIENT_MAC, SERVER_IP, set_stage
from bench.verdict import CaseResult
from bench.wire.answering import AnswersArp
from bench.wire.kinds import CODE, classify
from bench.wire.namespace import NetNamespace
from netdump import arp
from nic_models.frames import Frames
from tests import wire_frames as wf
from tests.fakes import FakeWire, nothing

CLIENT = bytes(map(int, CLIENT_IP.split(".")))
HOST, HOST_IP = bytes.fromhex("02005e001001"), bytes(map(int, SERVER_IP.split(".")))

TEXT = """
title = "a test"
why = "a test"
tiers = ["tap", "sim"]
[machine]
memory = "1 MiB"
load = "none"
[nic]
rx_ring = 256
[[case]]
profile = "netdump2"
expect = { outcome = "complete" }
[[case]]
profile = "netdump2"
name = "again"
expect = { outcome = "complete" }
"""


def scenario() -> Scenario:
    return parse_scenario(TEXT, "made", "made.toml")


def play(tier: str, folder: Path) -> list[CaseResult]:
    return run_scenario(
        scenario(), tier=tier, why_this_tier="", seed=1, run_folder=folder, progress=Silent()
    ).cases


@pytest.fixture
def namespaces(monkeypatch: pytest.MonkeyPatch) -> list[NetNamespace]:
    """Every namespace that is made, in order."""
    made: list[NetNamespace] = []
    enter = NetNamespace.__enter__

    def remember(namespace: NetNamespace) -> NetNamespace:
        made.append(namespace)
        return enter(namespace)

    monkeypatch.setattr(NetNamespace, "__enter__", remember)
    return made


def forget_neighbours() -> None:
    """What a kernel does by itself with a neighbour that does not answer for long enough."""
    from pyroute2 import IPRoute

    with IPRoute() as route:
        for neighbour in route.get_neighbours(dst=CLIENT_IP):
            route.neigh("del", dst=CLIENT_IP, ifindex=neighbour["ifindex"])


@pytest.mark.tap
def test_a_host_that_has_forgotten_the_client_can_still_answer_its_messages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, namespaces: list[NetNamespace]
) -> None:
    """The client has ended, and answers no ARP: it is no fault of the server's."""

    def late(*evidence: Any) -> Any:
        namespaces[-1].run(forget_neighbours)
        return gather(*evidence)

    monkeypatch.setattr("bench.runner.gather", late)
    for case in play("tap", tmp_path):
        assert case.met, case.unmet
        assert case.oracles["idempotence"] == "held"


@pytest.mark.tap
def test_each_run_has_a_namespace_of_its_own_and_none_is_left(
    tmp_path: Path, namespaces: list[NetNamespace]
) -> None:
    assert all(case.met for case in play("tap", tmp_path))
    assert [namespace.fd for namespace in namespaces] == [-1, -1]


@pytest.mark.tap
def test_what_one_run_left_in_the_hosts_queues_is_not_heard_in_the_next(tmp_path: Path) -> None:
    """The first run's host wants to tell its client something, and waits for its MAC for ever."""
    (case, _) = _cases()
    with set_stage("tap", "namespace", case, 1, tmp_path / "one", nothing) as stage:
        assert stage.listen is not None
        with stage.listen(4444) as speaker:
            speaker.sendto(b"late", (CLIENT_IP, 20024))
    with set_stage("tap", "namespace", case, 1, tmp_path / "two", nothing) as stage:
        wire = AnswersArp(stage.bare_wire, CLIENT_MAC, CLIENT)
        assert stage.listen is not None
        with stage.listen(4445) as speaker:
            speaker.sendto(b"new", (CLIENT_IP, 20024))
        heard: list[bytes] = []
        while not any(frame[42:45] == b"new" for frame in heard):
            frames = wire.receive()
            heard += [frames.bytes_of(row) for row in range(len(frames))]
        assert not any(frame[42:46] == b"late" for frame in heard)


@pytest.mark.sim
def test_an_answer_that_the_client_left_unread_is_no_answer_to_what_is_said_again(
    tmp_path: Path,
) -> None:
    """A server that has answered once, and is silent from then on."""
    (case, _) = _cases()
    with set_stage("sim", "simulated", case, 1, tmp_path / "one", nothing) as stage:
        assert stage.server is not None
        message = wf.message(wf.HERALD, 1)
        herald = wf.datagram(message, src=CLIENT_MAC.hex(":"), dst=HOST.hex(":"))
        assert _has_ack(stage.play_again([herald], _has_ack))
        stage.bare_wire.send(Frames.of([herald], stage.clock.now_ns()))
        for _ in range(10):
            stage.clock.delay_us(1_000)
            stage.far_end(stage.clock.now_ns())
        stage.server.kill()
        assert not _has_ack(stage.play_again([herald], _has_ack))


def _has_ack(frames: Frames) -> bool:
    return CODE["ack"] in classify(frames)


def _cases() -> list[Any]:
    from bench.scenario import expand_cases

    return list(expand_cases(scenario()))


# --- who answers ----------------------------------------------------------------------------------


@pytest.mark.sim
def test_a_question_for_the_address_is_answered_and_passed_on() -> None:
    question = arp.request(HOST, HOST_IP, CLIENT)
    line = FakeWire(Frames.of([question, bytes(60)], 7))
    heard = AnswersArp(line, CLIENT_MAC, CLIENT).receive()
    assert heard.bytes_of(0) == question
    assert line.sent == [arp.reply(CLIENT_MAC, CLIENT, HOST, HOST_IP)]


@pytest.mark.sim
@pytest.mark.parametrize(
    "frame",
    [
        arp.request(HOST, HOST_IP, bytes([198, 18, 0, 77])),
        arp.reply(HOST, HOST_IP, CLIENT_MAC, CLIENT),
        arp.request(HOST, HOST_IP, CLIENT)[:18] + b"\x99" + arp.request(HOST, HOST_IP, CLIENT)[19:],
        arp.request(CLIENT_MAC, CLIENT, CLIENT),
        b"",
    ],
)
def test_nothing_else_is(frame: bytes) -> None:
    line = FakeWire(Frames.of([frame], 7))
    AnswersArp(line, CLIENT_MAC, CLIENT).receive()
    assert line.sent == []
