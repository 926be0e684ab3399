"""How frames are kept in flight until they are acknowledged: two ways, one link.

``StopAndWait`` is debugnet_send: all fragments of one buffer are sent, then polls until every one
is acknowledged, then the next buffer. The acknowledged set is a bitmap, and the historic one is
made by shifting a 32-bit int: on amd64 and arm64 the shift count is taken modulo 32, and bit 31
sign-extends. Fragment 32+k then *is* fragment k: lose one of the two, see the other acknowledged,
and the lost one is never sent again (FreeBSD sys/net/debugnet.c, 2019 to date; before that
netdump_client.c). ``AckBits`` is that bitmap, or a sound one.

``SlidingWindow`` keeps up to ``window_frames`` frames in flight over the same per-frame acks:

* a frame is lost when ``REORDER`` frames that were sent after it, each sent only once, have been
  acknowledged (RFC 8985's idea; a frame sent twice proves nothing, Karn's rule);
* when nothing is acknowledged for ``polls`` polls, what is unacknowledged is sent again; after
  ``retries`` such rounds in a row the send fails;
* before that, after an eighth, a quarter and a half of them, the last such frame alone is sent
  again, as a *probe* (RFC 8985's tail loss probe): if only acks were lost, a selective answer to it
  says it all;
* the window starts at the stock 64 frames, grows by one for each acknowledged frame, and halves,
  not below 64, once for each round trip that lost something: a server with a small socket buffer
  is found out, and not drowned.

Both count in polls. Neither reads a clock.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from netdump.errors import PeerError
from netdump.messages import MessageType
from netdump.profiles import Profile

#: An ack this far beyond the base is refused (DEBUGNET_MAX_IN_FLIGHT).
MAX_IN_FLIGHT: Final = 64
#: Frames overtaken by this many are taken for lost.
REORDER: Final = 8
_SEQNO_MASK: Final = 0xFFFFFFFF


class SendFailed(PeerError):
    """The peer, or the way to it, did not take what was sent. ``errno`` is the kernel's."""

    reason = "send-failed"

    def __init__(self, code: int, why: str) -> None:
        super().__init__(f"{errno.errorcode[code]}: {why}")
        self.errno = code


FRAGMENT: Final = np.dtype(
    [
        ("seqno", np.int64),
        ("offset", np.int64),
        ("address", np.int64),
        ("length", np.int64),
        ("sent_as", np.int64),  # number of its latest transmission, counted over the whole send
        ("tries", np.int64),
        ("acked", np.bool_),
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


def fragment(offset: int, address: int, length: int, size: int) -> NDArray[np.void]:
    """Cut one piece into fragments of ``size`` bytes; an empty piece is one empty fragment."""
    table = _cut(length, size).copy()
    table["offset"] += offset
    table["address"] += address
    return table


@lru_cache(maxsize=64)
def _cut(length: int, size: int) -> NDArray[np.void]:
    """Such a piece at offset and address 0: nearly all pieces of a dump are of one length."""
    count = max(1, -(-length // size))
    table = np.zeros(count, FRAGMENT)
    starts = np.arange(count, dtype=np.int64) * size
    table["offset"] = table["address"] = starts
    table["length"] = np.minimum(size, length - starts)
    return table


#: A fragment as so many bytes: numpy copies fields one by one, and bytes at once.
_BYTES: Final = np.dtype((np.void, FRAGMENT.itemsize))


def join(tables: Sequence[NDArray[np.void]]) -> NDArray[np.void]:
    """Tables of fragments, end to end."""
    joined: NDArray[np.void] = np.concatenate([table.view(_BYTES) for table in tables])
    return joined.view(FRAGMENT)


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


class SlidingWindow:
    """A window over per-frame acks. ``seqno`` is the next frame's."""

    def __init__(self, link: Link, profile: Profile, first_seqno: int) -> None:
        self._link = link
        self._profile = profile
        self._next = first_seqno
        self._window = min(MAX_IN_FLIGHT, profile.window_frames)
        self._flying = np.zeros(0, FRAGMENT)
        self._transmissions = 0
        self._highest = -1  # the latest transmission of a frame sent once that was acknowledged
        self._recovery_ends = -1  # losses of transmissions up to here have been answered already

    @property
    def seqno(self) -> int:
        return self._next

    def send(self, kind: MessageType, pieces: Iterable[NDArray[np.void]]) -> None:
        """Send all fragments, keeping the window full; ``SendFailed`` with ETIMEDOUT."""
        link, profile = self._link, self._profile
        source = iter(pieces)
        waiting = np.zeros(0, FRAGMENT)
        quiet = rounds = 0
        while True:
            waiting = self._fill(waiting, source)
            waiting = self._send_new(kind, waiting)
            if not len(self._flying) and not len(waiting):
                return
            acks = link.poll()
            progress = self._mark(acks)
            if progress:
                quiet = rounds = 0
                lost = self._lost()
                if lost.size:
                    self._send_again(kind, lost, "overtaken")
            else:
                quiet += 1
                if quiet in (profile.polls >> 3, profile.polls >> 2, profile.polls >> 1):
                    self._probe(kind)
                if quiet > profile.polls:
                    quiet = 0
                    rounds += 1
                    if rounds > profile.retries:
                        first = int(self._flying["offset"][0]) if len(self._flying) else 0
                        raise SendFailed(
                            errno.ETIMEDOUT,
                            f"{kind.name} at offset {first}: not acknowledged in {rounds} rounds"
                            f" of {profile.polls + 1} polls",
                        )
                    self._window = min(MAX_IN_FLIGHT, profile.window_frames)
                    unacked = np.flatnonzero(~self._flying["acked"])
                    self._send_again(kind, unacked[: self._window], "no progress")
            if not len(acks):
                link.delay()

    def _fill(
        self, waiting: NDArray[np.void], source: Iterator[NDArray[np.void]]
    ) -> NDArray[np.void]:
        """Cut pieces until a window's worth of fragments waits, or there are no more."""
        if len(waiting) >= self._window:
            return waiting
        parts = [waiting]
        total = len(waiting)
        for piece in source:
            parts.append(piece)
            total += len(piece)
            if total >= self._window:
                break
        return join(parts)

    def _send_new(self, kind: MessageType, waiting: NDArray[np.void]) -> NDArray[np.void]:
        """Send what the window has room for; what still waits."""
        room = min(self._window - len(self._flying), len(waiting))
        if room <= 0:
            return waiting
        batch = waiting[:room]
        batch["seqno"] = (self._next + np.arange(room)) & _SEQNO_MASK
        taken = self._link.send(kind, batch)
        sent = batch[:taken]
        sent["sent_as"] = self._transmissions + np.arange(taken)
        sent["tries"] = 1
        self._transmissions += taken
        self._next = (self._next + taken) & _SEQNO_MASK
        self._flying = join([self._flying, sent])
        return waiting[taken:]

    def _mark(self, acks: NDArray[np.int64]) -> int:
        """Note the acks, forget what is acknowledged at the front; how many were news."""
        flying = self._flying
        if not len(acks):
            return 0
        if not len(flying):
            self._link.refuse("ack-late", len(acks))
            return 0
        index = (acks - int(flying["seqno"][0])) & _SEQNO_MASK
        inside = index < len(flying)
        if not inside.all():
            late = int(np.count_nonzero(index >> 31))
            self._link.refuse("ack-late", late)
            self._link.refuse("ack-future", int(np.count_nonzero(~inside)) - late)
            index = index[inside]
        acked = flying["acked"]
        before = int(np.count_nonzero(acked))
        acked[index] = True
        news = int(np.count_nonzero(acked)) - before
        once = index[flying["tries"][index] == 1]
        if once.size:
            self._highest = max(self._highest, int(flying["sent_as"][once].max()))
        front = len(acked) if acked.all() else int(np.argmin(acked))
        self._flying = flying[front:]
        self._window = min(self._profile.window_frames, self._window + news)
        return news

    def _lost(self) -> NDArray[np.intp]:
        """Indices of frames in flight that enough later ones have overtaken."""
        flying = self._flying
        return np.flatnonzero(~flying["acked"] & (flying["sent_as"] + REORDER <= self._highest))

    def _probe(self, kind: MessageType) -> None:
        unacked = np.flatnonzero(~self._flying["acked"])
        if unacked.size:
            self._link.probes(self._resend(kind, unacked[-1:]))

    def _send_again(self, kind: MessageType, which: NDArray[np.intp], why: str) -> None:
        flying = self._flying
        if int(flying["sent_as"][which].max(initial=-1)) > self._recovery_ends:
            self._window = max(min(MAX_IN_FLIGHT, self._profile.window_frames), self._window // 2)
            self._recovery_ends = self._transmissions
        self._link.retransmits(self._resend(kind, which), why)

    def _resend(self, kind: MessageType, which: NDArray[np.intp]) -> int:
        """Those frames in flight, once more; how many the NIC took."""
        flying = self._flying
        taken = self._link.send(kind, flying[which])
        which = which[:taken]
        flying["sent_as"][which] = self._transmissions + np.arange(taken)
        flying["tries"][which] += 1
        self._transmissions += taken
        return taken
