"""A peer for the TFTP client's tests: a server that tests may put in their own place, in memory."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bench.servers.tftp.config import TftpConfig
from bench.servers.tftp.core import TftpCore
from bench.servers.tftp.folder import Folder
from guest.synthetic import PhysicalMemory, fill
from netdump.client import DumpRequest, Report
from netdump.dumper import DumpImage
from netdump.kdh import KernelDumpHeader
from netdump.tftp.client import TftpClient
from netdump.tftp.rules import TftpRules
from netdump.udplink import LinkConfig
from tests.client_rig import (
    CLIENT_IP,
    MEMORY,
    SEGMENTS,
    SERVER_IP,
    FakeNic,
    Peer,
    Pool,
    reply,
)
from tests.fakes import Told

TFTP_PORT = 69
TRANSFER_PORT = 40000
#: (port of the server's, payload)
Datagram = tuple[int, bytes]
Answer = Callable[[int, bytes], list[Datagram]]


def opcode(payload: bytes) -> int:
    return int.from_bytes(payload[:2], "big")


def block(payload: bytes) -> int:
    return int.from_bytes(payload[2:4], "big")


def ack(number: int, port: int = TRANSFER_PORT) -> Datagram:
    return port, struct.pack(">HH", 4, number)


def error(code: int, text: str, port: int = TRANSFER_PORT) -> Datagram:
    return port, struct.pack(">HH", 5, code) + text.encode() + b"\0"


def oack(options: Mapping[str, int | str], port: int = TRANSFER_PORT) -> Datagram:
    words = "".join(f"{name}\0{value}\0" for name, value in options.items())
    return port, b"\0\6" + words.encode()


class Server:
    """Our TFTP server without a host: ports are numbers, time stands still."""

    def __init__(self, folder: Path, config: TftpConfig | None = None) -> None:
        config = config or TftpConfig()
        self.core = TftpCore(config, Folder(folder, config))
        self.folder = folder

    def __call__(self, port: int, payload: bytes) -> list[Datagram]:
        if port == TFTP_PORT:
            answer = self.core.herald(("client", 1), payload, 0.0)
            return [] if answer is None else [(TRANSFER_PORT + answer.session_id, answer.ack)]
        data = np.frombuffer(payload, np.uint8)[None, :]
        acks = self.core.receive(port - TRANSFER_PORT, data, np.array([len(payload)]), 0.0)
        return [(port, row.tobytes()) for row in acks]


class TftpPeer(Peer):
    """A TFTP server on the client's segment, at the end of a wire that does as it is told."""

    def __init__(self, serve: Answer) -> None:
        super().__init__()
        self.serve = serve
        self.heard: list[Datagram] = []
        """What the client sent, and to which port."""
        self.client_ports: set[int] = set()
        self.lengths: list[int] = []
        """Of its IPv4 packets."""

    def hear(self, frame: bytes) -> list[bytes]:
        if frame[12:14] == b"\x08\x06":
            return self._arp(frame)
        from_port, to_port = struct.unpack_from(">HH", frame, 34)
        self.client_ports.add(from_port)
        self.lengths.append(len(frame) - 14)
        self.heard.append((to_port, frame[42:]))
        return [
            reply(payload, from_port=port, to_port=from_port)
            for port, payload in self.serve(to_port, frame[42:])
        ]

    def data(self) -> list[bytes]:
        """The DATA packets, in order, repeats and all."""
        return [payload for _, payload in self.heard if opcode(payload) == 3]

    def errors(self) -> list[tuple[int, int]]:
        """(port, code) of the ERRORs."""
        return [(port, block(payload)) for port, payload in self.heard if opcode(payload) == 5]


@dataclass(slots=True)
class Played:
    report: Report
    peer: TftpPeer
    pool: Pool
    whole: bytes
    """What the server should have."""
    delayed_us: int
    told: list[tuple[str, dict[str, object]]] = field(default_factory=list)


def play(
    serve: Answer,
    rules: TftpRules | None = None,
    *,
    segments: list[tuple[int, int]] = SEGMENTS,
    mtu: int = 1500,
    link: bool = True,
    ring: int = 10_000,
    sticks_after: int = 10_000,
    pool: Pool | None = None,
    peer: TftpPeer | None = None,
) -> Played:
    """One dump, from boot to report."""
    memory = PhysicalMemory(MEMORY, 1 << 20)
    fill(memory.buffer[:MEMORY], seed=7, zero_pages=False)
    pool = pool or Pool()
    peer = peer or TftpPeer(serve)
    nic = FakeNic(memory, peer, pool, mtu=mtu, link=link, ring=ring, sticks_after=sticks_after)
    client = TftpClient(rules or TftpRules(), memory, DumpImage(memory, segments))
    header = KernelDumpHeader(dumplength=client.image.length, hostname="victim")
    whole = client.image.header
    whole += b"".join(memory.buffer[at : at + length].tobytes() for at, length in segments)
    before = memory.buffer[:MEMORY].copy()
    delays: list[int] = []
    told = Told()
    request = DumpRequest(LinkConfig(CLIENT_IP, SERVER_IP), header, draw=zlib.crc32(b"draw"))
    report = client.dump(request, nic, pool, delays.append, told)
    nic.settle()
    assert np.array_equal(before, memory.buffer[:MEMORY]), "memory that is dumped is left alone"
    assert pool.out == 0, "every mbuf came back"
    assert all(length <= mtu for length in peer.lengths), "no frame is longer than the MTU"
    return Played(report, peer, pool, whole + header.pack(), sum(delays), told.events)
