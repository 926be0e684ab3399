"""ARP (RFC 826) for Ethernet and IPv4, as a dumping kernel speaks it.

Two things happen over ARP. The client asks for the server's MAC address (then the gateway's) and
believes a reply; and it answers requests for its own address, or a peer whose entry expires in a
long dump would lose it.

    0      2       4    5    6          8            14         18           24         28
    | hrd  | pro   | hln| pln| op       | sender MAC | its IP   | target MAC | its IP   |

Nothing authenticates a reply, so the tests before belief are all there is. They are those of
FreeBSD's debugnet_handle_arp(), in its order but for the hardware type, with the bounds it lacks:
address lengths must be 6 and 4 (there, a crafted request's lengths become copy lengths), and no
group address can be a sender's.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from dataclasses import dataclass

from netdump.errors import ArpLength, ArpOperation, ArpProtocol, ArpShort, LocalError
from netdump.inet import BROADCAST, ETHERTYPE_ARP, ETHERTYPE_IP

HARDWARE_ETHERNET = 1
#: What the patch of 2010 took: Ethernet, IEEE 802, ARCNET and IEEE 1394.
HARDWARE_LAX = frozenset({HARDWARE_ETHERNET, 6, 7, 24})
REQUEST = 1
REPLY = 2

_FRAME = struct.Struct(">6s6sHHHBBH6s4s6s4s")
FRAME_SIZE = _FRAME.size
_ETHERNET_ONLY = frozenset({HARDWARE_ETHERNET})
_NOBODY = bytes(6)


@dataclass(frozen=True, slots=True)
class Arp:
    """An ARP packet for IPv4 with its Ethernet addresses. MACs are six octets, IPs four."""

    destination: bytes
    source: bytes
    hardware_type: int
    operation: int
    sender_mac: bytes
    sender_ip: bytes
    target_mac: bytes
    target_ip: bytes


def request(mac: bytes, ip: bytes, target_ip: bytes) -> bytes:
    """Who has ``target_ip``? A broadcast frame of 42 octets; padding is the NIC's work."""
    return _pack(BROADCAST, REQUEST, mac, ip, _NOBODY, target_ip)


def reply(mac: bytes, ip: bytes, target_mac: bytes, target_ip: bytes) -> bytes:
    """Tell ``target_mac`` that ``ip`` is at ``mac``: a unicast frame of 42 octets."""
    return _pack(target_mac, REPLY, mac, ip, target_mac, target_ip)


def parse(frame: bytes) -> Arp:
    """The ARP packet in an Ethernet frame; padding after it is ignored.

    Raises ArpShort, ArpProtocol, ArpLength or ArpOperation. Any hardware type passes: whether to
    believe it is for ``accepts`` to say.
    """
    if len(frame) < FRAME_SIZE:
        raise ArpShort(f"ARP frame of {len(frame)} octets: it has {FRAME_SIZE}", frame)
    (
        destination,
        source,
        ethertype,
        hardware_type,
        protocol_type,
        hardware_length,
        protocol_length,
        operation,
        sender_mac,
        sender_ip,
        target_mac,
        target_ip,
    ) = _FRAME.unpack_from(frame)
    if ethertype != ETHERTYPE_ARP or protocol_type != ETHERTYPE_IP:
        raise ArpProtocol(
            f"ethertype {ethertype:#06x}, protocol {protocol_type:#06x}: not ARP for IPv4", frame
        )
    if (hardware_length, protocol_length) != (6, 4):
        raise ArpLength(
            f"address lengths {hardware_length} and {protocol_length}: they must be 6 and 4", frame
        )
    if operation not in (REQUEST, REPLY):
        raise ArpOperation(f"ARP operation {operation}: neither a request nor a reply", frame)
    return Arp(
        *(destination, source, hardware_type, operation),
        *(sender_mac, sender_ip, target_mac, target_ip),
    )


def accepts(
    arp: Arp,
    our_mac: bytes,
    our_ip: bytes,
    peers: Collection[bytes],
    hardware_types: Collection[int] = _ETHERNET_ONLY,
) -> str:
    """Why not to act on a packet, or "" if the host at ``our_mac`` and ``our_ip`` may.

    A reply must come from the IP of one of ``peers``; a request must be for us. The sender of an
    "arp-own-ip" uses our address: worth a line on the console.
    """
    if arp.hardware_type not in hardware_types:
        return "arp-hardware"
    if arp.sender_mac == our_mac:
        return "arp-own-mac"
    if arp.sender_ip == our_ip:
        return "arp-own-ip"
    if arp.sender_mac[0] & 1:
        return "arp-broadcast-sender"
    if arp.operation == REPLY and arp.sender_ip not in peers:
        return "arp-stranger"
    if arp.operation == REQUEST and arp.target_ip != our_ip:
        return "arp-not-for-us"
    return ""


def _pack(
    destination: bytes, operation: int, mac: bytes, ip: bytes, target_mac: bytes, target_ip: bytes
) -> bytes:
    if [len(a) for a in (destination, mac, ip, target_mac, target_ip)] != [6, 6, 4, 6, 4]:
        raise LocalError(
            f"ARP from {mac.hex()} {ip.hex()} to {target_mac.hex()} {target_ip.hex()}: MAC "
            "addresses have 6 octets, IPv4 addresses 4"
        )
    return _FRAME.pack(
        *(destination, mac, ETHERTYPE_ARP),
        *(HARDWARE_ETHERNET, ETHERTYPE_IP, 6, 4, operation),
        *(mac, ip, target_mac, target_ip),
    )
