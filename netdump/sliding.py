"""A sliding window over per-frame or selective acks: what is sent when.

Three modules, one idea each: ``flight.py`` knows the frames and which of them are lost; ``rate.py``
says how many may be in flight; here they are sent, and here is what happens when nothing comes.

Time. The client reads no clock. It counts its own DELAYs, one after each poll that brought no
news: a *tick*, ``Profile.poll_delay_us``. A client that is never short of acks lets no tick pass,
and needs none: what was overtaken is found by the order of transmissions alone.

    when                                            what is done
    acks come                                       what was overtaken is lost, and sent again
    no news for a quarter of a round trip, and a    what is older than what arrived is lost, even if
    tick (RFC 8985's reordering timer)              less than ``REORDER`` have overtaken it
    no news for two round trips, and two ticks      the last frame in flight is sent again, to be
    (RFC 8985's tail loss probe)                    answered; then after twice as long, and so on
    no news for ``polls``, or four round trips      all in flight is lost, the window starts anew
    that again, ``retries`` times in a row          the send fails

So a send ends within ``(retries + 1) x max(polls, 4 round trips)`` polls after the last news, and
each news is a frame that is kept: whatever the wire does, it delivers or fails.

Bounds. A frame is known to be kept one round trip after it was sent; one that was lost after two,
after three if it was lost twice. Frames beyond it stay in the table for so long, so a way of B
frames a round trip (1 Gbit/s and 100 ms: 8,300) is kept full at 1 % loss by a table of 3 to 4 B. So
``window_frames`` is 32,768:

    what        needs                                        has
    memory      ``flight.memory_for(32768)``, 1.3 MB         the panic arena, reserved at boot
    seqnos      less than half of 2**32 in flight            2**15; the server looks 2**16 ahead
    NIC rings   one batch, not the window: frames are gone   511 frames of a ring of 1024
                from the ring when they are on the wire
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from netdump.errors import SendFailed
from netdump.flight import Flight
from netdump.messages import MessageType
from netdump.profiles import Profile
from netdump.rate import Rate
from netdump.window import FRAGMENT, Link

#: Frames that are offered to the NIC at once, at the most.
BURST: Final = 512
#: Batches after which a NIC that had no room at all behind a batch is offered two in a row again.
_TRUST: Final = 32
_NO_FRAGMENTS: Final = np.zeros(0, FRAGMENT)


class SlidingWindow:
    """All messages of a connection that need no answer of their own. Its memory is the caller's."""

    def __init__(
        self, link: Link, profile: Profile, memory: NDArray[np.uint8], first_seqno: int
    ) -> None:
        """``memory``: as ``Flight`` wants it, for ``profile.window_frames``."""
        self._link = link
        self._profile = profile
        self._flight = Flight(profile.window_frames, memory, first_seqno)
        self._rate = Rate(profile.window_frames)
        self._now = 0
        self._burst = BURST  # as many as the NIC took, and then up to twice as many
        self._full = 0
        self._piece = _NO_FRAGMENTS  # of which there was not room for all in the table

    @property
    def seqno(self) -> int:
        """The next message's."""
        return self._flight.next_seqno

    @property
    def kept(self) -> int | None:
        """All before that offset is acknowledged; None: all that was taken of what is sent."""
        return None if self._flight.empty else self._flight.first_offset

    def knows(self, round_trip: int | None) -> None:
        """Of a message that was sent before, in ticks; None: it is not known."""
        if round_trip is not None:
            self._rate.knows(round_trip)

    def send(self, kind: MessageType, pieces: Iterable[NDArray[np.void]]) -> None:
        """Send all fragments, keeping the window full; ``SendFailed`` with ETIMEDOUT.

        An empty table says that there are none now, and more when some are acknowledged: it may
        come only while some are not.
        """
        link, profile, flight, rate = self._link, self._profile, self._flight, self._rate
        source = iter(pieces)
        quiet = rounds = 0
        probe_at, probed = self._patience(2, profile.polls >> 3), False
        while True:
            more = self._put_out(kind, source)
            if flight.empty:
                return
            if self._hear(link.poll()):
                quiet = rounds = 0
                probe_at, probed = self._patience(2, profile.polls >> 3), False
                continue
            if more:
                continue
            if flight.flying >= rate.window:
                rate.waits()
            link.delay()
            self._now += 1
            quiet += 1
            if quiet == self._patience(0.25, 1):
                self._overtaken(1)
            if quiet == probe_at and not rounds:
                if probed:
                    link.goes_elsewhere()
                probed = True
                probe_at *= 2
                self._probe(kind)
            if quiet > max(profile.polls, 4 * rate.mean):
                quiet = 0
                rounds += 1
                if rounds > profile.retries:
                    raise SendFailed(
                        errno.ETIMEDOUT,
                        f"{kind.name} at offset {flight.first_offset}: not acknowledged in"
                        f" {rounds} rounds of {max(profile.polls, 4 * rate.mean) + 1} polls",
                    )
                link.goes_elsewhere()
                rate.restart()
                flight.give_up()

    def _patience(self, round_trips: float, unknown: int) -> int:
        """So many round trips, and as many ticks, at least one; ``unknown`` if none is known."""
        mean = self._rate.mean
        return int(round_trips * mean + max(1, round_trips)) if mean else max(1, unknown)

    # -- out ---------------------------------------------------------------------------------

    def _put_out(self, kind: MessageType, source: Iterator[NDArray[np.void]]) -> bool:
        """Send a batch, if window, table and NIC have room; whether they may have more."""
        flight, link = self._flight, self._link
        window = self._rate.window - flight.flying
        room = min(window, self._burst)
        if room <= 0:
            return False
        self._cut(source, room - flight.lost - flight.waiting)
        batch, rows = flight.batch(room)
        if not len(batch):
            return False
        again = min(flight.lost, len(batch))
        taken = link.send(kind, batch)
        flight.went(rows[:taken], self._now)
        if again and taken:
            link.retransmits(min(again, taken), "lost")
        if taken < len(batch):
            self._burst = taken or self._burst
            self._full = 0 if taken else _TRUST
            return False
        self._burst = min(2 * self._burst, BURST)
        if self._full:
            self._full -= 1
            return False
        return window > len(batch)

    def _cut(self, source: Iterator[NDArray[np.void]], wanted: int) -> None:
        """Have so many more fragments in the table, or as many as there are, or find room."""
        while wanted > 0:
            if not len(self._piece):
                self._piece = next(source, _NO_FRAGMENTS)
                if not len(self._piece):
                    return
            taken = self._flight.add(self._piece)
            self._piece = self._piece[taken:]
            wanted -= taken
            if not taken:
                return

    def _probe(self, kind: MessageType) -> None:
        """Ask for an answer."""
        flight, link = self._flight, self._link
        batch, rows = flight.last_in_flight()
        if len(batch):
            taken = link.send(kind, batch)
            flight.went(rows[:taken], self._now)
            link.probes(taken)

    # -- in ----------------------------------------------------------------------------------

    def _hear(self, acks: NDArray[np.int64]) -> int:
        """What acks say; how many frames are known to be kept by them that were not."""
        if not len(acks):
            return 0
        link, flight, rate = self._link, self._flight, self._rate
        heard = flight.hear(acks, self._now, rate.shortest)
        link.refuse("ack-late", heard.late)
        link.refuse("ack-future", heard.future)
        if heard.news:
            lost = flight.overtaken()
            rate.measure(heard.news, lost, heard.round_trip, flight.highest, flight.transmissions)
        return heard.news

    def _overtaken(self, reorder: int) -> None:
        lost = self._flight.overtaken(reorder)
        if lost:
            self._rate.measure(0, lost, None, self._flight.highest, self._flight.transmissions)
