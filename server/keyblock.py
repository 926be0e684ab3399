"""The key block of an encrypted dump: a few KiB that come in a few messages.

Like the vmcore (``corefile.py``): what is kept is in the store before its caller acknowledges it,
and what comes again is compared, not written. It is small, so the bytes are remembered here.
"""

from __future__ import annotations

from typing import Final

from server.coverage import Coverage
from server.refusals import Refusal
from server.store import Store

#: 37 bytes and an RSA-encrypted key of at most 2048, padded to a block: this is far beyond.
MAX_KEY_BYTES: Final = 64 * 1024
KEY_TOO_LONG: Final = Refusal(
    "key-too-long", f"a key block of more than {MAX_KEY_BYTES} bytes came and was refused"
)


class KeyBlock:
    """The key block of a session."""

    def __init__(self, store: Store) -> None:
        self.coverage = Coverage()
        self._store = store
        self._bytes = bytearray()

    def has(self, offset: int, octets: bytes) -> bool:
        """Are they here already, the same?"""
        end = offset + len(octets)
        return self.coverage.covers(offset, end) and self._bytes[offset:end] == octets

    def keep(self, offset: int, octets: bytes) -> None:
        """Put them in the store; bytes below ``MAX_KEY_BYTES``. May raise StoreError."""
        if self.has(offset, octets):
            return
        self._store.write_key(offset, octets)
        end = offset + len(octets)
        self.coverage.add(offset, end)
        self._bytes += bytes(max(0, end - len(self._bytes)))
        self._bytes[offset:end] = octets
