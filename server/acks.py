"""What one client was promised: which of its messages are acknowledged, when, and in which form.

An ack says "kept", and can't be taken back. So only what is in the store gets here, and what comes
out is what may go. The form is chosen once, by the HERALD (``acks_for``); everything that may be
acknowledged goes through its ``datagrams``, also what came before.

    form         for                            a VMCORE's ack goes      as
    OneByOne     all others                     at once                  four octets a message
    HeldBack     FreeBSD's kernel, seqno 1      with its whole chunk     the same (``rescue.py``)
    Selective    who offered to read them       at once                  one datagram a batch;
                                                                         with a tag, if it has a key

Acks of other kinds than VMCORE are never held; they move the base of those that are.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from netdump.keys import SessionKeys
from netdump.messages import ACK_SIZE, HEADER_SIZE, pack_acks
from netdump.offer import SELECTIVE_ACKS
from netdump.sack import SURE_RANGES, Sack, ahead, ranges_in
from server.config import ServerConfig
from server.coverage import Coverage
from server.rescue import STOCK_FIRST_SEQNO, AckHold

Seqnos = NDArray[np.int64]
Span = tuple[int, int]

NO_SEQNOS: Final = np.empty(0, np.int64)
#: Messages beyond the first missing one that can be acknowledged: more than any window has.
FURTHEST: Final = 1 << 16


class Acks(Protocol):
    """How a client hears that its messages are kept."""

    @property
    def held(self) -> int:
        """How many acks are held back now."""
        ...

    def kept(self, seqnos: Seqnos, lengths: NDArray[np.int64]) -> Seqnos:
        """VMCORE messages that are in the store, with payloads of ``lengths`` bytes, in order of
        arrival: which seqnos are acknowledged now.
        """
        ...

    def passed(self, seqnos: Seqnos) -> Seqnos:
        """The same of messages of other kinds."""
        ...

    def datagrams(self, seqnos: Seqnos) -> NDArray[np.uint8]:
        """The UDP payloads, uint8 (m, octets), that say so of these; none for no seqnos."""
        ...

    def spans(self) -> list[Span]:
        """What another life of the server has to know of what was acknowledged, as little as will
        do: messages, [first, end), counted on from the HERALD's seqno without turning over.
        """
        ...

    def fresh(self) -> list[Span]:
        """The same, of what is new since this was asked last."""
        ...

    @property
    def longest(self) -> int:
        """Octets of the longest message, as far as that matters."""
        ...

    def resume(self, spans: Iterable[Span], longest: int) -> None:
        """What an earlier life has acknowledged."""
        ...


class _AtOnce:
    """Nothing is held."""

    held = 0

    def kept(self, seqnos: Seqnos, lengths: NDArray[np.int64]) -> Seqnos:
        return seqnos

    def passed(self, seqnos: Seqnos) -> Seqnos:
        return seqnos


class OneByOne(_AtOnce):
    """As stock clients know it: a datagram of four octets a message, in order."""

    longest = 0

    def spans(self) -> list[Span]:
        return []

    fresh = spans

    def resume(self, spans: Iterable[Span], longest: int) -> None:
        """Nothing has to be known."""

    def datagrams(self, seqnos: Seqnos) -> NDArray[np.uint8]:
        return pack_acks(seqnos)


class HeldBack:
    """As stock clients know it, and so that their ack bitmap can't deceive them."""

    def __init__(self, herald_seqno: int) -> None:
        self._hold = AckHold(herald_seqno + 1)
        self._told = self._hold.base

    @property
    def held(self) -> int:
        return self._hold.held

    def kept(self, seqnos: Seqnos, lengths: NDArray[np.int64]) -> Seqnos:
        return self._hold.kept(seqnos, lengths)

    def passed(self, seqnos: Seqnos) -> Seqnos:
        return np.concatenate([self._hold.passed(seqnos), seqnos]) if len(seqnos) else seqnos

    def spans(self) -> list[Span]:
        return [(self._hold.base - 1, self._hold.base)]

    def fresh(self) -> list[Span]:
        before, self._told = self._told, self._hold.base
        return self.spans() if self._told != before else []

    @property
    def longest(self) -> int:
        return self._hold.longest

    def resume(self, spans: Iterable[Span], longest: int) -> None:
        """A chunk's acks go out together, so what was acknowledged lies before the base."""
        self._hold.base = self._told = max([self._hold.base, *(end for _, end in spans)])
        self._hold.longest = longest

    def datagrams(self, seqnos: Seqnos) -> NDArray[np.uint8]:
        return pack_acks(seqnos)


class Selective(_AtOnce):
    """One datagram a batch, which says of every message whether it is kept."""

    def __init__(
        self, herald_seqno: int, taken: int, max_intervals: int, keys: SessionKeys | None = None
    ) -> None:
        """``taken``: what each ack says. Who offered selective acks alone may be an older client of
        ours, which refuses more than ``SURE_RANGES`` ranges. ``max_intervals`` bounds what a
        client that skips seqnos can make us remember. ``keys``: of an authenticated session.
        """
        self._taken = taken
        self._keys = keys
        self._first = herald_seqno
        # Of messages, by their number from the HERALD on: seqnos begin anew, these do not.
        self._kept = Coverage(max_intervals)
        self._next = 0
        self._fresh: list[Span] = []
        self._longest = HEADER_SIZE  # of the client's datagrams: so long ones pass, and unbroken

    @property
    def known(self) -> int:
        """How many messages are acknowledged."""
        return self._kept.total

    def spans(self) -> list[Span]:
        return [(self._first + start, self._first + end) for start, end in self._kept.intervals()]

    def fresh(self) -> list[Span]:
        fresh, self._fresh = self._fresh, []
        return [(self._first + start, self._first + end) for start, end in fresh]

    @property
    def longest(self) -> int:
        return self._longest

    def resume(self, spans: Iterable[Span], longest: int) -> None:
        for start, end in spans:
            self._kept.add(start - self._first, end - self._first)
        self._next = self._kept.prefix
        self._longest = max(self._longest, longest)

    def kept(self, seqnos: Seqnos, lengths: NDArray[np.int64]) -> Seqnos:
        if len(lengths):
            self._longest = max(self._longest, HEADER_SIZE + int(lengths.max()))
        return seqnos

    def datagrams(self, seqnos: Seqnos) -> NDArray[np.uint8]:
        kept = self._kept
        distances = ahead(seqnos, self._first + self._next)
        # Nobody's dump has messages before its HERALD, or so far beyond what is missing.
        places = self._next + distances[(distances >= -self._next) & (distances < FURTHEST)]
        if not len(places):
            return np.empty((0, ACK_SIZE), np.uint8)
        edges = [0, *(np.flatnonzero(np.diff(places) != 1) + 1).tolist(), len(places)]
        for first, last in pairwise(edges):
            start, end = int(places[first]), int(places[last - 1]) + 1
            if kept.has_room_for(start, end) and not kept.covers(start, end):
                kept.add(start, end)
                self._fresh.append((start, end))
        # The HERALD is acknowledged before all else, so the first stretch begins with it.
        limit = ranges_in(self._longest) if self._taken != SELECTIVE_ACKS else SURE_RANGES
        (_, self._next), *spans = kept.first(1 + limit)
        if len(kept) > 1 + limit:
            spans = self._fresh_first(places, edges, spans)
        ranges = tuple((self._first + start, self._first + end) for start, end in spans)
        payload = Sack(self._first + self._next, ranges, self._taken).pack()
        if self._keys is not None:
            # No longer than the longest message, whose tag ``_longest`` does not count either.
            payload = self._keys.seal(payload)
        return np.frombuffer(payload, np.uint8)[None, :]

    def _fresh_first(
        self, places: Seqnos, edges: list[int], nearest: list[tuple[int, int]]
    ) -> list[tuple[int, int]]:
        """As many stretches as in ``nearest``: half of them hold these messages."""
        found = {self._kept.around(int(places[at])) for at in edges[:-1]}
        fresh = sorted(span for span in found if span is not None and span[0] > self._next)
        chosen = dict.fromkeys([*fresh[-(len(nearest) // 2) :], *nearest])
        return sorted(list(chosen)[: len(nearest)])


def acks_for(
    herald_seqno: int, taken: int, config: ServerConfig, keys: SessionKeys | None = None
) -> Acks:
    """The form for the client of a HERALD. ``taken``: the bits of its offer; 0 if it made none."""
    if taken:
        return Selective(herald_seqno, taken, config.max_intervals, keys)
    if config.rescue and herald_seqno == STOCK_FIRST_SEQNO:
        return HeldBack(herald_seqno)
    return OneByOne()
