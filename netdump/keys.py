"""Who speaks: keys, and the tags that prove it (docs/netdump2.md, *Authentication*).

Client and server share a key of 32 octets. All else is BLAKE3, which the digest needs anyway:

    what                  made of                               proves
    secret                the shared key, for this use alone    -
    challenge's tag       secret; "C", transcript               the server knows the key, now
    proof's tag           secret; "P", transcript, facts        the client knows the key, now
    session's two keys    secret; "S", transcript               -
    a message's tag       key to the server; header, payload    it is of this session's client
    an ack's tag          key to the client; the ack            it is of this session's server

The *transcript* is what both sides have seen of each other: the client's address, its HERALD octet
for octet (the client's nonce is in it), what the server took, and the server's nonce.

Rules:

1. Each use has a key of its own, or a letter. So no tag is good for anything but its purpose, nor
   in the other direction, nor in another session.
2. A nonce is used once. So what was recorded of one session is noise in every other.
3. Tags are compared in a time that does not depend on where they differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from hmac import compare_digest
from typing import Final

from blake3 import blake3

KEY_SIZE: Final = 32
TAG_SIZE: Final = 16
#: The server's. The client's is 8 octets: it goes into a HERALD's offset.
NONCE_SIZE: Final = 16
CLIENT_NONCE_SIZE: Final = 8
#: BLAKE3's derive_key mode wants a text that nobody else uses.
_CONTEXT: Final = "netdump2 2026-11-29 authentication, from a shared key"
_CHALLENGE, _PROOF, _SESSION = b"C", b"P", b"S"


@dataclass(frozen=True, slots=True)
class Opening:
    """What a session is opened with: the transcript."""

    client_ip: bytes
    """Four octets, network order."""
    herald: bytes
    """The first message, whole."""
    word: bytes
    """Four octets: what the server took, as each of its acks begins."""
    nonce: bytes
    """The server's."""

    @property
    def octets(self) -> bytes:
        return self.client_ip + self.herald + self.word + self.nonce


@dataclass(frozen=True, slots=True)
class SessionKeys:
    """Of one session, 32 octets each."""

    to_server: bytes
    to_client: bytes

    def seal(self, ack: bytes) -> bytes:
        """An ack, with its tag behind it."""
        return ack + tag(self.to_client, ack)

    def unseal(self, octets: bytes) -> bytes | None:
        """The ack in a datagram of the server's; None if its tag is wrong, or is not there."""
        ack, theirs = octets[:-TAG_SIZE], octets[-TAG_SIZE:]
        return ack if compare_digest(tag(self.to_client, ack), theirs) else None


class Secret:
    """What a shared key is good for."""

    def __init__(self, key: bytes) -> None:
        """``key``: ``KEY_SIZE`` octets."""
        self._key = blake3(key, derive_key_context=_CONTEXT).digest()

    def challenge(self, opening: Opening) -> bytes:
        """The tag by which a server shows that it knows the key."""
        return tag(self._key, _CHALLENGE, opening.octets)

    def proof(self, opening: Opening, facts: bytes) -> bytes:
        """The tag by which a client shows it, and that these are its facts."""
        return tag(self._key, _PROOF, opening.octets, facts)

    def session(self, opening: Opening) -> SessionKeys:
        octets = _keyed(self._key, _SESSION, opening.octets).digest(length=2 * KEY_SIZE)
        return SessionKeys(octets[:KEY_SIZE], octets[KEY_SIZE:])


def tag(key: bytes, *parts: bytes) -> bytes:
    """``TAG_SIZE`` octets: keyed BLAKE3 of the parts, one behind the other."""
    return _keyed(key, *parts).digest(length=TAG_SIZE)


def _keyed(key: bytes, *parts: bytes) -> blake3:
    return blake3(b"".join(parts), key=key)
