"""How an authenticated session is opened: three messages before its first ack.

    client                                          server
    HERALD, its nonce in the offset, bit 20   --->
                                              <---  challenge: the server's nonce, a tag
    proof: that nonce, a tag, facts           --->
                                              <---  the HERALD's ack, from the session's own port

The server keeps nothing of a HERALD, and makes nothing but one tag for it; what it needs to know of
it comes once more in the proof. So forged HERALDs, as many as the line takes, make it no larger
than it was.

The challenge, 40 octets::

     0                  4       8       24    40
     | NDC + taken      | seqno | nonce | tag |

The proof is a HERALD with another word and more payload, 24 octets of header and::

     24      40    56                                                      ...
     | nonce | tag | length of the dump, 8 octets | architecture 0 | host 0 | panic 0 | path 0 |

Length of the dump and the three texts are the *facts*, what a partial dump would otherwise never
tell: the kernel dump header comes last. The path is the HERALD's, if it had one.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from hmac import compare_digest
from typing import Final

from netdump.errors import BadChallenge, BadProof
from netdump.kdh import KDH_SIZE
from netdump.keys import NONCE_SIZE, TAG_SIZE, Opening, Secret, SessionKeys
from netdump.messages import HEADER_SIZE, Message, MessageType
from netdump.offer import AUTHENTICATION, MARK, bits_of

#: "NDC" and "NDP", and no bit: how the words of challenge and proof begin.
CHALLENGE: Final = 0x4E44_4300
PROOF: Final = 0x4E44_5000
CHALLENGE_SIZE: Final = 8 + NONCE_SIZE + TAG_SIZE
#: Octets of a proof's payload before the facts.
PROOF_SIZE: Final = NONCE_SIZE + TAG_SIZE
#: The most octets of each text of the facts, with its zero: those that a kernel dump header has.
TEXTS: Final = (12, 64, 176)
FACTS_MAX: Final = 8 + sum(TEXTS)
MOST_OFFERED: Final = 4
#: IPv4, UDP, a header, a tag and a kernel dump header.
LEAST_MTU: Final = 28 + HEADER_SIZE + TAG_SIZE + KDH_SIZE
#: IPv4, UDP, a header, and what a proof has before its facts.
_PROOF_HEADERS: Final = 28 + HEADER_SIZE + PROOF_SIZE
_CHALLENGE: Final = struct.Struct(f">II{NONCE_SIZE}s{TAG_SIZE}s")
_LENGTH: Final = struct.Struct(">Q")
_MARKS: Final = 0xFFFF_FF00


def proof_mtu(octets: int) -> int:
    """The least MTU for a proof with so many octets of facts and path."""
    return _PROOF_HEADERS + octets


def is_challenge(payload: bytes) -> bool:
    """Going by its length and its first three octets."""
    return len(payload) == CHALLENGE_SIZE and payload[:3] == CHALLENGE.to_bytes(4, "big")[:3]


def is_proof(word: int) -> bool:
    """Going by a HERALD's word."""
    return word & _MARKS == PROOF


@dataclass(frozen=True, slots=True)
class Facts:
    """What a client tells of its dump beforehand."""

    length: int
    """Octets that it means to send."""
    architecture: str = ""
    hostname: str = ""
    panicstring: str = ""

    def pack(self) -> bytes:
        """At most ``FACTS_MAX`` octets: texts that are too long are cut."""
        texts = (self.architecture, self.hostname, self.panicstring)
        parts = [_LENGTH.pack(self.length)]
        for text, most in zip(texts, TEXTS, strict=True):
            octets = text.replace("\0", "").encode()[: most - 1]
            parts.append(octets.decode(errors="ignore").encode() + b"\0")
        return b"".join(parts)


def _split_facts(octets: bytes) -> tuple[Facts, bytes]:
    """The facts, and what follows them. Raises BadProof."""
    if len(octets) < _LENGTH.size:
        raise BadProof(f"a proof with {len(octets)} octets of facts and path", octets)
    (length,) = _LENGTH.unpack_from(octets)
    texts: list[str] = []
    rest = octets[_LENGTH.size :]
    for most in TEXTS:
        text, zero, rest = rest.partition(b"\0")
        if not zero or len(text) >= most:
            raise BadProof(f"a text of a proof's facts is longer than {most - 1} octets", octets)
        texts.append(text.decode(errors="replace"))
    return Facts(length, *texts), rest


@dataclass(frozen=True, slots=True)
class Proof:
    """A proof, taken apart; whether its tag is right ``holds`` says."""

    opening: Opening
    tag: bytes
    facts: Facts
    path: bytes
    """The HERALD's payload."""
    told: bytes
    """The facts, as they came."""

    def holds(self, secret: Secret) -> bool:
        return compare_digest(secret.proof(self.opening, self.told), self.tag)


def parse_proof(message: Message, client_ip: bytes, taken: int) -> Proof:
    """``taken``: what is taken of the offer in its word. Raises BadProof."""
    payload = message.payload
    if len(payload) < PROOF_SIZE:
        raise BadProof(f"a proof of {len(payload)} octets: it has more than {PROOF_SIZE}", payload)
    facts, path = _split_facts(payload[PROOF_SIZE:])
    told = payload[PROOF_SIZE : len(payload) - len(path)]
    word = MARK | (message.aux2 & ~_MARKS)
    herald = Message(MessageType.HERALD, message.seqno, message.offset, path, word)
    opening = Opening(client_ip, herald.pack(), (MARK | taken).to_bytes(4, "big"), payload[:16])
    return Proof(opening, payload[NONCE_SIZE:PROOF_SIZE], facts, path, told)


def offer_of(proof: Message) -> int:
    """The word of the HERALD that a proof is about."""
    return MARK | (proof.aux2 & ~_MARKS)


def pack_challenge(secret: Secret, opening: Opening, seqno: int) -> bytes:
    """The UDP payload that answers the HERALD of that opening."""
    taken = int.from_bytes(opening.word, "big") & ~_MARKS
    return _CHALLENGE.pack(CHALLENGE | taken, seqno, opening.nonce, secret.challenge(opening))


class Prover:
    """The client's side. One a dump.

    A server may have made several challenges of one HERALD, for it is sent again; so the keys of
    the latest ``MOST_OFFERED`` are kept until an ack shows which of them became a session.
    """

    def __init__(self, key: bytes, client_ip: bytes, nonce: bytes, facts: Facts) -> None:
        """``nonce``: ``CLIENT_NONCE_SIZE`` octets that no dump of this machine has had before."""
        self.nonce = nonce
        self.facts = facts.pack()
        self.keys: SessionKeys | None = None
        """The session's, once an ack has had a right tag."""
        self._offered: dict[bytes, SessionKeys] = {}
        self._secret = Secret(key)
        self._client_ip = client_ip
        self._herald = b""
        self._seqno = 0

    @property
    def challenges(self) -> int:
        """How many right ones there were, those of an earlier copy of the HERALD among them."""
        return len(self._offered)

    def heralded(self, header: bytes, path: bytes) -> None:
        """The HERALD, as it goes out."""
        self._herald = header + path
        self._seqno = int.from_bytes(header[4:8], "big")

    def challenged(self, payload: bytes, offer: int) -> bytes:
        """The 32 octets that a proof's payload begins with, for a challenge of ``CHALLENGE_SIZE``
        octets. Raises BadChallenge if it is not the answer to our HERALD of somebody who knows the
        key.
        """
        word, seqno, nonce, theirs = _CHALLENGE.unpack(payload)
        taken = bits_of(MARK | (word & ~_MARKS))
        opening = Opening(self._client_ip, self._herald, (MARK | taken).to_bytes(4, "big"), nonce)
        right = taken & AUTHENTICATION and not taken & ~offer and seqno == self._seqno
        if not right or not compare_digest(self._secret.challenge(opening), theirs):
            why = "a challenge that is not for this HERALD, or whose tag is wrong"
            raise BadChallenge(why, payload)
        if opening.nonce not in self._offered:
            if len(self._offered) == MOST_OFFERED:
                del self._offered[next(iter(self._offered))]
            self._offered[opening.nonce] = self._secret.session(opening)
        return opening.nonce + self._secret.proof(opening, self.facts)

    def unseal(self, octets: bytes) -> bytes | None:
        """The ack in a datagram of the server's; None if its tag is wrong. The first one says which
        challenge's session it is.
        """
        if self.keys is not None:
            return self.keys.unseal(octets)
        for keys in self._offered.values():
            ack = keys.unseal(octets)
            if ack is not None:
                self.keys = keys
                return ack
        return None
