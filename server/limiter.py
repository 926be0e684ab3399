"""How often the same thing may be told: a rate limiter for lines of a log. Pure; fed with the time.

Without one, a sender of datagrams could fill the operator's disk with lines about them. The rules:

1. A key (a client and what it did) is told at once, and then at most once in ``every`` seconds.
   What comes in between is counted, and the count is told when that time is over.
2. All keys together have ``burst`` lines in that time; what finds none left is counted too, and
   waits for its turn.
3. At most ``keys`` keys are remembered. What comes beyond them is counted under ``OTHERS``.

So lines and memory are bounded, and nothing is left out without being counted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

T = TypeVar("T")

#: The key of what came when all keys were taken.
OTHERS: Final = ("others",)


@dataclass(slots=True)
class _Entry(Generic[T]):
    due: float
    last: T
    left_out: int = 0


class RateLimiter(Generic[T]):
    """``T`` is what would be told. Times are seconds that never go back."""

    def __init__(self, every: float = 60.0, burst: int = 60, keys: int = 1024) -> None:
        self._every = every
        self._burst = burst
        self._keys = keys
        self._entries: OrderedDict[Hashable, _Entry[T]] = OrderedDict()  # the next due first
        self._tokens = float(burst)
        self._filled = 0.0

    def admit(self, key: Hashable, what: T, now: float, count: int = 1) -> bool:
        """May ``what``, which came ``count`` times, be told now? What is not told is counted."""
        if key not in self._entries and len(self._entries) >= self._keys:
            key = OTHERS
        entry = self._entries.get(key)
        if entry is None:
            told = key is not OTHERS and self._pay(now)
            self._entries[key] = _Entry(now + self._every, what, count - told)
            return told
        entry.last = what
        entry.left_out += count
        return False

    def due(self, now: float) -> Iterator[tuple[Hashable, T, int]]:
        """What was left out and may be told now: the key, the last of it, how many."""
        while self._entries:
            key, entry = next(iter(self._entries.items()))
            if entry.due > now or (entry.left_out and not self._pay(now)):
                return
            del self._entries[key]
            if entry.left_out:
                self._entries[key] = _Entry(now + self._every, entry.last)
                yield key, entry.last, entry.left_out

    def rest(self) -> Iterator[tuple[Hashable, T, int]]:
        """There is no later: all that was left out, due or not. At most a line a key."""
        entries, self._entries = self._entries, OrderedDict()
        return (
            (key, entry.last, entry.left_out) for key, entry in entries.items() if entry.left_out
        )

    def _pay(self, now: float) -> bool:
        grown = (now - self._filled) * self._burst / self._every
        self._tokens, self._filled = min(self._burst, self._tokens + grown), now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
