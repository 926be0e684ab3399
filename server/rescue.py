"""Saving a stock client from its own ack bitmap, by holding acks back.

The defect. FreeBSD's debugnet sends a buffer of up to 64 KiB as a *chunk* of fragments with seqnos
base .. base+n-1, and waits until its bitmap of acks is full. The bits are made by shifting a plain
32-bit int, so on amd64 and arm64 fragment 32+k has the bit of fragment k (sys/net/debugnet.c,
2018 to date; before that in netdump_client.c). At MTU 1500 a chunk has 46 fragments: lose one of a
pair, see the other acknowledged, and the lost one is never sent again. A silent hole.

The cure. A client moves on only when acks have filled its bitmap. So let no ack of a chunk out
until the whole chunk is kept: then no bit can lie. What the client resends meanwhile is kept
already. Three rules:

1. A seqno below the base is of a chunk that is kept: acknowledged at once.
2. From the base on, acks are held until the chunk's end is known and everything up to it is here;
   then all of them go out and the base moves behind the chunk. The client's base can never be
   ahead of ours.
3. The end of a chunk is *known*, never guessed, wherever guessing could cost data:

   * a fragment shorter than the longest of this session is the last of its chunk: all but the last
     carry exactly MTU - 52 bytes;
   * 64 KiB are a full chunk: the client's buffer has no more;
   * if fragments carry 2048 bytes or more, no chunk has more than 32 and nothing aliases: no ack
     is held at all.

   What is left: n equal fragments, less than 64 KiB, nothing beyond. If their bytes are no
   multiple of 512 (dump writes are whole disk blocks) the end is still to come: hold on. At MTU
   1500 that is always so, for 1448 k is a multiple of 512 only from k = 64 on. At a few other MTUs
   (1460: 32 x 1408) it may be the end of the dump; then the client, which has not seen one ack,
   sends the chunk again from its first fragment, and after ``ROUNDS`` such rounds without anything
   beyond, it is the end. Only there can loss of all of a chunk's tail, round after round, deceive
   us, and then FINISHED is refused for the hole.

Clients that wait for each ack would starve; they are told apart by their HERALD's seqno (1 is the
kernel, 0 the userland tool), which is the caller's business. Seqnos are u32 and stock clients don't
wrap them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: The HERALD's seqno of FreeBSD's kernel.
STOCK_FIRST_SEQNO = 1
#: The stock client's buffer: no chunk is larger. MAXDUMPPGS * PAGE_SIZE.
CHUNK_BYTES = 64 * 1024
#: With fragments of this size a full chunk has 32: nothing aliases.
SAFE_FRAGMENT = CHUNK_BYTES // 32
#: Dump writes come in whole disk blocks of at least this.
BLOCK_BYTES = 512
#: Retransmission rounds that must show nothing beyond an undecidable end.
ROUNDS = 2
#: Seqnos that a chunk may span: 64 KiB at the smallest MTU of IPv4 (68) are 4096 fragments.
SPAN = 4096

_ABSENT = -1
#: A message of another kind: it is a chunk by itself, and its ack was never held.
_OTHER = 0


class AckHold:
    """The held acks of one session."""

    def __init__(self, base: int) -> None:
        """``base``: the first seqno after the HERALD."""
        self.base = base
        self._sizes = np.full(SPAN, _ABSENT, np.int64)  # by seqno - base
        self._top = 0  # one past the highest fragment seen
        self.longest = 0
        """Of this session's fragments, bytes."""
        self._rounds = 0
        self._first_seen = False

    @property
    def held(self) -> int:
        """How many acks are held back now."""
        return int((self._sizes[: self._top] > 0).sum())

    def passed(self, seqnos: NDArray[np.int64]) -> NDArray[np.int64]:
        """Messages of other kinds than VMCORE, acknowledged by their own rules.

        Tells of the seqnos that they use up; returns the held acks that may go now.
        """
        relative = seqnos - self.base
        relative = relative[(relative >= 0) & (relative < SPAN)]
        if len(relative):
            self._sizes[relative] = _OTHER
            self._top = max(self._top, int(relative.max()) + 1)
        return self._release()

    def kept(self, seqnos: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
        """VMCORE fragments that are in the store: seqnos and payload bytes, in order of arrival.

        Returns the seqnos to acknowledge now, int64. One that is too far beyond the base for any
        stock client is not acknowledged, now or later.
        """
        if not len(seqnos):
            return seqnos
        self.longest = max(self.longest, int(sizes.max()))
        if self.longest >= SAFE_FRAGMENT:
            return np.concatenate([self._release(), seqnos]) if self._top else seqnos
        relative = seqnos - self.base
        free = (relative < 0) | (sizes == 0)
        fresh = (relative >= 0) & (relative < SPAN)
        at_once = seqnos[free]
        relative = relative[fresh]
        if len(relative):
            before = self._top, self._contiguous()
            self._sizes[relative] = sizes[fresh]
            self._top = max(self._top, int(relative.max()) + 1)
            count = self._contiguous()
            self._count_rounds(relative, count, grown=(self._top, count) != before)
        released = self._release()
        return np.concatenate([at_once, released]) if len(at_once) else released

    def _contiguous(self) -> int:
        absent = self._sizes[: self._top] == _ABSENT
        return int(absent.argmax()) if absent.any() else self._top

    def _count_rounds(self, relative: NDArray[np.int64], count: int, grown: bool) -> None:
        """A round: the first fragment is seen again, and after it the last."""
        if grown:
            # Only what comes after this batch is a retransmission for certain.
            self._rounds, self._first_seen = 0, False
            return
        if count == 0:
            return
        firsts = np.flatnonzero(relative == 0)
        lasts = np.flatnonzero(relative == count - 1)
        if len(lasts) and (self._first_seen or (len(firsts) and firsts[0] <= lasts[-1])):
            self._rounds += 1
            self._first_seen = bool(len(firsts)) and firsts[-1] > lasts[-1]
        elif len(firsts):
            self._first_seen = True

    def _release(self) -> NDArray[np.int64]:
        released = []
        while end := self._chunk_end():
            chunk = np.flatnonzero(self._sizes[:end] > 0) + self.base
            released.append(chunk)
            self._sizes[: self._top - end] = self._sizes[end : self._top]
            self._sizes[self._top - end : self._top] = _ABSENT
            self._top -= end
            self.base += end
            self._rounds, self._first_seen = 0, False
        return np.concatenate(released) if released else np.empty(0, np.int64)

    def _chunk_end(self) -> int:
        """How many seqnos from the base on are whole chunks' worth; 0 if the end isn't known."""
        if self.longest >= SAFE_FRAGMENT:
            return self._top
        count = self._contiguous()
        if count == 0:
            return 0
        sizes = self._sizes[:count]
        short = np.flatnonzero(sizes < max(self.longest, 1))
        if len(short):
            return int(short[0]) + 1
        # All equal, all as long as they get.
        full = -(-CHUNK_BYTES // self.longest)
        if count >= full:
            return full
        undecided = count * self.longest % BLOCK_BYTES == 0 and count == self._top
        return count if undecided and self._rounds >= ROUNDS else 0
