"""What the server takes is bounded, and rubbish costs only itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from netdump.kdh import KernelDumpHeader
from tests.server_rig import CLIENT, DRAWN, IMAGE, Rig, finished, frames, herald, kdh, key, vmcore


def test_sessions_are_bounded_and_running_dumps_are_never_evicted(tmp_path: Path) -> None:
    rig = Rig(tmp_path, max_clients=3)
    running = rig.open()
    rig.say(running, *frames(IMAGE, 2))
    others = [rig.open(DRAWN, (f"198.18.0.{last}", 20024)) for last in (3, 4)]
    third = rig.open(DRAWN, ("198.18.0.5", 20024))
    assert rig.core.tick(rig.now) == others[:1]
    assert set(rig.core.sessions) == {running, others[1], third}
    for session in (others[1], third):
        rig.say(session, frames(IMAGE, 2)[0])
    assert rig.core.herald(("198.18.0.6", 20024), herald(), rig.now) is None
    assert rig.core.refused["too-many-clients"] == 1


@pytest.mark.parametrize("offset", [1 << 20, (1 << 20) - 1447, 1 << 42, 1 << 63, (1 << 64) - 1448])
def test_nothing_beyond_the_largest_dump_is_taken(tmp_path: Path, offset: int) -> None:
    rig = Rig(tmp_path, max_dump=1 << 20)
    session = rig.open()
    assert rig.say(session, vmcore(2, offset, bytes(1448))) == []
    assert rig.files() == []
    fits = vmcore(4, (1 << 20) - 1448, bytes(1448))
    assert rig.say(session, vmcore(3, offset, bytes(1448)), fits) == [4]
    assert rig.core.refused["beyond-max-dump"] == 2
    assert rig.say(session, kdh(5, KernelDumpHeader(dumplength=(1 << 20) + 1))) == []
    assert rig.events.count("refused") == 1  # the operator is told once


def test_a_dump_in_crumbs_is_refused_beyond_a_bound(tmp_path: Path) -> None:
    rig = Rig(tmp_path, max_intervals=10)
    session = rig.open()
    crumbs = [vmcore(2 + n, n * 1000, b"x") for n in range(20)]
    assert rig.say(session, *crumbs) == list(range(2, 12))
    assert rig.core.refused["too-fragmented"] == 10
    assert rig.say(session, vmcore(90, 1, b"y" * 999)) == [90]  # closes a gap: always welcome


def test_keys_are_bounded(rig: Rig) -> None:
    session = rig.open()
    assert rig.say(session, key(2, (1 << 64) - 1, b"k"), key(3, 65536, b"k")) == []
    assert rig.core.refused["key-too-long"] == 2


@pytest.mark.parametrize(
    ("datagram", "reason"),
    [
        (b"", "runt"),
        (b"\0" * 23, "runt"),
        (herald() + b"x", "length-mismatch"),
        (b"\0\0\0\x09" + herald()[4:], "unknown-type"),
        (finished(1), "not-a-herald"),
    ],
)
def test_what_is_no_herald_gets_silence(rig: Rig, datagram: bytes, reason: str) -> None:
    assert rig.core.herald(CLIENT, datagram, 0.0) is None
    assert rig.core.refused == {reason: 1}


def test_rubbish_among_good_frames_costs_only_itself(rig: Rig) -> None:
    session = rig.open()
    parts = frames(IMAGE[:4096], 2)
    batch = [parts[0], b"", parts[1][:-1], herald(9), parts[1], b"\xff" * 9300, parts[2]]
    assert rig.say(session, *batch) == [2, 3, 4]
    assert rig.core.refused == {
        "runt": 1,
        "length-mismatch": 1,
        "datagram-too-long": 1,
        "unexpected-in-receiving": 1,
    }


def test_an_unknown_session_gets_nothing(rig: Rig) -> None:
    assert rig.say(77, finished(1)) == []
