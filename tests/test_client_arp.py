"""ARP: how the client finds its server or a gateway, and what it answers."""

from __future__ import annotations

import struct

import pytest

from netdump.client import Step
from netdump.profiles import PROFILES
from tests import client_rig as rig
from tests.client_rig import NAMES, Peer, ack, ended, impatient, play, told_as

# --- the server, or a gateway on the way to it ----------------------------------------------------


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
