"""How long to wait, without a clock: what DELAY was asked for adds up.

A wait is polled ever less often: each delay is an eighth of what has passed, from 20 us up to a
millisecond. So a round trip is known to an eighth, and silence costs a thousand polls a second.

    what                         how long
    nothing at all comes         four round trips, doubled with each round (RFC 1123 4.2.3.2 asks
                                 for back-off), between the rules' least and most
    an ACK names a part of the   half a round trip: the rest may be on its way, as from a server
    window                       that acknowledges each block; if not, it was lost

A round trip is measured from new blocks to the first progress after them; one during which
something was sent again says nothing (Karn's rule).
"""

from __future__ import annotations

from netdump.tftp.rules import TftpRules

_SHORTEST_US, _LONGEST_US = 20, 1000
_LEAST_GRACE_US = 200


class Patience:
    """That of one transfer."""

    def __init__(self, rules: TftpRules) -> None:
        self._rules = rules
        self._wait = rules.asking_wait_us
        self._round_trip: int | None = None
        self._quiet = 0
        self._timing = False

    @property
    def delay_us(self) -> int:
        """How long the next delay is to be."""
        return min(max(self._quiet >> 3, _SHORTEST_US), _LONGEST_US)

    def waited(self, us: int) -> None:
        self._quiet += us

    def sends_new(self) -> None:
        """Blocks leave that never left before, and no others are in flight."""
        self._timing = True
        self._quiet = 0

    def sends_again(self) -> None:
        """After silence."""
        self._timing = False
        self._quiet = 0
        self._wait = min(2 * self._wait, self._rules.most_wait_us)

    def progress(self) -> None:
        if self._timing:
            before = self._quiet if self._round_trip is None else self._round_trip
            self._round_trip = before + (self._quiet - before) // 8
        self._timing = False
        self._quiet = 0
        rules = self._rules
        wait = rules.first_wait_us if self._round_trip is None else 4 * self._round_trip
        self._wait = min(max(wait, rules.least_wait_us), rules.most_wait_us)

    @property
    def gap_is_certain(self) -> bool:
        """Nothing more came since an ACK that named a part of the window."""
        grace = max((self._round_trip or 0) // 2, _LEAST_GRACE_US)
        return self._quiet >= min(grace, self._wait)

    @property
    def ended(self) -> bool:
        """It is time to send again."""
        return self._quiet >= self._wait
