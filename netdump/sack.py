"""Selective acks: one datagram that acknowledges many messages.

A stock server acknowledges every message by a datagram of its own. Those are half of all frames,
and each is made, carried, filtered, validated and looked up to say what its neighbours say. Here is
a form that says it for all of them.

*The offer* is made in the HERALD (``offer.py``). A server that knows it answers the HERALD, and all
that follows, by selective acks; any other answers as ever. The client understands both forms at any
time.

*The ack.* Big-endian u32 words; the first is ``offer.MARK`` and what the server took::

    0       4      8       12    16
    | taken | next | first | end | first | end ...

Every message from the HERALD up to ``next`` is kept, and from each ``first`` up to its ``end``;
none of these ends is included. Ranges ascend, touch neither each other nor ``next``, and are at
most ``SURE_RANGES``, or as many as fit a datagram of the length of the longest that this client
sent, which its way has carried whole; never more than ``MAX_RANGES``. If there are more, half of
them hold what has just come (RFC 2018, section 4), and the others are those nearest to ``next``. An
ack has 8 octets or more; a stock one has 4.

Rules:

1. *Kept* is what it is in a stock ack, and is for ever: no ack takes back what one before it said.
   So the next ack says again what a lost one said, and a late one does no harm. The last one has no
   next: a client that hears nothing more asks, by sending something again (``window.py``).
2. A reader bounds what it believes by what it has sent. An ack whose ``next`` is beyond that is
   refused: its sender is confused, or is not the server. A range beyond it is passed over: a stray
   datagram may have put it there, and nothing of ours is lost by not believing it.
3. Seqnos are compared modulo 2**32; what is less than half the circle ahead is ahead.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from netdump.errors import AckOfUnsent, BadAck, LocalError
from netdump.offer import MARK, SELECTIVE_ACKS, bits_of

#: A HERALD that offers selective acks alone.
OFFER: Final = MARK | SELECTIVE_ACKS
#: Ranges of one ack: those of 900 frames with one in five lost. They fill a frame of 1500 octets.
MAX_RANGES: Final = 180
#: So many fit any datagram: no IPv4 host has an MTU below 576 octets (RFC 791, 3.2).
SURE_RANGES: Final = 32
_HALF: Final = 1 << 31
_MASK: Final = 0xFFFF_FFFF
_HEAD: Final = 8
_RANGE: Final = 8


@dataclass(frozen=True, slots=True)
class Sack:
    """``next`` and ranges [first, end), all seqnos modulo 2**32; and the bits that were taken."""

    next: int
    ranges: tuple[tuple[int, int], ...] = ()
    taken: int = SELECTIVE_ACKS

    def pack(self) -> bytes:
        """The UDP payload. Raises LocalError for more than ``MAX_RANGES`` ranges."""
        if len(self.ranges) > MAX_RANGES:
            raise LocalError(f"{len(self.ranges)} ranges in one ack: {MAX_RANGES} at most")
        ends = (seqno & _MASK for span in self.ranges for seqno in span)
        words = MARK | self.taken, self.next & _MASK, *ends
        return struct.pack(f">{len(words)}I", *words)

    def covers(self, seqno: int) -> bool:
        """Does it acknowledge this message, of those that are less than half the circle away?"""
        if ahead(seqno, self.next) < 0:
            return True
        return any(ahead(seqno, first) >= 0 and ahead(seqno, end) < 0 for first, end in self.ranges)


def ranges_in(octets: int) -> int:
    """How many ranges an ack may have on a way that carries datagrams of so many octets whole."""
    return max(SURE_RANGES, min(MAX_RANGES, (octets - _HEAD) // _RANGE))


def parse_sack(payload: bytes) -> Sack:
    """The selective ack in a UDP payload. Raises BadAck."""
    count, rest = divmod(len(payload) - _HEAD, _RANGE)
    if rest or not 0 <= count <= MAX_RANGES:
        raise BadAck(
            f"ack of {len(payload)} octets: a selective one has {_HEAD} and {_RANGE} for each of"
            f" at most {MAX_RANGES} ranges",
            payload,
        )
    words = np.frombuffer(payload, ">u4").astype(np.int64)
    word, next_ = int(words[0]), int(words[1])
    taken = bits_of(word)
    if not taken:
        raise BadAck(f"ack that begins with {word:#010x}: it takes no selective acks", payload)
    if (np.diff(ahead(words[2:], next_), prepend=0) <= 0).any():
        raise BadAck(f"ack whose ranges do not ascend from {next_}", payload)
    return Sack(next_, tuple(zip(words[2::2].tolist(), words[3::2].tolist(), strict=True)), taken)


class Scoreboard:
    """What a sender knows from the selective acks that it has heard."""

    def __init__(self, first: int) -> None:
        """``first``: the HERALD's seqno."""
        self._next = first  # all before it are known to be kept
        self._unsent = first

    @property
    def next(self) -> int:
        """The first message that is not known to be kept, not modulo 2**32."""
        return self._next

    def sent(self, seqnos: NDArray[np.int64] | Sequence[int]) -> None:
        """These were sent, in order, perhaps not for the first time."""
        if len(seqnos):
            self._unsent += max(0, ahead(int(seqnos[-1]) + 1, self._unsent))

    def read(self, sack: Sack) -> NDArray[np.int64]:
        """The seqnos that it acknowledges beyond those that ``next`` had passed before: int64.

        Raises AckOfUnsent, and remembers nothing of it, if ``next`` is beyond what was sent.
        """
        limit = self._unsent - self._next
        step = max(0, ahead(sack.next, self._next))
        if step > limit:
            raise AckOfUnsent(
                f"ack of all before {sack.next}: only what lies before"
                f" {self._unsent & _MASK} was sent"
            )
        parts = [np.arange(step)]
        if sack.ranges:
            spans = ahead(np.array(sack.ranges, np.int64), self._next)
            ends = spans[:, 1]
            believed = (ends > step) & (ends <= limit)
            # Of a late ack the ranges may begin before what is known by now.
            parts.append(_all_of(np.maximum(spans[believed, 0], step), ends[believed]))
        seqnos: NDArray[np.int64] = (self._next + np.concatenate(parts)) & _MASK
        self._next += step
        return seqnos


def _all_of(firsts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers from each first up to its end, one stretch after the other."""
    lengths = ends - firsts
    before = np.cumsum(lengths) - lengths
    numbers: NDArray[np.int64] = np.repeat(firsts - before, lengths) + np.arange(lengths.sum())
    return numbers


Seqnos = TypeVar("Seqnos", int, NDArray[np.int64])


def ahead(seqnos: Seqnos, origin: int) -> Seqnos:
    """How far seqnos are ahead of ``origin``, -2**31 to 2**31 - 1."""
    return (seqnos - origin + _HALF & _MASK) - _HALF
