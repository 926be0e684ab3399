"""What netdump2 adds to the stock protocol, as bits: what a client offers and a server takes.

The HERALD's word ``aux2`` is ``MARK`` and the bits that the client wants; each ack of a server that
knows them begins with ``MARK`` and the bits that it took, always a part of those
(docs/netdump2.md, *The offer and its answer*).

Rules:

1. Without ``SELECTIVE_ACKS`` the other bits mean nothing: a stock ack has no room for an answer.
2. What a server takes of one HERALD it takes for the whole session. So there is nothing to agree
   upon that a lost frame could make the two sides remember differently.
3. Bits that mean nothing yet are dropped by a server and never sent by a client.
"""

from __future__ import annotations

from typing import Final

#: "ND2", and no bit.
MARK: Final = 0x4E44_3200
SELECTIVE_ACKS: Final = 0x01
CRC32C: Final = 0x02
DIGEST: Final = 0x04
#: They mean nothing yet.
RESERVED: Final = (0x08, 0x10)
AUTHENTICATION: Final = 0x20
#: What a server takes of any client.
KNOWN: Final = SELECTIVE_ACKS | CRC32C | DIGEST
#: What it takes of one whose key it has: a tag makes the CRC needless.
KNOWN_WITH_KEY: Final = SELECTIVE_ACKS | DIGEST | AUTHENTICATION
_BITS: Final = 0xFF


def bits_of(word: int) -> int:
    """The bits in a HERALD's or an ack's word; 0 if it offers, or takes, nothing."""
    bits = word & _BITS
    return bits if word - bits == MARK and bits & SELECTIVE_ACKS else 0


def take(word: int, has_key: bool = False) -> int:
    """What a server takes of a HERALD's word; 0: it is a stock client's. ``has_key``: the server
    shares a key with this client.
    """
    bits = bits_of(word)
    return bits & (KNOWN_WITH_KEY if has_key and bits & AUTHENTICATION else KNOWN)
