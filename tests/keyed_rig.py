"""A client with a key, without a network: what it would send, message by message."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from netdump.digest import Hasher
from netdump.kdh import KernelDumpHeader
from netdump.keys import SessionKeys
from netdump.messages import Message, MessageType, pack_headers, parse
from netdump.opening import PROOF, Facts, Prover
from netdump.sack import Sack, parse_sack
from netdump.tags import tagged
from server.core import NO_SESSION, HeraldReply
from tests.server_rig import CLIENT, DRAWN, HEADER, IMAGE, Rig, block

KEY, OTHER_KEY = bytes(range(32)), bytes(range(1, 33))
#: What a client with a key offers, and what a server that has it takes of that.
OFFER, TAKEN = 0x4E443227, 0x25


@dataclass
class KeyedClient:
    """One dump of a client. ``address`` is what the server sees."""

    rig: Rig
    key: bytes = KEY
    address: tuple[str, int] = CLIENT
    seqno: int = DRAWN
    nonce: bytes = bytes(range(8))
    path: bytes = b""
    facts: Facts = field(default_factory=lambda: Facts(len(IMAGE), "amd64", "lab1", "page fault"))

    def __post_init__(self) -> None:
        ip = bytes(map(int, self.address[0].split(".")))
        self.prover = Prover(self.key, ip, self.nonce, self.facts)
        self.prover.heralded(self.herald[:24], self.path)

    @property
    def herald(self) -> bytes:
        nonce = int.from_bytes(self.nonce, "big")
        return Message(MessageType.HERALD, self.seqno, nonce, self.path, OFFER).pack()

    def challenge(self) -> bytes:
        """What the server answers to the HERALD."""
        reply = self.rig.core.herald(self.address, self.herald, self.rig.now)
        assert reply is not None
        assert (reply.session_id, reply.fresh) == (NO_SESSION, False)
        return reply.ack

    def proof(self, challenge: bytes | None = None) -> bytes:
        said = self.prover.challenged(challenge or self.challenge(), OFFER & 0xFF)
        payload = said + self.prover.facts + self.path
        word = PROOF | (OFFER & 0xFF)
        return replace(parse(self.herald), payload=payload, aux2=word).pack()

    def send_proof(self, proof: bytes | None = None) -> HeraldReply | None:
        return self.rig.core.herald(self.address, proof or self.proof(), self.rig.now)

    def open(self) -> int:
        """A session, by the book."""
        reply = self.send_proof()
        assert reply is not None
        assert reply.session_id != NO_SESSION
        assert self.heard(reply.ack) == Sack(self.seqno + 1, (), TAKEN)
        return reply.session_id

    def heard(self, ack: bytes) -> Sack:
        octets = self.prover.unseal(ack)
        assert octets is not None, "a wrong tag"
        return parse_sack(octets)

    @property
    def keys(self) -> SessionKeys:
        assert self.prover.keys is not None, "no ack was heard"
        return self.prover.keys

    def message(self, kind: MessageType, nth: int, offset: int, payload: bytes) -> bytes:
        """With its tag; the n-th behind the HERALD."""
        head = pack_headers(kind, [self.seqno + nth], [offset], [len(payload)])
        memory = np.frombuffer(payload + b"\0", np.uint8)
        size = np.array([len(payload)])
        return tagged(self.keys.to_server, head, memory, np.array([0]), size).tobytes() + payload

    def messages(self, image: bytes = IMAGE, header: KernelDumpHeader = HEADER) -> list[bytes]:
        """Of a whole dump, in order."""
        cut = [(at, image[at : at + 1432]) for at in range(0, len(image), 1432)]
        kinds = MessageType
        parts = [
            self.message(kinds.VMCORE, 1 + n, at, octets) for n, (at, octets) in enumerate(cut)
        ]
        parts.append(self.message(kinds.KDH, 1 + len(parts), 0, header.pack()))
        hasher = Hasher()
        hasher.update(image)
        parts.append(self.message(kinds.FINISHED, 1 + len(parts), 0, hasher.digest().pack()))
        return parts

    def say(self, session: int, *datagrams: bytes) -> Sack | None:
        """Send one batch; the ack, None for silence."""
        acks = self.rig.core.receive(session, *block(datagrams), self.rig.now)
        return self.heard(acks[0].tobytes()) if len(acks) else None

    def dump(self, session: int, image: bytes = IMAGE, header: KernelDumpHeader = HEADER) -> bool:
        """All of it: was FINISHED acknowledged?"""
        parts = self.messages(image, header)
        for at in range(0, len(parts) - 1, 200):
            self.say(session, *parts[at : min(at + 200, len(parts) - 1)])
        ack = self.say(session, parts[-1])
        return ack == Sack(self.seqno + 1 + len(parts), (), TAKEN)
