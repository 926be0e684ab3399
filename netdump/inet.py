"""Ethernet, IPv4 and UDP of the panic path, a batch at a time.

Frames of ours are what FreeBSD's debugnet_inet.c builds: Ethernet II, IPv4 without options (IHL 5,
TOS 0, ID 0, DF, TTL 255), UDP with its checksum always computed, 0 sent as 0xffff (RFC 768). No
fragments, no VLAN, no IPv6. Short frames are padded by the NIC, not here.

    0       6       12     14                  34                  42
    | to    | from  | type | IPv4 header       | UDP header        | netdump header | payload
                            +2 total length     +0 source port
                            +10 checksum        +2 destination port
                            +12 from, +16 to    +4 length, +6 checksum

A payload lies in the dumping machine's memory and is only summed, never copied into a frame:
``udp_headers`` makes the headers alone, and the NIC's DMA joins them.

Reception is a list of tests in debugnet's order; the first one that a frame fails names its reason.
Each test is one row of a boolean matrix, so that the whole list is one argmax over the batch. A
test may look at octets beyond the frame's end, for an earlier one has refused such a frame by then.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from netdump.checksum import ONES, SWAP, head_sums, ones_sum, row_sums
from netdump.errors import LocalError
from netdump.messages import count_reasons

ETHERNET_SIZE = 14
IP_SIZE = 20
UDP_SIZE = 8
#: Ethernet, IPv4 and UDP headers together.
HEADERS_SIZE = ETHERNET_SIZE + IP_SIZE + UDP_SIZE

ETHERTYPE_IP = 0x0800
ETHERTYPE_ARP = 0x0806
ETHERTYPE_VLAN = 0x8100
BROADCAST = b"\xff" * 6
PROTOCOL_UDP = 17
DEFAULT_TTL = 255

_DONT_FRAGMENT = 0x4000
_FRAGMENT_BITS = 0x3FFF  # more fragments, and the offset
_IP_MAX = 0xFFFF

_TEMPLATE = struct.Struct(">6s6sHBBHHHBBH4s4sHHHH")
assert _TEMPLATE.size == HEADERS_SIZE


# --- transmission ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Flow:
    """Who sends to whom. MAC addresses are six octets, IP addresses four, in wire order."""

    src_mac: bytes
    dst_mac: bytes
    src_ip: bytes
    dst_ip: bytes
    src_port: int
    dst_port: int

    def __post_init__(self) -> None:
        sizes = [len(a) for a in (self.src_mac, self.dst_mac, self.src_ip, self.dst_ip)]
        if sizes != [6, 6, 4, 4]:
            raise LocalError(f"{self!r}: MAC addresses have 6 octets, IPv4 addresses 4, in bytes")
        if not (0 <= self.src_port <= 0xFFFF and 0 <= self.dst_port <= 0xFFFF):
            raise LocalError(f"{self!r}: a port is 0..65535")


def udp_headers(
    flow: Flow,
    app_headers: NDArray[np.uint8],
    payload_sums: NDArray[np.int64],
    payload_lengths: NDArray[np.int64],
    ttl: int = DEFAULT_TTL,
) -> NDArray[np.uint8]:
    """The headers of a batch of frames: uint8 (n, 42 + w), checksums included.

    ``app_headers`` uint8 (n, w) follow the UDP header; the payload, whose sums and lengths
    (octets) are given, follows them. Raises LocalError if a packet would exceed 65535 octets; the
    MTU is the caller's business.
    """
    count, width = app_headers.shape
    udp_lengths = payload_lengths + (UDP_SIZE + width)
    if count and (payload_lengths.min() < 0 or udp_lengths.max() > _IP_MAX - IP_SIZE):
        raise LocalError(
            f"payloads of {payload_lengths.min()}..{payload_lengths.max()} octets and a header of "
            f"{width}: an IPv4 packet holds at most {_IP_MAX - IP_SIZE - UDP_SIZE} of both"
        )
    template, ip_sum, udp_sum = _template(flow, ttl)
    rows = np.empty((count, HEADERS_SIZE + width), np.uint8)
    rows[:, :HEADERS_SIZE] = template
    rows[:, HEADERS_SIZE:] = app_headers

    ip_lengths = udp_lengths + IP_SIZE
    # The header is never all zeros, so its sum's complement is never 0xffff but 0.
    ip_checksums = (ONES - (ip_sum + ip_lengths) % ONES) % ONES
    after = payload_sums if width % 2 == 0 else payload_sums * SWAP
    # The UDP length counts twice: in the header and in the pseudo-header.
    total = head_sums(app_headers) + after + (udp_sum + 2 * udp_lengths)
    _column(rows, 16)[:] = ip_lengths
    _column(rows, 24)[:] = ip_checksums
    _column(rows, 38)[:] = udp_lengths
    _column(rows, 40)[:] = ONES - total % ONES  # 1..0xffff: never "no checksum"
    return rows


@lru_cache(maxsize=64)
def _template(flow: Flow, ttl: int) -> tuple[NDArray[np.uint8], int, int]:
    """A frame's first 42 octets without lengths and checksums; the sums of its two parts."""
    head = _TEMPLATE.pack(
        *(flow.dst_mac, flow.src_mac, ETHERTYPE_IP),
        *(0x45, 0, 0, 0, _DONT_FRAGMENT, ttl, PROTOCOL_UDP, 0, flow.src_ip, flow.dst_ip),
        *(flow.src_port, flow.dst_port, 0, 0),
    )
    ip_sum = ones_sum(head[ETHERNET_SIZE:-UDP_SIZE])
    udp_sum = ones_sum(flow.src_ip + flow.dst_ip) + PROTOCOL_UDP + flow.src_port + flow.dst_port
    return np.frombuffer(head, np.uint8), ip_sum, udp_sum


def _column(rows: NDArray[np.uint8], offset: int) -> NDArray[np.uint16]:
    """The big-endian u16 at ``offset`` of every row, to be written."""
    return rows[:, offset : offset + 2].view(">u2")[:, 0]


def is_host(mac: bytes) -> bool:
    """Could it be one host's MAC: neither zeros nor a group's?"""
    return len(mac) == 6 and any(mac) and not mac[0] & 1


# --- reception ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Expect:
    """Whose frames we take: to ``mac``, ``our_ip`` and ``port``, from ``peer_ip``."""

    mac: bytes
    our_ip: bytes
    peer_ip: bytes
    port: int | NDArray[np.int64]
    """Or one for each frame, (n,)."""

    def __post_init__(self) -> None:
        if [len(self.mac), len(self.our_ip), len(self.peer_ip)] != [6, 4, 4]:
            raise LocalError(f"{self!r}: a MAC address has 6 octets, an IPv4 address 4, in bytes")


@dataclass(frozen=True, slots=True)
class Checks:
    """The tests that some client in history left out. All on is how it should be.

    ``destination_mac``: off, a NIC in promiscuous mode feeds us other hosts' frames.
    ``reject_options``: off, IP options are skipped instead of refused.
    ``ip_checksum``, ``udp_checksum``: off, only the NIC could have noticed damage.
    """

    destination_mac: bool = True
    reject_options: bool = True
    ip_checksum: bool = True
    udp_checksum: bool = True


#: What a received frame is to us: ``Received.kind``.
REFUSED, ARP, UDP = range(3)


class _Test(IntEnum):
    """The tests in order; the first that holds is the frame's verdict. ARP and UDP are good."""

    RUNT = 0
    VLAN = 1
    DESTINATION_MAC = 2
    ETHERTYPE = 3
    ARP = 4
    IP_RUNT = 5
    IP_VERSION = 6
    IP_HEADER_LENGTH = 7
    IP_OPTIONS = 8
    IP_CHECKSUM = 9
    IP_LENGTH = 10
    IP_SOURCE = 11
    IP_DESTINATION = 12
    IP_PROTOCOL = 13
    IP_FRAGMENT = 14
    UDP_LENGTH = 15
    UDP_CHECKSUM = 16
    UDP_PORT = 17
    UDP = 18


def _reason(test: _Test) -> str:
    if test in (_Test.ARP, _Test.UDP):
        return "good"
    return "runt" if test is _Test.IP_RUNT else test.name.lower().replace("_", "-")


#: What the numbers in ``Received.reason`` mean; 0 is good.
REASONS = tuple(dict.fromkeys(["good", *map(_reason, _Test)]))
_REASON_OF = np.array([REASONS.index(_reason(test)) for test in _Test], np.uint8)
_KIND_OF = np.zeros(len(_Test), np.uint8)
_KIND_OF[[_Test.ARP, _Test.UDP]] = ARP, UDP

#: The fields that the tests look at. ``to`` is the destination MAC and two octets more.
_FRAME = np.dtype(
    {
        "names": [
            *("to", "ethertype", "version_ihl", "ip_length", "fragment", "protocol"),
            *("ip_source", "ip_destination", "from_port", "to_port", "udp_length", "udp_checksum"),
        ],
        "formats": [">u8", ">u2", "u1", ">u2", ">u2", "u1", ">u4", ">u4", *[">u2"] * 4],
        "offsets": [0, 12, 14, 16, 20, 23, 26, 30, 34, 36, 38, 40],
        "itemsize": HEADERS_SIZE,
    }
)
_UDP_AT = ETHERNET_SIZE + IP_SIZE


@dataclass(frozen=True, slots=True)
class Received:
    """What became of each frame of a batch.

    ``kind`` uint8: REFUSED, ARP or UDP. ``reason`` uint8: index of ``REASONS``, 0 unless refused.
    ``payload_start``, ``payload_length``, ``source_port`` int64: the UDP payload's column and
    octets, and the sender's port; all 0 unless UDP. An ARP frame is left to the ARP module.
    """

    kind: NDArray[np.uint8]
    reason: NDArray[np.uint8]
    payload_start: NDArray[np.int64]
    payload_length: NDArray[np.int64]
    source_port: NDArray[np.int64]

    @property
    def refused(self) -> dict[str, int]:
        """How many frames were refused, by reason; reasons that did not occur are left out."""
        return count_reasons(self.reason, REASONS)


_ALL_CHECKS = Checks()


def classify_and_validate(
    data: NDArray[np.uint8],
    lengths: NDArray[np.int64],
    expect: Expect,
    checks: Checks = _ALL_CHECKS,
) -> Received:
    """Sort a batch of received frames: uint8 (n, stride), lengths in octets without FCS.

    Never raises on octets. A length beyond the stride counts as the stride. A UDP checksum of 0
    means that the sender made none (RFC 768), and passes.
    """
    count, stride = data.shape
    data = np.ascontiguousarray(data)
    lengths = np.minimum(np.asarray(lengths, np.int64), stride)
    head = np.zeros((count, HEADERS_SIZE), np.uint8)
    width = min(stride, HEADERS_SIZE)
    head[:, :width] = data[:, :width]
    header_length = (head[:, ETHERNET_SIZE] & 0xF).astype(np.int64) * 4
    udp_at = ETHERNET_SIZE + header_length
    if not checks.reject_options:
        # Seldom, and never on the path of a dump: bring the UDP headers to their usual place.
        optioned = (header_length > IP_SIZE) & (udp_at + UDP_SIZE <= lengths)
        for row in np.flatnonzero(optioned).tolist():
            start = int(udp_at[row])
            head[row, _UDP_AT:] = data[row, start : start + UDP_SIZE]
    frame = head.view(_FRAME).reshape(count)

    ethertype = frame["ethertype"]
    is_arp = ethertype == ETHERTYPE_ARP
    ip_length = frame["ip_length"].astype(np.int64)
    udp_length = frame["udp_length"].astype(np.int64)
    ip_room = ip_length - header_length

    holds = np.zeros((len(_Test), count), np.bool_)
    holds[_Test.RUNT] = lengths < ETHERNET_SIZE
    holds[_Test.VLAN] = ethertype == ETHERTYPE_VLAN
    if checks.destination_mac:
        to = frame["to"] >> 16
        for_us = to == int.from_bytes(expect.mac, "big")
        holds[_Test.DESTINATION_MAC] = ~(for_us | is_arp & (to == int.from_bytes(BROADCAST, "big")))
    holds[_Test.ARP] = is_arp
    holds[_Test.ETHERTYPE] = ~(is_arp | (ethertype == ETHERTYPE_IP))
    holds[_Test.IP_RUNT] = lengths < _UDP_AT
    holds[_Test.IP_VERSION] = frame["version_ihl"] >> 4 != 4
    holds[_Test.IP_HEADER_LENGTH] = (header_length < IP_SIZE) | (udp_at > lengths)
    if checks.reject_options:
        holds[_Test.IP_OPTIONS] = header_length > IP_SIZE
    if checks.ip_checksum:
        sums = head_sums(head[:, ETHERNET_SIZE:_UDP_AT])
        if not checks.reject_options:
            alive = ~holds[: _Test.IP_CHECKSUM].any(axis=0)
            starts = np.full(count, _UDP_AT, np.int64)
            sums += row_sums(data, starts, (header_length - IP_SIZE) * alive)
        holds[_Test.IP_CHECKSUM] = sums % ONES != 0
    holds[_Test.IP_LENGTH] = (ip_room < 0) | (ip_length > lengths - ETHERNET_SIZE)
    holds[_Test.IP_SOURCE] = frame["ip_source"] != int.from_bytes(expect.peer_ip, "big")
    holds[_Test.IP_DESTINATION] = frame["ip_destination"] != int.from_bytes(expect.our_ip, "big")
    holds[_Test.IP_PROTOCOL] = frame["protocol"] != PROTOCOL_UDP
    holds[_Test.IP_FRAGMENT] = frame["fragment"] & _FRAGMENT_BITS != 0
    holds[_Test.UDP_LENGTH] = (udp_length < UDP_SIZE) | (udp_length > ip_room)
    if checks.udp_checksum:
        alive = ~holds[: _Test.UDP_CHECKSUM].any(axis=0) & (frame["udp_checksum"] != 0)
        sums = row_sums(data, udp_at, udp_length * alive)
        sums += udp_length + (ones_sum(expect.peer_ip + expect.our_ip) + PROTOCOL_UDP)
        holds[_Test.UDP_CHECKSUM] = alive & (sums % ONES != 0)
    holds[_Test.UDP_PORT] = frame["to_port"] != expect.port
    holds[_Test.UDP] = True

    verdict = holds.argmax(axis=0)
    is_udp = verdict == _Test.UDP
    return Received(
        kind=_KIND_OF[verdict],
        reason=_REASON_OF[verdict],
        payload_start=(udp_at + UDP_SIZE) * is_udp,
        payload_length=(udp_length - UDP_SIZE) * is_udp,
        source_port=frame["from_port"] * is_udp.astype(np.int64),
    )
