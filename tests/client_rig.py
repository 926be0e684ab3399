"""A peer and a NIC for the dump client's tests: everything in memory, one answer a frame.

The peer knows nothing of our code: it takes frames apart by fixed offsets, and makes its own with
struct and the synthetic machine's UDP, which shares no line with netdump's.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from guest.synthetic import Endpoint, PhysicalMemory, fill, udp_frame
from guest.synthetic.load import checksum
from netdump.client import DumpRequest, NetdumpClient, Report, Step
from netdump.contracts import Event, TxBatch
from netdump.dumper import DumpImage
from netdump.dumpon import KernelCrypto
from netdump.kdh import KernelDumpHeader
from netdump.link import LinkConfig
from netdump.profiles import PROFILES, Profile
from nic_models.frames import Frames
from tests.by_hand import crc_by_hand
from tests.fakes import Told

CLIENT_MAC = bytes.fromhex("020000000002")
SERVER_MAC = bytes.fromhex("02005e001001")
GATEWAY_MAC = bytes.fromhex("02005e0010fe")
STRANGER_MAC = bytes.fromhex("02005e009901")
CLIENT_IP, SERVER_IP = bytes([198, 18, 0, 2]), bytes([198, 18, 0, 1])
GATEWAY_IP, STRANGER_IP = bytes([198, 18, 0, 254]), bytes([198, 18, 0, 77])
BROADCAST = b"\xff" * 6
PORT = 40000
HERALD, FINISHED, VMCORE, KDH, KEY = 1, 2, 3, 4, 5

NAMES = tuple(PROFILES)
STOCK = ("patch-2010", "freebsd-14")

MEMORY = 256 << 10
#: Two stretches with a gap between: 4 KiB of header and 160 KiB of memory make three chunks.
SEGMENTS = [(4096, 64 << 10), (128 << 10, 96 << 10)]


@dataclass(frozen=True, slots=True)
class Sent:
    """A message of the client, taken apart."""

    to_mac: bytes
    to_port: int
    ttl: int
    kind: int
    seqno: int
    offset: int
    payload: bytes
    aux2: int = 0


def reply(
    payload: bytes,
    *,
    from_mac: bytes = SERVER_MAC,
    to_mac: bytes = CLIENT_MAC,
    from_ip: bytes = SERVER_IP,
    to_ip: bytes = CLIENT_IP,
    from_port: int = PORT,
    to_port: int = 20024,
) -> bytes:
    """A UDP frame to the client."""
    ends = Endpoint(from_mac, from_ip), Endpoint(to_mac, to_ip)
    return udp_frame(*ends, (from_port, to_port), payload).ljust(60, b"\0")


def ack(seqno: int, **addresses: object) -> bytes:
    return reply(struct.pack(">I", seqno), **addresses)  # type: ignore[arg-type]


def arp(
    operation: int,
    from_mac: bytes,
    from_ip: bytes,
    target_ip: bytes = CLIENT_IP,
    to_mac: bytes = CLIENT_MAC,
    hardware: int = 1,
) -> bytes:
    """An ARP frame: operation 1 asks, 2 answers."""
    head = (
        to_mac + from_mac + b"\x08\x06" + struct.pack(">HHBBH", hardware, 0x0800, 6, 4, operation)
    )
    return (head + from_mac + from_ip + to_mac + target_ip).ljust(60, b"\0")


def acknowledge(sent: Sent) -> list[bytes]:
    """What a good server says to a message."""
    return [ack(sent.seqno)]


class Peer:
    """A dump server on the client's segment. Its parts may be replaced by what a test needs."""

    def __init__(self, answer: Callable[[Sent], list[bytes]] = acknowledge) -> None:
        self.macs = {SERVER_IP: SERVER_MAC}
        """Who answers ARP requests."""
        self.answer = answer
        self.sent: list[Sent] = []
        self.asked: list[bytes] = []
        """Addresses that the client asked for."""
        self.told: list[bytes] = []
        """ARP replies of the client, whole frames."""
        self.lose: Callable[[int], bool] = lambda number: False
        """Whether the n-th message of the client is lost."""

    def hear(self, frame: bytes) -> list[bytes]:
        assert frame[6:12] == CLIENT_MAC
        if frame[12:14] == b"\x08\x06":
            return self._arp(frame)
        sent = self._message(frame)
        self.sent.append(sent)
        if self.lose(len(self.sent) - 1) or sent.to_mac not in self.macs.values():
            return []
        return self.answer(sent)

    def kinds(self) -> list[int]:
        """Kinds of message, repeats in a row left out."""
        kinds = [sent.kind for sent in self.sent]
        return [kind for i, kind in enumerate(kinds) if i == 0 or kinds[i - 1] != kind]

    def of_kind(self, kind: int) -> list[Sent]:
        return [sent for sent in self.sent if sent.kind == kind]

    def _arp(self, frame: bytes) -> list[bytes]:
        assert len(frame) == 42
        if frame[20:22] == b"\0\2":
            self.told.append(frame)
            return []
        assert frame[:6] == BROADCAST
        target = frame[38:42]
        self.asked.append(target)
        mac = self.macs.get(target)
        return [] if mac is None else [arp(2, mac, target)]

    def _message(self, frame: bytes) -> Sent:
        """Take it apart, and see that an honest IP stack would have let it through."""
        assert frame[12:16] == b"\x08\x00\x45\x00"
        ip_length, _, fragment, ttl, protocol = struct.unpack_from(">HHHBB", frame, 16)
        assert (ip_length, fragment, protocol) == (len(frame) - 14, 0x4000, 17)
        assert checksum(frame[14:34]) == 0
        assert (frame[26:30], frame[30:34]) == (CLIENT_IP, SERVER_IP)
        from_port, to_port, udp_length, udp_sum = struct.unpack_from(">HHHH", frame, 34)
        assert (from_port, udp_length) == (20024, ip_length - 20)
        assert udp_sum
        pseudo = frame[26:34] + struct.pack(">BBH", 0, 17, udp_length)
        assert checksum(pseudo + frame[34:]) == 0
        kind, seqno, offset, length, aux2 = struct.unpack_from(">IIQII", frame, 42)
        assert length == len(frame) - 66
        said = frame[42:62] + bytes(4) + frame[66:]
        assert kind == HERALD or aux2 == 0 or aux2 == crc_by_hand(said)
        return Sent(frame[:6], to_port, ttl, kind, seqno, offset, frame[66:], aux2)


class Pool:
    """A zone of mbufs, all or none, that knows how many are out."""

    def __init__(self, size: int = 10_000) -> None:
        self.size = size
        self.out = 0

    def take(self, count: int) -> bool:
        if self.out + count > self.size:
            return False
        self.out += count
        return True

    def give(self, count: int) -> None:
        assert 0 <= count <= self.out, "given back what was never taken"
        self.out -= count


class FakeNic:
    """Debugnet methods without a device: DMA happens at the next poll, as late as it may."""

    def __init__(
        self,
        memory: PhysicalMemory,
        peer: Peer,
        pool: Pool,
        *,
        mtu: int = 1500,
        link: bool = True,
        ring: int = 10_000,
        sticks_after: int = 10_000,
        dma_late: bool = True,
        noise: list[list[bytes]] | None = None,
    ) -> None:
        """``sticks_after`` so many frames no more are taken. ``noise``: what is heard besides, a
        list for each poll from the first on.
        """
        self.mac = CLIENT_MAC
        self.mtu = mtu
        self.events: list[Event] = []
        self.frames = 0
        self._memory = memory
        self._peer = peer
        self._pool = pool
        self._link = link
        self._ring = ring
        self._sticks_after = sticks_after
        self._dma_late = dma_late
        self._noise = iter(noise or [])
        self._queued: list[tuple[bytes, int, int]] = []
        self._inbox: list[bytes] = []

    def link_up(self) -> bool:
        return self._link

    def event(self, what: Event) -> None:
        self.events.append(what)

    def transmit(self, batch: TxBatch) -> int:
        room = min(self._ring - len(self._queued), self._sticks_after - self.frames)
        taken = min(len(batch), room)
        for i in range(taken):
            head = batch.headers[i, : int(batch.header_lengths[i])].tobytes()
            self._queued.append(
                (head, int(batch.payload_addresses[i]), int(batch.payload_lengths[i]))
            )
        self.frames += taken
        if not self._dma_late:
            self.settle()
        return taken

    def poll(self, budget: int) -> Frames:
        self.settle()
        heard = [*next(self._noise, []), *self._inbox]
        self._inbox = heard[budget:]
        return Frames.of(heard[:budget])

    def settle(self) -> None:
        """Read and send what is queued."""
        queued, self._queued = self._queued, []
        for head, address, length in queued:
            payload = self._memory.buffer[address : address + length].tobytes()
            self._inbox += self._peer.hear(head + payload)
            self._pool.give(2)


@dataclass(slots=True)
class Played:
    """A dump that was played to its end."""

    report: Report
    peer: Peer
    nic: FakeNic
    pool: Pool
    image: bytes
    """What the server should have."""
    delayed_us: int = 0
    told: list[tuple[str, dict[str, object]]] = field(default_factory=list)

    def stored(self) -> bytes:
        """What the peer was sent and did not lose, in its place."""
        file = bytearray()
        for number, sent in enumerate(self.peer.sent):
            if sent.kind == VMCORE and not self.peer.lose(number):
                end = sent.offset + len(sent.payload)
                file.extend(bytes(max(0, end - len(file))))
                file[sent.offset : end] = sent.payload
        return bytes(file)


def play(
    profile: Profile,
    peer: Peer,
    *,
    gateway: bytes | None = None,
    pool: Pool | None = None,
    path: str = "",
    draw: int = 1000,
    segments: list[tuple[int, int]] = SEGMENTS,
    mtu: int = 1500,
    link: bool = True,
    ring: int = 10_000,
    sticks_after: int = 10_000,
    noise: list[list[bytes]] | None = None,
    nic_of: type[FakeNic] = FakeNic,
    key: bytes | None = None,
    nonce: bytes = bytes(range(8)),
    crypto: KernelCrypto | None = None,
    memory_size: int = MEMORY,
) -> Played:
    """One dump, from boot to report."""
    memory = PhysicalMemory(memory_size, 2 << 20)
    fill(memory.buffer[:memory_size], seed=7, zero_pages=False)
    pool = pool or Pool()
    # A stock client overwrites its 64 KiB buffer once it believes all of it acknowledged: a late
    # read finds other bytes there. That is its own defect, and another test's.
    dma_late = not profile.copies_to_buffer
    nic = nic_of(
        memory,
        peer,
        pool,
        mtu=mtu,
        link=link,
        ring=ring,
        sticks_after=sticks_after,
        dma_late=dma_late,
        noise=noise,
    )
    client = NetdumpClient(profile, memory, DumpImage(memory, segments))
    image = client.image.header
    image += b"".join(memory.buffer[at : at + size].tobytes() for at, size in segments)
    before = memory.buffer[:memory_size].copy()
    delays: list[int] = []
    told = Told()
    request = DumpRequest(
        LinkConfig(CLIENT_IP, SERVER_IP, gateway),
        KernelDumpHeader(dumplength=len(image), hostname="victim"),
        path,
        draw,
        nonce,
        key,
        crypto,
    )
    report = client.dump(request, nic, pool, delays.append, told)
    nic.settle()
    assert np.array_equal(before, memory.buffer[:memory_size]), (
        "memory that is dumped is left alone"
    )
    return Played(report, peer, nic, pool, image, sum(delays), told.events)


def impatient(name: str, **columns: object) -> Profile:
    """A profile that gives up soon."""
    return replace(PROFILES[name], **{"polls": 4, "retries": 2, **columns})  # type: ignore[arg-type]


def silent_about(*kinds: int) -> Callable[[Sent], list[bytes]]:
    """A server that acknowledges everything but these."""
    return lambda sent: [] if sent.kind in kinds else [ack(sent.seqno)]


def ended(done: Played) -> tuple[str | None, Step | None]:
    return done.report.error, done.report.failed_in


def told_as(name: str, error: str, step: Step) -> tuple[str, Step]:
    """FreeBSD's netdump_start makes EINVAL of any error on the way to its server."""
    squashed = name == "freebsd-14" and step in (Step.RESOLVE, Step.HERALD)
    return ("EINVAL" if squashed else error), step


def with_options(frame: bytes) -> bytes:
    """Four octets of no-operation behind the IPv4 header."""
    (length,) = struct.unpack_from(">H", frame, 16)
    head = b"\x46\0" + struct.pack(">H", length + 4) + frame[18:24] + b"\0\0" + frame[26:34]
    head += b"\1" * 4
    head = head[:10] + checksum(head).to_bytes(2, "big") + head[12:]
    return frame[:14] + head + frame[34 : 14 + length]
