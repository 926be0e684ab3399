"""How one client's messages are acknowledged: one by one, or, where it offered, selectively.

The form is chosen once, by the HERALD (``netdump/sack.py``); everything that may be acknowledged
goes through ``datagrams``, also what came before.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from netdump.messages import ACK_SIZE, pack_acks
from netdump.sack import MAX_RANGES, Sack, ahead
from server.coverage import Coverage

#: Messages beyond the first missing one that can be acknowledged: more than any window has.
FURTHEST: Final = 1 << 16


class Acks(Protocol):
    """The form in which a client hears that its messages are kept."""

    def datagrams(self, seqnos: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The UDP payloads, uint8 (m, octets), that say so of these; none for no seqnos."""
        ...


class OneByOne:
    """As stock clients know it: a datagram of four octets a message, in order."""

    def datagrams(self, seqnos: NDArray[np.int64]) -> NDArray[np.uint8]:
        return pack_acks(seqnos)


class Selective:
    """One datagram a batch, which says of every message whether it is kept."""

    def __init__(self, herald_seqno: int, max_intervals: int) -> None:
        """``max_intervals`` bounds what a client that skips seqnos can make us remember."""
        self._first = herald_seqno
        # Of messages, by their number from the HERALD on: seqnos begin anew, these do not.
        self._kept = Coverage(max_intervals)
        self._next = 0

    def datagrams(self, seqnos: NDArray[np.int64]) -> NDArray[np.uint8]:
        kept = self._kept
        distances = ahead(seqnos, self._first + self._next)
        # Nobody's dump has messages before its HERALD, or so far beyond what is missing.
        places = self._next + distances[(distances >= -self._next) & (distances < FURTHEST)]
        if not len(places):
            return np.empty((0, ACK_SIZE), np.uint8)
        edges = [0, *(np.flatnonzero(np.diff(places) != 1) + 1).tolist(), len(places)]
        for first, last in pairwise(edges):
            start, end = int(places[first]), int(places[last - 1]) + 1
            if kept.has_room_for(start, end):
                kept.add(start, end)
        # The HERALD is acknowledged before all else, so the first stretch begins with it.
        (_, self._next), *spans = kept.first(1 + MAX_RANGES)
        ranges = tuple((self._first + start, self._first + end) for start, end in spans)
        payload = Sack(self._first + self._next, ranges).pack()
        return np.frombuffer(payload, np.uint8)[None, :]
