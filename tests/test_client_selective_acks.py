"""Selective acks, as the client offers, reads and refuses them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from netdump.client import Step
from netdump.contracts import TxBatch
from netdump.inet import Checks
from netdump.profiles import PROFILES
from nic_models.frames import Frames
from tests import client_rig as rig
from tests.client_rig import (
    HERALD,
    KDH,
    STOCK,
    VMCORE,
    FakeNic,
    Peer,
    Sent,
    ack,
    ended,
    impatient,
    play,
    told_as,
)


def selectively(
    lose_ack: Callable[[int], bool] = lambda number: False, taken: int = 1
) -> Callable[[Sent], list[bytes]]:
    """A server that takes selective acks alone: one for all that it has, each time it is sent
    something.

    Kept by hand, as the format is: words of 4 octets, and a set.
    """
    kept: set[int] = set()
    numbers = count()

    def answer(sent: Sent) -> list[bytes]:
        kept.add(sent.seqno)
        if sent.kind == HERALD:
            assert sent.aux2 == 0x4E443207
        following = min(n for n in range(min(kept), max(kept) + 2) if n not in kept)
        words = [0x4E443200 | taken, following]
        for first in sorted(n for n in kept if n > following and n - 1 not in kept):
            words += [first, min(n for n in range(first, max(kept) + 2) if n not in kept)]
        payload = struct.pack(f">{len(words)}I", *words)
        return [] if lose_ack(next(numbers)) else [rig.reply(payload)]

    return answer


def test_ours_offers_selective_acks_and_takes_one_for_many() -> None:
    done = play(PROFILES["netdump2"], Peer(selectively()))
    assert done.report.claims_success
    assert done.stored() == done.image
    assert done.report.stats.refused == {}
    assert done.report.stats.acks == done.report.stats.selective_acks == len(done.peer.sent)


@pytest.mark.parametrize("name", STOCK)
def test_stock_clients_offer_nothing(name: str) -> None:
    done = play(PROFILES[name], Peer())
    assert [sent.aux2 for sent in done.peer.of_kind(HERALD)] == [0]


def test_a_server_that_does_not_know_the_offer_changes_nothing() -> None:
    with_offer, without = (
        play(replace(PROFILES["netdump2"], selective_acks=offers), Peer())
        for offers in (True, False)
    )
    assert with_offer.peer.of_kind(HERALD)[0].aux2 == 0x4E443207
    assert without.peer.of_kind(HERALD)[0].aux2 == 0
    assert with_offer.peer.sent[1:] == without.peer.sent[1:]
    assert with_offer.report.stats.selective_acks == 0


def test_nine_of_ten_selective_acks_may_be_lost_and_nothing_is_sent_again() -> None:
    """The next one says it again. Of stock acks each that is lost costs a frame."""
    peer = Peer(selectively(lambda number: 5 < number < 110 and number % 10 != 0))
    done = play(PROFILES["netdump2"], peer)
    assert done.report.claims_success
    assert done.report.stats.retransmissions == 0


def test_what_a_selective_ack_leaves_out_is_sent_again() -> None:
    peer = Peer(selectively())
    peer.lose = lambda number: number in (10, 11, 40)
    done = play(PROFILES["netdump2"], peer)
    assert done.report.claims_success
    assert done.stored() == done.image
    assert done.report.stats.retransmissions == 3


def words(*numbers: int) -> bytes:
    return struct.pack(f">{len(numbers)}I", *numbers)


#: A wrong selective ack: (its name when refused, how it is made of a seqno).
SELECTIVE_WOUNDS: list[tuple[str, Callable[[int], bytes]]] = [
    ("ack-future", lambda n: rig.reply(words(0x4E443201, n + 5000))),
    ("ack-port", lambda n: rig.reply(words(0x4E443201, n + 1), from_port=7)),
    ("not-an-ack", lambda n: rig.reply(words(0x4E443202, n + 1))),
    ("not-an-ack", lambda n: rig.reply(words(0x4E443201, n, n + 2, n + 1))),
    ("destination-mac", lambda n: rig.reply(words(0x4E443201, n + 1), to_mac=rig.STRANGER_MAC)),
]


@pytest.mark.parametrize(("reason", "wound"), SELECTIVE_WOUNDS)
def test_a_wrong_selective_ack_is_refused_under_its_name(
    reason: str, wound: Callable[[int], bytes]
) -> None:
    peer = Peer(lambda s: [wound(s.seqno)] if s.kind == VMCORE else [ack(s.seqno)])
    done = play(impatient("netdump2"), peer)
    assert (done.report.error, done.report.failed_in) == ("ETIMEDOUT", Step.DATA)
    assert set(done.report.stats.refused) == {reason}
    assert done.report.stats.foreign_accepted == 0


def test_a_selective_ack_to_another_mac_is_counted_by_who_never_looks() -> None:
    lax = replace(PROFILES["netdump2"], checks=Checks(destination_mac=False))
    answer = selectively()
    peer = Peer(lambda s: [rig.STRANGER_MAC + frame[6:] for frame in answer(s)])
    done = play(lax, peer)
    assert done.report.claims_success
    assert done.report.stats.foreign_accepted == done.report.stats.selective_acks > 0


class Tardy(FakeNic):
    """It reads the header's first copy a while after the doorbell, others when more is rung for."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.polls = 0
        self.first: tuple[bytes, int, int] | None = None
        self._late: list[tuple[bytes, int, int]] = []

    def transmit(self, batch: TxBatch) -> int:
        taken = super().transmit(batch)
        if batch.headers[0, 42:46].tobytes() == KDH.to_bytes(4, "big"):
            if self.first is None:
                self.first = self._queued.pop()
            else:
                self._late.append(self._queued.pop())
        else:
            self._queued = [*self._late, *self._queued]
            self._late = []
        return taken

    def poll(self, budget: int) -> Frames:
        self.polls += self.first is not None
        if self.polls == 20 and self.first is not None:
            self._queued.append(self.first)
        return super().poll(budget)


def test_a_copy_that_waits_in_the_ring_is_not_overwritten_by_the_next_message() -> None:
    """The header's first copy is acknowledged, and its second, a probe, not read yet, when FINISHED
    is made, which has a digest.
    """
    done = play(PROFILES["netdump2"], Peer(selectively(taken=5)), nic_of=Tardy)
    assert done.report.claims_success
    headers = [sent.payload for sent in done.peer.sent if sent.kind == KDH]
    assert len(headers) > 1
    assert len(set(headers)) == 1


@pytest.mark.parametrize("lost", [60, 100])
def test_when_the_last_acks_of_a_flight_are_lost_a_probe_asks_for_them(lost: int) -> None:
    """Nothing else would: the server has nothing more to say, and the client nothing to send."""
    peer = Peer(selectively(lambda number: lost <= number < 120))
    done = play(PROFILES["netdump2"], peer)
    assert done.report.claims_success
    assert done.report.stats.retransmissions == 0
    assert done.report.stats.probes > 0
    assert done.delayed_us < 150_000, "and not after 200 polls"


def test_a_selective_ack_of_anything_but_the_herald_fixes_no_port() -> None:
    def answer(sent: Sent) -> list[bytes]:
        early = rig.reply(words(0x4E443201, sent.seqno), from_port=7777)
        return [early, ack(sent.seqno)] if sent.kind == HERALD else [ack(sent.seqno)]

    done = play(PROFILES["netdump2"], Peer(answer))
    assert done.report.claims_success
    assert {sent.to_port for sent in done.peer.sent[1:]} == {rig.PORT}
    assert sum(done.report.stats.refused.values()) == 1


def test_a_stock_client_knows_no_selective_acks() -> None:
    peer = Peer(lambda s: [rig.reply(words(0x4E443201, s.seqno + 1))])
    done = play(impatient("freebsd-14"), peer)
    assert ended(done) == told_as("freebsd-14", "ETIMEDOUT", Step.HERALD)
    assert set(done.report.stats.refused) == {"not-an-ack"}
