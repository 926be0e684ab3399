"""Third hosts that mean harm: they send what they like, with whatever addresses they like.

None of them can stop a frame. ``Bystanders`` gives each its turn, once for every so many frames of
the machine's, and lets it hear what passes; what it says is heard ahead of any answer.

    attacker    hears                      says to the server         says to the client
    DataForger  ARP, which is broadcast    data, to each port in      -
                                           turn
    Forger      ARP                        the same; headers and      acks, challenges and NAKs,
                                           FINISHED; HERALDs and      with guessed ports and
                                           proofs                     seqnos
    ArpRacer    ARP                        the client's address is    the server's address is mine
                                           mine
    Replayer    everything                 what the client said, in   what the server said, the
                                           this dump and in one       same
                                           before; as it was, and
                                           to the port of today

What they forge is as right as somebody can make it who has not the key: checksums, CRCs, lengths.
Nothing is random: the same frames heard bring the same frames said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from bench.wire.contracts import MINIMUM_FRAME, Direction
from bench.wire.kinds import CODE, classify
from netdump import arp, crc
from netdump.checksum import ONES, ones_sum
from netdump.digest import Digest
from netdump.inet import Flow, udp_headers
from netdump.kdh import KernelDumpHeader
from netdump.messages import CLIENT_PORT, HEADER_SIZE, HERALD_PORT, MessageType, pack_headers
from netdump.nak import Reason, pack_nak
from netdump.opening import CHALLENGE, PROOF
from netdump.sack import Sack
from nic_models.frames import Frames

#: An attacker's own MAC.
MAC: Final = bytes.fromhex("02005e009966")
#: The ports that Linux gives to sockets that ask for none (net.ipv4.ip_local_port_range).
FIRST_PORT: Final = 32768
PORTS: Final = 28232
#: Ports that a forger tries in one turn: all of them in 1,177 turns.
GUESSES: Final = 24
#: At how many of them it tries all else, too.
MORE: Final = 4
#: What it writes, if it is believed, and where: the client has been there early, so this comes last
#: and wins.
FORGED: Final = b"\xee" * 512
FORGED_AT: Final = 4096
#: Frames of each sort that a replayer says in one turn.
REPEATS: Final = 2
_MARK: Final = 0x4E443200
_SOURCE, _DESTINATION, _CHECKSUM = 34, 36, 40
_NO_ONE: Final = b"\xff" * 6
#: Offers of selective acks, without and with CRC, digest and a key.
_OFFERS: Final = (0, _MARK | 0x01, _MARK | 0x07, _MARK | 0x27)

Said = tuple[Frames, Frames]
"""To the client, and to the server."""


class Attacker(Protocol):
    """See the module's table."""

    def hears(self, direction: Direction, frames: Frames) -> None:
        """These pass."""
        ...

    def says(self, turns: int) -> Said:
        """So many turns of it."""
        ...


@dataclass(frozen=True, slots=True)
class _Ends:
    """Whom it is about, as everybody hears who asks by ARP."""

    client_mac: bytes
    client_ip: bytes
    asked_ip: bytes
    server_mac: bytes = _NO_ONE


class _Listener:
    """Learns both ends' addresses from ARP."""

    def __init__(self) -> None:
        self.ends: _Ends | None = None
        self.requests = 0

    def hears(self, direction: Direction, frames: Frames) -> None:
        for row in np.flatnonzero(classify(frames) == CODE["arp"]).tolist():
            packet = arp.parse(frames.bytes_of(row))
            if direction == "to-server" and packet.operation == arp.REQUEST:
                mac, ip, asked = packet.sender_mac, packet.sender_ip, packet.target_ip
                known = self.ends.server_mac if self.ends is not None else _NO_ONE
                self.ends = _Ends(mac, ip, asked, known)
                self.requests += 1
            elif direction == "to-client" and self.ends is not None:
                self.ends = replace(self.ends, server_mac=packet.sender_mac)


class ArpRacer:
    """Answers the client's ARP requests in the server's name, asks the server in the client's, and
    goes on with both.
    """

    def __init__(self) -> None:
        self._listener = _Listener()

    def hears(self, direction: Direction, frames: Frames) -> None:
        self._listener.hears(direction, frames)

    def says(self, turns: int) -> Said:
        ends = self._listener.ends
        if ends is None:
            return Frames.empty(), Frames.empty()
        lies = arp.reply(MAC, ends.asked_ip, ends.client_mac, ends.client_ip), _asks(ends)
        to_client, to_server = (
            Frames.of([lie.ljust(MINIMUM_FRAME, b"\0")] * turns) for lie in lies
        )
        return to_client, to_server


def _asks(ends: _Ends) -> bytes:
    """Who asks is remembered: every host does that, and no clock keeps it from it."""
    return arp.request(MAC, ends.client_ip, ends.asked_ip)


class DataForger:
    """Knows who they are, and hears nothing of what they say."""

    def __init__(self) -> None:
        self._listener = _Listener()
        self._turn = 0

    def hears(self, direction: Direction, frames: Frames) -> None:
        self._listener.hears(direction, frames)

    def says(self, turns: int) -> Said:
        ends = self._listener.ends
        if ends is None or ends.server_mac == _NO_ONE:
            return Frames.empty(), Frames.empty()
        data = _to_server(ends, FIRST_PORT, MessageType.VMCORE, 7, FORGED_AT, FORGED)
        to_client, to_server = [], []
        for turn in range(self._turn, self._turn + turns):
            # The walk begins in the middle: a host that gives its ports in order, as our simulated
            # one does, is not found out before the client has sent anything.
            walked = PORTS // 2 + turn * GUESSES + np.arange(GUESSES)
            ports = FIRST_PORT + walked % PORTS
            to_server.append(_to_each(data, ports))
            heard, besides = self._besides(ends, turn, ports)
            to_client.append(heard)
            to_server.append(besides)
        self._turn += turns
        return Frames.concat(to_client), Frames.concat(to_server)

    def _besides(self, _ends: _Ends, _turn: int, _ports: NDArray[np.int64]) -> Said:
        """What else it says in this turn, in which it tries these ports."""
        return Frames.empty(), Frames.empty()


class Forger(DataForger):
    """Tries everything."""

    def __init__(self) -> None:
        super().__init__()
        self._shots = Frames.empty()

    def _besides(self, ends: _Ends, turn: int, ports: NDArray[np.int64]) -> Said:
        if not len(self._shots):
            self._shots = self._ammunition(ends)
        shots = _to_each(self._shots, ports[:MORE])
        to_server = Frames.concat([shots, self._herald(ends, turn)])
        return self._ack(ends, turn, int(ports[0])), to_server

    def _herald(self, ends: _Ends, turn: int) -> Frames:
        """Of a stock client, of one of ours, or a proof that proves nothing."""
        nonce = turn * 0x9E3779B97F4A7C15 % 2**63
        kind = turn % (len(_OFFERS) + 1)
        if kind < len(_OFFERS):
            word = _OFFERS[kind]
            return _to_server(ends, HERALD_PORT, MessageType.HERALD, 2 + turn, nonce, b"", word)
        texts = b"amd64\0victim\0panic\0"
        payload = bytes(32) + (1 << 20).to_bytes(8, "big") + texts
        return _to_server(
            ends, HERALD_PORT, MessageType.HERALD, 2 + turn, nonce, payload, PROOF | 0x27
        )

    def _ammunition(self, ends: _Ends) -> Frames:
        """For whoever takes it."""
        vmcore, header, finished = MessageType.VMCORE, MessageType.KDH, MessageType.FINISHED
        short = KernelDumpHeader(dumplength=FORGED_AT + len(FORGED)).pack()
        digest = Digest(FORGED_AT + len(FORGED), bytes(32)).pack()
        return Frames.concat(
            [
                _to_server(ends, FIRST_PORT, vmcore, 7, FORGED_AT, FORGED, tag=bytes(16)),
                _to_server(ends, FIRST_PORT, header, 8, 0, short),
                _to_server(ends, FIRST_PORT, finished, 9, 0, digest),
            ]
        )

    def _ack(self, ends: _Ends, turn: int, port: int) -> Frames:
        seqno = turn * 0x9E3779B1 % 2**32
        said = [
            turn.to_bytes(4, "big"),
            seqno.to_bytes(4, "big"),
            Sack(seqno, (), 0x07).pack(),
            Sack(seqno, (), 0x25).pack() + bytes(16),
            (CHALLENGE | 0x25).to_bytes(4, "big") + seqno.to_bytes(4, "big") + bytes(32),
            pack_nak(0x25, seqno, Reason.DISK_FULL) + bytes(16),
        ]
        return _to_client(ends, (HERALD_PORT, port)[turn // len(said) % 2], said[turn % len(said)])


class Replayer:
    """Has heard everything, also of a dump before this one, and says it again: word for word, and
    to the client once more from a MAC of its own.
    """

    def __init__(self) -> None:
        self._recorded: dict[Direction, list[bytes]] = {"to-server": [], "to-client": []}
        self._earlier: dict[Direction, list[bytes]] = {"to-server": [], "to-client": []}
        self._said = 0
        self._port = 0

    def remember(self, direction: Direction, frames: Sequence[bytes]) -> None:
        """What it has recorded of a dump before this one."""
        self._earlier[direction] += frames

    def hears(self, direction: Direction, frames: Frames) -> None:
        kinds = classify(frames)
        ours = np.flatnonzero((kinds != CODE["other"]) & (kinds != CODE["netconsole"]))
        self._recorded[direction] += [frames.bytes_of(row) for row in ours.tolist()]
        data = np.flatnonzero(kinds == CODE["vmcore"])
        if direction == "to-server" and len(data):
            self._port = int.from_bytes(frames.bytes_of(int(data[-1]))[36:38], "big")

    def says(self, turns: int) -> Said:
        to_client, to_server = [
            Frames.concat([self._again(direction, turn) for turn in range(turns)])
            for direction in ("to-client", "to-server")
        ]
        self._said += turns
        return to_client, to_server

    def _again(self, direction: Direction, turn: int) -> Frames:
        at = REPEATS * (self._said + turn)
        earlier = _some(self._earlier[direction], at)
        parts = [earlier, _some(self._recorded[direction], at)]
        if self._port and len(earlier):
            column = _DESTINATION if direction == "to-server" else _SOURCE
            kinds = classify(earlier)
            # A HERALD is for port 20023; all else would come to no socket any more.
            moved = (kinds != CODE["arp"]) & (kinds != CODE["herald"])
            mine = earlier.take(moved)
            parts.append(to_ports(mine, column, np.full(len(mine), self._port)))
        if direction == "to-client":
            latest = self._recorded[direction][-REPEATS:]
            parts.append(Frames.of([one[:6] + MAC + one[12:] for one in latest]))
        return Frames.concat(parts)


def _some(frames: Sequence[bytes], at: int) -> Frames:
    """The next few, from the beginning again when all have been said."""
    return Frames.of([frames[(at + i) % len(frames)] for i in range(REPEATS)] if frames else [])


def _to_server(
    ends: _Ends,
    port: int,
    kind: MessageType,
    seqno: int,
    offset: int,
    payload: bytes,
    word: int | None = None,
    tag: bytes = b"",
) -> Frames:
    """One message in the client's name. ``word``: None for a right CRC, or 0 beside a tag."""
    head = pack_headers(kind, [seqno], [offset], [len(payload)], word or 0)
    if word is None and not tag:
        octets = np.frombuffer(payload + b"\0", np.uint8)
        crc.put(head, octets, np.array([0]), np.array([len(payload)]))
    flow = Flow(MAC, ends.server_mac, ends.client_ip, ends.asked_ip, CLIENT_PORT, port)
    return _datagram(flow, head.tobytes() + tag + payload)


def _to_client(ends: _Ends, port: int, payload: bytes) -> Frames:
    flow = Flow(MAC, ends.client_mac, ends.asked_ip, ends.client_ip, port, CLIENT_PORT)
    return _datagram(flow, payload)


def _to_each(frames: Frames, ports: NDArray[np.int64]) -> Frames:
    """All of these frames to each of the server's ports."""
    count = len(frames)
    many = frames.take(np.tile(np.arange(count), len(ports)))
    return to_ports(many, _DESTINATION, np.repeat(ports, count))


def _datagram(flow: Flow, payload: bytes) -> Frames:
    head, rest = payload[:HEADER_SIZE], payload[HEADER_SIZE:]
    app = np.frombuffer(head, np.uint8)[None, :]
    sums, lengths = np.array([ones_sum(rest)]), np.array([len(rest)])
    frame = udp_headers(flow, app, sums, lengths, ttl=64).tobytes() + rest
    return Frames.of([frame.ljust(MINIMUM_FRAME, b"\0")])


def to_ports(frames: Frames, column: int, ports: NDArray[np.int64]) -> Frames:
    """UDP frames with another port there, 34 or 36, and their checksums mended (RFC 1624)."""
    if not len(frames):
        return frames
    data = frames.data.copy()
    before, checksums = (
        data[:, at].astype(np.int64) << 8 | data[:, at + 1] for at in (column, _CHECKSUM)
    )
    made = ONES - (2 * ONES - checksums - before + ports) % ONES
    for at, values in ((column, ports), (_CHECKSUM, made)):
        data[:, at], data[:, at + 1] = values >> 8, values & 0xFF
    return Frames(data, frames.lengths, frames.time_ns)
