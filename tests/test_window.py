"""Two ways of keeping frames in flight, against a wire that loses what it is told to lose."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from netdump.messages import MessageType
from netdump.profiles import PROFILES, Profile
from netdump.window import (
    MAX_IN_FLIGHT,
    AckBits,
    SendFailed,
    SlidingWindow,
    StopAndWait,
    fragment,
)

CHUNK = 64 * 1024
MSS = 1448
ALIASED = [*range(14), *range(32, 46)]

#: Says what becomes of the n-th transmission of a seqno: does it arrive, does its ack?
Fate = Callable[[int, int], tuple[bool, bool]]


class LossyLink:
    """A link whose peer acknowledges what arrives, one poll later."""

    payload_size = MSS

    def __init__(self, fate: Fate, ring: int = 10_000) -> None:
        self._fate = fate
        self._ring = ring
        self._acks: list[int] = []
        self.kept: set[int] = set()
        self.sent: Counter[int] = Counter()
        self.in_flight: set[int] = set()
        self.most_in_flight = 0
        self.polls = 0
        self.refused: Counter[str] = Counter()
        self.resent = 0
        self.probed = 0

    def send(self, kind: MessageType, fragments: NDArray[np.void]) -> int:
        taken = fragments[: self._ring]
        for seqno in taken["seqno"].tolist():
            nth = self.sent[seqno]
            self.sent[seqno] += 1
            self.in_flight.add(seqno)
            self.most_in_flight = max(self.most_in_flight, len(self.in_flight))
            arrives, ack_arrives = self._fate(seqno, nth)
            if arrives:
                self.kept.add(seqno)
                if ack_arrives:
                    self._acks.append(seqno)
        return len(taken)

    def poll(self) -> NDArray[np.int64]:
        self.polls += 1
        acks, self._acks = self._acks, []
        self.in_flight -= set(acks)
        return np.array(acks, np.int64)

    def delay(self) -> None:
        pass

    def refuse(self, reason: str, count: int = 1) -> None:
        self.refused[reason] += count

    def retransmits(self, count: int, why: str) -> None:
        self.resent += count

    def probes(self, count: int) -> None:
        self.probed += count


def profile(name: str, **columns: object) -> Profile:
    return replace(PROFILES[name], **{"polls": 5, **columns})  # type: ignore[arg-type]


def lose_once(*seqnos: int) -> Fate:
    return lambda seqno, nth: (not (seqno in seqnos and nth == 0), True)


@pytest.mark.parametrize("lost", range(46))
def test_the_stock_bitmap_leaves_a_hole_in_exactly_28_of_46_positions(lost: int) -> None:
    link = LossyLink(lose_once(10 + lost))
    StopAndWait(link, profile("freebsd-14"), 10).send(MessageType.VMCORE, 0, 0, CHUNK)
    missing = set(range(10, 56)) - link.kept
    assert missing == ({10 + lost} if lost in ALIASED else set())


@pytest.mark.parametrize("lost", range(46))
def test_sound_bits_leave_none(lost: int) -> None:
    link = LossyLink(lose_once(10 + lost))
    sender = StopAndWait(link, profile("freebsd-14", ack_bits="exact"), 10)
    sender.send(MessageType.VMCORE, 0, 0, CHUNK)
    assert link.kept == set(range(10, 56))
    assert sender.seqno == 56


def test_the_bits_are_those_a_c_compiler_made() -> None:
    """``1 << k`` in int, on x86-64 and arm64, widened to uint64."""
    bits = AckBits("int32")
    assert [bits.bit(k) for k in (0, 13, 30, 31, 32, 45, 63)] == [
        *(1, 1 << 13, 1 << 30, 0xFFFFFFFF80000000, 1, 1 << 13, 0xFFFFFFFF80000000)
    ]


def test_a_stock_chunk_counts_as_done_after_32_acks() -> None:
    link = LossyLink(lambda seqno, nth: (True, seqno < 32))
    StopAndWait(link, profile("freebsd-14"), 0).send(MessageType.VMCORE, 0, 0, CHUNK)
    assert link.resent == 0


def test_silence_ends_after_twelve_waits_as_in_freebsd() -> None:
    link = LossyLink(lambda seqno, nth: (False, False))
    with pytest.raises(SendFailed, match="ETIMEDOUT"):
        StopAndWait(link, PROFILES["freebsd-14"], 1).send(MessageType.HERALD, 0, 0, 0)
    assert link.sent[1] == 12
    assert link.polls == 12 * 2001


def test_a_full_ring_fails_a_stock_send_at_once() -> None:
    link = LossyLink(lose_once(), ring=40)
    with pytest.raises(SendFailed, match="ENOBUFS: the NIC took 40 of 46"):
        StopAndWait(link, profile("freebsd-14"), 1).send(MessageType.VMCORE, 0, 0, CHUNK)


def slide(link: LossyLink, row: Profile, count: int, first: int = 100) -> SlidingWindow:
    window = SlidingWindow(link, row, first)
    window.send(MessageType.VMCORE, iter([fragment(0, 0, count * MSS, MSS)]))
    return window


def test_a_full_ring_only_slows_a_window() -> None:
    link = LossyLink(lose_once(), ring=7)
    assert slide(link, profile("netdump2"), 500).seqno == 600
    assert link.kept == set(range(100, 600))


def test_a_lost_frame_is_sent_again_as_soon_as_it_is_overtaken() -> None:
    link = LossyLink(lose_once(110))
    slide(link, profile("netdump2", polls=100_000), 400)
    assert link.kept == set(range(100, 500))
    assert link.sent[110] == 2
    assert link.polls < 100  # no poll budget was waited out


def test_the_window_opens_and_never_exceeds_its_limit() -> None:
    link = LossyLink(lose_once())
    slide(link, profile("netdump2", window_frames=256), 3000)
    assert link.most_in_flight == 256


def test_the_window_wraps_its_seqnos() -> None:
    link = LossyLink(lose_once(0xFFFFFFFF, 3))
    slide(link, profile("netdump2"), 300, first=2**32 - 100)
    assert link.kept == {(2**32 - 100 + k) % 2**32 for k in range(300)}


def test_acks_of_nothing_in_flight_are_counted_and_ignored() -> None:
    link = LossyLink(lose_once())
    link._acks = [5, 99, 100 + 2**20]
    slide(link, profile("netdump2"), 10)
    assert link.refused == {"ack-late": 2, "ack-future": 1}


def test_a_dead_peer_ends_a_window_within_its_polls() -> None:
    row = profile("netdump2", polls=9, retries=3)
    link = LossyLink(lambda seqno, nth: (seqno < 150, True))
    with pytest.raises(SendFailed, match=r"ETIMEDOUT: VMCORE at offset \d+"):
        slide(link, row, 500)
    assert link.polls < 10 * (3 + 1) + 20


@settings(max_examples=150)
@given(
    losses=st.sets(st.tuples(st.integers(0, 299), st.integers(0, 3)), max_size=150),
    ack_losses=st.sets(st.tuples(st.integers(0, 299), st.integers(0, 3)), max_size=150),
    ring=st.integers(1, 400),
    limit=st.sampled_from([1, 3, 64, 200]),
)
def test_whatever_is_lost_a_window_delivers_everything(
    losses: set[tuple[int, int]], ack_losses: set[tuple[int, int]], ring: int, limit: int
) -> None:
    link = LossyLink(lambda s, n: ((s, n) not in losses, (s, n) not in ack_losses), ring)
    window = slide(link, profile("netdump2", retries=20, window_frames=limit), 300, first=0)
    assert link.kept == set(range(300))
    assert window.seqno == 300
    assert link.most_in_flight <= limit


@settings(max_examples=150)
@given(st.sets(st.tuples(st.integers(0, 45), st.integers(0, 3)), max_size=60))
def test_whatever_is_lost_sound_stop_and_wait_delivers_a_chunk(
    losses: set[tuple[int, int]],
) -> None:
    link = LossyLink(lambda s, n: ((s, n) not in losses, True))
    StopAndWait(link, profile("freebsd-14", ack_bits="exact"), 0).send(
        MessageType.VMCORE, 0, 0, CHUNK
    )
    assert link.kept == set(range(46))


@given(st.integers(0, 10**9), st.integers(0, CHUNK), st.integers(1, 9000))
def test_fragments_cover_a_piece_exactly(offset: int, length: int, size: int) -> None:
    table = fragment(offset, 7, length, size)
    assert table["length"].sum() == length
    assert (table["offset"][1:] == table["offset"][:-1] + table["length"][:-1]).all()
    assert (table["address"] - table["offset"] == 7 - offset).all()
    assert len(table) == max(1, -(-length // size))
    assert MAX_IN_FLIGHT == 64
