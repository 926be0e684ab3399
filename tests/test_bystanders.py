"""Third hosts on the segment: what they send is real enough to deceive a client that is lax."""

from __future__ import annotations

from typing import Any

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import ARP, Ether

from bench.clock import VirtualClock
from bench.wire.bystanders import OTHER_IPS, OTHER_MACS, Bystanders, Trick
from nic_models.frames import Frames
from tests import wire_frames as wf
from tests.fakes import FakeWire, Seen

pytestmark = pytest.mark.sim


def dissected(frames: Frames) -> list[Any]:
    return [Ether(frames.bytes_of(i)) for i in range(len(frames))]


def with_right_checksums(packet: Any) -> bool:
    """scapy computes them anew and gets the same frame."""
    again = packet.copy()
    del again[IP].chksum
    del again[UDP].chksum
    return bytes(again) == bytes(packet)


def test_a_forged_ack_is_right_in_all_but_the_destination_mac() -> None:
    inner = FakeWire()
    wire = Bystanders(inner, [Trick("acks-for-another-mac")], clock=VirtualClock())
    inner.to_receive = [Frames.of([wf.ack(1, sport=43210)])]  # where the server's port is learned
    assert len(wire.receive()) == 1
    wire.send(Frames.of([wf.vmcore(7, dport=43210), wf.vmcore(0xFFFF0001, dport=43210)]))
    inner.to_receive = [Frames.of([wf.ack(7, sport=43210)])]
    first, second, true = dissected(wire.receive())
    for forged, seqno in ((first, 7), (second, 0xFFFF0001)):
        assert forged.dst == OTHER_MACS[0]
        assert (forged[IP].src, forged[IP].dst) == (wf.SERVER_IP, wf.CLIENT_IP)
        assert (forged[UDP].sport, forged[UDP].dport) == (43210, 20024)
        assert bytes(forged)[42:46] == seqno.to_bytes(4, "big")
        assert with_right_checksums(forged)
        assert len(forged) == 60
    assert true.dst == wf.CLIENT_MAC
    assert wire.added == {"acks-for-another-mac": 2}


def test_no_ack_is_forged_before_the_servers_port_is_known_or_for_a_herald() -> None:
    inner = FakeWire()
    wire = Bystanders(inner, [Trick("acks-for-another-mac")], clock=VirtualClock())
    wire.send(Frames.of([wf.vmcore(1)]))
    inner.to_receive = [Frames.of([wf.ack(1)])]
    assert len(wire.receive()) == 1
    wire.send(Frames.of([wf.datagram(wf.message(wf.HERALD, 1)), wf.arp_request()]))
    assert len(wire.receive()) == 0


def test_noise_comes_every_third_frame_however_they_are_batched() -> None:
    for batches in ([7], [1] * 7, [2, 5]):
        inner, seen = FakeWire(), Seen()
        tricks = [Trick("unicast-to-others", every=3)]
        wire = Bystanders(inner, tricks, clock=VirtualClock(99), observer=seen)
        for size in batches:
            wire.send(Frames.of([wf.vmcore(1)] * size))
        heard = wire.receive()
        assert len(heard) == 2
        assert heard.time_ns.tolist() == [99, 99]
        assert len(seen.frames) == 2
        assert seen.notes[0] == "bystander: unicast-to-others"
        for packet in dissected(heard):
            assert packet.dst in OTHER_MACS
            assert packet[IP].dst in OTHER_IPS
        assert len(inner.sent) == 7


def test_broadcast_noise_is_heard_by_every_nic() -> None:
    wire = Bystanders(FakeWire(), [Trick("broadcast-noise")], clock=VirtualClock())
    wire.send(Frames.of([wf.vmcore(1)] * 2))
    packets = dissected(wire.receive())
    assert {packet.dst for packet in packets} == {"ff:ff:ff:ff:ff:ff"}
    question = next(packet[ARP] for packet in packets if ARP in packet)
    assert question.op == 1
    assert question.pdst not in (wf.CLIENT_IP, wf.SERVER_IP)


def test_a_spoofer_claims_addresses_of_others_only() -> None:
    wire = Bystanders(FakeWire(), [Trick("arp-spoof")], clock=VirtualClock())
    wire.send(Frames.of([wf.vmcore(1)] * 6))
    for packet in dissected(wire.receive()):
        assert packet[ARP].op == 2
        assert packet[ARP].psrc in OTHER_IPS


def test_a_trick_that_does_not_exist_is_refused() -> None:
    nonsense: Any = "sing"
    with pytest.raises(ValueError, match="it sends one of"):
        Trick(nonsense)
    with pytest.raises(ValueError, match="1 or more"):
        Trick("arp-spoof", every=0)
