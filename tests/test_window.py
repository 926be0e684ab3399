"""Stop and wait, against a wire that loses what it is told to lose; and how pieces are cut."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netdump.dumper import Piece
from netdump.errors import SendFailed
from netdump.messages import MessageType
from netdump.profiles import PROFILES
from netdump.window import MAX_IN_FLIGHT, AckBits, StopAndWait, fragment, in_whole_messages
from tests.window_rig import LossyLink, lose_once, profile

CHUNK = 64 * 1024
ALIASED = [*range(14), *range(32, 46)]


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


PIECES: Final = st.lists(st.tuples(st.integers(1, 5000), st.booleans()), max_size=30)


@given(PIECES, st.integers(1, 1448))
def test_pieces_that_follow_each_other_are_cut_as_one(
    lengths: list[tuple[int, bool]], size: int
) -> None:
    """Every byte once, in order, each where it was; a message is short where memory has a gap."""
    pieces, offset, address = [], 0, 4096
    for length, gap in lengths:
        address += 8192 * gap
        pieces.append(Piece(offset, address, length))
        offset, address = offset + length, address + length

    def places(of: Iterable[Piece]) -> list[tuple[int, int]]:
        return [(p.offset + at, p.address + at) for p in of for at in range(p.length)]

    joined = list(in_whole_messages(iter(pieces), size))
    assert places(joined) == places(pieces)
    short = [p for p in joined if p.length % size]
    behind = {p.address + p.length for p in short}
    gaps = {a.address + a.length for a, b in pairwise(pieces) if a.address + a.length != b.address}
    assert behind <= gaps | {address}
