"""Whose acks the client believes, and what it calls those that it refuses."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from guest.synthetic.load import checksum
from netdump.client import Step
from netdump.profiles import PROFILES
from tests import client_rig as rig
from tests.client_rig import (
    HERALD,
    NAMES,
    STOCK,
    VMCORE,
    Peer,
    Sent,
    ack,
    ended,
    impatient,
    play,
    told_as,
    with_options,
)


def with_ip(frame: bytes, **fields: int) -> bytes:
    """Another IPv4 header, its checksum made right: ``fragment``, ``protocol``."""
    head = bytearray(frame[14:34])
    if "fragment" in fields:
        struct.pack_into(">H", head, 6, fields["fragment"])
    head[9] = fields.get("protocol", head[9])
    struct.pack_into(">H", head, 10, 0)
    struct.pack_into(">H", head, 10, checksum(bytes(head)))
    return frame[:14] + bytes(head) + frame[34:]


def flipped(frame: bytes, at: int) -> bytes:
    return frame[:at] + bytes([frame[at] ^ 0x55]) + frame[at + 1 :]


#: A wrong ack: (its name when refused, how it is made of a seqno, who swallows it).
WOUNDS: list[tuple[str, Callable[[int], bytes], tuple[str, ...]]] = [
    ("destination-mac", lambda n: ack(n, to_mac=rig.STRANGER_MAC), ("patch-2010",)),
    ("ip-source", lambda n: ack(n, from_ip=rig.STRANGER_IP), ()),
    ("ip-destination", lambda n: ack(n, to_ip=rig.STRANGER_IP), ()),
    ("udp-port", lambda n: ack(n, to_port=20023), ()),
    ("ack-port", lambda n: ack(n, from_port=7), STOCK),
    ("ip-checksum", lambda n: flipped(ack(n), 24), STOCK),
    ("udp-checksum", lambda n: flipped(ack(n), 40), STOCK),
    ("ip-options", lambda n: with_options(ack(n)), ("patch-2010",)),
    ("ip-fragment", lambda n: with_ip(ack(n), fragment=0x2000), ()),
    ("ip-protocol", lambda n: with_ip(ack(n), protocol=6), ()),
    ("not-an-ack", lambda n: rig.reply(struct.pack(">IB", n, 0)), ()),
    ("not-an-ack", lambda n: rig.reply(struct.pack(">I", n)[:3]), ()),
    ("vlan", lambda n: ack(n)[:12] + b"\x81\0\0\1" + ack(n)[12:], ()),
    ("ethertype", lambda n: ack(n)[:12] + b"\x86\xdd" + ack(n)[14:], ()),
    ("runt", lambda n: ack(n)[:20], ()),
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("reason", "wound", "swallowed_by"), WOUNDS)
def test_a_wrong_ack_is_refused_under_its_name_or_swallowed_by_who_never_looked(
    name: str, reason: str, wound: Callable[[int], bytes], swallowed_by: tuple[str, ...]
) -> None:
    peer = Peer(lambda s: [wound(s.seqno)] if s.kind == VMCORE else [ack(s.seqno)])
    done = play(impatient(name), peer)
    if name in swallowed_by:
        assert done.report.claims_success
        assert done.report.stats.refused == {}
        assert (done.report.stats.foreign_accepted > 0) == (reason == "destination-mac")
    else:
        assert (done.report.error, done.report.failed_in) == ("ETIMEDOUT", Step.DATA)
        assert set(done.report.stats.refused) == {reason}
        assert done.report.stats.foreign_accepted == 0


def test_ours_waits_for_the_heralds_own_ack_to_learn_the_servers_port() -> None:
    def answer(sent: Sent) -> list[bytes]:
        early = [ack(99, from_port=7777)] if sent.kind == HERALD else []
        return [*early, ack(sent.seqno)]

    done = play(PROFILES["netdump2"], Peer(answer))
    assert done.report.claims_success
    assert {sent.to_port for sent in done.peer.sent[1:]} == {rig.PORT}
    assert done.report.stats.refused == {"ack-port": 1}


def test_an_ack_before_the_heralds_own_fixes_no_port_with_us() -> None:
    noise = [[], [ack(99, from_port=7777)]]
    peer = Peer()
    done = play(PROFILES["netdump2"], peer, noise=[[], *noise])
    assert done.report.claims_success
    assert {sent.to_port for sent in peer.sent[1:]} == {rig.PORT}
    refused = done.report.stats.refused
    assert refused["ack-before-herald"] + refused["ack-port"] == 1


@pytest.mark.parametrize("name", STOCK)
@pytest.mark.parametrize("seqno", [0, 1, 65, 10**9])
def test_any_ack_at_all_fixes_the_port_of_a_stock_client(name: str, seqno: int) -> None:
    def answer(sent: Sent) -> list[bytes]:
        early = [ack(seqno, from_port=7777)] if sent.kind == HERALD else []
        return [*early, ack(sent.seqno)]

    done = play(PROFILES[name], Peer(answer))
    assert done.report.claims_success
    assert {sent.to_port for sent in done.peer.sent[1:]} == {7777}


@pytest.mark.parametrize("name", STOCK)
def test_an_ack_within_64_of_what_was_never_sent_jams_a_stock_client(name: str) -> None:
    """The bits must *equal* those that are wanted (debugnet.c, debugnet_send)."""
    peer = Peer(lambda sent: [ack(sent.seqno + 40), ack(sent.seqno)])
    done = play(impatient(name), peer)
    assert ended(done) == told_as(name, "ETIMEDOUT", Step.HERALD)
