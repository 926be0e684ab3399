"""The digest of a dump's file, from what is read back of it.

What was received is not what is stored: memory may decay, and a disk. So the file is read back and
digested, not the messages (docs/netdump2.md, *Digest*). Rules:

1. Octets are digested in order, each once. So the reader follows the writer where there is no hole
   behind it, a distance ``LAG`` back: by then the kernel has begun to write them to the disk.
2. What is digested already and is written again makes it begin again.
3. Nothing is waited for long: one call reads a bounded stretch, and what is left at the end is read
   in slices. The server has other clients.
"""

from __future__ import annotations

from typing import Final

from netdump.digest import Digest, Hasher
from server.store import Store

#: Bytes read at once; how far behind the writer that is done; the most that is read at the end.
STRETCH: Final = 1 << 20
LAG: Final = 16 << 20
SLICE: Final = 256 << 20


class ReadBack:
    """Of one dump's file."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._hasher = Hasher()

    @property
    def done(self) -> int:
        """Bytes that were read back and digested, from the beginning on."""
        return self._hasher.length

    def digest(self) -> Digest:
        """Of those."""
        return self._hasher.digest()

    def rewritten(self, start: int) -> None:
        """Bytes from ``start`` on were written again."""
        if start < self.done:
            self._hasher = Hasher()

    def follow(self, end: int) -> None:
        """There is no hole before ``end``: read one stretch, if there is one far enough behind.
        May raise StoreError.
        """
        if end - self.done >= LAG + STRETCH:
            self._read(STRETCH)

    def reach(self, end: int) -> bool:
        """Read on to ``end``, at most a slice; whether it was reached. May raise StoreError."""
        if self.done > end:
            self._hasher = Hasher()  # what lay behind the dump was cut off
        left = min(end - self.done, SLICE)
        while left:
            step = min(left, STRETCH)
            self._read(step)
            left -= step
        return self.done == end

    def _read(self, count: int) -> None:
        self._hasher.update(self._store.read_back(self.done, count))
