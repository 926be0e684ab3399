"""The digest of a dump's file, from what is read back of it.

What was received is not what is stored: memory may decay, and a disk. So the file is read back and
digested, not the messages (docs/netdump2.md, *Digest*). Rules:

1. Octets are digested in order, each once. So the reader follows the writer where there is no hole
   behind it, a distance ``LAG`` back: by then the kernel has begun to write them to the disk.
2. What is digested already and is written again makes it begin again.
3. Nothing is waited for long: what is read meanwhile is read beside the server's loop, a stretch
   at a time (``Store.later``), and what is left at the end in slices. The server has other clients.
"""

from __future__ import annotations

from concurrent.futures import Future, wait
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
        self.done = 0
        """Bytes that were read back and digested, from the beginning on."""
        self._stretch: Future[int] | None = None
        """The one that is being read; its bytes are not in ``done``."""
        self._useless: list[Future[int]] = []
        """Stretches that are being read, and were written again meanwhile."""

    def digest(self) -> Digest:
        """Of what is ``done``; call it when nothing is being read."""
        return self._hasher.digest()

    def rewritten(self, start: int) -> None:
        """Bytes from ``start`` on were written again."""
        if start < self.done + STRETCH * (self._stretch is not None):
            self._begin_anew()

    def follow(self, end: int) -> None:
        """There is no hole before ``end``: read one stretch, if there is one far enough behind, and
        none is being read. May raise StoreError, of an earlier one.
        """
        self._look()
        if self._stretch is None and end - self.done >= LAG + STRETCH:
            self._stretch = self._read(STRETCH)
            self._look()

    def reach(self, end: int) -> bool:
        """Read on to ``end``, at most a slice; whether it was reached. May raise StoreError."""
        self._settle()
        if self.done > end:
            self._begin_anew()  # what lay behind the dump was cut off
        left = min(end - self.done, SLICE)
        while left:
            step = min(left, STRETCH)
            self._stretch = self._read(step)
            self._settle()
            left -= step
        return self.done == end

    def close(self) -> None:
        """Nothing reads the file from now on."""
        self._begin_anew()
        wait(self._useless)

    def _read(self, count: int) -> Future[int]:
        hasher, store, start = self._hasher, self._store, self.done

        def read() -> int:
            hasher.update(store.read_back(start, count))
            return count

        return store.later(read)

    def _look(self) -> None:
        if self._stretch is not None and self._stretch.done():
            self._settle()

    def _settle(self) -> None:
        """Wait for what is being read."""
        stretch, self._stretch = self._stretch, None
        if stretch is not None:
            self.done += stretch.result()

    def _begin_anew(self) -> None:
        if self._stretch is not None:
            self._useless = [one for one in self._useless if not one.done()]
            self._useless.append(self._stretch)
        self._hasher, self._stretch, self.done = Hasher(), None, 0
