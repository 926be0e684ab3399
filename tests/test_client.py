"""The dump client, its link and its dump core, against a peer that a test can bend."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guest.synthetic import PhysicalMemory, fill
from guest.synthetic.load import checksum
from netdump.client import Step
from netdump.dumper import (
    MAX_IO_SIZE,
    DumperInfo,
    DumpImage,
    DumpRefused,
    Piece,
    check_bounds,
)
from netdump.inet import Checks
from netdump.kdh import parse_kdh
from netdump.profiles import PROFILES, Profile
from tests import client_rig as rig
from tests.client_rig import FINISHED, HERALD, KDH, VMCORE, Peer, Played, Pool, Sent, ack, play

NAMES = tuple(PROFILES)
STOCK = ("patch-2010", "freebsd-14")


def impatient(name: str, **columns: object) -> Profile:
    """A profile that gives up soon."""
    return replace(PROFILES[name], **{"polls": 4, "retries": 2, **columns})  # type: ignore[arg-type]


def silent_about(*kinds: int) -> Callable[[Sent], list[bytes]]:
    """A server that acknowledges everything but these."""
    return lambda sent: [] if sent.kind in kinds else [ack(sent.seqno)]


# --- the whole of it ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_dump_is_memory_behind_an_elf_header(name: str) -> None:
    done = play(PROFILES[name], Peer())
    assert done.report.claims_success
    assert (done.report.error, done.report.failed_in, done.report.detail) == (None, None, "")
    assert done.stored()[: len(done.image)] == done.image
    assert done.report.dump_length == len(done.image)
    assert done.report.stats.retransmissions == 0
    assert not done.report.stats.refused
    assert done.nic.events == ["start", "end"]
    assert done.pool.out == 0
    assert done.report.stats.frames_sent == done.nic.frames
    assert {sent.ttl for sent in done.peer.sent} == {32 if name == "patch-2010" else 255}


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("netdump2", [HERALD, VMCORE, KDH, FINISHED]),
        ("freebsd-14", [HERALD, VMCORE, KDH, FINISHED]),
        ("patch-2010", [HERALD, KDH, VMCORE, FINISHED]),
    ],
)
def test_the_header_comes_last_since_freebsd_12_and_came_first_before(
    name: str, order: list[int]
) -> None:
    done = play(PROFILES[name], Peer())
    assert done.peer.kinds() == order
    (header,) = done.peer.of_kind(KDH)
    assert parse_kdh(header.payload).dumplength == len(done.image)
    assert header.offset == 0


@pytest.mark.parametrize("name", NAMES)
def test_only_the_patch_of_2010_sends_the_header_again_behind_the_data(name: str) -> None:
    done = play(PROFILES[name], Peer())
    beyond = [s for s in done.peer.of_kind(VMCORE) if s.offset + len(s.payload) > len(done.image)]
    if name == "patch-2010":
        (footer,) = beyond
        assert footer.offset == len(done.image)
        assert footer.payload == done.peer.of_kind(KDH)[0].payload
    else:
        assert not beyond


def test_a_herald_names_its_folder_and_its_nul() -> None:
    peer = Peer()
    play(PROFILES["freebsd-14"], peer, path="lab")
    assert peer.sent[0].payload == b"lab\0"
    assert peer.sent[0].to_port == 20023
    peer = Peer()
    play(PROFILES["freebsd-14"], peer)
    assert peer.sent[0].payload == b""


@pytest.mark.parametrize(("name", "first"), [("freebsd-14", 1), ("netdump2", 2 + 1000)])
def test_seqnos_run_without_a_gap_from_the_herald_on(name: str, first: int) -> None:
    done = play(PROFILES[name], Peer(), draw=1000)
    seqnos = [sent.seqno for sent in done.peer.sent]
    assert seqnos == list(range(first, first + len(seqnos)))


def test_a_stock_chunk_is_64_kib_and_46_frames() -> None:
    frames = play(PROFILES["freebsd-14"], Peer()).peer.of_kind(VMCORE)
    sizes = [len(sent.payload) for sent in frames[:46]]
    assert sizes == [1448] * 45 + [376]
    assert frames[46].offset == 65536


@pytest.mark.parametrize("mtu", [576, 1500, 4148, 9000])
@pytest.mark.parametrize("name", NAMES)
def test_no_frame_is_larger_than_the_mtu(name: str, mtu: int) -> None:
    # Below 1076 a stock chunk has more frames than the stock bitmap bits.
    done = play(replace(PROFILES[name], ack_bits="exact"), Peer(), mtu=mtu)
    largest = max(len(sent.payload) for sent in done.peer.of_kind(VMCORE)) + 24 + 28
    assert largest <= mtu
    if mtu >= 1076:
        assert done.report.claims_success
        assert done.stored()[: len(done.image)] == done.image


# --- finding the server ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["freebsd-14", "netdump2"])
def test_the_server_is_asked_first_and_the_gateway_after_it(name: str) -> None:
    peer = Peer()
    peer.macs = {rig.GATEWAY_IP: rig.GATEWAY_MAC}
    done = play(impatient(name), peer, gateway=rig.GATEWAY_IP)
    assert peer.asked == [rig.SERVER_IP] * PROFILES[name].arp_retries + [rig.GATEWAY_IP]
    assert done.report.claims_success
    assert {sent.to_mac for sent in peer.sent} == {rig.GATEWAY_MAC}


@pytest.mark.parametrize("name", ["freebsd-14", "netdump2"])
def test_a_server_that_answers_is_reached_directly_whatever_the_gateway(name: str) -> None:
    peer = Peer()
    peer.macs[rig.GATEWAY_IP] = rig.GATEWAY_MAC
    play(PROFILES[name], peer, gateway=rig.GATEWAY_IP)
    assert peer.asked == [rig.SERVER_IP]
    assert {sent.to_mac for sent in peer.sent} == {rig.SERVER_MAC}


def test_the_patch_of_2010_asks_for_the_gateway_alone() -> None:
    peer = Peer()
    peer.macs[rig.GATEWAY_IP] = rig.GATEWAY_MAC
    play(PROFILES["patch-2010"], peer, gateway=rig.GATEWAY_IP)
    assert peer.asked == [rig.GATEWAY_IP]
    assert {sent.to_mac for sent in peer.sent} == {rig.GATEWAY_MAC}
    peer = Peer()
    play(PROFILES["patch-2010"], peer)
    assert peer.asked == [rig.SERVER_IP], "with none configured, the server's address is it"


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("netdump2", [rig.SERVER_IP] * 15 + [rig.GATEWAY_IP] * 15),
        ("freebsd-14", [rig.SERVER_IP] * 3 + [rig.GATEWAY_IP] * 3),
        ("patch-2010", [rig.GATEWAY_IP] * 3),
    ],
)
def test_nobody_there_is_a_timeout_in_bounded_polls(name: str, asked: list[bytes]) -> None:
    peer = Peer()
    peer.macs = {}
    done = play(impatient(name), peer, gateway=rig.GATEWAY_IP)
    assert ended(done) == told_as(name, "ETIMEDOUT", Step.RESOLVE)
    assert peer.asked == asked
    assert not peer.sent
    assert done.report.stats.polls == len(asked) * 5
    assert done.delayed_us == len(asked) * 5 * impatient(name).poll_delay_us
    assert done.nic.events == ["start", "end"]


def test_an_arp_reply_from_elsewhere_is_not_believed() -> None:
    peer = Peer()
    noise = [[rig.arp(2, rig.STRANGER_MAC, rig.STRANGER_IP)]] * 3
    done = play(PROFILES["netdump2"], peer, noise=noise)
    assert done.report.stats.refused["arp-stranger"] == 3
    assert {sent.to_mac for sent in peer.sent} == {rig.SERVER_MAC}


#: The stranger claims the server's address once the client has found it.
LATER_REPLY: list[list[bytes]] = [[]] * 5 + [[rig.arp(2, rig.STRANGER_MAC, rig.SERVER_IP)]]


def ended(done: Played) -> tuple[str | None, Step | None]:
    return done.report.error, done.report.failed_in


def told_as(name: str, error: str, step: Step) -> tuple[str, Step]:
    """FreeBSD's netdump_start makes EINVAL of whatever kept it from its server."""
    squashed = name == "freebsd-14" and step in (Step.RESOLVE, Step.HERALD)
    return ("EINVAL" if squashed else error), step


def test_a_later_arp_reply_hijacks_the_client_of_2010() -> None:
    done = play(impatient("patch-2010"), Peer(), noise=LATER_REPLY)
    assert not done.report.claims_success
    assert rig.STRANGER_MAC in {sent.to_mac for sent in done.peer.sent}


@pytest.mark.parametrize("name", ["freebsd-14", "netdump2"])
def test_a_later_arp_reply_changes_nothing(name: str) -> None:
    peer = Peer()
    done = play(PROFILES[name], peer, noise=LATER_REPLY)
    assert done.report.claims_success
    assert done.report.stats.refused["arp-unasked"] == 1
    assert {sent.to_mac for sent in peer.sent} == {rig.SERVER_MAC}


@pytest.mark.parametrize("name", NAMES)
def test_an_arp_hardware_type_that_is_no_ethernet_convinces_only_2010(name: str) -> None:
    peer = Peer()
    peer.macs = {}
    arcnet = [[], [rig.arp(2, rig.SERVER_MAC, rig.SERVER_IP, hardware=7)]]
    done = play(impatient(name), peer, noise=arcnet)
    assert done.report.failed_in == (Step.HERALD if name == "patch-2010" else Step.RESOLVE)
    if name != "patch-2010":
        assert done.report.stats.refused["arp-hardware"] == 1


def test_acks_that_come_before_the_macs_are_known_are_refused() -> None:
    peer = Peer()
    peer.macs = {rig.STRANGER_IP: rig.SERVER_MAC}  # the server's own address brings no reply
    noise = [[ack(1), ack(1002)], [rig.arp(2, rig.SERVER_MAC, rig.SERVER_IP)]]
    done = play(PROFILES["netdump2"], peer, noise=noise)
    assert done.report.claims_success
    assert done.report.stats.refused == {"before-arp": 2}


# --- the one thing a dying machine answers --------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("to_mac", [rig.BROADCAST, rig.CLIENT_MAC])
def test_a_request_for_our_address_is_answered_to_who_asked(name: str, to_mac: bytes) -> None:
    who = rig.arp(1, rig.STRANGER_MAC, rig.STRANGER_IP, rig.CLIENT_IP, to_mac)
    done = play(PROFILES[name], Peer(), noise=[[], [], [who]])
    assert done.report.claims_success
    assert done.report.stats.arp_answered == 1
    (told,) = done.peer.told
    assert told[:14] == rig.STRANGER_MAC + rig.CLIENT_MAC + b"\x08\x06"
    assert told[14:] == struct.pack(">HHBBH", 1, 0x0800, 6, 4, 2) + (
        rig.CLIENT_MAC + rig.CLIENT_IP + rig.STRANGER_MAC + rig.STRANGER_IP
    )


@pytest.mark.parametrize("name", NAMES)
def test_nobody_else_is_answered(name: str) -> None:
    noise = [
        rig.arp(1, rig.STRANGER_MAC, rig.STRANGER_IP, rig.SERVER_IP, rig.BROADCAST),
        rig.arp(1, rig.CLIENT_MAC, rig.STRANGER_IP),
        rig.arp(1, rig.STRANGER_MAC, rig.CLIENT_IP),
        rig.arp(1, b"\x01" + rig.STRANGER_MAC[1:], rig.STRANGER_IP),
        rig.arp(3, rig.STRANGER_MAC, rig.STRANGER_IP),
        rig.reply(b"are you there?", from_ip=rig.STRANGER_IP, from_mac=rig.STRANGER_MAC),
    ]
    done = play(PROFILES[name], Peer(), noise=[[], noise])
    assert done.report.claims_success
    assert not done.peer.told
    assert done.report.stats.arp_answered == 0
    assert done.report.stats.refused == {
        "arp-not-for-us": 1,
        "arp-own-mac": 1,
        "arp-own-ip": 1,
        "arp-broadcast-sender": 1,
        "arp-operation": 1,
        "ip-source": 1,
    }


# --- whose acks are believed ----------------------------------------------------------------------


def with_ip(frame: bytes, **fields: int) -> bytes:
    """Another IPv4 header, its checksum made right: ``fragment``, ``protocol``."""
    head = bytearray(frame[14:34])
    if "fragment" in fields:
        struct.pack_into(">H", head, 6, fields["fragment"])
    head[9] = fields.get("protocol", head[9])
    struct.pack_into(">H", head, 10, 0)
    struct.pack_into(">H", head, 10, checksum(bytes(head)))
    return frame[:14] + bytes(head) + frame[34:]


def with_options(frame: bytes) -> bytes:
    """Four octets of no-operation behind the IPv4 header."""
    (length,) = struct.unpack_from(">H", frame, 16)
    head = b"\x46\0" + struct.pack(">H", length + 4) + frame[18:24] + b"\0\0" + frame[26:34]
    head += b"\1" * 4
    head = head[:10] + checksum(head).to_bytes(2, "big") + head[12:]
    return frame[:14] + head + frame[34 : 14 + length]


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


# --- selective acks -------------------------------------------------------------------------------


def selectively(
    lose_ack: Callable[[int], bool] = lambda number: False,
) -> Callable[[Sent], list[bytes]]:
    """A server that takes the offer: one ack for all that it has, each time it is sent something.

    Kept by hand, as the format is: words of 4 octets, and a set.
    """
    kept: set[int] = set()
    numbers = count()

    def answer(sent: Sent) -> list[bytes]:
        kept.add(sent.seqno)
        if sent.kind == HERALD:
            assert sent.aux2 == 0x4E443201
        following = min(n for n in range(min(kept), max(kept) + 2) if n not in kept)
        words = [0x4E443201, following]
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
    assert with_offer.peer.of_kind(HERALD)[0].aux2 == 0x4E443201
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


# --- ends -----------------------------------------------------------------------------------------


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


# --- whatever comes -------------------------------------------------------------------------------

#: Right in every field, for a seqno that nobody sent.
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


# --- the dump core --------------------------------------------------------------------------------


def refusal(info: DumperInfo, offset: int, length: int) -> int:
    """errno, or 0 for a write that may happen."""
    try:
        check_bounds(info, offset, length)
    except DumpRefused as refused:
        return refused.errno
    return 0


@pytest.mark.parametrize(
    ("info", "offset", "length", "code"),
    [
        (DumperInfo(media_size=8192), 0, 8192, 0),
        (DumperInfo(media_size=8192), 4096, 8192, errno.ENOSPC),
        (DumperInfo(media_size=8192), 8192, 4096, errno.ENOSPC),
        (DumperInfo(media_offset=4096, media_size=8192), 4096, 8192, 0),
        (DumperInfo(media_offset=4096, media_size=8192), 0, 4096, errno.ENOSPC),
        (DumperInfo(media_offset=4096, media_size=8192), 8192, 8192, errno.ENOSPC),
        # Review 2010: a size of 0 that means no limit is worrying. Here it is a size of 0.
        (DumperInfo(), 0, 4096, errno.ENOSPC),
        (DumperInfo(size_zero_is_unlimited=True), 1 << 40, 4096, 0),
        (DumperInfo(size_zero_is_unlimited=True, media_size=4096), 4096, 4096, errno.ENOSPC),
        (DumperInfo(unlimited=True), 1 << 40, 65536, 0),
        (DumperInfo(unlimited=True, media_size=4096), 1 << 40, 4096, 0),
        (DumperInfo(unlimited=True), 0, 65536 + 4096, errno.ENOSPC),
        (DumperInfo(unlimited=True), 0, 4095, errno.EINVAL),
        (DumperInfo(unlimited=True), 100, 4096, errno.EINVAL),
        (DumperInfo(unlimited=True, block_size=512), 512, 1024, 0),
        (DumperInfo(), 12345, 0, 0),
    ],
)
def test_bounds_are_checked_in_one_place(
    info: DumperInfo, offset: int, length: int, code: int
) -> None:
    assert refusal(info, offset, length) == code


@settings(max_examples=200)
@given(
    media=st.tuples(st.integers(0, 20), st.integers(0, 20)),
    offset=st.integers(0, 50),
    length=st.integers(1, 20),
)
def test_a_bounded_medium_takes_a_write_exactly_if_every_block_of_it_is_inside(
    media: tuple[int, int], offset: int, length: int
) -> None:
    start, size = media
    info = DumperInfo(media_offset=start * 4096, media_size=size * 4096)
    inside = set(range(offset, offset + length)) <= set(range(start, start + size))
    code = refusal(info, offset * 4096, length * 4096)
    assert code == (0 if inside and length <= 16 else errno.ENOSPC)


def blocks(lengths: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Segments from (gap, length) in blocks."""
    segments = []
    at = 0
    for gap, length in lengths:
        at += gap
        segments.append((at * 4096, length * 4096))
        at += length
    return segments


@settings(max_examples=150)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, 40)), min_size=1, max_size=6).map(blocks)
)
def test_pieces_cover_the_image_and_break_where_the_stream_has_64_kib(
    segments: list[tuple[int, int]],
) -> None:
    memory = PhysicalMemory(2 << 20, 16 << 10)
    fill(memory.buffer[: 2 << 20], seed=3)
    image = DumpImage(memory, segments)
    pieces = list(image.pieces(DumperInfo(unlimited=True)))
    stream = b"".join(memory.buffer[p.address : p.address + p.length].tobytes() for p in pieces)
    parts = [memory.buffer[at : at + size].tobytes() for at, size in segments]
    assert stream == image.header + b"".join(parts)
    assert image.length == len(stream)
    lengths = [piece.length for piece in pieces]
    assert [piece.offset for piece in pieces] == [0, *np.cumsum(lengths)[:-1].tolist()]
    for piece in pieces:
        assert piece.length > 0
        assert piece.length % 4096 == piece.offset % 4096 == piece.address % 4096 == 0
        assert piece.offset // MAX_IO_SIZE == (piece.offset + piece.length - 1) // MAX_IO_SIZE


def test_a_medium_that_is_one_block_short_takes_all_but_the_last_piece() -> None:
    memory = PhysicalMemory(1 << 20, 16 << 10)
    image = DumpImage(memory, [(0, 1 << 20)])
    fits = DumperInfo(media_offset=8192, media_size=image.length)
    assert len(list(image.pieces(fits))) == 18
    short = replace(fits, media_size=image.length - 4096)
    taken: list[Piece] = []
    with pytest.raises(DumpRefused, match=r"ENOSPC: write of 4096 bytes at 0x102000 is outside"):
        taken.extend(image.pieces(short))
    assert len(taken) == 17


@pytest.mark.parametrize("segment", [(100, 4096), (4096, 100)])
def test_a_segment_of_broken_blocks_is_refused(segment: tuple[int, int]) -> None:
    memory = PhysicalMemory(1 << 20, 16 << 10)
    with pytest.raises(DumpRefused, match="EINVAL") as refused:
        DumpImage(memory, [segment])
    assert refused.value.errno == errno.EINVAL
