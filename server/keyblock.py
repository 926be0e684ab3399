"""The key block of an encrypted dump: a few KiB that come in a few messages.

As with the vmcore (``corefile.py``) what is kept is in the store before its caller acknowledges it,
and what comes again is compared, not written. But here the first ones win: without the right key
all of the dump is lost, and a client has one key block. It is small, so the bytes are remembered.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import Final

from server.coverage import Coverage
from server.refusals import Refusal
from server.store import Store, StoreError

#: 37 bytes and an RSA-encrypted key of at most 2048, padded to a block: this is far beyond.
MAX_KEY_BYTES: Final = 64 * 1024
KEY_TOO_LONG: Final = Refusal(
    "key-too-long", f"a key block of more than {MAX_KEY_BYTES} bytes came and was refused"
)


SECOND_KEY: Final = Refusal("second-key", "another key block came and was refused")


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

    def contradicted_by(self, offset: int, octets: bytes) -> bool:
        """Do they say something else of a place that is known?"""
        for start, end in self.coverage.intervals():
            first, last = max(start, offset), min(end, offset + len(octets))
            if first < last and self._bytes[first:last] != octets[first - offset : last - offset]:
                return True
        return False

    def read_back(self) -> tuple[str, bytes] | None:
        """Its file, and what that has; None: there is none, or it can't be read."""
        if not self._bytes:
            return None
        try:
            return self._store.read_key()
        except StoreError:
            return None

    @property
    def damaged(self) -> bool:
        """What is read back of it is not what came."""
        found = self.read_back()
        return bool(self._bytes) and (found is None or found[1] != self._bytes)

    def resume(self, spans: Iterable[tuple[int, int]]) -> None:
        """What another life of the server had kept, of its file. May raise StoreError."""
        for start, end in spans:
            self.coverage.add(start, end)
        if len(self.coverage):
            name, octets = self._store.read_key()
            if len(octets) < self.coverage.end:
                raise StoreError(f"{name} is shorter than what was kept", errno.EIO)
            self._bytes = bytearray(octets[: self.coverage.end])

    def keep(self, offset: int, octets: bytes) -> None:
        """Put them in the store; bytes below ``MAX_KEY_BYTES``. May raise StoreError."""
        if self.has(offset, octets):
            return
        self._store.write_key(offset, octets)
        end = offset + len(octets)
        self.coverage.add(offset, end)
        self._bytes += bytes(max(0, end - len(self._bytes)))
        self._bytes[offset:end] = octets
