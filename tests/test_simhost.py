"""The far end in memory behaves as a Linux host does: ARP, checksums, sockets, ICMP."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scapy.layers.inet import ICMP, IP, UDP, IPerror, UDPerror
from scapy.layers.l2 import ARP, Ether

from bench.clock import VirtualClock
from bench.servers import DumpServer
from bench.servers.inprocess import InProcessServer
from bench.servers.simhost.config import HostConfig
from bench.servers.simhost.host import SimHost
from bench.wire.memory import MemoryLink
from nic_models.frames import Frames
from tests import wire_frames as wf

pytestmark = pytest.mark.sim

LATENCY_NS = 50_000
SERVICE_NS = 2_000


@dataclass
class Reply:
    session_id: int
    fresh: bool
    ack: bytes


@dataclass
class EchoCore:
    """A server that acknowledges everything at once, and remembers what it was told."""

    got: list[tuple[int, bytes]] = field(default_factory=list)
    clients: dict[tuple[str, int], int] = field(default_factory=dict)
    forget: list[int] = field(default_factory=list)

    def herald(self, client: tuple[str, int], datagram: bytes, now: float) -> Reply:
        fresh = client not in self.clients
        session = self.clients.setdefault(client, len(self.clients) + 1)
        return Reply(session, fresh, datagram[4:8])

    def receive(
        self, session_id: int, data: NDArray[np.uint8], lengths: NDArray[np.int64], now: float
    ) -> NDArray[np.uint8]:
        for row, length in zip(data, lengths.tolist(), strict=True):
            self.got.append((session_id, row[:length].tobytes()))
        return data[:, 4:8].copy()

    def has_socket(self, session_id: int, local: tuple[str, int]) -> None:
        """It outlives nothing."""

    def tick(self, now: float) -> list[int]:
        forgotten, self.forget = self.forget, []
        return forgotten


class Segment:
    """A link, a host on it, and scapy at our end."""

    def __init__(self, **config: Any) -> None:
        self.clock = VirtualClock()
        self.link = MemoryLink(self.clock, latency_ns=LATENCY_NS)
        self.host = SimHost(self.link.host_end, HostConfig(**config))
        self.core = EchoCore()

    def say(self, *frames: bytes) -> list[Any]:
        """Send frames now; what has come back a millisecond later."""
        self.link.machine_end.send(Frames.of(frames, self.clock.now_ns()))
        self.clock.delay_us(500)
        self.host.pump(self.clock.now_ns())
        self.clock.delay_us(500)
        heard = self.link.machine_end.receive()
        self.times = heard.time_ns.tolist()
        self.frames = [heard.bytes_of(i) for i in range(len(heard))]
        return [Ether(frame) for frame in self.frames]

    def open_session(self) -> int:
        """ARP, HERALD; the port that the server answers from."""
        self.host.listen(self.core)
        self.say(wf.arp_request(self.host.config.gateway_ip or wf.SERVER_IP))
        (ack,) = self.say(wf.datagram(wf.message(wf.HERALD, 1)))
        assert bytes(ack)[42:46] == b"\0\0\0\1"
        port = ack[UDP].sport
        assert isinstance(port, int)
        return port


def right(packet: Any) -> bool:
    again = packet.copy()
    del again[IP].chksum
    del again[UDP].chksum
    return bytes(again) == bytes(packet)


def test_a_session_from_arp_to_acks() -> None:
    segment = Segment()
    port = segment.open_session()
    assert port == 32768
    start = segment.clock.now_ns()
    acks = segment.say(*(wf.vmcore(seqno, dport=port) for seqno in range(2, 48)))
    assert [int.from_bytes(frame[42:46], "big") for frame in segment.frames] == [*range(2, 48)]
    assert all(right(ack) and len(ack) == 60 and ack.dst == wf.CLIENT_MAC for ack in acks)
    # Each takes its turn at the server, which is done with the k-th after k service times.
    assert segment.times == [start + 2 * LATENCY_NS + k * SERVICE_NS for k in range(1, 47)]
    assert segment.core.got[0] == (1, wf.vmcore(2)[42:])


def test_arp_is_answered_for_the_host_alone() -> None:
    segment = Segment()
    (answer,) = segment.say(wf.arp_request())
    assert (answer[ARP].op, answer[ARP].psrc, answer[ARP].hwsrc) == (
        *(2, wf.SERVER_IP),
        wf.SERVER_MAC,
    )
    assert len(answer) == 60
    assert segment.say(wf.arp_request("198.18.0.99")) == []


def test_arp_that_lies_about_its_lengths_is_counted_and_harms_nobody() -> None:
    segment = Segment()
    lies = bytearray(wf.arp_request())
    lies[18] = 99
    assert segment.say(bytes(lies)) == []
    assert dict(segment.host.counts.refused) == {"arp-length": 1}
    assert len(segment.say(wf.arp_request())) == 1


def test_behind_a_gateway_the_servers_own_address_does_not_answer_arp() -> None:
    segment = Segment(ip="198.19.0.1", gateway_ip="198.18.0.254")
    segment.host.listen(segment.core)
    assert segment.say(wf.arp_request("198.19.0.1")) == []
    assert len(segment.say(wf.arp_request("198.18.0.254"))) == 1
    (ack,) = segment.say(wf.datagram(wf.message(wf.HERALD, 1), dst_ip="198.19.0.1"))
    assert (ack[IP].src, ack.src) == ("198.19.0.1", wf.SERVER_MAC)


def test_damaged_frames_and_those_for_others_never_reach_the_server() -> None:
    segment = Segment()
    port = segment.open_session()
    for bit in range(0, 1490 * 8, 173):
        frame = bytearray(wf.vmcore(5, dport=port))
        frame[bit // 8] ^= 0x80 >> bit % 8
        segment.say(bytes(frame))
    segment.say(wf.datagram(wf.message(wf.VMCORE, 9), dport=port, dst="02:00:00:00:00:09"))
    # Only the sender's MAC is protected by nothing: damage there goes unnoticed.
    assert all(got == (1, wf.vmcore(5)[42:]) for got in segment.core.got)
    assert len(segment.core.got) <= 1
    assert segment.host.counts.refused["udp-checksum"] > 50


def test_a_stranger_on_a_sessions_port_gets_icmp_and_not_the_session() -> None:
    segment = Segment()
    port = segment.open_session()
    (answer,) = segment.say(wf.datagram(b"x" * 30, dport=port, sport=9999))
    assert answer[ICMP].type == 3
    assert segment.core.got == []


def test_a_dead_server_answers_with_icmp_port_unreachable_six_times_and_then_seldom() -> None:
    segment = Segment()
    port = segment.open_session()
    segment.host.hang_up()
    lost = wf.vmcore(2, dport=port)
    answers = segment.say(*[lost] * 20)
    assert len(answers) == 6
    for answer in answers:
        assert (answer[ICMP].type, answer[ICMP].code) == (3, 3)
        assert answer[IPerror].dst == wf.SERVER_IP
        assert answer[UDPerror].dport == port
        assert len(answer) == 14 + 576
        sums = answer.copy()
        del sums[IP].chksum
        del sums[ICMP].chksum
        assert bytes(sums)[:38] == bytes(answer)[:38]
    segment.clock.delay_us(2_000_000)
    assert len(segment.say(*[lost] * 20)) == 2
    assert segment.host.counts.unreachable == 40


def test_a_socket_holds_92_frames_and_loses_the_rest() -> None:
    segment = Segment()
    port = segment.open_session()
    segment.say(*(wf.vmcore(seqno, dport=port) for seqno in range(100)))
    assert len(segment.core.got) == 92
    assert segment.host.counts.socket_drops == 8


def test_a_paused_server_goes_on_with_what_its_socket_held() -> None:
    segment = Segment(socket_frames=5)
    port = segment.open_session()
    segment.host.pause()
    assert segment.say(*(wf.vmcore(seqno, dport=port) for seqno in range(8))) == []
    segment.host.resume()
    assert len(segment.say()) == 5
    assert segment.host.counts.socket_drops == 3


def test_a_herald_again_is_answered_from_the_same_port_and_a_second_client_from_another() -> None:
    segment = Segment()
    port = segment.open_session()
    (again,) = segment.say(wf.datagram(wf.message(wf.HERALD, 1)))
    assert again[UDP].sport == port
    (other,) = segment.say(wf.datagram(wf.message(wf.HERALD, 1), sport=20025))
    assert other[UDP].sport == port + 1
    segment.core.forget = [1]
    segment.clock.delay_us(1_000_000)
    segment.host.pump(segment.clock.now_ns())
    assert segment.host.ports == [20023, port + 1]


def test_a_client_that_never_asked_is_asked_for_its_mac_before_it_is_answered() -> None:
    segment = Segment()
    segment.host.listen(segment.core)
    (question,) = segment.say(wf.datagram(wf.message(wf.HERALD, 1)))
    assert (question[ARP].op, question[ARP].pdst) == (1, wf.CLIENT_IP)
    (ack,) = segment.say(wf.arp_reply())
    assert ack.dst == wf.CLIENT_MAC
    assert bytes(ack)[42:46] == b"\0\0\0\1"


@settings(max_examples=100)
@given(st.lists(st.binary(max_size=100), max_size=6), st.lists(st.integers(0, 4000), max_size=20))
def test_no_octets_make_the_host_raise(noise: list[bytes], flips: list[int]) -> None:
    segment = Segment()
    port = segment.open_session()
    frame = bytearray(wf.vmcore(3, 400, dport=port))
    for bit in flips:
        if bit < len(frame) * 8:
            frame[bit // 8] ^= 0x80 >> bit % 8
    segment.say(*noise, bytes(frame), wf.datagram(b"", dport=20023))


def test_the_same_run_twice_is_the_same_run() -> None:
    stories = []
    for _ in range(2):
        segment = Segment()
        port = segment.open_session()
        segment.say(*(wf.vmcore(seqno, dport=port) for seqno in range(100)))
        stories.append((segment.frames, segment.times))
    assert stories[0] == stories[1]


# --- the real server's core on the host -----------------------------------------------------------


def served(tmp_path: Path) -> tuple[Segment, InProcessServer]:
    segment = Segment()
    server = InProcessServer(segment.host, tmp_path / "dumps")
    contract: DumpServer = server
    contract.start()
    segment.say(wf.arp_request())
    return segment, server


def test_a_dump_reaches_the_disk_and_survives_the_servers_death(tmp_path: Path) -> None:
    segment, server = served(tmp_path)
    (ack,) = segment.say(wf.datagram(wf.message(wf.HERALD, 77)))
    port = ack[UDP].sport
    payload = bytes(range(256)) * 4
    for i in range(3):
        packet = wf.message(wf.VMCORE, 78 + i, payload, 1024 * i)
        (ack,) = segment.say(wf.datagram(packet, dport=port))
        assert bytes(ack)[42:46] == (78 + i).to_bytes(4, "big")
    assert server.fd_count() > 0
    server.kill()
    assert not server.running
    assert server.fd_count() == 0
    (stored,) = server.dumpdir.glob("vmcore.*.partial")
    assert stored.read_bytes() == payload * 3
    (icmp,) = segment.say(wf.datagram(wf.message(wf.VMCORE, 81, payload, 3072), dport=port))
    assert ICMP in icmp
    server.restart()
    (ack,) = segment.say(wf.datagram(wf.message(wf.HERALD, 78)))
    assert bytes(ack)[42:46] == (78).to_bytes(4, "big")
    server.stop()
    assert server.fd_count() == 0


# --- ICMP echo, and other programs' sockets -------------------------------------------------------


def ping(dst: str = wf.SERVER_IP, **ip: Any) -> bytes:
    head = Ether(src=wf.CLIENT_MAC, dst=wf.SERVER_MAC) / IP(src=wf.CLIENT_IP, dst=dst, **ip)
    return bytes(head / ICMP(id=7, seq=3) / b"is anybody there?")


@pytest.mark.parametrize("gateway", [None, "198.18.0.254"])
def test_a_ping_is_answered_with_what_it_brought(gateway: str | None) -> None:
    segment = Segment(gateway_ip=gateway)
    segment.say(wf.arp_request(gateway or wf.SERVER_IP))
    for address in filter(None, (wf.SERVER_IP, gateway)):
        (reply,) = segment.say(ping(address))
        assert (reply[IP].src, reply[IP].dst) == (address, wf.CLIENT_IP)
        assert (reply.src, reply.dst) == (wf.SERVER_MAC, wf.CLIENT_MAC)
        assert (reply[ICMP].type, reply[ICMP].id, reply[ICMP].seq) == (0, 7, 3)
        assert bytes(reply[ICMP].payload)[:17] == b"is anybody there?"
        again = reply.copy()
        del again[IP].chksum
        del again[ICMP].chksum
        assert bytes(again) == bytes(reply)


def test_a_ping_that_is_damaged_or_for_somebody_else_is_not_answered() -> None:
    segment = Segment()
    segment.say(wf.arp_request())
    damaged = bytearray(ping())
    damaged[-1] ^= 1
    cut, other_mac = ping()[:36], b"\x02" * 6 + ping()[6:]
    refused = [bytes(damaged), cut, other_mac, ping("198.18.0.77"), ping(flags="MF")]
    assert segment.say(*refused) == []


@given(st.binary(max_size=80), st.integers(0, 63))
@settings(max_examples=200)
def test_no_damage_to_a_ping_makes_the_host_raise(noise: bytes, at: int) -> None:
    segment = Segment()
    frame = bytearray(ping())
    frame[at : at + len(noise)] = noise
    segment.say(wf.arp_request(), bytes(frame))


def test_another_program_of_the_host_hears_its_port_and_the_server_keeps_its_own() -> None:
    segment = Segment(socket_frames=2)
    segment.open_session()
    with segment.host.open_socket(6666) as listener:
        with pytest.raises(BlockingIOError):
            listener.recv(100)
        with pytest.raises(ValueError, match="port 6666"):
            segment.host.open_socket(6666)
        said = [wf.datagram(b"word %d" % i, dport=6666) for i in range(3)]
        assert segment.say(*said) == []
        assert [listener.recv(100), listener.recv(3)] == [b"word 0", b"wor"]
        assert segment.host.counts.socket_drops == 1
        segment.host.hang_up()
        segment.say(wf.datagram(b"after the server's end", dport=6666))
        assert listener.recv(100) == b"after the server's end"
    (answer,) = segment.say(wf.datagram(b"nobody", dport=6666))
    assert answer[ICMP].type == 3
