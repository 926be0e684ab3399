"""What a window is made of, and the stock one: stop and wait.

A window cuts what is to be sent into fragments, keeps them in flight over a link, and sends again
what is not acknowledged. There are two: ``StopAndWait``, here, and ``sliding.py``.

``StopAndWait`` is debugnet_send: all fragments of one buffer are sent, then polls until every one
is acknowledged, then the next buffer. The acknowledged set is a bitmap, and the historic one is
made by shifting a 32-bit int: on amd64 and arm64 the shift count is taken modulo 32, and bit 31
sign-extends. Fragment 32+k then *is* fragment k: lose one of the two, see the other acknowledged,
and the lost one is never sent again (FreeBSD sys/net/debugnet.c, 2019 to date; before that
netdump_client.c). ``AckBits`` is that bitmap, or a sound one.

It counts in polls. No window reads a clock.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from netdump.dumper import Piece
from netdump.errors import SendFailed
from netdump.messages import MessageType
from netdump.profiles import Profile

#: An ack this far beyond the base is refused (DEBUGNET_MAX_IN_FLIGHT).
MAX_IN_FLIGHT: Final = 64
_SEQNO_MASK: Final = 0xFFFFFFFF


FRAGMENT: Final = np.dtype(
    [
        ("seqno", np.int64),
        ("offset", np.int64),
        ("address", np.int64),
        ("length", np.int64),
    ]
)


class Link(Protocol):
    """What a window needs of the link below it."""

    @property
    def payload_size(self) -> int:
        """The most payload bytes a message may carry."""
        ...

    def send(self, kind: MessageType, fragments: NDArray[np.void]) -> int:
        """Queue fragments (dtype ``FRAGMENT``) from the front; how many the NIC took."""
        ...

    def poll(self) -> NDArray[np.int64]:
        """One poll of the NIC; the seqnos acknowledged by what it found, in order."""
        ...

    def delay(self) -> None: ...

    def refuse(self, reason: str, count: int = 1) -> None: ...

    def retransmits(self, count: int, why: str) -> None: ...

    def probes(self, count: int) -> None: ...

    def goes_elsewhere(self) -> None:
        """Nothing is answered here: if the peer may have another MAC, send to that from now on."""
        ...


def fragment(offset: int, address: int, length: int, size: int) -> NDArray[np.void]:
    """Cut one piece into fragments of ``size`` bytes; an empty piece is one empty fragment."""
    table = _cut(length, size).copy()
    table["offset"] += offset
    table["address"] += address
    return table


def in_whole_messages(pieces: Iterable[Piece], size: int) -> Iterator[Piece]:
    """The same memory, in pieces that are cut without a rest, as far as they follow each other."""
    rest: Piece | None = None
    for piece in pieces:
        offset, address, length = piece.offset, piece.address, piece.length
        if rest is not None:
            if rest.offset + rest.length == offset and rest.address + rest.length == address:
                offset, address, length = rest.offset, rest.address, rest.length + length
            else:
                yield rest
        over = length % size
        if length > over:
            yield Piece(offset, address, length - over)
        rest = Piece(offset + length - over, address + length - over, over) if over else None
    if rest is not None:
        yield rest


@lru_cache(maxsize=64)
def _cut(length: int, size: int) -> NDArray[np.void]:
    """Such a piece at offset and address 0: nearly all pieces of a dump are of one length."""
    count = max(1, -(-length // size))
    table = np.zeros(count, FRAGMENT)
    starts = np.arange(count, dtype=np.int64) * size
    table["offset"] = table["address"] = starts
    table["length"] = np.minimum(size, length - starts)
    return table


class AckBits:
    """The bitmap of acknowledged fragments, as the profile's compiler made it."""

    def __init__(self, kind: str) -> None:
        self._int32 = kind == "int32"

    def bit(self, index: int) -> int:
        """``1 << index`` in the client's arithmetic, widened to uint64."""
        if not self._int32:
            return 1 << index
        shifted = 1 << (index % 32)
        return shifted if shifted < 1 << 31 else 0xFFFFFFFF80000000


class StopAndWait:
    """debugnet_send: one buffer at a time. ``seqno`` is the next message's."""

    def __init__(self, link: Link, profile: Profile, first_seqno: int) -> None:
        self._link = link
        self._profile = profile
        self._bits = AckBits(profile.ack_bits)
        self.seqno = first_seqno
        self.round_trip: int | None = None
        """Delays from the latest buffer to its last ack; None: it was sent more than once."""

    def send(self, kind: MessageType, offset: int, address: int, length: int) -> None:
        """Send one buffer and wait for its acks; ``SendFailed`` with ETIMEDOUT or ENOBUFS."""
        link, profile = self._link, self._profile
        table = fragment(offset, address, length, link.payload_size)
        count = len(table)
        table["seqno"] = (self.seqno + np.arange(count)) & _SEQNO_MASK
        bits = [self._bits.bit(index) for index in range(count)]
        received = wanted = retries = 0
        while True:
            todo = [index for index in range(count) if not received & bits[index]]
            if retries:
                link.retransmits(len(todo), f"no progress in {profile.polls + 1} polls")
            for index in todo:
                wanted |= bits[index]
            taken = link.send(kind, table[todo])
            if taken < len(todo):
                raise SendFailed(
                    errno.ENOBUFS, f"the NIC took {taken} of {len(todo)} {kind.name} frames"
                )
            polls = 0
            while received != wanted and polls <= profile.polls:
                polls += 1
                received |= self._collect()
                link.delay()
            if received == wanted:
                self.round_trip = None if retries else polls - 1
                self.seqno = (self.seqno + count) & _SEQNO_MASK
                return
            retries += 1
            if retries > profile.retries + 1:
                raise SendFailed(
                    errno.ETIMEDOUT,
                    f"{kind.name} at offset {offset}: not acknowledged in {retries} rounds"
                    f" of {profile.polls + 1} polls",
                )

    def _collect(self) -> int:
        """The bits of the acks that one poll brought."""
        received = 0
        for ack in self._link.poll().tolist():
            index = (ack - self.seqno) & _SEQNO_MASK
            if index < MAX_IN_FLIGHT:
                received |= self._bits.bit(index)
            else:
                self._link.refuse("ack-late" if index >> 31 else "ack-future")
        return received
