"""Selective acks: octets by hand, and a reader against a model that is a set of seqnos."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netdump.errors import AckOfUnsent, BadAck, LocalError
from netdump.offer import KNOWN, SELECTIVE_ACKS
from netdump.sack import MAX_RANGES, OFFER, SURE_RANGES, Sack, Scoreboard, parse_sack
from server.acks import FURTHEST, OneByOne, Selective
from server.coverage import MAX_INTERVALS

CIRCLE = 1 << 32
u32 = st.integers(0, CIRCLE - 1)
#: Where a client may begin: anywhere, and where its seqnos soon begin anew.
firsts = st.one_of(u32, st.integers(CIRCLE - 40, CIRCLE - 1), st.just(1))


def words(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(4, "big") for number in numbers)


def test_the_octets_of_an_ack_without_and_with_ranges() -> None:
    assert Sack(1001).pack().hex(" ", 4) == "4e443201 000003e9"
    ack = Sack(0x10, ((0x12, 0x14), (0xFFFF, 0x10000)))
    assert ack.pack().hex(" ", 4) == "4e443201 00000010 00000012 00000014 0000ffff 00010000"
    assert parse_sack(ack.pack()) == ack


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        words(7),  # a stock ack
        words(OFFER),
        words(OFFER, 9)[:-1],
        words(OFFER, 9) + b"\0",
        words(OFFER, 9, 11),  # half a range
        words(OFFER ^ 1, 9),
        words(OFFER, 9, 9, 12),  # touches next
        words(OFFER, 9, 12, 12),
        words(OFFER, 9, 12, 11),
        words(OFFER, 9, 12, 14, 14, 15),  # two that are one
        words(OFFER, 9, 20, 22, 12, 14),
        words(OFFER, 9, 8, 10),
        words(OFFER, 9, 10, 9 + (1 << 31)),  # half round the circle
        words(OFFER, 9, *range(10, 10 + 2 * (MAX_RANGES + 1))),
    ],
)
def test_what_is_no_selective_ack(payload: bytes) -> None:
    with pytest.raises(BadAck):
        parse_sack(payload)


def test_an_ack_of_too_many_ranges_is_our_own_mistake() -> None:
    with pytest.raises(LocalError, match="181 ranges"):
        Sack(1, tuple((n, n + 1) for n in range(2, 545, 3))).pack()


@given(payload=st.one_of(st.binary(max_size=300), st.binary().map(lambda b: words(OFFER) + b)))
def test_any_octets_are_an_ack_or_refused(payload: bytes) -> None:
    try:
        sack = parse_sack(payload)
    except BadAck:
        return
    assert sack.pack() == payload


# --- the server's side, read by the client's ------------------------------------------------------


def server(first: int, seqnos: list[int], bits: int = SELECTIVE_ACKS) -> tuple[Selective, Sack]:
    acks = Selective(first, bits, MAX_INTERVALS)
    acks.datagrams(np.array([first], np.int64))
    (row,) = acks.datagrams(np.array(seqnos, np.int64))
    return acks, parse_sack(row.tobytes())


def test_a_server_says_what_it_has_and_what_it_lacks() -> None:
    _, sack = server(100, [101, 102, 105, 106, 110])
    assert sack == Sack(103, ((105, 107), (110, 111)))
    assert [n for n in range(95, 115) if sack.covers(n)] == [*range(95, 103), 105, 106, 110]


def test_a_server_closes_its_gaps_in_any_order() -> None:
    acks, _ = server(100, [104, 102])
    (row,) = acks.datagrams(np.array([103, 101], np.int64))
    assert parse_sack(row.tobytes()) == Sack(105)


def test_of_many_gaps_the_nearest_are_told_and_those_of_what_has_just_come() -> None:
    """In an ack that any way carries whole, 32; in one as long as what the client sent, 180, if it
    is not one from before there were more."""
    for longest, bits, count in (
        (None, KNOWN, 32),
        (1448, KNOWN, MAX_RANGES),
        (1448, SELECTIVE_ACKS, 32),
    ):
        acks, _ = server(0, list(range(2, 1000, 2)), bits)
        if longest is not None:
            acks.kept(np.array([2]), np.array([longest]))
        (row,) = acks.datagrams(np.array([1200, 1300]))
        sack = parse_sack(row.tobytes())
        nearest = [(n, n + 1) for n in range(2, 2 + 2 * (count - 2), 2)]
        assert sack == Sack(1, (*nearest, (1200, 1201), (1300, 1301)), bits)
        assert len(row) <= 1472
        (row,) = acks.datagrams(np.arange(2000, 3000, 2))
        fresh = [(n, n + 1) for n in range(3000 - count, 3000, 2)]
        assert parse_sack(row.tobytes()).ranges[count // 2 :] == tuple(fresh)


def test_no_news_is_no_datagram_and_no_memory() -> None:
    nothing = np.empty(0, np.int64)
    assert len(OneByOne().datagrams(nothing)) == 0
    acks, _ = server(100, [101])
    assert len(acks.datagrams(nothing)) == 0


def test_a_client_that_skips_seqnos_is_not_remembered_beyond_a_bound() -> None:
    acks = Selective(0, SELECTIVE_ACKS, 8)
    acks.datagrams(np.array([0], np.int64))
    (row,) = acks.datagrams(np.arange(2, 1000, 2))
    sack = parse_sack(row.tobytes())
    assert len(sack.ranges) == 7, "the rest gets silence"


@given(
    first=firsts,
    sent=st.integers(1, 80),
    batches=st.lists(st.lists(st.integers(1, 79), min_size=1, max_size=30), max_size=12),
    fates=st.lists(st.sampled_from(["lost", "late", "twice", "once"]), max_size=12),
)
def test_a_client_knows_what_its_server_has_whatever_acks_are_lost_late_or_doubled(
    first: int, sent: int, batches: list[list[int]], fates: list[str]
) -> None:
    """What it believes is always true, and after any ack that arrives it is all of the truth that
    was told."""
    acks = Selective(first, SELECTIVE_ACKS, MAX_INTERVALS)
    acks.datagrams(np.array([first], np.int64))
    board = Scoreboard(first)
    board.sent([(first + n) % CIRCLE for n in range(sent)])
    kept, believed = {first}, {first}
    late: list[bytes] = []
    for number, places in enumerate(batches):
        seqnos = [(first + place) % CIRCLE for place in places if place < sent]
        if not seqnos:
            continue
        kept |= set(seqnos)
        (row,) = acks.datagrams(np.array(seqnos, np.int64))
        fate = fates[number] if number < len(fates) else "once"
        now = {"lost": [], "late": [], "twice": [row.tobytes()] * 2, "once": [row.tobytes()]}[fate]
        late += [row.tobytes()] * (fate == "late")
        for payload in now:
            sack = parse_sack(payload)
            believed |= set(board.read(sack).tolist())
            assert {s for s in kept if sack.covers(s)} <= believed
            if len(sack.ranges) < SURE_RANGES:
                assert believed == kept
        for payload in late[: number % 2]:
            believed |= set(board.read(parse_sack(payload)).tolist())
            late.pop(0)
        assert believed <= kept


@given(first=firsts, sent=st.integers(1, 20), sack=st.builds(Sack, u32), ahead=st.integers(0, 60))
def test_whatever_an_ack_says_only_what_was_sent_is_believed(
    first: int, sent: int, sack: Sack, ahead: int
) -> None:
    board, calm = Scoreboard(first), Scoreboard(first)
    for each in (board, calm):
        each.sent([(first + n) % CIRCLE for n in range(sent)])
    for hostile in (
        sack,
        Sack((first + ahead) % CIRCLE),
        Sack(first, ((first + 1, first + ahead),)),
    ):
        try:
            seqnos = board.read(hostile)
            calm.read(hostile)
        except AckOfUnsent:
            continue
        assert {(int(seqno) - first) % CIRCLE for seqno in seqnos} <= set(range(sent))
    honest = Sack((first + sent) % CIRCLE)
    assert board.read(honest).tolist() == calm.read(honest).tolist(), "a refused one left no trace"


def test_a_range_of_what_was_never_sent_is_passed_over_and_the_rest_believed() -> None:
    board = Scoreboard(10)
    board.sent(list(range(10, 20)))
    assert board.read(Sack(12, ((14, 15), (19, 21), (500, 501)))).tolist() == [10, 11, 14]


def test_an_ack_that_is_refused_changes_nothing() -> None:
    board = Scoreboard(10)
    board.sent([10, 11, 12])
    with pytest.raises(AckOfUnsent):
        board.read(Sack(14))
    assert board.read(Sack(12)).tolist() == [10, 11]


@pytest.mark.parametrize("seqno", [999, 0, 1002 + FURTHEST, 1002 + (1 << 24), (1 << 31) + 1000])
def test_what_no_window_can_hold_is_not_acknowledged(seqno: int) -> None:
    acks, _ = server(1000, [1001])
    assert len(acks.datagrams(np.array([seqno], np.int64))) == 0
    (row,) = acks.datagrams(np.array([1001], np.int64))
    assert parse_sack(row.tobytes()) == Sack(1002)


def test_a_message_that_was_sent_again_is_no_new_one() -> None:
    board = Scoreboard(10)
    board.sent([10, 11, 12])
    board.sent([11])
    with pytest.raises(AckOfUnsent, match="before 13 was sent"):
        board.read(Sack(14))
    assert board.read(Sack(13)).tolist() == [10, 11, 12]
    assert board.read(Sack(13)).tolist() == [], "said already"
    assert board.read(Sack(11, ((12, 13),))).tolist() == [], "a late one has no news"
