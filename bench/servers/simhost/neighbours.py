"""ARP: whose MAC is whose, and the frames that wait for one (RFC 826; net/ipv4/arp.c).

* It answers for one address: the host's own, or, behind a gateway, the gateway's only.
* A host that asks for that address, or answers it, is remembered; what waited for its MAC leaves.
* A frame to an address whose MAC is not known waits. The first one that waits brings a question,
  and ``UNRESOLVED`` of them are kept; what is more is lost.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from bench.servers.simhost.config import HostConfig
from bench.wire.contracts import MINIMUM_FRAME, Wire
from netdump import arp
from netdump.inet import BROADCAST
from nic_models.frames import Frames

#: Frames kept for a neighbour whose MAC is being asked for.
UNRESOLVED: Final = 101


class Neighbours:
    """The host's way to every other one on its wire."""

    def __init__(self, wire: Wire, config: HostConfig) -> None:
        self._wire = wire
        self._mac = config.mac
        self._ip = config.arp_address
        self._known: dict[bytes, bytes] = {}
        self._pinned: set[bytes] = set()
        self._waiting: dict[bytes, list[Frames]] = {}

    def hear(self, frame: bytes, now_ns: int) -> None:
        """An ARP frame. ``MalformedArp`` if it is none."""
        packet = arp.parse(frame)
        to_us = packet.destination in (self._mac, BROADCAST)
        if not to_us or packet.target_ip != self._ip or packet.hardware_type != 1:
            return
        if packet.sender_ip not in self._pinned:
            self._known[packet.sender_ip] = packet.sender_mac
        if packet.operation == arp.REQUEST:
            answer = arp.reply(self._mac, self._ip, packet.sender_mac, packet.sender_ip)
            self._wire.send(Frames.of([answer.ljust(MINIMUM_FRAME, b"\0")], now_ns))
        for held in self._waiting.pop(packet.sender_ip, []):
            self.send(packet.sender_ip, held.at(np.maximum(held.time_ns, now_ns)))

    def pin(self, ip: bytes, mac: bytes) -> None:
        """A permanent entry: no ARP changes it."""
        self._known[ip] = mac
        self._pinned.add(ip)

    def send(self, ip: bytes, frames: Frames) -> None:
        """Fill in the neighbour's MAC and send; or ask for it first."""
        mac = self._known.get(ip)
        if mac is not None:
            frames.data[:, :6] = np.frombuffer(mac, np.uint8)
            self._wire.send(frames)
            return
        held = self._waiting.setdefault(ip, [])
        room = UNRESOLVED - sum(map(len, held))
        if not held:
            question = arp.request(self._mac, self._ip, ip)
            padded = question.ljust(MINIMUM_FRAME, b"\0")
            self._wire.send(Frames.of([padded], int(frames.time_ns[0])))
        if room > 0:
            held.append(frames.take(slice(0, room)))
