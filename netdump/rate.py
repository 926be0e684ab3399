"""How many frames may be in flight: as many as the way and the server deliver, and a few more.

Theory. RFC 5681 and RFC 9438 take each loss for a full queue, and halve the window. A wire that
loses one frame in twenty then carries next to nothing, though it has room. A panicked machine has
to get out over whatever wire there is, so here three things are measured, each over *round trips*
(a round ends when a transmission of the next one is known to have arrived; RFC 9002, B.2, BBR):

    measured                  of a round                          says
    loss                      lost / (lost + delivered)           how much did not get through
    the wire's own loss       the least of the last ``ROUNDS``    what is lost with any window
    frames in queues          window x (1 - shortest / mean       how much of the window only waits
                              round trip), as Vegas counts them

and the window follows them, once a round:

    phase      what was measured                              the window
    any        loss that may be the wire's own                halves for a round, and doubles again
    any        more than the wire's own loss and ``EXCESS``   what of it was delivered; steady
    at first   the HERALD's round trip                        ``FLOOR`` for each ``SHORT`` of it
    growing    more than ``QUEUE`` frames in queues now       less those beyond it; steady
    growing    the sender waited for acks                     grows by what is delivered: doubles
    steady     more than ``QUEUE`` frames in queues           less the half of those beyond
    steady     fewer, and the sender waited                   a little more; far below ``QUEUE``
                                                              each time twice as much
    any        else                                           stays

Rules:

1. Loss by itself changes nothing. Frames found lost leave the flight (``flight.py``), so others,
   first of all they themselves, go in their place: the rate is what is delivered and what is lost.
2. Loss that does not come with the window is the wire's own. Where it is taken for that, and is
   more than ``EXCESS``, the window is halved for a round, to see; and again after ``ROUNDS``.
3. Loss *that came with the window* is a full queue, in a switch or in the server's socket. The
   window becomes nearly what got through. Then it grows again, so in the long run some 6 to 19 %
   is sent in vain over a short queue: a window's sample is judged with the noise that it has.
4. Who shares a line keeps ``QUEUE`` frames in its queue, whatever its rate. Who has more gives way,
   so all become equal (Brakmo, Peterson: TCP Vegas, 1995). A queue that is shorter than that for
   each overflows, and is shared by rule 3, less evenly.
5. A sender that does not wait is not held up by its window, and a larger one brings it nothing
   (RFC 7661): so a server as fast as the client is never flooded, though neither reads a clock.
6. A long way holds much, and doubling from ``FLOOR`` takes a round trip each time. The first window
   of a long way is larger, but never faster: no more than ``FLOOR`` frames in ``SHORT`` ticks.

The server's socket and disk need not be announced: what they can't take is not delivered.

Time is in ticks (``sliding.py``). A round trip shorter than a tick counts as one.
"""

from __future__ import annotations

from math import sqrt
from typing import Final

from netdump.window import MAX_IN_FLIGHT

#: The window at first, and the least. A stock client sends as many at once.
FLOOR: Final = MAX_IN_FLIGHT
#: The round trip, in ticks, for which ``FLOOR`` frames are as many as a way of 100 Mbit/s holds.
SHORT: Final = 8
#: The most ``FLOOR``s of the first window.
FIRST: Final = 8
#: Frames that are to stand in queues: 2.3 ms of a gigabit.
QUEUE: Final = 192
#: Loss beyond the wire's own that is no sign of a full queue.
EXCESS: Final = 0.05
#: Frames whose loss can be measured; a round of fewer is judged with the next.
ENOUGH: Final = 64
#: Rounds whose least loss is the wire's own.
ROUNDS: Final = 32
#: A steady window grows by twice this, then by twice that, up to an eighth of itself.
STEP: Final = 4


class Rate:
    """The window of one send."""

    def __init__(self, most: int) -> None:
        """``most``: the most frames that may ever be in flight."""
        self._most = most
        self._least = min(FLOOR, most)
        self.window = self._least
        self.growing = True
        self._waited = False
        self._round_ends = 0
        self._delivered = self._lost = 0  # in this round
        # What the wire loses, by each round, in a ring; and what it loses at most.
        self._losses = [1.0] * ROUNDS
        self._at_most = [1.0] * ROUNDS
        self._round = 0
        self._sum = self._samples = 0  # of round trips, in this round
        self._old_news = False
        self._step: int = STEP  # by so much it grew last
        # A look: the window is halved for a round, to see whether less is lost.
        self._before = 0  # the window before it; 0: there is none
        self._loss_before = 0.0
        self._look_at = 0  # the round from which there may be one
        self._goal = 0  # the window doubles until it is so large
        self.shortest = 0
        """The shortest round trip; 0: none was measured."""
        self.mean = 0
        """That of the latest round, rounded up; 0: none was measured."""

    def knows(self, round_trip: int) -> None:
        """Of a message that was sent before all this, in ticks."""
        self.shortest = self.mean = max(1, round_trip)
        self._set(FLOOR * min(FIRST, round_trip // SHORT))

    def waits(self) -> None:
        """The window is full, nothing more may be sent, and the sender waits for acks."""
        self._waited = True

    def measure(
        self, news: int, lost: int, round_trip: int | None, arrived: int, transmissions: int
    ) -> None:
        """What one poll brought: frames acknowledged and found lost, a round trip, the latest
        transmission that is known to have arrived, and how many there were.
        """
        self._delivered += news
        self._lost += lost
        if self._goal:
            self._set(min(self._goal, self.window + news))
            self._goal = self._goal if self.window < self._goal else 0
        elif self.growing and self._waited and not self._before:
            self.window = min(self._most, self.window + news)
        if round_trip is not None:
            ticks = max(1, round_trip)
            self._sum += ticks
            self._samples += 1
            if not self.shortest or ticks < self.shortest:
                self.shortest = ticks
            # A window that doubles is far beyond a queue when its round is over. It makes bursts,
            # so a sixteenth of a large one may queue for a moment.
            queued = self.window * (1 - self.shortest / ticks)
            enough = max(QUEUE, self.window >> 4)
            if self.growing and queued > enough:
                self._set(self.window - queued + enough)
                self._settle()
        if arrived >= self._round_ends:
            self._end_round()
            self._round_ends = transmissions

    def restart(self) -> None:
        """Nothing came back for long: begin anew, as from a fresh start."""
        self.window = self._least
        self.growing = True
        self._before = self._goal = 0
        self._delivered = self._lost = 0

    def _end_round(self) -> None:
        waited, self._waited = self._waited, False
        queued = 0.0
        if self._samples:
            mean = self._sum / self._samples
            self.mean = -(-self._sum // self._samples)
            self._sum = self._samples = 0
            queued = self.window * (1 - self.shortest / mean)
        if self._too_much_is_lost() or self.growing or self._goal:
            return
        if queued > QUEUE:
            self._set(self.window - (queued - QUEUE) / 2)
        elif waited:
            near = queued > QUEUE / 2
            self._step = STEP if near else min(2 * self._step, self.window >> 3) or STEP
            self._set(self.window + self._step)

    def _too_much_is_lost(self) -> bool:
        """Was it more than the wire's own loss, in this round? Then the window is less. True too
        where it is about to be found out: the window is as it is to be.
        """
        judged = self._delivered + self._lost
        if judged < ENOUGH:
            return self._before > 0
        loss = self._lost / judged
        self._delivered = self._lost = 0
        if self._old_news:  # lost from the window that was: it is less already
            self._old_news = False
            return True
        noise = sqrt(loss * (1 - loss) / judged)
        self._losses[self._round % ROUNDS] = loss
        # Of a sample without any loss the rule of three says how much there may be.
        self._at_most[self._round % ROUNDS] = loss + 2 * noise + 3 / judged
        self._round += 1
        own = min(1.0, *self._at_most)
        surely = loss - noise
        if self._before:
            self._end_look(own)
        elif surely > own + EXCESS:
            self._set(self._delivered_of(self.window, loss))
            self._look_at = self._round + ROUNDS // 4
            self._settle()
        elif surely > EXCESS and self._round >= self._look_at and self.window > self._least:
            self._before, self._loss_before = self.window, surely
            self._set(self.window / 2)
            self._old_news = True
        else:
            return False
        return True

    def _end_look(self, own: float) -> None:
        """Back to the window before it, or to what of that was delivered; not in one burst."""
        goal, loss = self._before, self._loss_before
        self._before = 0
        self._look_at = self._round + ROUNDS
        if loss > own + EXCESS:
            goal = int(self._delivered_of(goal, loss))
            self._settle()
            self._old_news = False
        self._goal = goal

    def _delivered_of(self, window: int, loss: float) -> float:
        """What got through of it, were it not for the wire's own loss; and ``EXCESS`` less, so that
        what the queue loses is not taken for the wire's, round after round.
        """
        return (1 - EXCESS) * window * (1 - loss) / (1 - min(loss, *self._losses))

    def _settle(self) -> None:
        """The window was made less: what is lost of the larger one comes to light in this round."""
        self.growing = False
        self._old_news = True
        self._goal = 0
        self._step = STEP

    def _set(self, frames: float) -> None:
        self.window = max(self._least, min(self._most, int(frames)))
