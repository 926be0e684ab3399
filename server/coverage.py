"""Which bytes of a dump have arrived: an interval map.

Frames of a dump come almost in order, so the usual call extends the last interval and costs two
comparisons. Loss makes gaps, retransmissions close them. A hostile sender could make a gap a frame;
the number of intervals is bounded, and a stretch that would need one more is refused before
anything is written.

Intervals are half-open, disjoint, ascending and never touch: ``_starts[i] < _ends[i] <
_starts[i + 1]``.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

#: Half of what a window of 32,768 frames could leave open at the worst, and still a small list.
MAX_INTERVALS = 16384


class Coverage:
    """A set of byte offsets, kept as intervals."""

    def __init__(self, max_intervals: int = MAX_INTERVALS) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._max = max_intervals

    def __len__(self) -> int:
        """How many intervals there are."""
        return len(self._starts)

    @property
    def end(self) -> int:
        """One past the highest offset; 0 if there is none."""
        return self._ends[-1] if self._ends else 0

    @property
    def prefix(self) -> int:
        """One past the last offset before which none is missing."""
        return self._ends[0] if self._starts and not self._starts[0] else 0

    @property
    def total(self) -> int:
        """How many offsets are covered."""
        return sum(self._ends) - sum(self._starts)

    def intervals(self) -> list[tuple[int, int]]:
        """(start, end) of every interval, ascending."""
        return list(zip(self._starts, self._ends, strict=True))

    def first(self, count: int) -> list[tuple[int, int]]:
        """The first ``count`` of them, or fewer."""
        return list(zip(self._starts[:count], self._ends[:count], strict=True))

    def around(self, offset: int) -> tuple[int, int] | None:
        """The interval that holds this offset, if one does."""
        at = bisect_right(self._starts, offset) - 1
        if at < 0 or self._ends[at] <= offset:
            return None
        return self._starts[at], self._ends[at]

    def covers(self, start: int, end: int) -> bool:
        """Is every offset of [start, end) here? An empty stretch always is."""
        if start >= end:
            return True
        at = bisect_right(self._starts, start) - 1
        return at >= 0 and end <= self._ends[at]

    def overlaps(self, start: int, end: int) -> bool:
        """Is any offset of [start, end) here?"""
        if start >= end:
            return False
        at = bisect_left(self._starts, end) - 1
        return at >= 0 and self._ends[at] > start

    def has_room_for(self, start: int, end: int) -> bool:
        """Can [start, end) be added within the bound on intervals?"""
        if len(self._starts) < self._max or start >= end:
            return True
        # It needs no interval of its own if it touches or overlaps one.
        at = bisect_right(self._starts, end) - 1
        return at >= 0 and self._ends[at] >= start

    def add(self, start: int, end: int) -> None:
        """Cover [start, end)."""
        if start >= end:
            return
        starts, ends = self._starts, self._ends
        if ends and starts[-1] <= start <= ends[-1]:
            ends[-1] = max(ends[-1], end)
            return
        first = bisect_left(ends, start)
        last = bisect_right(starts, end)
        if first < last:
            start = min(start, starts[first])
            end = max(end, ends[last - 1])
        starts[first:last] = [start]
        ends[first:last] = [end]

    def holes(self, length: int) -> list[tuple[int, int]]:
        """The uncovered stretches of [0, length), ascending."""
        found = []
        at = 0
        for start, end in zip(self._starts, self._ends, strict=True):
            if start >= length:
                break
            if start > at:
                found.append((at, start))
            at = end
        if at < length:
            found.append((at, length))
        return found
