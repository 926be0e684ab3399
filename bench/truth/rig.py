"""Play a trace on both devices, and compare after every step.

A step is played in this order: rows may leave it out; rows that imitate are woken; ours; QEMU's
(which may be told something else by a row); rows finish; both are looked at until they agree, or
until QEMU has had long enough. What still differs is a ``Difference``.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from bench.truth.pair import Counterpart, Ours
from nic_models.differential.contract import Differential, Imitation, OtherDevice, Row, State
from nic_models.differential.pc import MEMORY, WORK
from nic_models.differential.steps import Arrive, Link, Poke, Primitive, Read, Step, Write, name

#: Under which steps are counted that the family says it does not model.
OUT_OF_SCOPE: Final = "out of scope"
#: Looks that QEMU gets to agree, and the sleep between the later ones, seconds.
_LOOKS: Final = 60
_PATIENT_LOOKS: Final = 20
_NAP_S: Final = 0.005

#: Where, ours, QEMU's.
_Found = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Difference:
    """What no row explains."""

    where: str
    ours: str
    theirs: str
    index: int
    step: Step | None
    """After which it showed; None: when all of memory was compared, at the end."""

    def __str__(self) -> str:
        when = f"step {self.index}, {self.step!r}" if self.step is not None else "at the end"
        return f"{when}: {self.where}: ours {self.ours}, QEMU's {self.theirs}"


@dataclass(slots=True)
class Tally:
    """What was played: steps of each kind, and how often each row explained something."""

    steps: Counter[str] = field(default_factory=Counter)
    rows: Counter[str] = field(default_factory=Counter)
    traces: int = 0
    frames_in: int = 0
    """Stored by the receiver."""
    frames_out: int = 0

    @property
    def total(self) -> int:
        return self.steps.total()


def template() -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """Memory at a trace's beginning: nothing repeats, so that a wrong address shows."""
    words = np.arange(MEMORY // 4, dtype=np.uint64) * 2654435761
    return (words >> 16 & 0xFFFFFFFF).astype("<u4").view(np.uint8)


class Rig:
    """Two devices, a table, and the comparison."""

    def __init__(
        self, of: Differential, theirs: Counterpart, rows: Sequence[Row] | None = None
    ) -> None:
        """``rows``: other rows than the family's."""
        self.theirs = theirs
        self.rows = of.rows if rows is None else tuple(rows)
        self.tally = Tally()
        self._of = of
        self._memory = np.empty(MEMORY, np.uint8)
        self._template = template()

    def play(self, trace: Sequence[Step]) -> Difference | None:
        """Both as after power-on, then the trace; the first difference that no row explains."""
        np.copyto(self._memory, self._template)
        self.theirs.renew()
        self.theirs.clean = False
        np.copyto(self.theirs.memory, self._template)
        ours = Ours(self._of, self._memory)
        state = self._of.state(ours.model, self._memory)
        self.tally.traces += 1
        found = self._play(ours, state, trace)
        self.theirs.clean = found is None and state.cable and not state.waits
        return found

    def _play(self, ours: Ours, state: State, trace: Sequence[Step]) -> Difference | None:
        for index, step in enumerate(trace):
            primitive = step if isinstance(step, Primitive) else step.resolve(state)
            if primitive is None or _pointless(state, primitive):
                continue
            if (row := self._left_out(state, primitive)) is not None:
                self.tally.rows[row] += 1
                continue
            self.tally.steps[type(step).__name__] += 1
            found = self._step(ours, state, primitive)
            if found is not None:
                return Difference(*found, index, step)
        for closing in self._of.closing:
            if self._left_out(state, closing) is None:
                found = self._step(ours, state, closing)
                if found is not None:
                    return Difference(*found, len(trace), closing)
        found = self._compare_memory(range(MEMORY))
        return Difference(*found, len(trace), None) if found else None

    def _left_out(self, state: State, step: Primitive) -> str | None:
        """The name of the row that leaves the step out."""
        if self._of.out_of_scope(step):
            return OUT_OF_SCOPE
        for row in self.rows:
            if row.leave_out is not None and row.leave_out(state, step):
                return row.name
        return None

    # -- one step ------------------------------------------------------------------------------

    def _step(self, ours: Ours, state: State, step: Primitive) -> _Found | None:
        """Play it; where they differ after it, and the two values."""
        if isinstance(step, Poke):
            data = np.frombuffer(step.data, np.uint8)
            for memory in (self._memory, self.theirs.memory):
                memory[step.address : step.address + len(data)] = data
            return None
        if isinstance(step, Read):
            return self._read(ours, state, step)
        state.begin(step)
        woken = [
            (row.name, row.imitate(state, step)) for row in self.rows if row.imitate is not None
        ]
        _wake(woken)
        told = self._translation(state, step)
        packed = [frame.pack() for frame in step.frames] if isinstance(step, Arrive) else []
        if isinstance(step, Write):
            step.play(ours.model)
        elif isinstance(step, Arrive):
            ours.arrive(packed)
        else:
            ours.link(step.up)
        _wake(woken)
        expected = ours.sent()
        stored = state.done(step)
        self._finish(woken)
        self.tally.frames_in += stored
        self.tally.frames_out += len(expected)
        # QEMU's turn, after ours: the rows have seen both memories as they were before the step.
        theirs = self.theirs
        if told is not None:
            told(theirs)
        elif isinstance(step, Write):
            step.play(theirs)
        elif isinstance(step, Arrive):
            theirs.arrive(packed)
            if not state.waits and not theirs.heard():
                return "frames that QEMU does not take", "0", "some"
        else:
            theirs.link(step.up)
        if isinstance(step, Link):
            state.cable = step.up
        return self._agree(ours, expected)

    def _read(self, ours: Ours, state: State, step: Read) -> _Found | None:
        mine, yours = step.play(ours.model), step.play(self.theirs)
        if mine != yours and not self._excused(state, step.register, mine, yours):
            return name(step.register), f"{mine:#x}", f"{yours:#x}"
        return self._agree(ours, []) if step.register in self._of.reads_that_act else None

    def _finish(self, woken: list[tuple[str, Imitation]]) -> None:
        for row, imitation in woken:
            try:
                next(imitation)
            except StopIteration as stop:
                self.tally.rows[row] += bool(stop.value)
            else:
                raise AssertionError(f"row {row} has one yield too many")

    def _translation(self, state: State, step: Primitive) -> Callable[[OtherDevice], None] | None:
        for row in self.rows:
            if row.translate is not None:
                told = row.translate(state, step)
                if told is not None:
                    self.tally.rows[row.name] += 1
                    return told
        return None

    def _excused(self, state: State, register: int, mine: int, yours: int) -> bool:
        for row in self.rows:
            if row.reads is not None and row.reads(state, register, mine, yours):
                self.tally.rows[row.name] += 1
                return True
        return False

    # -- comparison ------------------------------------------------------------------------------

    def _agree(self, ours: Ours, expected: list[bytes]) -> _Found | None:
        """Look until they agree; what differs if they do not."""
        found: _Found | None = None
        heard: list[bytes] = []
        for turn in range(_LOOKS):
            yours, mine = self.theirs.look(), ours.look()
            heard += self.theirs.sent()
            found = (
                _compare_looks(mine, yours)
                or _compare_frames(expected, heard)
                or self._compare_memory(WORK)
            )
            if found is None:
                return None
            if turn >= _PATIENT_LOOKS:
                time.sleep(_NAP_S)
        return found

    def _compare_memory(self, where: range) -> _Found | None:
        part = slice(where.start, where.stop)
        mine, yours = self._memory[part], self.theirs.memory[part]
        if np.array_equal(mine, yours):
            return None
        differ = np.flatnonzero(mine != yours)
        at = int(differ[0])
        show = slice(at, at + 8)
        return (
            "memory",
            f"{mine[show].tobytes().hex()} at {where.start + at:#x} ({len(differ)} bytes differ)",
            f"{yours[show].tobytes().hex()}",
        )


def _wake(woken: list[tuple[str, Imitation]]) -> None:
    for row, imitation in woken:
        try:
            next(imitation)
        except StopIteration:
            raise AssertionError(f"row {row} has to yield twice") from None


def _pointless(state: State, step: Primitive) -> bool:
    return isinstance(step, Link) and step.up == state.cable


def _compare_looks(mine: dict[str, int], yours: dict[str, int]) -> _Found | None:
    for what, value in mine.items():
        if value != yours[what]:
            return what, f"{value:#x}", f"{yours[what]:#x}"
    return None


def _compare_frames(mine: list[bytes], yours: list[bytes]) -> _Found | None:
    if mine == yours:
        return None
    if len(mine) != len(yours):
        return "frames sent", f"{[len(f) for f in mine]}", f"{[len(f) for f in yours]}"
    which = next(i for i, pair in enumerate(zip(mine, yours, strict=True)) if pair[0] != pair[1])
    return f"frame {which}", mine[which].hex(), yours[which].hex()
