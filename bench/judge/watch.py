"""The witness of netdump: what the client sent, and what the server acknowledged.

A ``Witness`` (``witness.py``).

Rules: only acks from the server's (or its gateway's) MAC to the client's MAC and port count, so
forged ones do not, nor what the hosts have told each other before the panic; everything is kept as
arrays and put together once, at the end. A selective ack, which is read here without the client's
code, counts as acks of all messages sent by then that it covers.

It does not put IP fragments together. What was sent in them it has not seen, and it says so:
``pieces``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.wire.contracts import Direction
from bench.wire.kinds import are_acks, are_messages, are_pieces
from netdump.checksum import ones_sum
from netdump.messages import ACK_SIZE, HEADER, HEADER_SIZE, MessageType
from nic_models.frames import Frames

_UDP_PAYLOAD = 42
#: Messages remembered of each end of the run.
_SAMPLE = 32
_NO_SEQNOS = np.empty(0, np.int64)
#: How a selective ack begins; of the octet that follows, the lowest bit is set.
_SELECTIVE = b"ND2"
#: With this bit there, it ends with a tag of so many octets.
_TAGGED, _TAG_SIZE = 0x20, 16

#: What one selective ack says is kept: [first, end) each, of which the first has no beginning.
Claim = list[tuple[int | None, int]]


class NetdumpWatch:
    """Observes both directions; see ``acknowledged`` and ``sample``."""

    first = "a HERALD"

    def __init__(self, client_mac: bytes, server_mac: bytes) -> None:
        """``server_mac`` is the gateway's, where there is one."""
        self._to_client = np.frombuffer(client_mac + server_mac, np.uint8)
        self._sent: list[NDArray[np.void]] = []
        self._acked: list[NDArray[np.int64]] = []
        self._head: list[tuple[int, bytes]] = []
        self._tail: list[tuple[int, bytes]] = []
        self.frames = 0
        """Frames seen in both directions."""
        self.data_bytes = 0
        """Bytes of dump sent, repeats included."""
        self.latest_acks = _NO_SEQNOS
        """int64: the seqnos that the latest batch from the server acknowledged."""
        self._never_sent: Counter[int] = Counter()  # by the port that they came from
        self.pieces = 0
        """Frames to the server that it can't read (``kinds.are_pieces``)."""
        self._unsent: int | None = None  # the seqno after the last one that was sent
        self.selective = False
        """Whether the server has acknowledged selectively."""
        self._open: list[NDArray[np.int64]] = []  # sent, and not yet settled by a selective ack
        self._port: int | None = None  # of the session that the client dumps to

    def observe(self, direction: Direction, frames: Frames, _notes: Mapping[int, str]) -> None:
        self.frames += len(frames)
        if direction == "to-server":
            self._observe_sent(frames)
        else:
            self._observe_acks(frames)

    def _observe_sent(self, frames: Frames) -> None:
        data = frames.data
        # By port and by type: before the panic the machine may have sent anything from that port.
        mine = are_messages(frames)
        mine &= frames.lengths >= _UDP_PAYLOAD + HEADER_SIZE
        if not mine.all():  # hardly ever while data flows
            self.pieces += int(np.count_nonzero(are_pieces(frames)))
        if data.shape[1] < _UDP_PAYLOAD + HEADER_SIZE:
            return
        heads = np.ascontiguousarray(data[:, _UDP_PAYLOAD : _UDP_PAYLOAD + HEADER_SIZE])
        rows = heads.view(HEADER)[:, 0]
        if not mine.all():
            rows = rows[mine]
        if not len(rows):
            return
        core = rows["type"] == MessageType.VMCORE
        self.data_bytes += int((rows["length"].astype(np.int64) * core).sum())
        self._sent.append(rows)
        where = np.flatnonzero(mine)
        followers = where[rows["type"] != MessageType.HERALD]
        if len(followers):
            self._port = int.from_bytes(data[followers[-1], 36:38].tobytes(), "big")
        seqnos = rows["seqno"].astype(np.int64)
        if self._unsent is None:
            self._unsent = int(seqnos[0])
        ahead = _ahead(seqnos, self._unsent)
        self._unsent += max(0, int(ahead.max()) + 1)
        if (ahead[0] >= 0) and (ahead[1:] > ahead[:-1]).all():  # as ever, while nothing is lost
            self._open.append(seqnos)
        else:
            self._open = [np.unique(np.concatenate([*self._open, seqnos]))]

        def kept(first: int, end: int) -> list[tuple[int, bytes]]:
            return [(int(seqnos[i]), frames.bytes_of(int(where[i]))) for i in range(first, end)]

        self._head += kept(0, min(len(rows), _SAMPLE - len(self._head)))
        self._tail = (self._tail + kept(max(0, len(rows) - 4), len(rows)))[-_SAMPLE:]

    def _observe_acks(self, frames: Frames) -> None:
        self.latest_acks = _NO_SEQNOS
        if frames.data.shape[1] < _UDP_PAYLOAD:
            return
        # What the server says in another session, which somebody may have woken, is not about this
        # dump. Which session is this dump's shows when the client goes on with it.
        ports = frames.data[:, 34].astype(np.int64) << 8 | frames.data[:, 35]
        for port in np.unique(ports).tolist() if self._port is None else [self._port]:
            self._observe_session(port, frames.take(ports == port))

    def _observe_session(self, port: int, frames: Frames) -> None:
        acks, claims = self._acks_in(frames)
        self.selective |= bool(claims)
        for claim in claims:
            acks = np.concatenate([acks, self._settle(port, claim)])
        if self._unsent is not None:
            ahead = _ahead(acks, self._unsent) >= 0
            self._never_sent[port] += int(np.count_nonzero(ahead))
        self.latest_acks = np.concatenate([self.latest_acks, acks])
        if len(acks):
            self._acked.append(acks)

    @property
    def never_sent(self) -> int:
        """Acks from the server that named a message which nobody had sent."""
        by_port = self._never_sent
        return by_port.total() if self._port is None else by_port[self._port]

    def _settle(self, port: int, claim: Claim) -> NDArray[np.int64]:
        """The messages that it acknowledges, and none did since they were last sent."""
        sent = np.concatenate([_NO_SEQNOS, *self._open])
        covered = _covered(sent, claim)
        self._open = [sent[~covered]]
        if self._unsent is not None:
            ends = np.array([end for _, end in claim])
            self._never_sent[port] += bool((_ahead(ends, self._unsent) > 0).any())
        return sent[covered]

    def answered(self, frames: Frames, seqnos: set[int]) -> set[int]:
        """Those of the messages that some ack of a batch acknowledges."""
        acks, claims = self._acks_in(frames)
        found = seqnos & set(acks.tolist())
        rest = np.array(sorted(seqnos - found), np.int64)
        return found.union(*(rest[_covered(rest, claim)].tolist() for claim in claims))

    def _acks_in(self, frames: Frames) -> tuple[NDArray[np.int64], list[Claim]]:
        """The seqnos, int64, that the server's stock acks in a batch name, in order; and what its
        selective acks claim.
        """
        data = frames.data
        if data.shape[1] < _UDP_PAYLOAD + ACK_SIZE:
            return _NO_SEQNOS, []
        length = (data[:, 38].astype(np.int64) << 8) | data[:, 39]
        said = are_acks(frames) & (length >= 8 + ACK_SIZE)
        said &= (data[:, :12] == self._to_client).all(axis=1)
        said &= frames.lengths >= _UDP_PAYLOAD - 8 + length
        stock = said & (length == 8 + ACK_SIZE)
        octets = np.ascontiguousarray(data[stock, _UDP_PAYLOAD : _UDP_PAYLOAD + ACK_SIZE])
        seqnos: NDArray[np.int64] = octets.view(">u4")[:, 0].astype(np.int64)
        claims: list[Claim] = []
        for row in np.flatnonzero(said & ~stock).tolist():
            end = _UDP_PAYLOAD - 8 + int(length[row])
            claims += _claims(data[row, _UDP_PAYLOAD:end].tobytes())
        return seqnos, claims

    def acknowledged(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(offsets, lengths), int64, of the dump bytes that the server acknowledged."""
        return self._acknowledged(MessageType.VMCORE)

    def acknowledged_key(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The same of the key block of an encrypted dump."""
        return self._acknowledged(MessageType.EKCD_KEY)

    def _acknowledged(self, kind: MessageType) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        nothing = np.empty(0, np.int64)
        if not self._sent or not self._acked:
            return nothing, nothing
        sent = np.concatenate(self._sent)
        core = sent[sent["type"] == kind]
        core = core[np.isin(core["seqno"], np.concatenate(self._acked))]
        _, first = np.unique(core["seqno"], return_index=True)
        core = core[first]
        return core["offset"].astype(np.int64), core["length"].astype(np.int64)

    def history(self, offset: int) -> str:
        """What became of the frame that carried byte ``offset`` of the dump, in words."""
        sent = np.concatenate(self._sent) if self._sent else np.empty(0, HEADER)
        start = sent["offset"].astype(np.int64)
        length = sent["length"].astype(np.int64)
        covers = (sent["type"] == MessageType.VMCORE) & (start <= offset)
        mine = sent[covers & (offset < start + length)]
        if not len(mine):
            return "no whole frame ever carried it" if self.pieces else "no frame ever carried it"
        seqno = int(mine["seqno"][0])
        acked = any((acks == seqno).any() for acks in self._acked)
        times = "once" if len(mine) == 1 else f"{len(mine)} times"
        said = "acknowledged" if acked else "never acknowledged"
        return f"its frame, seqno {seqno}, was sent {times}, and {said} by the server"

    def extent(self, seqno: int) -> tuple[int, int] | None:
        """(offset, length) of the dump bytes that a seqno carried; None if it carried none."""
        for rows in reversed(self._sent):
            found = np.flatnonzero((rows["seqno"] == seqno) & (rows["type"] == MessageType.VMCORE))
            if found.size:
                row = rows[found[0]]
                return int(row["offset"]), int(row["length"])
        return None

    def notes(self) -> list[str]:
        """Nothing that the verdict does not say by itself."""
        return []

    def sample(self) -> dict[int, bytes]:
        """Messages, by seqno, that the server has acknowledged: the first of the run and some of
        the last, HERALD, header and FINISHED among them. What a replay sends again.

        Of the copies of a message one that the server's host takes: a NIC or a driver may have sent
        a broken one, too, or the client one to somebody who said that he is the server.
        """
        server_mac = self._to_client[6:].tobytes()
        acked = set(np.concatenate([_NO_SEQNOS, *self._acked]).tolist())
        found: dict[int, bytes] = {}
        for seqno, frame in (*self._head, *self._tail):
            if seqno not in acked or frame[:6] != server_mac or not _is_whole(frame):
                continue
            # Of a client that has a key the HERALD is answered by a challenge, its proof by an ack.
            if not (_is_proof(found.get(seqno, b"")) and not _is_proof(frame)):
                found[seqno] = frame
        return found


def _is_proof(frame: bytes) -> bool:
    return frame[_UDP_PAYLOAD + 20 :][:3] == b"NDP"


def _is_whole(frame: bytes) -> bool:
    """Whether its UDP checksum is right, or there is none (RFC 768)."""
    length = int.from_bytes(frame[38:40], "big")
    pseudo = frame[26:34] + bytes((0, 17)) + frame[38:40]
    datagram = frame[34 : 34 + length]
    return datagram[6:8] == bytes(2) or (
        len(datagram) == length and ones_sum(pseudo + datagram) == 0
    )


def _claims(payload: bytes) -> list[Claim]:
    """What a selective ack claims; nothing if the payload is none."""
    if len(payload) % 8 or len(payload) < 8 or payload[:3] != _SELECTIVE or not payload[3] & 1:
        return []
    if payload[3] & _TAGGED:
        payload = payload[:-_TAG_SIZE]
    words = np.frombuffer(payload, ">u4").astype(np.int64).tolist()
    return [[(None, words[1]), *zip(words[2::2], words[3::2], strict=True)]]


def _covered(seqnos: NDArray[np.int64], claim: Claim) -> NDArray[np.bool_]:
    """Which of them lie before the first end, or in a range."""
    origin = claim[0][1]
    places = _ahead(seqnos, origin)
    covered: NDArray[np.bool_] = places < 0
    if len(claim) > 1:
        spans = _ahead(np.array(claim[1:], np.int64), origin)
        spans = spans[np.argsort(spans[:, 0], kind="stable")]
        ends = np.maximum.accumulate(spans[:, 1])  # whatever a server says: they may overlap
        at = np.searchsorted(spans[:, 0], places, side="right") - 1
        covered |= (at >= 0) & (places < ends[at])
    return covered


def _ahead(seqnos: Any, origin: int) -> Any:
    """How far seqnos, or one of them, are ahead of another, modulo 2**32: -2**31 to 2**31 - 1."""
    return (seqnos - origin + (1 << 31)) % (1 << 32) - (1 << 31)
