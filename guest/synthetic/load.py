"""Ordinary life on the network: what the machine was doing when it died.

A round is one CPU sending a few UDP datagrams, or one CPU taking the interrupts that came of it.
Rounds go round the CPUs. Everything about them (sizes, ports, bytes) is drawn from the seed.

The load knows no NIC: a driver is whatever has ``send`` and ``interrupt``. Nor does it know the
wire: ``run`` calls a pump between sending and taking interrupts, in which the caller lets the
device transmit, and receive whatever ``peer_frames`` offers.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from guest.synthetic.machine import SyntheticMachine

_ETHERNET: Final = struct.Struct("!6s6sH")
_IPV4: Final = struct.Struct("!BBHHHBBH4s4s")
_UDP: Final = struct.Struct("!HHHH")
#: The discard service: whoever is there answers nothing.
_DISCARD: Final = 9


class NetworkDriver(Protocol):
    """A NIC driver in ordinary life."""

    def send(self, frames: list[bytes]) -> int:
        """Queue Ethernet frames; how many were taken."""
        ...

    def interrupt(self) -> None:
        """Serve the device."""
        ...


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One end of a flow: six bytes of MAC, four of IPv4."""

    mac: bytes
    ip: bytes


def udp_frame(
    source: Endpoint, destination: Endpoint, ports: tuple[int, int], payload: bytes
) -> bytes:
    """An Ethernet frame with an IPv4 UDP datagram; ``ports`` are (source, destination).

    RFC 768 and RFC 791: both checksums are there, and an UDP checksum of 0 is sent as 0xffff.
    """
    udp_length = _UDP.size + len(payload)
    pseudo = struct.pack("!4s4sBBH", source.ip, destination.ip, 0, 17, udp_length)
    bare = _UDP.pack(*ports, udp_length, 0)
    udp = _UDP.pack(*ports, udp_length, checksum(pseudo + bare + payload) or 0xFFFF)
    fields = (0x45, 0, 20 + udp_length, 0, 0x4000, 64, 17)
    header_sum = checksum(_IPV4.pack(*fields, 0, source.ip, destination.ip))
    ip = _IPV4.pack(*fields, header_sum, source.ip, destination.ip)
    return _ETHERNET.pack(destination.mac, source.mac, 0x0800) + ip + udp + payload


def checksum(data: bytes) -> int:
    """The internet checksum, RFC 1071."""
    total = int.from_bytes(data + bytes(len(data) % 2), "big") % 0xFFFF
    # A sum that is a multiple of 0xffff is 0xffff in one's complement, unless all bytes are 0.
    return 0xFFFF - total if total or not any(data) else 0


class NetworkLoad:
    """UDP between this machine and a peer."""

    def __init__(
        self,
        machine: SyntheticMachine,
        driver: NetworkDriver,
        here: Endpoint,
        peer: Endpoint,
        *,
        seed: int = 0,
        frames_a_round: int = 4,
        max_payload: int = 1472,
        cpus: Sequence[int] | None = None,
    ) -> None:
        """``cpus``: who takes part, in turn; default all.

        ``driver.interrupt`` becomes the machine's interrupt handler.
        """
        self._machine = machine
        self._driver = driver
        self._here = here
        self._peer = peer
        self._frames = frames_a_round
        self._max_payload = max_payload
        self._stream = np.random.PCG64(seed)
        taking_part = range(machine.config.cpus) if cpus is None else cpus
        self._senders = itertools.cycle(taking_part)
        self._takers = itertools.cycle(taking_part)
        self.sent = 0
        """Frames that the driver took."""
        self.interrupts = 0
        """Times that the handler ran."""
        machine.register_interrupt(driver.interrupt)

    def send_round(self) -> int:
        """The next CPU sends its datagrams; how many the driver took."""
        frames = [self._datagram(self._here, self._peer) for _ in range(self._frames)]
        with self._machine.on_cpu(next(self._senders)):
            taken = self._driver.send(frames)
        self.sent += taken
        return taken

    def interrupt_round(self) -> int:
        """The next CPU takes what interrupts there are; how often the handler ran."""
        count = self._machine.take_interrupts(next(self._takers))
        self.interrupts += count
        return count

    def run(self, rounds: int, pump: Callable[[], None]) -> None:
        """``rounds`` times: send, ``pump`` the device and its wire, take interrupts."""
        for _ in range(rounds):
            self.send_round()
            pump()
            self.interrupt_round()

    def peer_frames(self, count: int) -> list[bytes]:
        """What the peer says meanwhile, for the pump to deliver."""
        return [self._datagram(self._peer, self._here) for _ in range(count)]

    def _datagram(self, source: Endpoint, destination: Endpoint) -> bytes:
        draw = int(self._stream.random_raw())
        size = 1 + draw % self._max_payload
        port = 1024 + (draw >> 32) % 60000
        payload = self._stream.random_raw(size // 8 + 1).astype("<u8").tobytes()[:size]
        return udp_frame(source, destination, (port, _DISCARD), payload)
