"""ARP: the same octets as scapy's, and the tests before a reply is believed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.l2 import ARP, Ether

from netdump import arp
from netdump.errors import (
    ArpLength,
    ArpOperation,
    ArpProtocol,
    ArpShort,
    LocalError,
    MalformedArp,
)

PROPERTY = settings(max_examples=200)

MAC = bytes.fromhex("020000000001")
IP = bytes([198, 18, 0, 2])
SERVER_MAC = bytes.fromhex("020000000002")
SERVER_IP = bytes([198, 18, 0, 1])
STRANGER_IP = bytes([198, 18, 0, 66])
PEERS = frozenset({SERVER_IP})

REPLY = arp.reply(SERVER_MAC, SERVER_IP, MAC, IP)


def put(data: bytes, offset: int, octets: bytes) -> bytes:
    return data[:offset] + octets + data[offset + len(octets) :]


def judge(frame: bytes, hardware_types: frozenset[int] = frozenset({1})) -> arp.Arp | str:
    """What the link does with a frame: act on the packet, or count the reason why not."""
    try:
        packet = arp.parse(frame)
    except MalformedArp as refusal:
        return refusal.reason
    return arp.accepts(packet, MAC, IP, PEERS, hardware_types) or packet


def test_a_request_is_the_frame_that_scapy_builds() -> None:
    theirs = Ether(src="02:00:00:00:00:01", dst="ff:ff:ff:ff:ff:ff") / ARP(
        op=1,
        hwsrc="02:00:00:00:00:01",
        psrc="198.18.0.2",
        hwdst="00:00:00:00:00:00",
        pdst="198.18.0.1",
    )
    assert arp.request(MAC, IP, SERVER_IP) == bytes(theirs)
    assert len(bytes(theirs)) == arp.FRAME_SIZE == 42


def test_a_reply_is_the_frame_that_scapy_builds_and_reads() -> None:
    theirs = Ether(src="02:00:00:00:00:02", dst="02:00:00:00:00:01") / ARP(
        op=2,
        hwsrc="02:00:00:00:00:02",
        psrc="198.18.0.1",
        hwdst="02:00:00:00:00:01",
        pdst="198.18.0.2",
    )
    assert bytes(theirs) == REPLY
    assert Ether(REPLY)[ARP].hwsrc == "02:00:00:00:00:02"


def test_a_padded_reply_from_the_server_is_believed() -> None:
    packet = judge(REPLY + bytes(18))
    assert isinstance(packet, arp.Arp)
    assert packet.operation == arp.REPLY
    assert packet.sender_mac == SERVER_MAC


def test_a_request_for_our_address_is_to_be_answered() -> None:
    packet = judge(arp.request(SERVER_MAC, SERVER_IP, IP))
    assert isinstance(packet, arp.Arp)
    assert packet.operation == arp.REQUEST
    answer = arp.parse(arp.reply(MAC, IP, packet.sender_mac, packet.sender_ip))
    assert (answer.destination, answer.target_ip) == (SERVER_MAC, SERVER_IP)


@pytest.mark.parametrize(
    ("frame", "error"),
    [
        (REPLY[:41], ArpShort),
        (put(REPLY, 12, b"\x08\x00"), ArpProtocol),
        (put(REPLY, 16, b"\x86\xdd"), ArpProtocol),
        (put(REPLY, 18, b"\xff"), ArpLength),
        (put(REPLY, 19, b"\x10"), ArpLength),
        (put(REPLY, 20, b"\x00\x03"), ArpOperation),
    ],
)
def test_a_crafted_packet_is_malformed(frame: bytes, error: type[MalformedArp]) -> None:
    with pytest.raises(error) as caught:
        arp.parse(frame)
    assert judge(frame) == caught.value.reason


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (put(REPLY, 14, b"\x00\x18"), "arp-hardware"),
        (arp.reply(MAC, SERVER_IP, MAC, IP), "arp-own-mac"),
        (arp.reply(SERVER_MAC, IP, MAC, IP), "arp-own-ip"),
        (arp.reply(b"\xff" * 6, SERVER_IP, MAC, IP), "arp-broadcast-sender"),
        (arp.reply(b"\x01\0\x5e\0\0\1", SERVER_IP, MAC, IP), "arp-broadcast-sender"),
        (arp.reply(SERVER_MAC, STRANGER_IP, MAC, IP), "arp-stranger"),
        (arp.request(SERVER_MAC, SERVER_IP, STRANGER_IP), "arp-not-for-us"),
    ],
)
def test_a_well_formed_packet_is_still_not_believed(frame: bytes, reason: str) -> None:
    assert judge(frame) == reason


def test_the_lax_client_of_2010_takes_firewire_hardware() -> None:
    packet = judge(put(REPLY, 14, b"\x00\x18"), arp.HARDWARE_LAX)
    assert isinstance(packet, arp.Arp)


def test_a_crooked_address_of_our_own_is_our_own_mistake() -> None:
    with pytest.raises(LocalError):
        arp.request(MAC[:5], IP, SERVER_IP)


@given(
    frame=st.one_of(
        st.binary(max_size=64),
        st.builds(put, st.just(REPLY), st.integers(0, 41), st.binary(min_size=1, max_size=8)),
    )
)
@PROPERTY
def test_whatever_arrives_is_an_arp_packet_or_a_named_refusal(frame: bytes) -> None:
    verdict = judge(frame)
    if isinstance(verdict, str):
        assert verdict.startswith("arp-")
    else:
        assert verdict.sender_mac not in (MAC, b"\xff" * 6)
        assert verdict.sender_ip != IP
