"""What a simulated host is told, and what it counts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from ipaddress import IPv4Address


@dataclass(frozen=True, slots=True)
class HostConfig:
    """Addresses and speed of the host."""

    ip: str = "198.18.0.1"
    mac: bytes = bytes.fromhex("02005e001001")
    gateway_ip: str | None = None
    """The router in front of it, which then has ``mac``; ``ip`` is off-link."""
    service_ns: int = 2_000
    """What the server needs for one datagram."""
    socket_frames: int = 92
    """Datagrams that one socket holds."""

    @property
    def address(self) -> bytes:
        """``ip``, four bytes."""
        return IPv4Address(self.ip).packed

    @property
    def arp_address(self) -> bytes:
        """The one that ARP is answered for, four bytes."""
        return IPv4Address(self.gateway_ip or self.ip).packed


@dataclass(slots=True)
class HostCounts:
    """What became of what arrived."""

    served: int = 0
    socket_drops: int = 0
    unreachable: int = 0
    """Datagrams to ports that nobody listens on, answered or not."""
    refused: Counter[str] = field(default_factory=Counter)
    """Frames that were dropped silently, by reason."""
