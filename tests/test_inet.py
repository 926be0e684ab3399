"""Ethernet, IPv4 and UDP: scapy builds and reads the same frames, a slow reading judges the same.

The invariant of reception: whatever octets arrive, each frame gets one verdict, the same that a
plain reading of the frame by itself gives, and octets beyond a frame's end change nothing.
"""

from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scapy.layers.inet import IP
from scapy.layers.inet import UDP as UDPLayer
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet, Raw

from netdump import arp
from netdump.checksum import checksum, ones_sum, payload_sums, row_sums
from netdump.errors import LocalError
from netdump.inet import (
    ARP,
    REASONS,
    UDP,
    Checks,
    Expect,
    Flow,
    classify_and_validate,
    udp_headers,
)
from netdump.messages import MessageType, pack_acks, pack_headers
from nic_models.frames import Frames

PROPERTY = settings(max_examples=150)

MAC = bytes.fromhex("020000000001")
SERVER_MAC = bytes.fromhex("020000000002")
OUR_IP = bytes([198, 18, 0, 2])
SERVER_IP = bytes([198, 18, 0, 1])
SERVER_PORT = 54321
FLOW = Flow(MAC, SERVER_MAC, OUR_IP, SERVER_IP, 20024, SERVER_PORT)
EXPECT = Expect(MAC, OUR_IP, SERVER_IP, 20024)
PATCH_2010 = Checks(
    destination_mac=False, reject_options=False, ip_checksum=False, udp_checksum=False
)
NO_SUMS = Checks(ip_checksum=False, udp_checksum=False)
CHECKS = [Checks(), PATCH_2010, NO_SUMS, Checks(reject_options=False)]


def slow_sum(data: bytes) -> int:
    """RFC 1071, word by word, folded at each step."""
    total = 0
    for (word,) in struct.iter_unpack(">H", data + b"\0" * (len(data) % 2)):
        total += word
        total = (total & 0xFFFF) + (total >> 16)
    return total


def memory(size: int) -> NDArray[np.uint8]:
    """Octets that tell every place from every other."""
    return np.random.default_rng(5).integers(0, 256, size, dtype=np.uint8)


def frames_of(
    flow: Flow, app: NDArray[np.uint8], payloads: list[bytes], ttl: int = 255
) -> list[bytes]:
    """Headers by the batch function, and the payloads that a NIC would have fetched."""
    buffer = np.frombuffer(b"".join(payloads), np.uint8)
    lengths = np.array([len(payload) for payload in payloads], np.int64)
    addresses = np.cumsum(lengths) - lengths
    sums = payload_sums(buffer, addresses, lengths)
    rows = udp_headers(flow, app, sums, lengths, ttl)
    return [row.tobytes() + payload for row, payload in zip(rows, payloads, strict=True)]


def scapy_frame(flow: Flow, payload: bytes, ttl: int = 255) -> bytes:
    frame = (
        Ether(src=flow.src_mac.hex(":"), dst=flow.dst_mac.hex(":"))
        / IP(
            src=".".join(map(str, flow.src_ip)),
            dst=".".join(map(str, flow.dst_ip)),
            id=0,
            flags="DF",
            ttl=ttl,
        )
        / UDPLayer(sport=flow.src_port, dport=flow.dst_port)
        / Raw(payload)
    )
    return bytes(frame)


def from_server(payload: bytes = b"\0\0\0\1", **ip: object) -> Packet:
    """A frame of the server's, to be spoiled by the caller."""
    return (
        Ether(src=SERVER_MAC.hex(":"), dst=MAC.hex(":"))
        / IP(src="198.18.0.1", dst="198.18.0.2", **ip)
        / UDPLayer(sport=SERVER_PORT, dport=20024)
        / Raw(payload)
    )


def slow_verdict(frame: bytes, checks: Checks) -> tuple[str, bytes]:
    """A plain reading of one frame: the reason, or "arp", or "udp" and its payload."""
    if len(frame) < 14:
        return "runt", b""
    to, ethertype = frame[:6], int.from_bytes(frame[12:14], "big")
    if ethertype == 0x8100:
        return "vlan", b""
    broadcast_arp = ethertype == 0x0806 and to == b"\xff" * 6
    if checks.destination_mac and to != MAC and not broadcast_arp:
        return "destination-mac", b""
    if ethertype == 0x0806:
        return "arp", b""
    if ethertype != 0x0800:
        return "ethertype", b""
    packet = frame[14:]
    if len(packet) < 20:
        return "runt", b""
    if packet[0] >> 4 != 4:
        return "ip-version", b""
    header = (packet[0] & 15) * 4
    if header < 20 or header > len(packet):
        return "ip-header-length", b""
    if checks.reject_options and header > 20:
        return "ip-options", b""
    if checks.ip_checksum and slow_sum(packet[:header]) != 0xFFFF:
        return "ip-checksum", b""
    total = int.from_bytes(packet[2:4], "big")
    if total < header or total > len(packet):
        return "ip-length", b""
    if packet[12:16] != SERVER_IP:
        return "ip-source", b""
    if packet[16:20] != OUR_IP:
        return "ip-destination", b""
    if packet[9] != 17:
        return "ip-protocol", b""
    if int.from_bytes(packet[6:8], "big") & 0x3FFF:
        return "ip-fragment", b""
    udp = packet[header:total]
    if len(udp) < 8:
        return "udp-length", b""
    _, port, length, cksum = struct.unpack(">HHHH", udp[:8])
    if length < 8 or length > len(udp):
        return "udp-length", b""
    if checks.udp_checksum and cksum:
        pseudo = packet[12:20] + struct.pack(">HH", 17, length)
        if slow_sum(pseudo + udp[:length]) != 0xFFFF:
            return "udp-checksum", b""
    return ("udp", udp[8:length]) if port == 20024 else ("udp-port", b"")


def judge(frames: list[bytes], checks: Checks, spare: int = 0) -> list[tuple[str, bytes]]:
    """The batch function's verdicts in the same words; octets beyond each frame are rubbish."""
    block = Frames.of(frames)
    data = np.full((len(frames), block.data.shape[1] + spare), 0xA5, np.uint8)
    for row, frame in zip(data, frames, strict=True):
        row[: len(frame)] = np.frombuffer(frame, np.uint8)
    got = classify_and_validate(data, block.lengths, EXPECT, checks)
    verdicts = []
    for row, kind, reason, start, length in zip(
        data, got.kind, got.reason, got.payload_start, got.payload_length, strict=True
    ):
        name = {ARP: "arp", UDP: "udp"}.get(int(kind), REASONS[reason])
        verdicts.append((name, row[start : start + length].tobytes()))
    names = [name for name, _ in verdicts if name not in ("arp", "udp")]
    assert got.refused == {name: names.count(name) for name in names}
    return verdicts


# --- sums -----------------------------------------------------------------------------------------


@given(data=st.binary(max_size=70))
@PROPERTY
def test_a_sum_is_that_of_rfc_1071(data: bytes) -> None:
    assert ones_sum(data) == slow_sum(data) % 0xFFFF
    assert checksum(data) == 0xFFFF - slow_sum(data)


def test_the_worked_example_of_rfc_1071_adds_up() -> None:
    assert ones_sum(bytes.fromhex("0001f203f4f5f6f7")) == 0xDDF2


@given(
    fragments=st.lists(st.tuples(st.integers(0, 900), st.integers(0, 100)), max_size=12),
    filler=st.sampled_from([None, 0x00, 0xFF]),
)
@PROPERTY
def test_fragments_at_any_address_and_of_any_length_are_summed(
    fragments: list[tuple[int, int]], filler: int | None
) -> None:
    buffer = memory(1000) if filler is None else np.full(1000, filler, np.uint8)
    addresses = np.array([address for address, _ in fragments], np.int64)
    lengths = np.array([length for _, length in fragments], np.int64)
    sums = payload_sums(buffer, addresses, lengths)
    assert sums.tolist() == [slow_sum(buffer[a : a + n].tobytes()) % 0xFFFF for a, n in fragments]


@given(
    rows=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 21)), max_size=8),
    gap=st.booleans(),
)
@PROPERTY
def test_stretches_of_rows_are_summed_also_when_the_rows_are_not_adjacent(
    rows: list[tuple[int, int]], gap: bool
) -> None:
    data = memory(len(rows) * 60).reshape(-1, 60)[:, : 41 if gap else 60]
    starts = np.array([start for start, _ in rows], np.int64)
    lengths = np.array([length for _, length in rows], np.int64)
    assert row_sums(data, starts, lengths).tolist() == [
        slow_sum(row[a : a + n].tobytes()) % 0xFFFF for row, (a, n) in zip(data, rows, strict=True)
    ]


@pytest.mark.parametrize(("address", "length"), [(-1, 4), (97, 4), (0, 101), (0, -2), (2**40, 2)])
def test_a_fragment_outside_memory_is_our_own_mistake(address: int, length: int) -> None:
    with pytest.raises(LocalError, match="inside the buffer"):
        payload_sums(memory(100), np.array([address]), np.array([length]))


def test_an_empty_fragment_may_point_anywhere() -> None:
    assert payload_sums(memory(10), np.array([2**40]), np.array([0])).tolist() == [0]


# --- transmission ---------------------------------------------------------------------------------


def test_a_herald_is_the_frame_written_by_hand() -> None:
    app = pack_headers(MessageType.HERALD, [1], [0], [4])
    (frame,) = frames_of(replace(FLOW, dst_port=20023), app, [b"lab\0"])
    assert frame == bytes.fromhex(
        "020000000002 020000000001 0800"
        "45 00 0038 0000 4000 ff 11 ef8c c6120002 c6120001"
        "4e38 4e37 0024 08a7"
        "00000001 00000001 0000000000000000 00000004 00000000 6c616200"
    )


@given(
    payloads=st.lists(st.binary(max_size=80), min_size=1, max_size=6),
    width=st.sampled_from([0, 1, 4, 23, 24]),
    ttl=st.sampled_from([32, 255]),
    port=st.integers(0, 65535),
)
@settings(max_examples=40)
def test_a_batch_of_frames_is_what_scapy_builds_one_by_one(
    payloads: list[bytes], width: int, ttl: int, port: int
) -> None:
    app = memory(len(payloads) * width).reshape(len(payloads), width)
    flow = replace(FLOW, dst_port=port)
    ours = frames_of(flow, app, payloads, ttl)
    theirs = [
        scapy_frame(flow, row.tobytes() + payload, ttl)
        for row, payload in zip(app, payloads, strict=True)
    ]
    assert ours == theirs


def test_a_whole_64_kib_chunk_goes_out_with_checksums_that_scapy_agrees_with() -> None:
    offsets = np.arange(0, 65536, 1448)
    lengths = np.minimum(1448, 65536 - offsets)
    app = pack_headers(MessageType.VMCORE, np.arange(2, 48), offsets, lengths)
    chunk = memory(65536).tobytes()
    payloads = [chunk[a : a + 1448] for a in range(0, 65536, 1448)]
    for frame in frames_of(FLOW, app, payloads)[::9]:
        read = Ether(frame)
        del read[IP].chksum, read[UDPLayer].chksum
        assert bytes(read) == frame


def test_a_udp_checksum_of_zero_is_sent_as_ones() -> None:
    app = np.zeros((1, 2), np.uint8)
    empty = Ether(frames_of(FLOW, app, [b""])[0])
    app[0] = np.frombuffer(int(empty[UDPLayer].chksum).to_bytes(2, "big"), np.uint8)
    (frame,) = frames_of(FLOW, app, [b""])
    assert frame[40:42] == b"\xff\xff"
    assert frame == scapy_frame(FLOW, app.tobytes())


@pytest.mark.parametrize("total", range(0, 0x10000, 0x0FFF))
def test_the_ip_checksum_is_right_at_any_length(total: int) -> None:
    length = min(max(total, 28), 65535) - 28
    rows = udp_headers(FLOW, np.zeros((1, 0), np.uint8), np.array([0]), np.array([length]))
    assert checksum(rows[0, 14:34].tobytes()) == 0


def test_a_packet_beyond_64_kib_is_our_own_mistake() -> None:
    app = np.zeros((1, 24), np.uint8)
    with pytest.raises(LocalError, match="65507"):
        udp_headers(FLOW, app, np.array([0]), np.array([65507 - 23]))


def test_no_frames_make_no_headers() -> None:
    nothing = np.zeros(0, np.int64)
    assert udp_headers(FLOW, np.zeros((0, 24), np.uint8), nothing, nothing).shape == (0, 66)


def test_a_crooked_address_is_our_own_mistake() -> None:
    with pytest.raises(LocalError):
        replace(FLOW, dst_mac=b"\xff")
    with pytest.raises(LocalError):
        replace(FLOW, dst_port=65536)
    with pytest.raises(LocalError):
        replace(EXPECT, peer_ip=b"")


# --- reception ------------------------------------------------------------------------------------


def test_a_servers_ack_is_taken_with_its_port_and_its_padding_left_off() -> None:
    frame = bytes(from_server(pack_acks([7]).tobytes())).ljust(60, b"\x55")
    data = np.frombuffer(frame, np.uint8)[None, :]
    got = classify_and_validate(data, np.array([60]), EXPECT)
    assert got.kind.tolist() == [UDP]
    assert (got.payload_start[0], got.payload_length[0]) == (42, 4)
    assert got.source_port[0] == SERVER_PORT
    assert got.refused == {}


def test_a_udp_checksum_of_zero_means_that_the_sender_made_none() -> None:
    frame = from_server()
    frame[UDPLayer].chksum = 0
    assert judge([bytes(frame)], Checks()) == [("udp", b"\0\0\0\1")]


def test_arp_may_be_broadcast_and_nothing_else_may() -> None:
    request = arp.request(SERVER_MAC, SERVER_IP, OUR_IP)
    datagram = b"\xff" * 6 + bytes(from_server())[6:]
    stray = b"\x02" + b"\0" * 4 + b"\x66" + request[6:]
    assert [name for name, _ in judge([request, datagram, stray], Checks())] == [
        "arp",
        "destination-mac",
        "destination-mac",
    ]
    assert [name for name, _ in judge([request, datagram, stray], PATCH_2010)] == [
        "arp",
        "udp",
        "arp",
    ]


def spoiled(layer: type[Packet], **fields: object) -> bytes:
    """The server's ack with fields changed and the checksums made good again."""
    frame = from_server()
    for name, value in fields.items():
        setattr(frame[layer], name, value)
    return bytes(frame)


TROUBLE = [
    (bytes(from_server())[:13], "runt"),
    (bytes(from_server())[:33], "runt"),
    (bytes(Ether(src=SERVER_MAC, dst=MAC.hex(":")) / Dot1Q(vlan=5) / IP()), "vlan"),
    (spoiled(Ether, dst="02:00:00:00:00:66"), "destination-mac"),
    (spoiled(Ether, type=0x86DD), "ethertype"),
    (spoiled(IP, version=6), "ip-version"),
    (spoiled(IP, ihl=4), "ip-header-length"),
    (spoiled(IP, ihl=15), "ip-header-length"),
    (bytes(from_server(options=b"\x01" * 4)), "ip-options"),
    (spoiled(IP, chksum=0x1234), "ip-checksum"),
    (spoiled(IP, len=19), "ip-length"),
    (spoiled(IP, len=33), "ip-length"),
    (spoiled(IP, src="198.18.0.66"), "ip-source"),
    (spoiled(IP, dst="198.18.0.66"), "ip-destination"),
    (spoiled(IP, proto=1), "ip-protocol"),
    (spoiled(IP, flags="MF"), "ip-fragment"),
    (spoiled(IP, frag=1), "ip-fragment"),
    (spoiled(IP, len=27), "udp-length"),
    (spoiled(UDPLayer, len=7), "udp-length"),
    (spoiled(UDPLayer, len=0), "udp-length"),
    (spoiled(UDPLayer, len=13), "udp-length"),
    (spoiled(UDPLayer, chksum=0x1234), "udp-checksum"),
    (spoiled(UDPLayer, dport=20023), "udp-port"),
]


@pytest.mark.parametrize(("frame", "reason"), TROUBLE)
def test_each_trouble_has_its_own_name(frame: bytes, reason: str) -> None:
    assert judge([frame], Checks()) == [(reason, b"")]
    assert slow_verdict(frame, Checks()) == (reason, b"")


def test_troubles_of_a_batch_are_counted_by_name() -> None:
    frames = [frame for frame, _ in TROUBLE] + [bytes(from_server())]
    judged = [name for name, _ in judge(frames, Checks())]
    assert judged == [reason for _, reason in TROUBLE] + ["udp"]
    assert set(judged) - {"udp"} == set(REASONS) - {"good"}


def test_the_lax_client_of_2010_skips_reject_options() -> None:
    frame = bytes(from_server(b"\0\0\0\x09", options=b"\x01" * 40))
    assert judge([frame], PATCH_2010) == [("udp", b"\0\0\0\x09")]
    assert judge([frame], Checks(reject_options=False)) == [("udp", b"\0\0\0\x09")]


def test_a_client_without_checksums_believes_a_damaged_ack() -> None:
    frame = bytearray(bytes(from_server()))
    frame[45] ^= 0x40
    assert judge([bytes(frame)], Checks()) == [("udp-checksum", b"")]
    assert judge([bytes(frame)], NO_SUMS) == [("udp", b"\0\0\0\x41")]


def test_a_frame_longer_than_its_row_was_cut() -> None:
    data = np.frombuffer(bytes(from_server(bytes(100))), np.uint8)[None, :80]
    assert classify_and_validate(data, np.array([142]), EXPECT).refused == {"ip-length": 1}


def test_no_frames_get_no_verdict() -> None:
    empty = Frames.empty()
    assert len(classify_and_validate(empty.data, empty.lengths, EXPECT).kind) == 0


def patch(frame: bytes, at: int, octets: bytes, mend: bool) -> bytes:
    """Overwrite a piece; perhaps mend the IP checksum, so that later tests are reached."""
    out = bytearray(frame)
    at %= max(1, len(out))
    out[at : at + len(octets)] = octets
    header = 14 + (out[14] & 15) * 4 if len(out) > 14 else 0
    if mend and 34 <= header <= len(out):
        out[24:26] = b"\0\0"
        out[24:26] = checksum(bytes(out[14:header])).to_bytes(2, "big")
    return bytes(out)


GOOD = [
    bytes(from_server()),
    bytes(from_server()).ljust(60, b"\0"),
    bytes(from_server(bytes(range(33)))),
    bytes(from_server(options=b"\x01" * 12)),
    arp.request(SERVER_MAC, SERVER_IP, OUR_IP),
]


@given(
    frames=st.lists(
        st.one_of(
            st.binary(max_size=70),
            st.builds(
                patch,
                st.sampled_from(GOOD),
                st.integers(0, 60),
                st.binary(max_size=3),
                st.booleans(),
            ),
            st.builds(lambda frame, n: frame[:n], st.sampled_from(GOOD), st.integers(0, 60)),
        ),
        max_size=8,
    ),
    checks=st.sampled_from(CHECKS),
    spare=st.sampled_from([0, 1, 200]),
)
@example(frames=[frame for frame, _ in TROUBLE], checks=PATCH_2010, spare=0)
@example(frames=[b"\0"], checks=Checks(), spare=0)
@settings(max_examples=300)
def test_a_batch_is_judged_as_a_plain_reading_judges_each_frame(
    frames: list[bytes], checks: Checks, spare: int
) -> None:
    assert judge(frames, checks, spare) == [slow_verdict(frame, checks) for frame in frames]
