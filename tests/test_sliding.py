"""A sliding window, against wires that lose, delay and overflow."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from guest.kernel.memory import OutOfMemory, PhysicalMemory
from netdump.client import NetdumpClient
from netdump.dumper import DumpImage
from netdump.errors import SendFailed
from netdump.flight import memory_for
from netdump.messages import MessageType
from netdump.profiles import PROFILES
from netdump.rate import FLOOR, QUEUE
from netdump.window import fragment
from tests.window_rig import (
    MSS,
    Fate,
    LossyLink,
    Path,
    PathLink,
    lose_once,
    profile,
    slide,
    window_over,
)


def losing(share: float, seed: int = 1) -> Fate:
    """That share of frames, and of acks."""
    draw = np.random.default_rng(seed)

    def fate(_seqno: int, _nth: int) -> tuple[bool, bool]:
        first, second = draw.random(2)
        return bool(first >= share), bool(second >= share)

    return fate


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


def test_a_frame_that_is_lost_ten_times_holds_up_nobody() -> None:
    """What was sent after each of its transmissions tells; no timeout does, and none goes off."""
    path = Path(rate=100, round_trip=3, queue=10_000)
    link = PathLink(path, lambda seqno, _nth: (seqno != 1000 or link.sent[1000] > 10, True))
    slide(link, profile("netdump2", polls=100_000), 20_000)
    assert link.sent[1000] == 11
    assert (link.resent, link.probed) == (10, 0)
    assert path.now < 20_000 // 100 + 20


def test_a_window_grows_while_it_waits_and_never_exceeds_its_limit() -> None:
    link = PathLink(Path(rate=1000, round_trip=4, queue=10_000), lose_once())
    window = slide(link, profile("netdump2", polls=200, window_frames=256), 3000)
    assert window.seqno == 3100
    assert link.kept == set(range(100, 3100))
    assert window._rate.window == 256
    assert link.polls >= 3000 // 256 * 4


def test_who_never_waits_has_no_use_for_a_larger_window() -> None:
    """A server as fast as the client: each poll brings acks, and no tick ever passes."""
    link = LossyLink(lose_once())
    assert slide(link, profile("netdump2"), 5000)._rate.window == FLOOR
    assert link.most_in_flight == FLOOR


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


def test_all_that_a_window_needs_is_reserved_at_boot() -> None:
    """31 octets a frame, and a quarter more frames than the window; and no more is ever taken."""
    row = PROFILES["netdump2"]
    assert memory_for(row.window_frames) == 31 * (32768 + 8192 + 64) == 1_271_744
    segments = [(4096, 64 << 10)]
    for arena, enough in ((1 << 20, False), (2 << 20, True)):
        memory = PhysicalMemory(1 << 20, arena)
        image = DumpImage(memory, segments)
        if enough:
            NetdumpClient(row, memory, image)
            assert memory.arena_used < arena
        else:
            with pytest.raises(OutOfMemory, match=r"the panic arena has .* a larger arena"):
                NetdumpClient(row, memory, image)


def test_one_window_serves_many_sends_and_many_kinds() -> None:
    link = LossyLink(lose_once(600))
    window = window_over(link, profile("netdump2", window_frames=64))
    for kind in (MessageType.VMCORE, MessageType.KDH, MessageType.FINISHED):
        window.send(kind, iter([fragment(0, 0, 400 * MSS, MSS)]))
    assert link.kept == set(range(100, 1300))


@pytest.mark.parametrize(
    ("share", "least"), [(0.001, 0.85), (0.01, 0.85), (0.05, 0.75), (0.2, 0.7)]
)
def test_loss_costs_what_is_lost_and_little_more(share: float, least: float) -> None:
    """The rate over a way of 83 frames a millisecond, 10 ms round, each frame acknowledged by one
    that may be lost too; against what would pass if only the lost were sent again."""
    path = Path(rate=83, round_trip=10, queue=2000)
    link = PathLink(path, losing(share))
    slide(link, profile("netdump2", polls=200), 40_000)
    assert link.kept == set(range(100, 40_100))
    assert path.overflowed == 0
    assert 40_000 / (1 - share) ** 2 / 83 / path.now > least


def test_a_way_that_is_long_and_fat_is_filled() -> None:
    """1 Gbit/s and 100 ms: 8,300 frames a round trip, of which one in a hundred is lost."""
    path = Path(rate=83, round_trip=100, queue=2000)
    link = PathLink(path, losing(0.01))
    slide(link, profile("netdump2", polls=200), 150_000)
    assert len(link.kept) == 150_000
    assert 150_000 / 83 / path.now > 0.4


@pytest.mark.parametrize("queue", [100, 400, 2000])
@pytest.mark.parametrize("share", [0.0, 0.05])
def test_a_queue_that_overflows_is_not_flooded(queue: int, share: float) -> None:
    """What is sent is what is delivered, and a seventh more at the worst; and the line is used."""
    path = Path(rate=83, round_trip=5, queue=queue)
    link = PathLink(path, losing(share))
    slide(link, profile("netdump2", polls=200), 30_000)
    sent = sum(link.sent.values())
    assert path.overflowed / sent < 0.15
    assert path.passed / path.now / 83 > 0.65


def test_the_socket_of_a_server_without_privileges_is_found_out() -> None:
    """Linux gives it 212,992 octets, doubled: 184 frames, which come all at once."""
    path = Path(rate=184, round_trip=1, queue=184)
    link = PathLink(path, losing(0))
    slide(link, profile("netdump2", polls=200), 20_000)
    assert path.overflowed / sum(link.sent.values()) < 0.12
    assert path.passed / path.now > 0.85 * 184


def test_a_queue_that_is_deep_is_not_filled() -> None:
    path = Path(rate=83, round_trip=2, queue=100_000)
    link = PathLink(path, losing(0))
    window = slide(link, profile("netdump2", polls=200), 60_000)
    assert window._rate.window < 83 * 2 + 2.5 * QUEUE


@settings(max_examples=80)
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


class HostileLink(LossyLink):
    """What arrives, which acks come, when, in what order, and what else is acknowledged: drawn."""

    def __init__(self, seed: int, share: float, ring: int, dies_at: int, hold: int) -> None:
        super().__init__(losing(share, seed), ring)
        self._draw = np.random.default_rng(seed)
        self._dies_at, self._hold = dies_at, hold
        self._waiting: list[int] = []

    def poll(self) -> NDArray[np.int64]:
        self._waiting += super().poll().tolist()
        if self.polls > self._dies_at or self._draw.integers(0, self._hold + 1):
            return np.zeros(0, np.int64)
        acks, self._waiting = self._waiting, []
        self._draw.shuffle(acks)
        strays = self._draw.integers(1000, 2**32, self._draw.integers(0, 3)).tolist()
        return np.array([*acks, *acks[:2], *strays], np.int64)


@settings(max_examples=80)
@given(
    seed=st.integers(0, 10_000),
    share=st.sampled_from([0.0, 0.2, 0.6]),
    ring=st.integers(0, 50),
    dies_at=st.sampled_from([0, 30, 10**9]),
    hold=st.integers(0, 4),
    limit=st.sampled_from([1, 64, 200]),
)
def test_whatever_the_wire_does_a_send_delivers_or_fails_within_its_polls(
    seed: int, share: float, ring: int, dies_at: int, hold: int, limit: int
) -> None:
    link = HostileLink(seed, share, ring, dies_at, hold)
    # So many that chance does not end a send: a window of one frame has a round for each try.
    row = profile("netdump2", polls=10, retries=20, window_frames=limit)
    window = window_over(link, row, 0)
    count, delivered = 60, True
    try:
        window.send(MessageType.VMCORE, iter([fragment(0, 0, count * MSS, MSS)]))
    except SendFailed:
        delivered = False
    silence = max(row.polls, 4 * window._rate.mean) + 1
    assert link.polls <= (count + 1) * (row.retries + 1) * silence
    assert not delivered or link.kept == set(range(count))
    assert delivered or dies_at < 10**9 or ring == 0 or share == 0.6
