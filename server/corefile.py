"""The bytes of one vmcore: what has come, and whether what comes again says the same.

Rules:

1. What is kept is in the store when ``keep`` returns; its caller acknowledges nothing before.
2. Bytes that are there already are compared, not written: a retransmission costs a read. If they
   differ, the last ones win, as with netdumpd.
3. Rows that follow each other without a gap are one stretch: one write, or one read.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from netdump.messages import HEADER_SIZE
from server.coverage import Coverage
from server.infofile import escape
from server.refusals import Refusal
from server.store import Store, StoreError

Blocks = list[NDArray[np.uint8]]

FRAGMENTED: Final = Refusal(
    "too-fragmented", "data in more separate pieces than a dump may have came and were refused"
)


class CoreFile:
    """The vmcore of a session. Rows are datagrams: ``data`` uint8 (n, stride), header first."""

    def __init__(
        self,
        store: Store,
        max_intervals: int,
        refuse: Callable[[Refusal, int], None],
        on_rewrite: Callable[[int, int], None],
        on_kept: Callable[[int, int], None],
    ) -> None:
        """``refuse(why, frames)`` is told of frames that are not kept,
        ``on_rewrite(offset, frames)`` of frames that came again with other bytes, and
        ``on_kept(start, end)`` of bytes that were written for the first time.
        """
        self.coverage = Coverage(max_intervals)
        self.cut: int | None = None
        """Where the end of the dump cut the file off."""
        self.duplicates = 0
        self.rewritten = 0
        """Frames of stretches that came again with other bytes."""
        self._store = store
        self._refuse = refuse
        self._on_rewrite = on_rewrite
        self._on_kept = on_kept

    def keep(
        self, offsets: NDArray[np.int64], lengths: NDArray[np.int64], data: NDArray[np.uint8]
    ) -> tuple[NDArray[np.bool_], StoreError | None]:
        """Store what is new, stretch by stretch: which rows are kept, and what the disk said."""
        ends = offsets + lengths
        kept = np.ones(len(offsets), np.bool_)
        runs = _runs(offsets, ends)
        runs.reverse()
        while runs:
            first, last = runs.pop()
            start, end = int(offsets[first]), int(ends[last - 1])
            try:
                if self.coverage.covers(start, end):
                    self._compare(start, _payloads(data, lengths, first, last), last - first)
                elif last - first > 1 and self.coverage.overlaps(start, end):
                    # A retransmission that mends a gap: what is old in it is compared.
                    runs += self._split(offsets, ends, first, last)[::-1]
                elif not self.coverage.has_room_for(start, end):
                    self._refuse(FRAGMENTED, last - first)
                    kept[first:last] = False
                else:
                    self._store.write(start, _payloads(data, lengths, first, last))
                    self.coverage.add(start, end)
                    self._on_kept(start, end)
            except StoreError as error:
                kept[first:] = False
                return kept, error
        return kept, None

    def knows(
        self, offsets: NDArray[np.int64], lengths: NDArray[np.int64], data: NDArray[np.uint8]
    ) -> NDArray[np.bool_]:
        """Which rows say what the file has."""
        ends = offsets + lengths
        known = np.ones(len(offsets), np.bool_)
        runs = _runs(offsets, ends)
        while runs:
            first, last = runs.pop()
            start, end = int(offsets[first]), int(ends[last - 1])
            if self.coverage.covers(start, end) and self._still_holds(
                start, _payloads(data, lengths, first, last)
            ):
                continue
            if last - first > 1:
                runs += [(row, row + 1) for row in range(first, last)]
            else:
                known[first] = False
        return known

    def _split(
        self, offsets: NDArray[np.int64], ends: NDArray[np.int64], first: int, last: int
    ) -> list[tuple[int, int]]:
        """A run as shorter ones: what is covered, what is new, and rows that are some of each."""
        parts: list[tuple[int, int]] = []
        before = ""
        spans = zip(offsets[first:last].tolist(), ends[first:last].tolist(), strict=True)
        for row, (start, end) in enumerate(spans, first):
            if self.coverage.covers(start, end):
                kind = "old"
            else:
                kind = "mixed" if self.coverage.overlaps(start, end) else "new"
            if kind == before != "mixed":
                parts[-1] = parts[-1][0], row + 1
            else:
                parts.append((row, row + 1))
            before = kind
        return parts

    def _compare(self, start: int, blocks: Blocks, count: int) -> None:
        """``count`` frames that are covered already, in one stretch. May raise StoreError."""
        if self._holds(start, blocks):
            self.duplicates += count
            return
        self._store.write(start, blocks)
        self.rewritten += count
        self._on_rewrite(start, count)

    def _holds(self, start: int, blocks: Blocks) -> bool:
        """Are these the bytes of the file? Those that the end cut off can't be told any more."""
        octets = b"".join(block.data for block in blocks)
        if self.cut is not None:
            octets = octets[: max(0, self.cut - start)]
        return not octets or self._store.read(start, len(octets)) == octets

    def _still_holds(self, start: int, blocks: Blocks) -> bool:
        try:
            return self._holds(start, blocks)
        except StoreError as error:
            self._refuse(Refusal(error.reason, escape(str(error))), 1)
            return False


def _runs(starts: NDArray[np.int64], ends: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Rows [first, last) whose payloads follow each other without a gap."""
    if not len(starts):
        return []
    edges = [0, *(np.flatnonzero(starts[1:] != ends[:-1]) + 1).tolist(), len(starts)]
    return list(pairwise(edges))


def _payloads(data: NDArray[np.uint8], lengths: NDArray[np.int64], first: int, last: int) -> Blocks:
    """The payloads of rows [first, last) as contiguous blocks, one a stretch of equal lengths."""
    sizes = lengths[first:last]
    edges = [0, *(np.flatnonzero(sizes[1:] != sizes[:-1]) + 1).tolist(), last - first]
    return [
        np.ascontiguousarray(data[first + a : first + b, HEADER_SIZE : HEADER_SIZE + int(sizes[a])])
        for a, b in pairwise(edges)
    ]
