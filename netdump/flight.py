"""The frames of a sliding window, from when they are cut to when they are known to be kept.

Theory. A table with a row a frame, in the order of the seqnos::

    head               sent               end
    | sent: some are acknowledged | cut, never sent | free ...

    state of a sent frame    means                                      leaves it by
    in flight                on its way, or its ack is                  an ack, or being overtaken
    lost                     overtaken, and not yet sent again          an ack, or being sent again
    acknowledged             kept; forgotten when all before it are     -

*What is lost* is decided as in RFC 8985 (RACK): not by how many acks came, but by which
*transmission* is known to have arrived. Transmissions are numbered over the whole send, first ones
and repeated ones alike. A frame is lost when one that was sent ``REORDER`` transmissions after its
latest has arrived. So a frame that is lost twice, or ten times, is found out each time by what was
sent after it, without a timeout.

*Which transmission arrived.* Of a frame that was sent once there is no doubt. Of one that was sent
again the ack may be that of an earlier transmission (Karn's problem). It is taken for the latest if
that was sent at least a shortest round trip ago (RFC 8985, 6.2, step 2); else it proves nothing.

*Memory.* All columns are reserved at boot, ``FRAME_SIZE`` bytes a frame. Rows move to the table's
beginning when its end is reached; a quarter more rows than the window keeps that rare. A frame is
an offset, a physical address and a length: its payload stays where it is.

Time is in ticks: what ``sent_at`` means is the sender's affair (``sliding.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from netdump.window import FRAGMENT

#: Frames overtaken by this many transmissions are taken for lost (RFC 5681 has 3; a switch with
#: several queues, or a NIC with several rings, may exchange neighbours).
REORDER: Final = 8
_SEQNO_MASK: Final = 0xFFFF_FFFF

#: Bits of a frame's state.
_LOST: Final = np.uint8(1)
_ACKED: Final = np.uint8(2)
_AGAIN: Final = np.uint8(4)
"""Sent more than once."""
_GONE: Final = _LOST | _ACKED
"""Either of them: no longer in flight."""

#: Bytes of a frame in the table: offset, address and number of its latest transmission of 8 each,
#: when that was (4), length (2), state (1).
FRAME_SIZE: Final = 8 + 8 + 8 + 4 + 2 + 1
_NONE: Final = np.zeros(0, np.int64)


_Number = TypeVar("_Number", np.int64, np.int32, np.uint16, np.uint8)


def _column(
    memory: NDArray[np.uint8], rows: int, kind: type[_Number]
) -> tuple[NDArray[_Number], NDArray[np.uint8]]:
    """The front of ``memory`` as so many numbers, and the rest."""
    size = rows * np.dtype(kind).itemsize
    return memory[:size].view(kind), memory[size:]


def rows_for(window_frames: int) -> int:
    """Rows of the table for so many frames between the first unacknowledged and the last sent."""
    return -(-(window_frames + window_frames // 4 + 64) // 8) * 8


def memory_for(window_frames: int) -> int:
    """Bytes that such a table takes."""
    return rows_for(window_frames) * FRAME_SIZE


@dataclass(frozen=True, slots=True)
class Heard:
    """What acks brought."""

    news: int = 0
    """Frames acknowledged that were not before."""
    late: int = 0
    """Acks of what was acknowledged and forgotten."""
    future: int = 0
    """Acks of what was not sent."""
    round_trip: int | None = None
    """Ticks, of the latest frame among those that were sent once."""


class Flight:
    """A table of frames. Rows are counted from its head."""

    def __init__(self, window_frames: int, memory: NDArray[np.uint8], first_seqno: int) -> None:
        """``memory``: uint8, ``memory_for(window_frames)`` bytes, on an address divisible by 8."""
        self._span = window_frames
        self._rows = rows_for(window_frames)
        self._head = self._sent = self._end = 0
        self._first = first_seqno
        self._highest = -1  # the latest transmission that is known to have arrived
        self.transmissions = 0
        """So many there were, repeated ones too; each is known by its number."""
        self.flying = 0
        self.lost = 0
        # Widest first, so that each is aligned.
        rest = memory
        self._offset, rest = _column(rest, self._rows, np.int64)
        self._address, rest = _column(rest, self._rows, np.int64)
        self._sent_as, rest = _column(rest, self._rows, np.int64)
        self._sent_at, rest = _column(rest, self._rows, np.int32)
        self._length, rest = _column(rest, self._rows, np.uint16)
        self._state, rest = _column(rest, self._rows, np.uint8)

    @property
    def next_seqno(self) -> int:
        """That of the next frame which is cut."""
        return self._first + self._end - self._head & _SEQNO_MASK

    @property
    def highest(self) -> int:
        """The latest transmission that is known to have arrived; -1: none."""
        return self._highest

    @property
    def waiting(self) -> int:
        """Frames that were cut and never sent."""
        return self._end - self._sent

    @property
    def empty(self) -> bool:
        """Nothing waits for anything."""
        return self._head == self._end

    @property
    def open(self) -> int:
        """How many more new frames may be sent before the first unacknowledged one is kept."""
        return self._span - (self._sent - self._head)

    @property
    def first_offset(self) -> int:
        """That of the first frame which is not known to be kept; 0: there is none."""
        return 0 if self.empty else int(self._offset[self._head])

    # -- cutting and sending -----------------------------------------------------------------

    def add(self, fragments: NDArray[np.void]) -> int:
        """Take fragments (dtype ``FRAGMENT``) from the front; how many there was room for."""
        if len(fragments) > self._rows - self._end and self._head:
            self._move()
        count = min(len(fragments), self._rows - self._end)
        rows = slice(self._end, self._end + count)
        part = fragments[:count]
        self._offset[rows] = part["offset"]
        self._address[rows] = part["address"]
        self._length[rows] = part["length"]
        self._state[rows] = 0
        self._end += count
        return count

    def _move(self) -> None:
        """To the table's beginning."""
        head, count = self._head, self._end - self._head
        for wide in (self._offset, self._address, self._sent_as):
            wide[:count] = wide[head : head + count]
        self._sent_at[:count] = self._sent_at[head : head + count]
        self._length[:count] = self._length[head : head + count]
        self._state[:count] = self._state[head : head + count]
        self._sent -= head
        self._head, self._end = 0, count

    def batch(self, room: int) -> tuple[NDArray[np.void], NDArray[np.int64]]:
        """Up to ``room`` frames to send now, lost ones first: (fragments, their rows)."""
        again = self._which(_LOST)[:room] if self.lost else _NONE
        fresh = max(0, min(room - len(again), self.waiting, self.open))
        sent = self._sent - self._head
        rows = np.arange(sent, sent + fresh)
        if len(again):
            rows = np.concatenate((again, rows))
        return self._fragments(rows), rows

    def last_in_flight(self) -> tuple[NDArray[np.void], NDArray[np.int64]]:
        """The one that was sent last in order, of those in flight: (fragment, its row), or none."""
        rows = self._which(np.uint8(0))[-1:]
        return self._fragments(rows), rows

    def _which(self, gone: np.uint8) -> NDArray[np.int64]:
        """The rows that are so much gone, ascending."""
        return np.flatnonzero(self._state[self._head : self._sent] & _GONE == gone)

    def _fragments(self, rows: NDArray[np.int64]) -> NDArray[np.void]:
        table = np.empty(len(rows), FRAGMENT)
        table["seqno"] = self._first + rows & _SEQNO_MASK
        at = self._head + rows
        table["offset"] = self._offset[at]
        table["address"] = self._address[at]
        table["length"] = self._length[at]
        return table

    def went(self, rows: NDArray[np.int64], now: int) -> None:
        """These rows of a batch, from its front, were sent."""
        if not len(rows):
            return
        at = self._head + rows
        state = self._state[at]
        repeated = at < self._sent
        self._state[at] = np.where(repeated, state & ~_LOST | _AGAIN, state)
        were_lost = int(np.count_nonzero(state & _LOST))
        were_flying = int(np.count_nonzero(repeated)) - were_lost
        self._sent_as[at] = self.transmissions + np.arange(len(at))
        self._sent_at[at] = now
        self._sent = max(self._sent, int(at[-1]) + 1)
        self.transmissions += len(at)
        self.lost -= were_lost
        self.flying += len(at) - were_flying

    # -- what became of them -----------------------------------------------------------------

    def hear(self, acks: NDArray[np.int64], now: int, shortest: int) -> Heard:
        """Note acknowledged seqnos. ``shortest``: a round trip takes at least so many ticks; 0: it
        is not known.
        """
        rows = acks - self._first & _SEQNO_MASK
        late = future = 0
        inside = rows < self._sent - self._head
        if not inside.all():
            late = int(np.count_nonzero(rows >> 31))
            future = int(np.count_nonzero(~inside)) - late
            rows = rows[inside]
        at = self._head + rows
        state = self._state[at]
        fresh = state & _ACKED == 0
        if not fresh.all():
            at, state = at[fresh], state[fresh]
        if not len(at):
            return Heard(0, late, future)
        self._state[at] |= _ACKED
        once = at
        if (state & _AGAIN).any():
            again = state & _AGAIN != 0
            once, again_at = at[~again], at[again]
            if shortest:
                self._learn(again_at[now - self._sent_at[again_at] >= shortest])
        newest = self._learn(once)
        round_trip = None if newest is None else now - int(self._sent_at[newest])
        before = self.flying + self.lost
        self._recount()
        return Heard(before - self.flying - self.lost, late, future, round_trip)

    def _learn(self, at: NDArray[np.int64]) -> int | None:
        """The latest transmissions of these have arrived; which of them was sent last."""
        if not len(at):
            return None
        newest = int(at[self._sent_as[at].argmax()])
        self._highest = max(self._highest, int(self._sent_as[newest]))
        return newest

    def _recount(self) -> None:
        """Forget what is acknowledged at the front, and count the rest."""
        gone = self._state[self._head : self._sent] & _GONE
        acked = gone & _ACKED != 0
        front = len(acked) if acked.all() else int(acked.argmin())
        self._head += front
        self._first = self._first + front & _SEQNO_MASK
        self.lost = int(np.count_nonzero(gone == _LOST))
        self.flying = int(np.count_nonzero(gone == 0))

    def overtaken(self, reorder: int = REORDER) -> int:
        """Take those for lost that enough later transmissions have overtaken; how many."""
        sent = slice(self._head, self._sent)
        state = self._state[sent]
        found = (self._sent_as[sent] <= self._highest - reorder) & (state & _GONE == 0)
        count = int(np.count_nonzero(found))
        if count:
            state[found] |= _LOST
            self.flying -= count
            self.lost += count
        return count

    def give_up(self) -> None:
        """Take all that is in flight for lost."""
        state = self._state[self._head : self._sent]
        state[state & _GONE == 0] |= _LOST
        self.lost += self.flying
        self.flying = 0
