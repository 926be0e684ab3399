"""How a dump ends: what is missing on the way is an error with a name, in bounded polls."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netdump.client import Step
from netdump.profiles import PROFILES
from tests import client_rig as rig
from tests.client_rig import (
    FINISHED,
    HERALD,
    KDH,
    NAMES,
    STOCK,
    VMCORE,
    Peer,
    Played,
    Pool,
    ack,
    ended,
    impatient,
    play,
    silent_about,
    told_as,
    with_options,
)


@pytest.mark.parametrize("name", NAMES)
def test_a_finished_that_nobody_acknowledged_is_success_to_freebsd_and_an_error_to_us(
    name: str,
) -> None:
    done = play(impatient(name), Peer(silent_about(FINISHED)))
    report = done.report
    assert report.failed_in is Step.FINISH
    assert "FINISHED" in report.detail
    if name == "netdump2":
        assert (report.claims_success, report.error) == (False, "ETIMEDOUT")
    else:
        assert (report.claims_success, report.error) == (True, None)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("kind", "step"), [(HERALD, Step.HERALD), (VMCORE, Step.DATA), (KDH, Step.HEADER)]
)
def test_anything_else_that_nobody_acknowledges_ends_the_dump(
    name: str, kind: int, step: Step
) -> None:
    done = play(impatient(name), Peer(silent_about(kind)))
    report = done.report
    assert not report.claims_success
    assert ended(done) == told_as(name, "ETIMEDOUT", step)
    assert not done.peer.of_kind(FINISHED)
    assert done.told[-1] == (
        "step",
        {"step": "failed", "poll": report.stats.polls, "error": report.error},
    )


@pytest.mark.parametrize("name", NAMES)
def test_without_a_link_nothing_is_tried(name: str) -> None:
    done = play(PROFILES[name], Peer(), link=False)
    assert ended(done) == told_as(name, "ENETDOWN", Step.RESOLVE)
    assert done.nic.frames == 0
    assert done.delayed_us == 0
    assert done.nic.events == ["start", "end"], "what was taken over is given back"


@pytest.mark.parametrize("name", NAMES)
def test_without_mbufs_no_frame_leaves_and_the_dump_fails(name: str) -> None:
    done = play(impatient(name), Peer(), pool=Pool(0))
    assert ended(done) == told_as(name, "ENOBUFS", Step.RESOLVE)
    assert done.nic.frames == 0
    assert done.report.stats.refused == {"out-of-mbufs": 1}


@pytest.mark.parametrize("name", STOCK)
def test_too_few_mbufs_for_a_chunk_end_a_stock_dump_at_once(name: str) -> None:
    done = play(impatient(name), Peer(), pool=Pool(20))
    assert (done.report.error, done.report.failed_in) == ("ENOBUFS", Step.DATA)
    assert done.pool.out <= 20


@pytest.mark.parametrize("size", [2, 6, 20, 100, 200])
def test_too_few_mbufs_for_a_window_only_slow_ours(size: int) -> None:
    done = play(impatient("netdump2"), Peer(), pool=Pool(size))
    assert done.report.claims_success, done.report.detail
    assert done.stored() == done.image
    assert done.report.stats.retransmissions == 0
    assert done.pool.out == 0


@pytest.mark.parametrize("ring", [1, 7, 50])
def test_a_short_ring_slows_ours_and_gives_its_mbufs_back(ring: int) -> None:
    done = play(impatient("netdump2"), Peer(), ring=ring)
    assert done.report.claims_success
    assert done.stored() == done.image
    assert done.pool.out == 0


@pytest.mark.parametrize("name", STOCK)
def test_a_short_ring_ends_a_stock_dump(name: str) -> None:
    done = play(impatient(name), Peer(), ring=45, mtu=1000)
    assert (done.report.error, done.report.failed_in) == ("ENOBUFS", Step.DATA)


@pytest.mark.parametrize(
    ("name", "error"),
    [("netdump2", "ETIMEDOUT"), ("freebsd-14", "ENOBUFS"), ("patch-2010", "ENOBUFS")],
)
@pytest.mark.parametrize("frames", [1, 2, 3, 40])
def test_a_nic_that_sticks_ends_the_dump(name: str, error: str, frames: int) -> None:
    done = play(impatient(name), Peer(), sticks_after=frames)
    assert not done.report.claims_success
    if frames == 1:
        error = told_as(name, "ENOBUFS", Step.HERALD)[0]
    assert done.report.error == error
    assert done.nic.frames == frames


# --- any noise, any loss --------------------------------------------------------------------------

#: Right in every field, for a seqno that was never sent.
ODD_ACK = ack(0xDEADBEEF)
BASES = st.sampled_from(
    [
        ODD_ACK,
        ack(0xDEADBEEF, to_mac=rig.STRANGER_MAC),
        with_options(ODD_ACK),
        rig.reply(b"x" * 300),
        rig.arp(2, rig.SERVER_MAC, rig.SERVER_IP),
        rig.arp(1, rig.STRANGER_MAC, rig.STRANGER_IP),
    ]
)


@st.composite
def heard(draw: st.DrawFn) -> bytes:
    """Any bytes; or a good frame with a few changed, or cut short."""
    if draw(st.booleans()):
        return draw(st.binary(max_size=120))
    frame = bytearray(draw(BASES))
    for at, value in draw(st.lists(st.tuples(st.integers(0, 66), st.integers(0, 255)), max_size=3)):
        if at < len(frame):
            frame[at] = value
    return bytes(frame[: draw(st.integers(0, 400))])


@settings(max_examples=120)
@given(
    name=st.sampled_from(NAMES),
    noise=st.lists(st.lists(heard(), max_size=4), max_size=12),
    losses=st.sets(st.integers(0, 40), max_size=8),
    mtu=st.sampled_from([576, 1500, 4148]),
)
def test_whatever_is_heard_or_lost_ends_in_a_report_and_only_memory_is_sent(
    name: str, noise: list[list[bytes]], losses: set[int], mtu: int
) -> None:
    peer = Peer()
    peer.lose = losses.__contains__
    done = play(
        impatient(name, retries=9), peer, noise=noise, mtu=mtu, segments=[(0, 16384), (65536, 8192)]
    )
    _only_memory_was_sent(done)
    assert done.report.claims_success or done.report.error in errno.errorcode.values()
    assert done.nic.events == ["start", "end"]
    assert done.pool.out == 0
    if name == "netdump2" and done.report.claims_success:
        assert done.stored() == done.image


def _only_memory_was_sent(done: Played) -> None:
    image = done.image
    headers = {sent.payload for sent in done.peer.of_kind(KDH)}
    for sent in done.peer.of_kind(VMCORE):
        if sent.offset < len(image):
            assert sent.payload == image[sent.offset : sent.offset + len(sent.payload)]
        else:
            assert sent.payload in headers, "the footer is the header"
