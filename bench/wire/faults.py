"""Faults on the wire, as a table: what happens to which frames, how often, and why.

``Faults`` wraps a wire and is a wire. Each row of its table names a direction, a kind of frame, how
often it strikes (a probability, or exact places: "frames 5 and 40 of the vmcore"), and an action:

| action | what becomes of the frame |
|---|---|
| drop | nothing arrives |
| duplicate | it arrives twice in a row |
| reorder | it arrives after the next ``by_frames`` frames of its direction |
| delay | it arrives ``delay_us`` later |
| corrupt | one bit of it flips, anywhere: the likeliest damage, and the hardest to notice |
| truncate | it is cut, to ``length`` bytes or at a random place after the Ethernet header |

The first row that strikes a frame decides. Three rules make a run repeatable:

1. Each direction has a random source of its own, seeded with the run's seed.
2. Every frame draws the same number of times, struck or not; so a frame's fate depends on its place
   in its direction and on nothing else, least of all on how the frames were cut into batches.
3. A frame held back is let go once enough frames have passed it, at the latest after
   ``HOLD_CALLS`` further calls to the wire: a stop-and-wait peer sends nothing more by itself.

Frames are never changed in place, for whoever watches (``observer``) keeps them as they came in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from bench.clock import Clock
from bench.wire.contracts import Direction, Observer, Wire
from bench.wire.kinds import CODE, KINDS, classify
from nic_models.frames import Frames

Action = Literal["drop", "duplicate", "reorder", "delay", "corrupt", "truncate"]

#: Calls to send or receive after which a reordered frame is let go without having been passed.
HOLD_CALLS: Final = 64
#: Frames that one direction may hold back; the oldest is let go when there is one more.
HOLD_FRAMES: Final = 4096
ETHERNET_HEADER: Final = 14

_DIRECTIONS: Final[tuple[Direction, ...]] = get_args(Direction)
_NEVER: Final = -1


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the fault table. Exactly one of ``probability`` and ``index`` is given."""

    action: Action
    direction: Direction | Literal["both"] = "both"
    kind: str = "any"
    """One of ``kinds.KINDS``, or any."""
    probability: float | None = None
    index: tuple[int, ...] | None = None
    """Places, from 0, among the frames of that kind in one direction."""
    by_frames: int = 1
    """reorder: how many frames overtake this one."""
    delay_us: int = 0
    """delay: how late the frame is."""
    length: int | None = None
    """truncate: bytes left; None = at random."""

    def __post_init__(self) -> None:
        for wrong, advice in (
            (self.action not in get_args(Action), f"action is one of {get_args(Action)}"),
            (self.direction not in (*_DIRECTIONS, "both"), f"direction: {_DIRECTIONS} or both"),
            (self.kind not in (*KINDS, "any"), f"kind is one of {KINDS} or any"),
            ((self.probability is None) == (self.index is None), "give probability or index"),
            (not 0 <= (self.probability or 0) <= 1, "probability is from 0 to 1"),
            (any(place < 0 for place in self.index or ()), "index counts from 0"),
            (self.action == "reorder" and self.by_frames < 1, "by_frames is 1 or more"),
            (self.action == "delay" and self.delay_us < 1, "delay_us is 1 or more"),
            (self.length is not None and self.length < 1, "length is 1 or more"),
        ):
            if wrong:
                raise ValueError(f"fault {self!r}: {advice}")

    def __str__(self) -> str:
        if self.index is None:
            often = f"{100 * (self.probability or 0):g} % of"
        else:
            often = "number " + ", ".join(map(str, self.index)) + " of"
        return f"{often} {self.kind} {self.direction}"


@dataclass(slots=True)
class RuleCount:
    """What one rule met and did, both directions together."""

    rule: Rule
    met: int = 0
    struck: int = 0


@dataclass(frozen=True, slots=True)
class _Held:
    frame: Frames
    place: int
    """Twice the number of the frame it comes after, plus one: orders it among the others."""
    until_ns: int
    until_call: int


class _Stage:
    """One direction: its rules, its random source, and the frames that it holds back."""

    def __init__(self, rules: list[tuple[int, Rule, RuleCount]], seed: int, stream: int) -> None:
        self._rules = rules
        self._codes = [CODE.get(rule.kind, _NEVER) for _, rule, _ in rules]
        self._met = [0] * len(rules)
        self._random = np.random.Generator(np.random.PCG64([seed, stream]))
        self._seen = 0
        self._held: list[_Held] = []

    def apply(self, frames: Frames, now_ns: int, call: int) -> tuple[Frames, dict[int, str]]:
        """What leaves this stage now, and a note for each frame of ``frames`` that was struck."""
        notes: dict[int, str] = {}
        if not self._rules:
            return frames, notes
        places = 2 * (self._seen + np.arange(len(frames)))
        self._seen += len(frames)
        copies = np.ones(len(frames), np.int64)
        verdicts, chance = self._judge(frames)
        struck = np.flatnonzero(verdicts != _NEVER).tolist()
        damaged = [i for i in struck if self._rules[verdicts[i]][1].action in _DAMAGE]
        if damaged:
            frames = Frames(frames.data.copy(), frames.lengths.copy(), frames.time_ns)
        for i in struck:
            number, rule, count = self._rules[verdicts[i]]
            count.struck += 1
            done = self._strike(
                rule, frames, i, float(chance[i]), copies, int(places[i]), now_ns, call
            )
            notes[i] = f"{done} (rule {number}: {rule})"
        out = (
            frames
            if (copies == 1).all()
            else frames.take(np.repeat(np.arange(len(frames)), copies))
        )
        if not self._held:
            return out, notes
        return self._release(out, np.repeat(places, copies), now_ns, call), notes

    def _judge(self, frames: Frames) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """For each frame the rule that strikes it, or ``_NEVER``, and a draw in 0..1 to use."""
        count = len(frames)
        verdicts = np.full(count, _NEVER, np.int64)
        if not count:
            return verdicts, np.empty(0)
        draws = self._random.random((count, len(self._rules) + 1))
        kinds = classify(frames)
        for row, (_, rule, tally) in enumerate(self._rules):
            code = self._codes[row]
            match = np.ones(count, np.bool_) if code == _NEVER else kinds == code
            if rule.index is None:
                strikes = match & (draws[:, row] < (rule.probability or 0.0))
            else:
                nth = self._met[row] + np.cumsum(match) - 1
                strikes = match & np.isin(nth, rule.index)
            met = int(match.sum())
            self._met[row] += met
            tally.met += met
            verdicts[strikes & (verdicts == _NEVER)] = row
        return verdicts, draws[:, -1]

    def _strike(
        self,
        rule: Rule,
        frames: Frames,
        i: int,
        chance: float,
        copies: NDArray[np.int64],
        place: int,
        now_ns: int,
        call: int,
    ) -> str:
        """Do to frame i what the rule says; a note of what was done."""
        length = int(frames.lengths[i])
        match rule.action:
            case "drop":
                copies[i] = 0
                return "dropped"
            case "duplicate":
                copies[i] = 2
                return "sent twice"
            case "corrupt":
                bit = int(chance * length * 8)
                if length:
                    frames.data[i, bit // 8] ^= 0x80 >> bit % 8
                return f"bit {bit} flipped (byte {bit // 8})"
            case "truncate":
                spare = max(length - ETHERNET_HEADER, 0)
                left = rule.length or min(length, ETHERNET_HEADER + int(chance * spare))
                frames.lengths[i] = min(length, left)
                return f"cut from {length} to {min(length, left)} bytes"
            case "reorder":
                copies[i] = 0
                after = place + 2 * rule.by_frames + 1
                self._held.append(_Held(_only(frames, i), after, 0, call + HOLD_CALLS))
                return f"held back until {rule.by_frames} more have passed"
            case "delay":
                copies[i] = 0
                until_ns = max(int(frames.time_ns[i]), now_ns) + rule.delay_us * 1000
                self._held.append(_Held(_only(frames, i), _NEVER, until_ns, call))
                return f"delayed by {rule.delay_us} us"

    def _release(self, out: Frames, places: NDArray[np.int64], now_ns: int, call: int) -> Frames:
        """Weave the held frames whose time has come into those that pass now."""
        last = 2 * self._seen - 1
        excess = len(self._held) - HOLD_FRAMES
        due: list[Frames] = []
        due_places: list[int] = []
        kept: list[_Held] = []
        for rank, held in enumerate(self._held):
            if held.place == _NEVER:
                ready, stamp = now_ns >= held.until_ns, held.until_ns
            elif held.place <= last:
                ready, stamp = True, int(held.frame.time_ns[0])
            else:
                ready, stamp = call >= held.until_call, now_ns
            if ready or rank < excess:
                due.append(held.frame.at(stamp))
                due_places.append(held.place)
            else:
                kept.append(held)
        self._held = kept
        if not due:
            return out
        both = Frames.concat([*due, out])
        order = np.argsort(np.concatenate([due_places, places]), kind="stable")
        woven = both.take(order)
        # A frame that was overtaken carries no earlier time than those that overtook it.
        return woven.at(np.maximum.accumulate(woven.time_ns))


_DAMAGE: Final = ("corrupt", "truncate")


def _only(frames: Frames, i: int) -> Frames:
    """Frame i as a batch of its own, with its own memory."""
    return frames.take(np.array([i], np.intp))


class Faults:
    """A wire that breaks frames by a table of rules, and tells an observer about every frame."""

    def __init__(
        self,
        inner: Wire,
        rules: Sequence[Rule],
        *,
        seed: int,
        clock: Clock,
        observer: Observer | None = None,
    ) -> None:
        self.counts = [RuleCount(rule) for rule in rules]
        """One row a rule, in the order of the table."""
        self._inner = inner
        self._clock = clock
        self._observer = observer
        self._calls = 0
        self._to_server, self._to_client = (
            _Stage(
                [
                    (number, rule, count)
                    for number, (rule, count) in enumerate(zip(rules, self.counts, strict=True), 1)
                    if rule.direction in (direction, "both")
                ],
                seed,
                stream,
            )
            for stream, direction in enumerate(_DIRECTIONS)
        )

    def send(self, frames: Frames) -> None:
        self._calls += 1
        out = self._pass(self._to_server, "to-server", frames)
        if len(out):
            self._inner.send(out)

    def receive(self) -> Frames:
        self._calls += 1
        late = self._pass(self._to_server, "to-server", Frames.empty())
        if len(late):
            self._inner.send(late)
        return self._pass(self._to_client, "to-client", self._inner.receive())

    def close(self) -> None:
        self._inner.close()

    def _pass(self, stage: _Stage, direction: Direction, frames: Frames) -> Frames:
        out, notes = stage.apply(frames, self._clock.now_ns(), self._calls)
        if self._observer and len(frames):
            self._observer(direction, frames, notes)
        return out
