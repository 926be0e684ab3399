"""A TAP in a namespace of its own: the same frames for plain sockets, whatever path they took."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import ARP, Ether

from bench.clock import RealClock
from bench.wire.namespace import ROOTLESS, NetNamespace, rootless_reexec_command
from bench.wire.segment import Segment, interface_up
from bench.wire.superframe import mergeable_runs
from bench.wire.tap import InterfaceDown, TapWire, can_tap
from nic_models.frames import Frames
from tests import wire_frames as wf
from tests.patience import HANG_S, until

CAPABILITY = can_tap()
pytestmark = [
    pytest.mark.tap,
    pytest.mark.skipif(not CAPABILITY.ok, reason=f"{CAPABILITY.why}; {CAPABILITY.cure}"),
]

UDP_SEGMENT = 103


@pytest.fixture
def namespace() -> Iterator[NetNamespace]:
    with NetNamespace() as made:
        yield made


@pytest.fixture(params=[True, False], ids=["super-frames", "single-frames"])
def wire(request: pytest.FixtureRequest, namespace: NetNamespace) -> Iterator[TapWire]:
    tap = TapWire.open(namespace, Segment(), RealClock(), superframes=request.param)
    yield tap
    tap.close()


def server_socket(namespace: NetNamespace, port: int = 40000) -> socket.socket:
    sock = namespace.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((wf.SERVER_IP, port))
    sock.settimeout(HANG_S)
    return sock


def all_datagrams(sock: socket.socket) -> list[bytes]:
    sock.setblocking(False)
    datagrams = []
    try:
        while True:
            datagrams.append(sock.recv(65536))
    except BlockingIOError:
        return datagrams


def heard(wire: TapWire, at_least: int = 1) -> list[bytes]:
    """What has arrived, waiting for it."""
    frames: list[bytes] = []

    def enough() -> bool:
        batch = wire.receive()
        frames.extend(batch.bytes_of(i) for i in range(len(batch)))
        return len(frames) >= at_least

    until(enough, f"{at_least} frames from the TAP")
    return frames


def introduce(wire: TapWire) -> None:
    """Let the kernel learn the client's MAC, as a client's own ARP request would."""
    wire.send(Frames.of([wf.arp_request()]))
    assert ARP in Ether(heard(wire)[0])


def payload_of(frame: bytes) -> bytes:
    return frame[42:]


def test_a_chunk_of_a_dump_arrives_whole_and_in_order(
    namespace: NetNamespace, wire: TapWire
) -> None:
    chunk = [wf.vmcore(seqno) for seqno in range(2, 47)] + [wf.vmcore(47, 376)]
    with server_socket(namespace) as sock:
        wire.send(Frames.of(chunk))
        assert all_datagrams(sock) == [payload_of(frame) for frame in chunk]
    assert (wire.dropped, wire.refused) == (0, 0)


def test_a_chunk_goes_out_in_two_super_frames() -> None:
    chunk = [wf.vmcore(seqno) for seqno in range(2, 47)] + [wf.vmcore(47, 376)]
    assert mergeable_runs(Frames.of(chunk)) == [(0, 44), (44, 46)]


def test_a_broken_frame_goes_out_alone_and_stays_broken(
    namespace: NetNamespace, wire: TapWire
) -> None:
    frames = [bytearray(wf.vmcore(seqno)) for seqno in range(8)]
    frames[2][100] ^= 1  # payload: the UDP checksum no longer fits
    frames[4][24] ^= 1  # IP checksum
    frames[6][38:40] = b"\xff\xff"  # UDP length
    batch = Frames.of([bytes(frame) for frame in frames])
    runs = [run for run in mergeable_runs(batch) if run[1] - run[0] > 1]
    assert runs == [(0, 2)]
    with server_socket(namespace) as sock:
        wire.send(batch)
        good = [payload_of(bytes(frames[i])) for i in (0, 1, 3, 5, 7)]
        assert all_datagrams(sock) == good


def test_only_neighbours_of_one_flow_are_merged() -> None:
    other_port, other_ttl = wf.vmcore(1, dport=40001), bytearray(wf.vmcore(2))
    other_ttl[22] -= 1
    other_ttl[24:26] = (int.from_bytes(other_ttl[24:26], "big") + 0x100).to_bytes(2, "big")
    assert IP(bytes(other_ttl)[14:]).ttl == 63
    longer = wf.vmcore(3, 1449)
    no_checksum = bytearray(wf.vmcore(4))
    no_checksum[40:42] = bytes(2)
    story = [wf.vmcore(0), other_port, wf.vmcore(0), bytes(other_ttl), wf.vmcore(0), longer]
    story += [bytes(no_checksum), wf.arp_request(), wf.vmcore(0, 10), wf.vmcore(5)]
    runs = mergeable_runs(Frames.of(story))
    assert runs == [(i, i + 1) for i in range(len(story))]


def test_random_damage_is_the_same_story_by_both_paths(namespace: NetNamespace) -> None:
    random = np.random.default_rng(7)
    batch = Frames.of([wf.vmcore(i, 1448 if i % 23 else 100) for i in range(200)])
    for i in random.choice(200, 60, replace=False).tolist():
        bit = int(random.integers(14 * 8, batch.lengths[i] * 8))
        batch.data[i, bit // 8] ^= 0x80 >> bit % 8
    stories = []
    for merged in (True, False):
        wire = TapWire.open(
            namespace, Segment(name=f"tap{merged:d}"), RealClock(), superframes=merged
        )
        with server_socket(namespace) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            wire.send(batch)
            stories.append(all_datagrams(sock))
        wire.close()
    assert stories[0] == stories[1]
    assert 130 <= len(stories[0]) <= 150


def test_the_kernels_acks_have_right_checksums_and_are_padded(
    namespace: NetNamespace, wire: TapWire
) -> None:
    introduce(wire)
    with server_socket(namespace) as sock:
        for seqno in range(5):
            sock.sendto(seqno.to_bytes(4, "big"), (wf.CLIENT_IP, 20024))
    check_acks(heard(wire, 5), 5)


def test_a_super_frame_of_acks_is_cut_into_acks(namespace: NetNamespace, wire: TapWire) -> None:
    introduce(wire)
    acks = b"".join(seqno.to_bytes(4, "big") for seqno in range(50))
    size = (4).to_bytes(2, sys.byteorder)
    with server_socket(namespace) as sock:
        sock.connect((wf.CLIENT_IP, 20024))
        sock.send((1000).to_bytes(4, "big"))
        sock.sendmsg([acks], [(socket.IPPROTO_UDP, UDP_SEGMENT, size)])
        sock.send((1001).to_bytes(4, "big"))
    frames = heard(wire, 52)
    assert [int.from_bytes(f[42:46], "big") for f in frames] == [1000, *range(50), 1001]
    check_acks(frames[1:-1], 50)


def test_large_datagrams_come_whole(namespace: NetNamespace) -> None:
    wire = TapWire.open(namespace, Segment(mtu=9000), RealClock())
    introduce(wire)
    big = [bytes([i]) * 8948 for i in range(7)]
    with server_socket(namespace) as sock:
        sock.sendto(big[0], (wf.CLIENT_IP, 20024))
        sock.connect((wf.CLIENT_IP, 20024))
        size = (8948).to_bytes(2, sys.byteorder)
        sock.sendmsg([b"".join(big[1:]) + b"tail"], [(socket.IPPROTO_UDP, UDP_SEGMENT, size)])
    frames = heard(wire, 8)
    assert [Ether(f)[UDP].load for f in frames[:-1]] == big
    assert frames[-1][42:46] == b"tail"
    wire.close()


def check_acks(frames: list[bytes], count: int) -> None:
    """By scapy: each one right by itself."""
    assert len(frames) == count
    for seqno, frame in enumerate(frames):
        packet = Ether(frame)
        assert len(frame) == 60
        assert frame[46:] == bytes(14)
        assert packet[IP].len == 32
        assert packet[UDP].len == 12
        assert frame[42:46] == seqno.to_bytes(4, "big")
        again = packet.copy()
        del again[IP].chksum
        del again[UDP].chksum
        assert bytes(again) == frame


def test_behind_a_gateway_only_the_gateway_answers_arp(namespace: NetNamespace) -> None:
    segment = Segment(server_ip="198.19.0.1", gateway_ip="198.18.0.254")
    wire = TapWire.open(namespace, segment, RealClock())
    wire.send(Frames.of([wf.arp_request("198.19.0.1")]))
    time.sleep(0.05)
    assert len(wire.receive()) == 0
    wire.send(Frames.of([wf.arp_request("198.18.0.254")]))
    (answer,) = heard(wire)
    assert Ether(answer)[ARP].hwsrc == segment.mac
    with namespace.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("198.19.0.1", 20023))
        sock.settimeout(HANG_S)
        wire.send(Frames.of([wf.datagram(b"herald", dst_ip="198.19.0.1")]))
        _, client = sock.recvfrom(100)
        assert client == (wf.CLIENT_IP, 20024)
        sock.sendto(b"ack!", client)
    (answer,) = heard(wire)
    assert (Ether(answer)[IP].src, Ether(answer).src) == ("198.19.0.1", segment.mac)
    wire.close()


def test_a_quiet_segment_is_quiet(wire: TapWire) -> None:
    time.sleep(0.1)
    assert len(wire.receive()) == 0


def test_an_unplugged_interface_is_a_typed_error(namespace: NetNamespace, wire: TapWire) -> None:
    namespace.run(interface_up, Segment(), False)
    with pytest.raises(InterfaceDown, match="is down"):
        wire.send(Frames.of([wf.arp_request()]))
    namespace.run(interface_up, Segment(), True)
    introduce(wire)


def test_a_frame_shorter_than_an_ethernet_header_is_refused_and_counted(wire: TapWire) -> None:
    wire.send(Frames.of([b"short", wf.arp_request()]))
    assert wire.refused == 1
    assert len(heard(wire)) == 1


def test_two_benches_do_not_see_each_other() -> None:
    with NetNamespace() as one, NetNamespace() as two:
        wires = [TapWire.open(namespace, Segment(), RealClock()) for namespace in (one, two)]
        wires[0].send(Frames.of([wf.arp_request()]))
        assert len(heard(wires[0])) == 1
        assert len(wires[1].receive()) == 0
        for wire in wires:
            wire.close()


def test_a_killed_bench_leaves_nothing_behind() -> None:
    """The namespace's inode is gone from the kernel's table with the process that made it."""
    script = (
        "from bench.clock import RealClock; from bench.wire.tap import *;"
        "from bench.wire.namespace import NetNamespace; import os, time;"
        "n = NetNamespace(); w = TapWire.open(n, Segment(), RealClock());"
        "print(os.fstat(n.fd).st_ino, flush=True); time.sleep(600)"
    )
    bench = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert bench.stdout is not None
    inode = bench.stdout.readline().strip()
    assert inode in namespaces_alive()
    bench.send_signal(signal.SIGKILL)
    bench.wait(HANG_S)
    bench.stdout.close()
    assert inode not in namespaces_alive()


def namespaces_alive() -> set[str]:
    """Inodes of network namespaces that some thread of this machine is in."""
    inodes = set()
    for link in Path("/proc").glob("[0-9]*/task/*/ns/net"):
        try:
            inodes.add(os.readlink(link)[5:-1])
        except OSError:
            continue
    return inodes


def test_an_ordinary_user_gets_there_by_a_user_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    assert os.geteuid() or rootless_reexec_command(["true"]) is None
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    command = rootless_reexec_command([sys.executable, "-c", "import os; print(os.environ)"])
    if command is None:
        pytest.skip("unshare --user does not work here: unprivileged user namespaces are off")
    printed = subprocess.run(command, capture_output=True, text=True, timeout=HANG_S, check=True)
    assert ROOTLESS in printed.stdout
    monkeypatch.setenv(ROOTLESS, "1")
    assert rootless_reexec_command(["true"]) is None
