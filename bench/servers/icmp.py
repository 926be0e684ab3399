"""ICMP port unreachable, as a Linux host sends it (net/ipv4/icmp.c): six at once to each address,
then one a second (icmp_ratelimit).
"""

from __future__ import annotations

import struct
from typing import Final

from netdump.checksum import checksum
from netdump.inet import ETHERNET_SIZE, IP_SIZE

BURST: Final = 6
PERIOD_NS: Final = 1_000_000_000
#: Of the packet that it answers, an ICMP error quotes what fits in 576 bytes.
QUOTE: Final = 576 - IP_SIZE - 8
_TYPE, _CODE = 3, 3
_PROTOCOL: Final = 1
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
    message = message[:2] + checksum(message).to_bytes(2, "big") + message[4:]
    length = IP_SIZE + len(message)
    head = struct.pack(">BBHHHBBH4s4s", 0x45, _TOS, length, 0, 0, ttl, _PROTOCOL, 0, ip, to)
    head = head[:10] + checksum(head).to_bytes(2, "big") + head[12:]
    return bytes(6) + mac + b"\x08\x00" + head + message
