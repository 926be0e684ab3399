"""The digest of a whole dump, and how FINISHED carries it (docs/netdump2.md, *Digest*).

A CRC sees what happens to a message between the client's memory and the server's. It does not see
what happened before it was made, or after it was checked: a buffer that decays before it is sent
again, the server's memory, its disk. So both ends digest the dump: the client what it is about to
send, in order, once; the server what it reads back from its disk. FINISHED has the client's::

     0           4      8        16       48
     | algorithm | size | length | digest |

The algorithm is BLAKE3: two to three times as fast as SHA-256 is with the CPU's instructions for
that, and in FreeBSD's kernel, for OpenZFS has it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from blake3 import blake3

#: FINISHED's number of the algorithm, its name, and the octets of its digest.
ALGORITHM: Final = 1
NAME: Final = "BLAKE3"
SIZE: Final = 32
_FINISHED: Final = struct.Struct(f">IIQ{SIZE}s")
FINISHED_SIZE: Final = _FINISHED.size


@dataclass(frozen=True, slots=True)
class Digest:
    """Of the first ``length`` octets of a dump."""

    length: int
    value: bytes

    def pack(self) -> bytes:
        """FINISHED's payload."""
        return _FINISHED.pack(ALGORITHM, SIZE, self.length, self.value)


def parse_digest(payload: bytes) -> Digest | None:
    """The digest in FINISHED's payload; None if there is none that we know."""
    if len(payload) != FINISHED_SIZE:
        return None
    algorithm, size, length, value = _FINISHED.unpack(payload)
    return Digest(length, value) if (algorithm, size) == (ALGORITHM, SIZE) else None


class Hasher:
    """Octets in their order, and the digest of what there was so far."""

    def __init__(self) -> None:
        self.length = 0
        self._hash = blake3()

    def update(self, octets: bytes | memoryview) -> None:
        """``octets`` are read, and not kept."""
        self.length += len(octets)
        self._hash.update(octets)

    def digest(self) -> Digest:
        return Digest(self.length, self._hash.digest())
