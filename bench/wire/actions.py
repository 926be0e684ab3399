"""What a fault can do to a frame: a table, one row an action.

``faults.py`` decides which frames a rule strikes; here is what becomes of them.

| action | what becomes of the frame | how much |
|---|---|---|
| drop | nothing arrives | |
| duplicate | it arrives twice in a row | |
| reorder | it arrives after the next so many frames of its direction | ``by_frames`` |
| delay | it arrives later | ``delay_us`` |
| corrupt | one bit of it flips, anywhere: the likeliest damage, and the hardest to notice | |
| truncate | its end is cut off, at a random place after the Ethernet header | or ``length`` |

A row is all that the bench knows of an action: the grammar takes the names of the table for its
choices, a rule's *setting* is the field that says how much, and verdict and judge use the row's
words. A new fault is a new row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from nic_models.frames import Frames

if TYPE_CHECKING:
    from bench.wire.faults import Rule

#: Calls to send or receive after which a reordered frame is let go without having been passed.
HOLD_CALLS: Final = 64
#: Frames that one direction may hold back; the oldest is let go when there is one more.
HOLD_FRAMES: Final = 4096
ETHERNET_HEADER: Final = 14
#: The longest that is sent: 9000 bytes, and the Ethernet header.
LONGEST_FRAME: Final = 9014

#: ``Held.place`` of a frame that waits for its time, and not for others.
NO_PLACE: Final = -1


@dataclass(frozen=True, slots=True)
class Setting:
    """A number that a rule may have: from ``least`` to ``most``."""

    least: int
    most: int

    def __contains__(self, value: int) -> bool:
        return self.least <= value <= self.most


#: The field of a rule that says how much, and what makes sense for it. No frame is held back for
#: more frames than can be held; a frame that has no whole Ethernet header is none.
SETTINGS: Final[dict[str, Setting]] = {
    "by_frames": Setting(1, HOLD_FRAMES),
    "delay_us": Setting(1, 10_000_000),
    "length": Setting(ETHERNET_HEADER, LONGEST_FRAME),
}


@dataclass(frozen=True, slots=True)
class Held:
    """A frame that is held back."""

    frame: Frames
    place: int
    """Twice the number of the frame it comes after, plus one: orders it among the others."""
    until_ns: int
    until_call: int


@dataclass(slots=True)
class Passing:
    """A batch on its way through one direction. Actions change it in place."""

    frames: Frames
    copies: NDArray[np.int64]
    """How often each frame leaves now."""
    places: NDArray[np.int64]
    """Twice the number of each frame in its direction."""
    chance: NDArray[np.float64]
    """A draw in 0..1 for each."""
    held: list[Held]
    """Where a frame is put that leaves later."""
    now_ns: int
    call: int

    def hold(self, i: int, place: int, until_ns: int, until_call: int) -> None:
        """Frame i leaves later; it gets memory of its own."""
        self.copies[i] = 0
        frame = self.frames.take(np.array([i], np.intp))
        self.held.append(Held(frame, place, until_ns, until_call))


#: ``strike(batch, i, rule)`` does it to frame i; what its note says after ``Action.note``.
Strike = Callable[[Passing, int, "Rule"], str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Action:
    """A row of the table."""

    strike: Strike
    note: str
    """How the note of what was done begins. No two rows begin alike."""
    makes: str
    """What that makes of a frame, in a verdict: ``lost``."""
    setting: str = ""
    """The field of a rule that says how much; one of ``SETTINGS``, or none."""
    needs_setting: bool = False
    """Without it the action means nothing."""
    damages: bool = False
    """It changes the frame's bytes, or its length."""
    costs: bool = False
    """The receiver may have to do without the frame."""


def _drop(batch: Passing, i: int, rule: Rule) -> str:
    batch.copies[i] = 0
    return ""


def _duplicate(batch: Passing, i: int, rule: Rule) -> str:
    batch.copies[i] = 2
    return ""


def _reorder(batch: Passing, i: int, rule: Rule) -> str:
    after = int(batch.places[i]) + 2 * rule.by_frames + 1
    batch.hold(i, after, 0, batch.call + HOLD_CALLS)
    return f" until {rule.by_frames} more have passed"


def _delay(batch: Passing, i: int, rule: Rule) -> str:
    assert rule.delay_us is not None, "a rule without it is refused"
    until_ns = max(int(batch.frames.time_ns[i]), batch.now_ns) + rule.delay_us * 1000
    batch.hold(i, NO_PLACE, until_ns, batch.call)
    return f" by {rule.delay_us} us"


def _corrupt(batch: Passing, i: int, rule: Rule) -> str:
    length = int(batch.frames.lengths[i])
    bit = int(batch.chance[i] * length * 8)
    if length:
        batch.frames.data[i, bit // 8] ^= 0x80 >> bit % 8
    return f" {bit} flipped (byte {bit // 8})"


def _truncate(batch: Passing, i: int, rule: Rule) -> str:
    length = int(batch.frames.lengths[i])
    spare = max(length - ETHERNET_HEADER, 0)
    left = rule.length or ETHERNET_HEADER + int(batch.chance[i] * spare)
    batch.frames.lengths[i] = min(length, left)
    return f" from {length} to {min(length, left)} bytes"


ACTIONS: Final[dict[str, Action]] = {
    "drop": Action(strike=_drop, note="dropped", makes="lost", costs=True),
    "duplicate": Action(strike=_duplicate, note="sent twice", makes="doubled"),
    "reorder": Action(strike=_reorder, note="held back", makes="overtaken", setting="by_frames"),
    # What is still on its way when the run ends never arrives.
    "delay": Action(
        strike=_delay,
        note="delayed",
        makes="delayed",
        setting="delay_us",
        needs_setting=True,
        costs=True,
    ),
    # A damaged frame fails its checksum.
    "corrupt": Action(strike=_corrupt, note="bit", makes="damaged", damages=True, costs=True),
    "truncate": Action(
        strike=_truncate, note="cut", makes="cut short", setting="length", damages=True, costs=True
    ),
}

#: How the notes begin of what may cost a frame.
NOTES_OF_LOSS: Final = tuple(row.note for row in ACTIONS.values() if row.costs)
