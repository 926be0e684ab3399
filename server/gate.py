"""Who may open an authenticated session (docs/netdump2.md, *Authentication*). Pure.

A client that a key is known for, and that offers to authenticate, is challenged; what it proves is
believed. Rules:

1. Nothing is remembered of a HERALD. The nonce of its challenge is made of a secret of this
   server's life, of the HERALD and of the time, in slots of ``SLOT`` seconds. When the proof comes
   it is made again.
2. A nonce is good in its slot and the next one, and once. Those that have opened a session are
   remembered for so long, ``MOST_SPENT`` at the most: only who knows a key can spend one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from hmac import compare_digest
from ipaddress import AddressValueError, IPv4Address
from typing import Final

from blake3 import blake3

from netdump.errors import BadProof, NetdumpError
from netdump.inet import is_host
from netdump.keys import KEY_SIZE, NONCE_SIZE, Opening, Secret, SessionKeys
from netdump.messages import Message
from netdump.offer import AUTHENTICATION, MARK, take
from netdump.opening import Facts, offer_of, pack_challenge, parse_proof

#: Seconds.
SLOT: Final = 10
MOST_SPENT: Final = 1024
#: Stands for every address that has no key of its own.
EVERYBODY: Final = "*"
_MAC: Final = re.compile("[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")


class BadKeys(NetdumpError):
    """A file of keys that can't be used."""

    reason = "bad-keys"


def parse_keys(text: str) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """The keys, and the MACs, in a file, by address: lines ``ADDRESS KEY``, ``ADDRESS KEY MAC``, or
    ``* KEY`` for all others; KEY is 64 hex digits, MAC as ``02:00:00:00:00:02``.

    What follows a ``#`` is a comment. Raises BadKeys, and never shows a key.
    """
    keys: dict[str, bytes] = {}
    macs: dict[str, bytes] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) == 3 and words[0] != EVERYBODY:
            mac = bytes.fromhex(words[2].replace(":", "")) if _MAC.fullmatch(words[2]) else b""
            if not is_host(mac):
                raise BadKeys(f"line {number} of the keys: {words[2]!r} is no MAC of a host")
            macs[words[0]] = mac
            words.pop()
        if len(words) != 2 or not re.fullmatch(f"[0-9a-fA-F]{{{2 * KEY_SIZE}}}", words[1]):
            wanted = f"ADDRESS and a key of {2 * KEY_SIZE} hex digits"
            raise BadKeys(f"line {number} of the keys is not {wanted}")
        try:
            name = EVERYBODY if words[0] == EVERYBODY else str(IPv4Address(words[0]))
        except AddressValueError:
            said = f"line {number} of the keys: {words[0]!r} is no IPv4 address, nor {EVERYBODY}"
            raise BadKeys(said) from None
        if name in keys:
            raise BadKeys(f"line {number} of the keys: {name} has one already")
        keys[name] = bytes.fromhex(words[1])
    if not keys:
        raise BadKeys("there is no key in it")
    return keys, macs


class Stale(BadProof):
    """A proof with a nonce that is not, or no longer, good."""

    reason = "proof-stale"


class WrongProof(BadProof):
    """A proof whose tag is wrong: another key, or no key."""

    reason = "proof-tag"


@dataclass(frozen=True, slots=True)
class Proved:
    """What a proof that holds has proved."""

    opening: Opening
    keys: SessionKeys
    taken: int
    facts: Facts
    path: bytes


class Gate:
    """Of one life of a server."""

    def __init__(self, keys: Mapping[str, bytes], secret: bytes) -> None:
        """``keys``: by address, as ``parse_keys`` gives them. ``secret``: 32 octets, drawn."""
        self._secrets = {address: Secret(key) for address, key in keys.items()}
        self._secret = secret
        self._spent: dict[bytes, int] = {}

    def take(self, address: str, word: int) -> int:
        """What is taken of a HERALD's word."""
        return take(word, self._secret_of(address) is not None)

    def challenge(self, client: tuple[str, int], herald: Message, now: float) -> bytes:
        """The answer to the HERALD of a client of whose offer AUTHENTICATION is taken."""
        address, _ = client
        secret = self._secret_of(address)
        assert secret is not None, "AUTHENTICATION was taken"
        word = (MARK | self.take(address, herald.aux2)).to_bytes(4, "big")
        bare = Opening(IPv4Address(address).packed, herald.pack(), word, b"")
        nonce = self._nonce(client, bare, int(now // SLOT))
        opening = Opening(bare.client_ip, bare.herald, word, nonce)
        return pack_challenge(secret, opening, herald.seqno)

    def prove(self, client: tuple[str, int], message: Message) -> Proved:
        """What a proof proves, whenever it was made. Raises BadProof."""
        address, _ = client
        taken = self.take(address, offer_of(message))
        secret = self._secret_of(address)
        if secret is None or not taken & AUTHENTICATION:
            raise WrongProof("a proof of a client that no key is known for")
        proof = parse_proof(message, IPv4Address(address).packed, taken)
        if not proof.holds(secret):
            raise WrongProof("a proof whose tag is wrong")
        keys = secret.session(proof.opening)
        return Proved(proof.opening, keys, taken, proof.facts, proof.path)

    def session(self, client: tuple[str, int], opening: Opening) -> SessionKeys | None:
        """The keys of a session that was opened so, whoever opened it; None: there is no key."""
        secret = self._secret_of(client[0])
        return None if secret is None else secret.session(opening)

    def check_fresh(self, client: tuple[str, int], opening: Opening, now: float) -> None:
        """Raises Stale if it can't open a session, or has done so before."""
        slot = int(now // SLOT)
        self._spent = {nonce: last for nonce, last in self._spent.items() if last >= slot}
        bare = Opening(opening.client_ip, opening.herald, opening.word, b"")
        good = (self._nonce(client, bare, at) for at in (slot, slot - 1))
        if not any(compare_digest(nonce, opening.nonce) for nonce in good):
            raise Stale("a proof with an old nonce, or one that was never given out,")
        if opening.nonce in self._spent:
            raise Stale("a proof whose nonce has opened a session before")

    @property
    def full(self) -> bool:
        """No more nonces can be remembered, for some seconds."""
        return len(self._spent) >= MOST_SPENT

    def names(self, address: str) -> bool:
        """It has a key of its own, and not only everybody's."""
        return address in self._secrets

    def spend(self, opening: Opening, now: float) -> None:
        """It has opened a session now, and never opens another."""
        self._spent[opening.nonce] = int(now // SLOT) + 1

    def give_back(self, nonce: bytes) -> None:
        """It has opened no session after all."""
        self._spent.pop(nonce, None)

    def _secret_of(self, address: str) -> Secret | None:
        return self._secrets.get(address) or self._secrets.get(EVERYBODY)

    def _nonce(self, client: tuple[str, int], bare: Opening, slot: int) -> bytes:
        """``bare``: an opening that has none."""
        _, port = client
        made_of = port.to_bytes(2, "big") + slot.to_bytes(8, "big", signed=True) + bare.octets
        return blake3(made_of, key=self._secret).digest(length=NONCE_SIZE)
