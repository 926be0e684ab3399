"""Faults on the wire, as a table: what happens to which frames, how often, and why.

``Faults`` wraps a wire and is a wire. Each row of its table names a direction, a kind of frame, how
often it strikes (a probability, or exact places: "frames 5 and 40 of the vmcore"), and an action:
``actions.py`` has the table of those.

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
from dataclasses import dataclass, fields
from typing import Final, get_args

import numpy as np
from numpy.typing import NDArray

from bench.clock import Clock
from bench.wire.actions import ACTIONS, HOLD_FRAMES, NO_PLACE, SETTINGS, Held, Passing
from bench.wire.contracts import Direction, Observer, Wire
from bench.wire.kinds import CODE, KINDS, classify
from nic_models.frames import Frames

_DIRECTIONS: Final[tuple[Direction, ...]] = get_args(Direction)
_NEVER: Final = -1

#: What a rule's direction may be.
DIRECTIONS: Final[tuple[str, ...]] = (*_DIRECTIONS, "both")
#: What a rule's kind may be.
FAULT_KINDS: Final[tuple[str, ...]] = ("any", *KINDS)


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the fault table. Exactly one of ``probability`` and ``index`` is given."""

    action: str
    """One of ``actions.ACTIONS``."""
    direction: str = "both"
    kind: str = "any"
    """One of ``kinds.KINDS``, or any."""
    probability: float | None = None
    index: tuple[int, ...] | None = None
    """Places, from 0, among the frames of that kind in one direction."""
    by_frames: int = 1
    """reorder: how many frames overtake this one."""
    delay_us: int | None = None
    """delay: how late the frame is."""
    length: int | None = None
    """truncate: bytes left, and shorter frames are let be; None = at random."""
    bit: int | None = None
    """corrupt: which of the frame, mended: which of its UDP payload; None = at random."""

    def __post_init__(self) -> None:
        row = ACTIONS.get(self.action)
        for wrong, advice in (
            (row is None, f"action is one of {tuple(ACTIONS)}"),
            (self.direction not in DIRECTIONS, f"direction is one of {DIRECTIONS}"),
            (self.kind not in FAULT_KINDS, f"kind is one of {FAULT_KINDS}"),
            ((self.probability is None) == (self.index is None), "give probability or index"),
            (not 0 <= (self.probability or 0) <= 1, "probability is from 0 to 1"),
            (any(place < 0 for place in self.index or ()), "index counts from 0"),
        ):
            if wrong:
                raise ValueError(f"fault {self!r}: {advice}")
        for field in fields(self):
            if (fits := SETTINGS.get(field.name)) is None or row is None:
                continue
            name, value = field.name, getattr(self, field.name)
            if value is not None and value not in fits:
                raise ValueError(f"fault {self!r}: {name} is from {fits.least} to {fits.most}")
            if value is None and row.needs_setting and row.setting == name:
                raise ValueError(f"fault {self!r}: {self.action} needs {name}")
            if value != field.default and row.setting != name:
                raise ValueError(f"fault {self!r}: {name} is not for {self.action}")

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


class _Stage:
    """One direction: its rules, its random source, and the frames that it holds back."""

    def __init__(self, rules: list[tuple[int, Rule, RuleCount]], seed: int, stream: int) -> None:
        self._rules = rules
        self._codes = [CODE.get(rule.kind, _NEVER) for _, rule, _ in rules]
        self._met = [0] * len(rules)
        self._random = np.random.Generator(np.random.PCG64([seed, stream]))
        self._seen = 0
        self._held: list[Held] = []

    def apply(self, frames: Frames, now_ns: int, call: int) -> tuple[Frames, dict[int, str]]:
        """What leaves this stage now, and a note for each frame of ``frames`` that was struck."""
        notes: dict[int, str] = {}
        if not self._rules or not (len(frames) or self._held):
            return frames, notes
        places = 2 * (self._seen + np.arange(len(frames)))
        self._seen += len(frames)
        verdicts, chance = self._judge(frames)
        struck = np.flatnonzero(verdicts != _NEVER).tolist()
        if any(ACTIONS[self._rules[verdicts[i]][1].action].damages for i in struck):
            frames = Frames(frames.data.copy(), frames.lengths.copy(), frames.time_ns)
        copies = np.ones(len(frames), np.int64)
        batch = Passing(frames, copies, places, chance, self._held, now_ns, call)
        for i in struck:
            number, rule, count = self._rules[verdicts[i]]
            count.struck += 1
            row = ACTIONS[rule.action]
            notes[i] = f"{row.note}{row.strike(batch, i, rule)} (rule {number}: {rule})"
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
            if rule.length is not None:
                strikes &= frames.lengths > rule.length  # there is nothing to cut off
            met = int(match.sum())
            self._met[row] += met
            tally.met += met
            verdicts[strikes & (verdicts == _NEVER)] = row
        return verdicts, draws[:, -1]

    def _release(self, out: Frames, places: NDArray[np.int64], now_ns: int, call: int) -> Frames:
        """Weave the held frames whose time has come into those that pass now."""
        last = 2 * self._seen - 1
        excess = len(self._held) - HOLD_FRAMES
        due: list[Frames] = []
        due_places: list[int] = []
        kept: list[Held] = []
        for rank, held in enumerate(self._held):
            if held.place == NO_PLACE:
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
