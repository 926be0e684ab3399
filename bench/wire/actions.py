"""What a fault can do to a frame: a table, one row an action.

``faults.py`` decides which frames a rule strikes; here is what becomes of them.

| action | what becomes of the frame | how much |
|---|---|---|
| drop | nothing arrives | |
| duplicate | it arrives twice in a row | |
| reorder | it arrives after the next so many frames of its direction | ``by_frames`` |
| delay | it arrives later | ``delay_us`` |
| corrupt | one bit of it flips, anywhere: the likeliest damage | ``bit`` |
| mended | one bit of its payload flips, the UDP checksum is made anew, as by a router | ``bit`` |
| swap-words | two 16-bit words of its payload change places: the UDP checksum stays right | |
| ones-for-zeros | a word 0x0000 of its payload becomes 0xffff: the UDP checksum stays right | |
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

from netdump.checksum import ONES, ones_sum
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

#: Where the payload of a UDP datagram begins in a frame without IP options, and that of a message.
_UDP_END: Final = 42
_DATA: Final = 66

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
    "bit": Setting(0, 8 * LONGEST_FRAME - 1),
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
    bit = int(batch.chance[i] * length * 8) if rule.bit is None else rule.bit
    if bit < 8 * length:
        batch.frames.data[i, bit // 8] ^= 0x80 >> bit % 8
    return f" {bit} flipped (byte {bit // 8})"


def _mended(batch: Passing, i: int, rule: Rule) -> str:
    row, first, last = _payload(batch, i, _UDP_END)
    bit = int(batch.chance[i] * (last - first) * 8) if rule.bit is None else rule.bit
    at = first + bit // 8
    if at >= last:
        return ": it has no such bit"
    row[at] ^= 0x80 >> bit % 8
    mend(row, last)
    return f": bit {bit} of its UDP payload flipped"


def _swap_words(batch: Passing, i: int, rule: Rule) -> str:
    """The first pair of words that differ, from a place drawn on; words as UDP counts them."""
    row, first, last = _payload(batch, i)
    words = row[first : first + (last - first) // 2 * 2].view(np.uint16)
    pairs = np.flatnonzero(words[1:] != words[:-1])
    if not pairs.size:
        return ": all are the same"
    k = int(pairs[int(batch.chance[i] * pairs.size)])
    words[k], words[k + 1] = words[k + 1], words[k]
    return f" {k} and {k + 1} of its UDP payload"


def _ones_for_zeros(batch: Passing, i: int, rule: Rule) -> str:
    row, first, last = _payload(batch, i)
    words = row[first : first + (last - first) // 2 * 2].view(np.uint16)
    zeros = np.flatnonzero(words == 0)
    if not zeros.size:
        return ": it has none"
    k = int(zeros[int(batch.chance[i] * zeros.size)])
    words[k] = 0xFFFF
    return f": word {k} of its UDP payload"


def _payload(batch: Passing, i: int, first: int = _DATA) -> tuple[NDArray[np.uint8], int, int]:
    """Frame i, and where in it the payload of its UDP datagram begins and ends: behind netdump's
    header, which says where it belongs, or from ``first`` on. Nothing of a frame that has none.
    """
    row, length = batch.frames.data[i], int(batch.frames.lengths[i])
    is_udp = length > _UDP_END and bytes(row[12:15]) == b"\x08\x00\x45" and row[23] == 17
    if not is_udp:
        return row, length, length
    last = min(length, 34 + (int(row[38]) << 8 | int(row[39])))
    return row, min(first, last), last


def mend(row: NDArray[np.uint8], length: int) -> None:
    """Make the UDP checksum of a frame anew; of one with IP options, or of no UDP, nothing."""
    if length < _UDP_END or bytes(row[12:15]) != b"\x08\x00\x45" or row[23] != 17:
        return
    end = min(length, 34 + (int(row[38]) << 8 | int(row[39])))
    row[40:42] = 0
    pseudo = row[26:34].tobytes() + b"\0\x11" + row[38:40].tobytes()
    made = (ONES - ones_sum(pseudo + row[34:end].tobytes())) or ONES
    row[40:42] = made >> 8, made & 0xFF


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
    "corrupt": Action(
        strike=_corrupt, note="bit", makes="damaged", setting="bit", damages=True, costs=True
    ),
    # These pass every checksum below netdump's own.
    "mended": Action(
        strike=_mended,
        note="mended",
        makes="damaged and mended",
        setting="bit",
        damages=True,
        costs=True,
    ),
    "swap-words": Action(
        strike=_swap_words, note="words changed places", makes="shuffled", damages=True, costs=True
    ),
    "ones-for-zeros": Action(
        strike=_ones_for_zeros,
        note="ones for zeros",
        makes="damaged by ones for zeros",
        damages=True,
        costs=True,
    ),
    "truncate": Action(
        strike=_truncate, note="cut", makes="cut short", setting="length", damages=True, costs=True
    ),
}

#: How the notes begin of what may cost a frame.
NOTES_OF_LOSS: Final = tuple(row.note for row in ACTIONS.values() if row.costs)
