"""ICMP as a Linux host sends it (net/ipv4/icmp.c).

Port unreachable: six at once to each address, then one a second (icmp_ratelimit). Echo reply: to
each echo request whose checksums are right and that came whole, with what it brought, at any rate.
"""

from __future__ import annotations

import struct
from collections.abc import Container
from typing import Final

from netdump.checksum import checksum
from netdump.inet import ETHERNET_SIZE, IP_SIZE

BURST: Final = 6
PERIOD_NS: Final = 1_000_000_000
#: Of the packet that it answers, an ICMP error quotes what fits in 576 bytes.
QUOTE: Final = 576 - IP_SIZE - 8
_TYPE, _CODE = 3, 3
_ECHO_REPLY, _ECHO_REQUEST = 0, 8
#: IPv4's number of it.
ICMP: Final = 1
_IP: Final = struct.Struct(">BBHHHBBH4s4s")
_MORE_FRAGMENTS_OR_OFFSET: Final = 0x3FFF
#: Internetwork control: what Linux marks its ICMP errors with.
_TOS: Final = 0xC0


class RateLimit:
    """How many errors an address may still be sent."""

    def __init__(self) -> None:
        self._credit: dict[bytes, tuple[int, int]] = {}

    def allows(self, address: bytes, now_ns: int) -> bool:
        """One more, now? Then it counts."""
        credit, last = self._credit.get(address, (BURST * PERIOD_NS, now_ns))
        credit = min(BURST * PERIOD_NS, credit + max(0, now_ns - last))
        allowed = credit >= PERIOD_NS
        self._credit[address] = (credit - PERIOD_NS * allowed, now_ns)
        return allowed


def port_unreachable(frame: bytes, mac: bytes, ip: bytes, to: bytes, ttl: int) -> bytes:
    """The host at ``mac`` and ``ip`` answers a UDP ``frame`` of ``to``; its MAC is still to be
    filled in.
    """
    (ip_length,) = struct.unpack_from(">H", frame, ETHERNET_SIZE + 2)
    quoted = frame[ETHERNET_SIZE : ETHERNET_SIZE + min(ip_length, QUOTE)]
    message = struct.pack(">BBHI", _TYPE, _CODE, 0, 0) + quoted
    return _packet(_summed(message), _TOS, mac, ip, to, ttl)


def echo_reply(frame: bytes, mac: bytes, ips: Container[bytes], ttl: int) -> bytes | None:
    """What the host at ``mac``, whose addresses ``ips`` are, says to an echo request; None if the
    ``frame`` is none, is not for it, or is damaged. The reply's MAC is still to be filled in.
    """
    packet = frame[ETHERNET_SIZE:]
    if frame[:6] != mac or frame[12:14] != b"\x08\x00" or len(packet) < IP_SIZE + 8:
        return None
    first, tos, length, _, fragment, _, protocol, _, sender, to = _IP.unpack_from(packet)
    head = (first & 15) * 4
    message = packet[head:length]
    if (
        (first >> 4, protocol, fragment & _MORE_FRAGMENTS_OR_OFFSET) != (4, ICMP, 0)
        or not IP_SIZE <= head <= length - 8 <= len(packet) - 8
        or to not in ips
        or message[:2] != bytes((_ECHO_REQUEST, 0))
        or checksum(packet[:head])
        or checksum(message)
    ):
        return None
    reply = bytes((_ECHO_REPLY, 0, 0, 0)) + message[4:]
    return _packet(_summed(reply), tos, mac, to, sender, ttl)


def _summed(message: bytes) -> bytes:
    return message[:2] + checksum(message).to_bytes(2, "big") + message[4:]


def _packet(message: bytes, tos: int, mac: bytes, ip: bytes, to: bytes, ttl: int) -> bytes:
    head = _IP.pack(0x45, tos, IP_SIZE + len(message), 0, 0, ttl, ICMP, 0, ip, to)
    head = head[:10] + checksum(head).to_bytes(2, "big") + head[12:]
    return bytes(6) + mac + b"\x08\x00" + head + message
