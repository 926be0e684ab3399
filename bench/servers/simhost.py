"""The far end of a wire in memory: a host with a network stack and a dump server on it.

It does what a Linux host does with frames, and nothing that a Linux host would not:

* it answers ARP for its own address, or, behind a gateway, for the gateway's only;
* it takes frames to its MAC whose IPv4 header and UDP checksum are right, and drops others silently
  (counted by reason);
* it answers ICMP echo requests to its own address and to the gateway's (``icmp.py``);
* a datagram to a port with no socket brings ICMP port unreachable;
* each socket holds so many datagrams, and what comes while it is full is lost, counted. The default
  of Linux, 212,992 bytes, holds 92 frames of 1500 bytes;
* the server is one process: it serves datagrams of all sockets one after the other, each in
  ``service_ns``, some ``ROWS`` of them a turn, and its acks leave when it is done with what they
  acknowledge;
* a HERALD's ack comes from a new socket, connected to that client;
* other programs may have sockets there (``open_socket``), which outlive the server.

Time is what ``pump`` is told. Frames are worked on at the moment they arrived, so it does not
matter how often it is called, only that it is called before anybody looks for an answer; but for
how many of them a selective ack stands, as with a real server that finds more or fewer waiting.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from bench.servers.icmp import ICMP, RateLimit, echo_reply, port_unreachable
from bench.wire.contracts import MINIMUM_FRAME, Wire
from bench.wire.kinds import leading_words
from bench.wire.memory import serve_in_turn
from netdump import arp
from netdump.errors import MalformedArp
from netdump.inet import (
    BROADCAST,
    UDP,
    Checks,
    Expect,
    Flow,
    classify_and_validate,
    udp_headers,
)
from netdump.messages import HERALD_PORT
from nic_models.frames import Frames
from server.readers import ROWS

TTL: Final = 64
TICK_NS: Final = 1_000_000_000
#: Ports that Linux gives to sockets that ask for none (net.ipv4.ip_local_port_range).
FIRST_PORT, LAST_PORT = 32768, 60999
#: Frames kept for a neighbour whose MAC is being asked for.
UNRESOLVED: Final = 101

_CHECKS: Final = Checks(reject_options=False)


class HeraldReply(Protocol):
    """The server's answer to a HERALD."""

    @property
    def session_id(self) -> int: ...

    @property
    def fresh(self) -> bool: ...

    @property
    def ack(self) -> bytes: ...


class Core(Protocol):
    """The server, without sockets and clock: ``server.core.ServerCore``. Times in seconds."""

    def herald(
        self, client: tuple[str, int], datagram: bytes, now: float
    ) -> HeraldReply | None: ...

    def receive(
        self, session_id: int, data: NDArray[np.uint8], lengths: NDArray[np.int64], now: float
    ) -> NDArray[np.uint8]: ...

    def tick(self, now: float) -> list[int]: ...


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


@dataclass(slots=True)
class HostCounts:
    """What became of what arrived, other than served."""

    served: int = 0
    socket_drops: int = 0
    unreachable: int = 0
    """Datagrams to ports that nobody listens on, answered or not."""
    refused: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class _Datagrams:
    """UDP payloads of one sender to one port, in order."""

    client: tuple[bytes, int]
    data: NDArray[np.uint8]
    lengths: NDArray[np.int64]
    arrivals: NDArray[np.int64]


@dataclass(slots=True)
class _Socket:
    session: int | None
    """None: the herald socket."""
    peer: tuple[bytes, int] | None
    """Whom it is connected to."""
    busy: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """When the server will be done with each datagram that is still in the socket, ascending."""
    waiting: list[_Datagrams] = field(default_factory=list)
    """Paused: what nobody reads."""


class PlainSocket:
    """A UDP socket of a program of the host's, which never blocks. A context manager."""

    def __init__(self, room: int, on_close: Callable[[], object]) -> None:
        self._room = room
        self._on_close = on_close
        self._datagrams: deque[bytes] = deque()

    def recv(self, size: int, /) -> bytes:
        """The next datagram, cut to ``size``; ``BlockingIOError`` where there is none."""
        if not self._datagrams:
            raise BlockingIOError("no datagram is waiting")
        return self._datagrams.popleft()[:size]

    def take(self, datagrams: _Datagrams) -> int:
        """Keep as many as there is room for; how many were lost."""
        lengths = datagrams.lengths.tolist()
        kept = max(0, self._room - len(self._datagrams))
        for row, length in zip(datagrams.data[:kept], lengths[:kept], strict=True):
            self._datagrams.append(row[:length].tobytes())
        return max(0, len(lengths) - kept)

    def close(self) -> None:
        self._on_close()

    def __enter__(self) -> PlainSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class SimHost:
    """A host on the ``host_end`` of a ``MemoryLink``."""

    def __init__(self, wire: Wire, config: HostConfig | None = None) -> None:
        self.config = config or HostConfig()
        self.counts = HostCounts()
        self._wire = wire
        self._ip = IPv4Address(self.config.ip).packed
        self._arp_ip = IPv4Address(self.config.gateway_ip or self.config.ip).packed
        self._plain: dict[int, PlainSocket] = {}
        self._core: Core | None = None
        self._paused = False
        self._sockets: dict[int, _Socket] = {}
        self._session_ports: dict[int, int] = {}
        self._next_port = FIRST_PORT
        self._free_at = 0
        self._next_tick = 0
        self._neighbours: dict[bytes, bytes] = {}
        self._unresolved: dict[bytes, list[Frames]] = {}
        self._icmp = RateLimit()

    # --- the server's life ------------------------------------------------------------------------

    def listen(self, core: Core) -> None:
        """A server starts: it owns the herald port."""
        self.hang_up()
        self._core = core
        self._sockets[HERALD_PORT] = _Socket(None, None)

    def hang_up(self) -> None:
        """The server is gone, and its sockets with all that was in them."""
        self._core = None
        self._paused = False
        self._sockets.clear()
        self._session_ports.clear()

    def pause(self) -> None:
        """The server stands still; its sockets fill up."""
        self._paused = self._core is not None

    def resume(self) -> None:
        """The server goes on, at the next ``pump`` with what waits in its sockets."""
        self._paused = False

    def open_socket(self, port: int) -> PlainSocket:
        """A socket of another program on that port. ``ValueError`` where it is taken."""
        if port in self._plain or port in self._sockets:
            raise ValueError(f"UDP port {port} of the simulated host is taken")
        self._plain[port] = PlainSocket(
            self.config.socket_frames, lambda: self._plain.pop(port, None)
        )
        return self._plain[port]

    @property
    def ports(self) -> list[int]:
        """UDP ports with a socket."""
        return sorted(self._sockets)

    # --- the stack --------------------------------------------------------------------------------

    def pump(self, now_ns: int) -> None:
        """Work on all that has arrived, and put the answers on the wire."""
        if not self._paused:
            for port, socket in list(self._sockets.items()):
                waiting, socket.waiting = socket.waiting, []
                for some in waiting:
                    some.arrivals[:] = now_ns
                    self._serve(port, socket, some)
        frames = self._wire.receive()
        if len(frames):
            self._hear(frames)
        if self._core is not None and not self._paused and now_ns >= self._next_tick:
            self._next_tick = now_ns + TICK_NS
            for session in self._core.tick(now_ns / 1e9):
                self._sockets.pop(self._session_ports.pop(session, 0), None)

    def _hear(self, frames: Frames) -> None:
        words = leading_words(frames, 19)
        is_arp = (words[:, 6] == 0x0806) & (frames.lengths >= arp.FRAME_SIZE)
        for i in np.flatnonzero(is_arp).tolist():
            self._hear_arp(frames.bytes_of(i), int(frames.time_ns[i]))
        rest, words = (frames.take(~is_arp), words[~is_arp]) if is_arp.any() else (frames, words)
        is_icmp = (words[:, 6] == 0x0800) & (words[:, 11] & 0xFF == ICMP)
        if is_icmp.any():
            rest, words = self._hear_icmp(rest, words, is_icmp)
        for which, sender, port in _conversations(words):
            self._hear_ip(rest.take(which), sender, port)

    def _hear_arp(self, frame: bytes, now_ns: int) -> None:
        try:
            packet = arp.parse(frame)
        except MalformedArp as error:
            self.counts.refused[error.reason] += 1
            return
        to_us = packet.destination in (self.config.mac, BROADCAST)
        if not to_us or packet.target_ip != self._arp_ip or packet.hardware_type != 1:
            return
        self._neighbours[packet.sender_ip] = packet.sender_mac
        if packet.operation == arp.REQUEST:
            answer = arp.reply(self.config.mac, self._arp_ip, packet.sender_mac, packet.sender_ip)
            self._transmit(Frames.of([answer.ljust(MINIMUM_FRAME, b"\0")], now_ns))
        for held in self._unresolved.pop(packet.sender_ip, []):
            self._send_to(packet.sender_ip, held.at(np.maximum(held.time_ns, now_ns)))

    def _hear_icmp(
        self, frames: Frames, words: NDArray[np.uint16], is_icmp: NDArray[np.bool_]
    ) -> tuple[Frames, NDArray[np.uint16]]:
        """Answer the echo requests; the frames that are none, and their leading words."""
        rest = np.ones(len(frames), np.bool_)
        for i in np.flatnonzero(is_icmp).tolist():
            frame, ours = frames.bytes_of(i), (self._ip, self._arp_ip)
            answer = echo_reply(frame, self.config.mac, ours, TTL)
            if answer is not None:
                rest[i] = False
                padded = Frames.of([answer.ljust(MINIMUM_FRAME, b"\0")], int(frames.time_ns[i]))
                self._send_to(frame[26:30], padded)
        return frames.take(rest), words[rest]

    def _hear_ip(self, frames: Frames, sender: bytes, port: int) -> None:
        """IPv4 of one sender to one UDP port (or what claims to be)."""
        expect = Expect(self.config.mac, self._ip, sender, port)
        verdict = classify_and_validate(frames.data, frames.lengths, expect, _CHECKS)
        good = verdict.kind == UDP
        for reason, count in verdict.refused.items():
            self.counts.refused[reason] += count
        # One start and one source port nearly always; a crafted batch may have more.
        forms = np.stack([verdict.payload_start, verdict.source_port], axis=1)[good]
        for start, source_port in dict.fromkeys(map(tuple, forms.tolist())):
            which = good & (verdict.payload_start == start) & (verdict.source_port == source_port)
            some = frames.take(which)
            datagrams = _Datagrams(
                (sender, source_port),
                some.data[:, start:],
                verdict.payload_length[which],
                some.time_ns.copy(),
            )
            socket = self._sockets.get(port)
            if port in self._plain:
                self.counts.socket_drops += self._plain[port].take(datagrams)
            elif socket is None or socket.peer not in (None, datagrams.client):
                self._unreachable(some, sender)
            elif self._paused:
                self._queue(socket, datagrams)
            else:
                for first in range(0, len(datagrams.lengths), ROWS):
                    self._serve(port, socket, _first(datagrams, slice(first, first + ROWS)))

    def _queue(self, socket: _Socket, datagrams: _Datagrams) -> None:
        room = self.config.socket_frames - sum(len(some.lengths) for some in socket.waiting)
        self.counts.socket_drops += max(0, len(datagrams.lengths) - room)
        if room > 0:
            socket.waiting.append(_first(datagrams, slice(0, room)))

    # --- the server -------------------------------------------------------------------------------

    def _serve(self, port: int, socket: _Socket, datagrams: _Datagrams) -> None:
        """Give datagrams to the server, those that find room in the socket, and send its acks."""
        taken, done = self._queue_up(socket, datagrams.arrivals)
        if not len(done) or self._core is None:
            return
        self.counts.served += len(done)
        datagrams = _first(datagrams, taken)
        if socket.session is None:
            self._serve_heralds(self._core, datagrams, done)
            self._next_tick = 0  # a new client may have cost a quiet one its session
            return
        now = int(done[-1]) / 1e9
        acks = self._core.receive(socket.session, datagrams.data, datagrams.lengths, now)
        if len(acks):
            self._acknowledge(port, datagrams.client, acks, _ack_times(done, len(acks)))

    def _queue_up(
        self, socket: _Socket, arrivals: NDArray[np.int64]
    ) -> tuple[NDArray[np.intp] | slice, NDArray[np.int64]]:
        """Which datagrams find room in the socket, and when the server will be done with each."""
        room, count = self.config.socket_frames, len(arrivals)
        still = socket.busy[np.searchsorted(socket.busy, arrivals[0], side="right") :]
        # All find room if even the busiest moment does not fill the socket.
        if len(still) + count <= room:
            service = np.full(count, self.config.service_ns, np.int64)
            when = serve_in_turn(arrivals, service, self._free_at)
            self._free_at = int(when[-1])
            socket.busy = np.concatenate((still, when))
            return slice(None), when
        busy = deque(still.tolist())
        taken: list[int] = []
        done: list[int] = []
        for i, arrival in enumerate(arrivals.tolist()):
            while busy and busy[0] <= arrival:
                busy.popleft()
            if len(busy) >= room:
                self.counts.socket_drops += 1
                continue
            self._free_at = max(self._free_at, arrival) + self.config.service_ns
            busy.append(self._free_at)
            taken.append(i)
            done.append(self._free_at)
        socket.busy = np.array(busy, np.int64)
        return np.array(taken, np.intp), np.array(done, np.int64)

    def _serve_heralds(self, core: Core, datagrams: _Datagrams, done: NDArray[np.int64]) -> None:
        ip, client_port = datagrams.client
        for row, length, time_ns in zip(
            datagrams.data, datagrams.lengths.tolist(), done.tolist(), strict=True
        ):
            client = (str(IPv4Address(ip)), client_port)
            answer = core.herald(client, row[:length].tobytes(), time_ns / 1e9)
            if answer is None:
                continue
            if answer.session_id not in self._session_ports:
                new = self._ephemeral_port()
                self._session_ports[answer.session_id] = new
                self._sockets[new] = _Socket(answer.session_id, datagrams.client)
            port = self._session_ports[answer.session_id]
            ack = np.frombuffer(answer.ack, np.uint8)[None, :]
            self._acknowledge(port, datagrams.client, ack, np.array([time_ns], np.int64))

    def _ephemeral_port(self) -> int:
        """The next free one. Sessions are bounded by the server, far below the number of ports."""
        while self._next_port in self._sockets or self._next_port in self._plain:
            self._next_port = FIRST_PORT + (self._next_port + 1 - FIRST_PORT) % _PORTS
        port = self._next_port
        self._next_port = FIRST_PORT + (port + 1 - FIRST_PORT) % _PORTS
        return port

    # --- transmission -----------------------------------------------------------------------------

    def _acknowledge(
        self,
        port: int,
        client: tuple[bytes, int],
        acks: NDArray[np.uint8],
        time_ns: NDArray[np.int64],
    ) -> None:
        ip, client_port = client
        flow = Flow(self.config.mac, bytes(6), self._ip, ip, port, client_port)
        nothing = np.zeros(len(acks), np.int64)
        rows = udp_headers(flow, acks, nothing, nothing, ttl=TTL)
        rows = np.pad(rows, ((0, 0), (0, max(0, MINIMUM_FRAME - rows.shape[1]))))
        self._send_to(ip, Frames(rows, np.full(len(rows), rows.shape[1]), time_ns))

    def _unreachable(self, frames: Frames, sender: bytes) -> None:
        """Tell the sender, as often as the rate limit lets it."""
        config = self.config
        self.counts.unreachable += len(frames)
        for i, time_ns in enumerate(frames.time_ns.tolist()):
            if self._icmp.allows(sender, time_ns):
                error = port_unreachable(frames.bytes_of(i), config.mac, self._ip, sender, TTL)
                self._send_to(sender, Frames.of([error], time_ns))

    def _send_to(self, ip: bytes, frames: Frames) -> None:
        """Fill in the neighbour's MAC and send; or ask for it first."""
        mac = self._neighbours.get(ip)
        if mac is not None:
            frames.data[:, :6] = np.frombuffer(mac, np.uint8)
            self._transmit(frames)
            return
        held = self._unresolved.setdefault(ip, [])
        room = UNRESOLVED - sum(map(len, held))
        if not held:
            question = arp.request(self.config.mac, self._arp_ip, ip)
            padded = question.ljust(MINIMUM_FRAME, b"\0")
            self._transmit(Frames.of([padded], int(frames.time_ns[0])))
        if room > 0:
            held.append(frames.take(slice(0, room)))

    def _transmit(self, frames: Frames) -> None:
        self._wire.send(frames)


_PORTS: Final = LAST_PORT - FIRST_PORT + 1


def _conversations(
    words: NDArray[np.uint16],
) -> Iterator[tuple[NDArray[np.bool_], bytes, int]]:
    """Masks of rows by (IP source, UDP destination port), in the order of their first frames."""
    if not len(words):
        return
    keys = words[:, 13].astype(np.int64) << 32 | words[:, 14].astype(np.int64) << 16 | words[:, 18]
    for key in dict.fromkeys(keys.tolist()):
        yield keys == key, (key >> 16).to_bytes(4, "big"), key & 0xFFFF


def _first(datagrams: _Datagrams, which: slice | NDArray[np.intp]) -> _Datagrams:
    return _Datagrams(
        datagrams.client,
        datagrams.data[which],
        datagrams.lengths[which],
        datagrams.arrivals[which],
    )


def _ack_times(done: NDArray[np.int64], acks: int) -> NDArray[np.int64]:
    """When each ack leaves: never before the server was done with what it acknowledges.

    With no more acks than datagrams, the k-th ack from the end answers the k-th datagram from the
    end, or one before it. More acks than datagrams: acks that were held back, released at the end.
    """
    if acks > len(done):
        return np.full(acks, done[-1], np.int64)
    return done[len(done) - acks :].copy()
