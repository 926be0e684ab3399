"""The stored dump against memory: byte by byte, told as ranges.

A *hole* is a stretch where the store holds zeros, or ends, and memory did not; a *difference* is
any other byte that disagrees. The comparison trusts neither side's word about completeness.

Both are read a window at a time, and the file into one buffer: a mapped file would count as ours.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import IO, Protocol

import numpy as np
from numpy.typing import NDArray

_BLOCK = 1 << 20
_NO_BYTES = np.empty(0, np.uint8)
#: Ranges closer than this are one: bytes that agree by chance split no hole.
_JOIN = 64
#: More ranges than this are counted, not listed.
MAX_RANGES = 1000


@dataclass(frozen=True, slots=True)
class Range:
    """Bytes ``start`` to ``end`` (exclusive) of the dump."""

    start: int
    end: int
    hole: bool


@dataclass(slots=True)
class Comparison:
    """What came of comparing. ``equal`` also says that the lengths agree."""

    expected_length: int
    stored_length: int
    ranges: list[Range] = field(default_factory=list)
    ranges_left_out: int = 0
    differences_left_out: int = 0
    """How many of those are no holes."""
    expected_at_first: bytes = b""
    stored_at_first: bytes = b""
    most_ranges: int = MAX_RANGES

    @property
    def equal(self) -> bool:
        return not self.ranges and self.stored_length == self.expected_length

    @property
    def holes(self) -> list[Range]:
        return [r for r in self.ranges if r.hole]

    @property
    def only_holes(self) -> bool:
        return not self.differences_left_out and all(r.hole for r in self.ranges)

    def add_holes(self, spans: Sequence[tuple[int, int]]) -> None:
        """Stretches, [start, end), that can hold nothing right whatever is stored there."""
        first = self.ranges[0].start if self.ranges else None
        found = self.ranges + [Range(start, end, hole=True) for start, end in spans]
        self.ranges = []
        for one in sorted(found, key=lambda r: r.start):
            _append(self, one)
        if self.ranges and self.ranges[0].start != first:
            self.expected_at_first = self.stored_at_first = b""  # there is nothing to compare


class Expected(Protocol):
    """What a stored dump is held against."""

    @property
    def length(self) -> int: ...

    def read(self, start: int, end: int) -> NDArray[np.uint8]:
        """Bytes [start, end) of the dump; fewer where it ends before. Not to be written to."""
        ...


class Image:
    """What the dump must be: stretches of other arrays, end to end, without a copy of them."""

    def __init__(self, parts: Sequence[NDArray[np.uint8]]) -> None:
        """``parts``: uint8, flat, in the order of the dump."""
        *starts, self.length = accumulate(map(len, parts), initial=0)
        self._parts = list(zip(starts, parts, strict=True))

    def read(self, start: int, end: int) -> NDArray[np.uint8]:
        """Bytes [start, end) of the dump; fewer where it ends before. Not to be written to."""
        found = [
            part[max(start - at, 0) : end - at]
            for at, part in self._parts
            if at < end and start < at + len(part)
        ]
        return found[0] if len(found) == 1 else np.concatenate([_NO_BYTES, *found])


class PartlyKnown:
    """An image whose first ``unknown`` bytes nobody has seen: there it is what is stored."""

    def __init__(self, known: Expected, stored: Stored, unknown: int) -> None:
        self.length = known.length
        self._known = known
        self._stored = stored
        self._unknown = unknown

    def read(self, start: int, end: int) -> NDArray[np.uint8]:
        """As ``Image.read``."""
        border = min(max(start, self._unknown), end)
        there = self._stored.read(start, border)
        return np.concatenate([there, self._known.read(border, end)])


class Stored:
    """A stored file, complete or partial, on the disk. ``length`` may be made less, where what
    follows is no part of the dump.
    """

    def __init__(self, file: Path | IO[bytes]) -> None:
        """``file``: its name, or itself, open and not buffered."""
        self._file = file.open("rb", buffering=0) if isinstance(file, Path) else file
        self.length = os.fstat(self._file.fileno()).st_size

    def read(self, start: int, end: int) -> NDArray[np.uint8]:
        """Bytes [start, end), uint8; fewer where it ends before."""
        return self.read_into(np.empty(max(min(end, self.length) - start, 0), np.uint8), start)

    def read_into(self, buffer: NDArray[np.uint8], start: int) -> NDArray[np.uint8]:
        """As many bytes from ``start`` as there is room for, or are left; the part that has them.

        Raises:
            OSError: the disk does not give them, or the file has become shorter.
        """
        wanted = buffer[: max(self.length - start, 0)]
        got = 0
        while got < len(wanted):
            more = os.preadv(self._file.fileno(), [wanted.data[got:]], start + got)
            if not more:
                raise OSError(errno.EIO, "a stored dump became shorter", str(self._file.name))
            got += more
        return wanted

    def close(self) -> None:
        self._file.close()


def compare(expected: Expected, stored: Stored, most_ranges: int = MAX_RANGES) -> Comparison:
    """One pass; ranges are built only where something differs, and so many of them listed."""
    result = Comparison(expected.length, stored.length, most_ranges=most_ranges)
    common = min(expected.length, stored.length)
    buffer = np.empty(min(_BLOCK, common), np.uint8)
    for at in range(0, common, _BLOCK):
        want = expected.read(at, min(at + _BLOCK, common))
        have = stored.read_into(buffer[: len(want)], at)
        if not np.array_equal(want, have):
            _add_ranges(result, at, want, have)
    if stored.length < expected.length:
        _append(result, Range(stored.length, expected.length, hole=True))
    if result.ranges:
        first = result.ranges[0].start
        result.expected_at_first = expected.read(first, first + 16).tobytes()
        result.stored_at_first = stored.read(first, first + 16).tobytes()
    return result


def _add_ranges(
    result: Comparison, at: int, want: NDArray[np.uint8], have: NDArray[np.uint8]
) -> None:
    different = np.flatnonzero(want != have)
    breaks = np.flatnonzero(np.diff(different) > _JOIN)
    begins = np.concatenate(([0], breaks + 1))
    starts = different[begins]
    ends = different[np.concatenate((breaks, [len(different) - 1]))] + 1
    # A hole has zeros in all that differs; what agrees in between may be anything.
    wrong = np.logical_or.reduceat(have[different] != 0, begins)
    for start, end, differs in zip(starts.tolist(), ends.tolist(), wrong.tolist(), strict=True):
        _append(result, Range(at + start, at + end, hole=not differs))


def _append(result: Comparison, found: Range) -> None:
    ranges = result.ranges
    if ranges and found.start - ranges[-1].end <= _JOIN and ranges[-1].hole == found.hole:
        ranges[-1] = Range(ranges[-1].start, max(ranges[-1].end, found.end), found.hole)
    elif len(ranges) < result.most_ranges:
        ranges.append(found)
    else:
        result.ranges_left_out += 1
        result.differences_left_out += not found.hole
