"""CRC32C and digest, as the client sends them: to a server that takes them, and to none else."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace

import pytest
from blake3 import blake3

from netdump.profiles import PROFILES
from tests import client_rig as rig
from tests.client_rig import FINISHED, HERALD, VMCORE, Peer, Sent, ack, impatient, play

NETDUMP2 = PROFILES["netdump2"]
MARK, CRC, DIGEST = 0x4E443200, 2, 4


def taking(bits: int, later: int | None = None) -> Callable[[Sent], list[bytes]]:
    """A server that takes these of the offer, and acknowledges what it is sent; ``later`` other
    bits once it has answered the HERALD.
    """
    kept: set[int] = set()

    def answer(sent: Sent) -> list[bytes]:
        kept.add(sent.seqno)
        following = min(n for n in range(min(kept), max(kept) + 2) if n not in kept)
        said = bits if sent.kind == HERALD or later is None else later
        return [rig.reply(struct.pack(">II", MARK | said, following))]

    return answer


def words(peer: Peer) -> set[bool]:
    """Do messages other than the HERALD have a word? (The rig sees that it is their CRC.)"""
    return {bool(sent.aux2) for sent in peer.sent if sent.kind != HERALD}


@pytest.mark.parametrize(("bits", "crcs", "size"), [(1, 0, 0), (3, 1, 0), (5, 0, 48), (7, 1, 48)])
def test_a_server_gets_what_it_took(bits: int, crcs: int, size: int) -> None:
    done = play(NETDUMP2, Peer(taking(bits)))
    assert done.report.claims_success
    assert done.stored() == done.image
    assert words(done.peer) == {bool(crcs)}
    (finished,) = done.peer.of_kind(FINISHED)
    assert len(finished.payload) == size
    if size:
        head = struct.pack(">IIQ", 1, 32, len(done.image))
        assert finished.payload == head + blake3(done.image).digest()


def test_a_stock_server_sees_a_stock_client_but_for_the_heralds_word() -> None:
    stock, plain = play(NETDUMP2, Peer()), play(replace(NETDUMP2, selective_acks=False), Peer())
    assert stock.peer.sent[0] == replace(plain.peer.sent[0], aux2=MARK | 7)
    assert stock.peer.sent[1:] == plain.peer.sent[1:]
    assert words(stock.peer) == {False}
    assert stock.peer.of_kind(FINISHED)[0].payload == b""


def test_a_server_that_answered_as_a_stock_one_can_take_nothing_later() -> None:
    """The port is known by then, and the messages have their form."""
    takes = taking(7)
    done = play(
        NETDUMP2, Peer(lambda sent: [ack(sent.seqno)] if sent.kind == HERALD else takes(sent))
    )
    assert words(done.peer) == {False}
    assert done.peer.of_kind(FINISHED)[0].payload == b""


@pytest.mark.parametrize("bits", [1 | 8, 3 | 16, 7 | 32, 7 | 128])
def test_what_was_not_offered_can_not_be_taken(bits: int) -> None:
    done = play(impatient("netdump2"), Peer(taking(bits)))
    assert not done.report.claims_success
    assert done.report.stats.refused["ack-taken"] > 0
    assert not done.peer.of_kind(VMCORE)


def test_what_is_taken_can_not_change() -> None:
    done = play(impatient("netdump2"), Peer(taking(7, later=1)))
    assert not done.report.claims_success
    assert done.report.stats.refused["ack-taken"] > 0


def test_a_profile_may_withhold_either() -> None:
    for columns, offer in (
        ({"message_crc": False}, 5),
        ({"dump_digest": False}, 3),
        ({"message_crc": False, "dump_digest": False}, 1),
        ({"selective_acks": False}, 0),
    ):
        profile = replace(NETDUMP2, **columns)  # type: ignore[arg-type]
        (herald,) = play(profile, Peer()).peer.of_kind(HERALD)
        assert herald.aux2 == (MARK | offer if offer else 0)


def test_what_is_sent_again_has_its_crc_too() -> None:
    peer = Peer(taking(7))
    peer.lose = lambda number: number in (10, 11, 40)
    done = play(NETDUMP2, peer)
    assert done.report.claims_success
    assert done.report.stats.retransmissions >= 3
    assert words(peer) == {True}
