"""The comparison itself, without QEMU: on a card that exists only here, beside a twin of it.

The card is small, and like none that the project has a model of: accesses of 8 and 16 bits, one
byte that a read clears, no rings. So what the comparison takes for granted of a NIC shows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from importlib.metadata import EntryPoint
from random import Random
from types import SimpleNamespace
from typing import Any, Final

import numpy as np
import pytest
from numpy.typing import NDArray

from bench import parts
from bench.errors import BadInput
from bench.truth import families
from bench.truth.__main__ import explain, main
from bench.truth.pair import LINE
from bench.truth.rig import OUT_OF_SCOPE, Rig, template
from bench.truth.shrink import shrink
from bench.truth.traces import trace
from nic_models.contracts import InterruptLine
from nic_models.differential import steps as steps_module
from nic_models.differential.contract import (
    Chapter,
    Dice,
    Differential,
    Imitation,
    OtherDevice,
    Page,
    Row,
    Watched,
)
from nic_models.differential.pc import MAC, MEMORY, WORK
from nic_models.differential.steps import (
    Arrive,
    Frame,
    Link,
    Poke,
    Primitive,
    Read,
    Step,
    Write,
    listing,
)
from nic_models.family import NicFamily
from nic_models.frames import Frames
from tests.fakes import Line

# --- a card ------------------------------------------------------------------------------------

INBOX: Final = WORK.start
OUTBOX: Final = WORK.start + 0x1000


class Port(IntEnum):
    """Registers of the card."""

    SEEN = 0x00  # 8 bits: frames that came in since it was last read; a read clears it
    NOTE = 0x02  # 16 bits: keeps what is written
    BELL = 0x04  # 32 bits: so many bytes of the outbox are sent as a frame
    MUTE = 0x08  # 8 bits: 1 keeps the line down


class Card:
    """It stores a frame's first four bytes in the inbox, and raises its line."""

    def __init__(self, memory: NDArray[np.uint8], mac: bytes, line: InterruptLine) -> None:
        self.memory, self.line = memory, line
        self.seen = self.note = self.muted = 0
        self.outgoing: list[bytes] = []

    def read8(self, offset: int, /) -> int:
        value = {Port.SEEN: self.seen, Port.MUTE: self.muted}[Port(offset)]
        if offset == Port.SEEN:
            self.clear()
        return value

    def read16(self, offset: int, /) -> int:
        assert offset == Port.NOTE
        return self.note

    def read32(self, offset: int, /) -> int:
        raise AssertionError("it has no register of 32 bits that can be read")

    def write8(self, offset: int, value: int, /) -> None:
        assert offset == Port.MUTE
        self.muted = value
        self.drive()

    def write16(self, offset: int, value: int, /) -> None:
        assert offset == Port.NOTE
        self.note = value

    def write32(self, offset: int, value: int, /) -> None:
        assert offset == Port.BELL
        self.outgoing.append(self.memory[OUTBOX : OUTBOX + value].tobytes())

    def transmit(self, now_ns: int) -> Frames:
        frames, self.outgoing = Frames.of(self.outgoing), []
        return frames

    def deliver(self, frames: Frames) -> None:
        for index in range(len(frames)):
            self.memory[INBOX : INBOX + 4] = np.frombuffer(frames.bytes_of(index)[:4], np.uint8)
            self.seen += 1
        self.drive()

    def set_link(self, up: bool) -> None:
        """It has no use for that."""

    def clear(self) -> None:
        self.seen = 0
        self.drive()

    def drive(self) -> None:
        self.line.set(bool(self.seen) and not self.muted)


@dataclass
class Known:
    """What the family knows of a trace: nothing but how many frames a step stored."""

    ours: Card
    memory: NDArray[np.uint8]
    cable: bool = True
    waits: bool = False
    before: int = 0

    def begin(self, step: Primitive) -> None:
        self.before = self.ours.seen

    def done(self, step: Primitive) -> int:
        return self.ours.seen - self.before


@dataclass(frozen=True)
class Again:
    """A relative step: what the note says, plus one; nothing at its largest."""

    def resolve(self, state: Known) -> Write | None:
        note = state.ours.note
        return Write(Port.NOTE, note + 1, 16) if note < 0xFFFF else None


def _come_in(dice: Dice) -> list[Step]:
    return [Arrive((Frame(MAC, dice.randint(60, 90), dice.randrange(256)),)), Read(Port.SEEN, 8)]


def _go_out(dice: Dice) -> list[Step]:
    return [Poke(OUTBOX, dice.randbytes(8)), Write(Port.BELL, dice.choice((60, 61, 1514)))]


def _store(dice: Dice) -> list[Step]:
    return [Write(Port.NOTE, dice.getrandbits(16), 16), Again(), Read(Port.NOTE, 16)]


def _seen(card: Any) -> int:
    return int(card.seen)


CARD = Differential(
    qemu=(0, 0),
    model=Card,
    state=Known,
    bring_up=lambda dice: [Write(Port.MUTE, dice.randrange(2), 8)],
    moves={_come_in: 3, _go_out: 2, _store: 1},
    watched=(Watched("seen", _seen, _seen),),
    closing=(Read(Port.NOTE, 16),),
    reads_that_act=frozenset({int(Port.SEEN)}),
    out_of_scope=lambda step: isinstance(step, Write) and step.register > Port.MUTE,
    deaf_ns={},
    sees_link=lambda twin: True,
    chapters=(),
    page=Page(device="", model="", manual="", sections="", time="", out_of_scope=""),
)


class Twin(Card):
    """The other device: a card of the same kind; a ``Counterpart``."""

    def __init__(self) -> None:
        super().__init__(np.zeros(MEMORY, np.uint8), MAC, Line())
        self.clean = True
        self.unclean: list[bool] = []

    def renew(self) -> None:
        self.unclean.append(not self.clean)
        self.clean = True
        self.reset()

    def reset(self) -> None:
        self.seen = self.note = self.muted = 0
        self.drive()

    def arrive(self, frames: Sequence[bytes]) -> None:
        self.deliver(Frames.of(frames))

    def heard(self) -> bool:
        return True

    def link(self, up: bool) -> None:
        self.set_link(up)

    def look(self) -> dict[str, int]:
        assert isinstance(self.line, Line)
        return {"seen": self.seen, LINE: int(self.line.up())}

    def sent(self) -> list[bytes]:
        frames = self.transmit(0)
        return [frames.bytes_of(index) for index in range(len(frames))]


# --- twins that stray --------------------------------------------------------------------------


class Forgetful(Twin):
    """The low bit of its note is lost."""

    def read16(self, offset: int, /) -> int:
        return super().read16(offset) & ~1


class Deaf(Twin):
    """It misses what comes in."""

    def deliver(self, frames: Frames) -> None: ...


class Quiet(Twin):
    """Its line never rises."""

    def drive(self) -> None: ...


class Short(Twin):
    """It sends a byte less."""

    def write32(self, offset: int, value: int, /) -> None:
        super().write32(offset, value - 1)


class Twice(Twin):
    """It sends all twice."""

    def write32(self, offset: int, value: int, /) -> None:
        super().write32(offset, value)
        super().write32(offset, value)


class Garbler(Twin):
    """It sends other bytes."""

    def write32(self, offset: int, value: int, /) -> None:
        super().write32(offset, value)
        self.outgoing[-1] = bytes(value)


class Scribbler(Twin):
    """It writes to memory where it should not, when the bell rings."""

    def write32(self, offset: int, value: int, /) -> None:
        super().write32(offset, value)
        self.memory[0x1234] ^= 1


class Sticky(Twin):
    """Reading what it has seen clears nothing."""

    def clear(self) -> None: ...


STRAYS: Final = (Forgetful, Deaf, Quiet, Short, Twice, Garbler, Scribbler, Sticky)
FRAME = Frame(MAC, 60, 7)
COMES, GOES = Arrive((FRAME,)), Write(Port.BELL, 60)


def test_two_of_a_kind_agree_on_random_traces() -> None:
    rig, rng = Rig(CARD, Twin()), Random(1)
    while rig.tally.total < 2000:
        assert rig.play(trace(CARD, rng, 50)) is None
    assert set(rig.tally.steps) == {"Write", "Read", "Poke", "Arrive", "Again"}
    assert rig.tally.frames_in == rig.tally.steps["Arrive"]
    assert rig.tally.frames_out > 100


@pytest.mark.parametrize("kind", STRAYS)
def test_one_that_strays_is_found_by_random_traces(kind: type[Twin]) -> None:
    rig, rng = Rig(CARD, kind()), Random(1)
    assert any(rig.play(trace(CARD, rng, 50)) is not None for _ in range(40))


@pytest.mark.parametrize(
    ("kind", "steps", "where", "says"),
    [
        (Forgetful, [Write(Port.NOTE, 5, 16), Read(Port.NOTE, 16)], "Port.NOTE", "0x5"),
        (Forgetful, [Write(Port.NOTE, 5, 16)], "Port.NOTE", "step 1"),
        (Deaf, [COMES], "seen", "0x1, QEMU's 0x0"),
        (Quiet, [COMES], "line", "0x1, QEMU's 0x0"),
        (Twice, [GOES], "frames sent", "[60], QEMU's [60, 60]"),
        (Short, [GOES], "frame 0", "QEMU's "),
        (Garbler, [Poke(OUTBOX, b"x"), GOES], "frame 0", "78"),
        (Scribbler, [GOES], "memory", "at the end"),
        (Sticky, [COMES, Read(Port.SEEN, 8)], "seen", "Read(Port.SEEN, bits=8)"),
    ],
)
def test_a_difference_says_where_and_after_which_step(
    kind: type[Twin], steps: list[Step], where: str, says: str
) -> None:
    found = Rig(CARD, kind()).play(steps)
    assert found is not None
    assert found.where == where
    assert says in str(found)


def test_a_difference_is_told_as_the_shortest_trace_that_can_be_pasted() -> None:
    rig, rng = Rig(CARD, Forgetful()), Random(3)
    played: list[Step] = []
    found = None
    while found is None:
        played = trace(CARD, rng, 50)
        found = rig.play(played)
    total = rig.tally.total
    short, difference = explain(rig, played, found)
    assert rig.tally.total == total, "finding it counts as nothing"
    assert len(short) <= 2, listing(short)
    names = {**vars(steps_module), "Port": Port, "Again": Again}
    assert Rig(CARD, Forgetful()).play(eval(listing(short), names)) == difference


def test_the_other_begins_anew_after_a_difference_a_pulled_cable_and_frames_that_wait() -> None:
    twin = Deaf()
    rig = Rig(CARD, twin)
    for steps in ([GOES], [COMES], [GOES], [Link(False)], [GOES]):
        rig.play(steps)
    assert twin.unclean == [False, False, True, False, True]
    waiting = replace(CARD, state=lambda ours, memory: Known(ours, memory, waits=True))
    Rig(waiting, twin).play([GOES])
    assert not twin.clean


def test_a_step_that_makes_no_sense_now_is_not_played() -> None:
    rig = Rig(CARD, Twin())
    assert rig.play([Link(True), Write(Port.NOTE, 0xFFFF, 16), Again()]) is None
    assert rig.tally.steps == {"Write": 1}


def test_what_the_model_does_not_claim_is_left_out_and_counted() -> None:
    rig = Rig(CARD, Twin())
    assert rig.play([Write(0x40, 1), Write(Port.NOTE, 1, 16)]) is None
    assert rig.tally.rows == {OUT_OF_SCOPE: 1}
    assert rig.tally.steps == {"Write": 1}


# --- rows --------------------------------------------------------------------------------------


def row(**hooks: Any) -> Row:
    return Row("odd", "", "", "", "", "", (), "", **hooks)


def played(kind: type[Twin], only: Row, steps: Sequence[Step]) -> Rig:
    """Without the row they differ; with it they agree."""
    assert Rig(CARD, kind(), []).play(steps) is not None
    rig = Rig(replace(CARD, chapters=(Chapter("", (only,)),)), kind())
    assert rig.play(steps) is None
    return rig


def test_a_row_explains_what_is_read() -> None:
    def low_bit(state: Known, register: int, ours: int, theirs: int) -> bool:
        return register == Port.NOTE and theirs == ours & ~1

    rig = played(Forgetful, row(reads=low_bit), [Write(Port.NOTE, 5, 16), Read(Port.NOTE, 16)])
    assert rig.tally.rows == {"odd": 2}, "the step, and the closing read"


def test_a_row_imitates() -> None:
    woken: list[tuple[int, int]] = []

    def seen(state: Known) -> tuple[int, int]:
        return state.ours.seen, len(state.ours.outgoing)

    def deaf(state: Known, step: Primitive) -> Imitation:
        woken.append(seen(state))
        yield
        woken.append(seen(state))
        yield
        woken.append(seen(state))
        if not isinstance(step, Arrive):
            return False
        state.memory[INBOX : INBOX + 4] = template()[INBOX : INBOX + 4]
        state.ours.clear()
        return True

    rig = played(Deaf, row(imitate=deaf), [GOES, COMES])
    assert rig.tally.rows == {"odd": 1}
    # Before ours; when it has seen the write and not yet sent; when it has done all.
    assert woken == [(0, 0), (0, 1), (0, 0), (0, 0), (1, 0), (1, 0)]


def test_a_row_tells_the_other_something_else() -> None:
    def longer(state: Known, step: Primitive) -> Callable[[OtherDevice], None] | None:
        if isinstance(step, Write) and step.register == Port.BELL:
            value = step.value + 1
            return lambda twin: twin.write32(Port.BELL, value)
        return None

    assert played(Short, row(translate=longer), [GOES]).tally.rows == {"odd": 1}


def test_a_row_leaves_a_step_out() -> None:
    rig = played(Deaf, row(leave_out=lambda state, step: isinstance(step, Arrive)), [COMES, GOES])
    assert rig.tally.rows == {"odd": 1}
    assert rig.tally.steps == {"Write": 1}


@pytest.mark.parametrize(("yields", "says"), [(1, "has to yield twice"), (3, "one yield too many")])
def test_a_row_that_imitates_out_of_step_is_a_defect_and_says_so(yields: int, says: str) -> None:
    def wrong(state: Known, step: Primitive) -> Imitation:
        for _ in range(yields):
            yield
        return False

    with pytest.raises(AssertionError, match=says):
        Rig(CARD, Twin(), [row(imitate=wrong)]).play([GOES])


# --- shrinking ---------------------------------------------------------------------------------


def test_shrinking_keeps_what_matters_and_nothing_else() -> None:
    needed = {13, 40, 41}
    tried: list[int] = []

    def differs(candidate: list[Step]) -> bool:
        tried.append(len(candidate))
        return needed <= {step.register for step in candidate if isinstance(step, Read)}

    short = shrink([Read(i) for i in range(64)], differs)
    assert short == [Read(i) for i in sorted(needed)]
    assert len(tried) < 200


def test_shrinking_takes_out_what_needs_each_other() -> None:
    def differs(candidate: list[Step]) -> bool:
        seen = {step.register for step in candidate if isinstance(step, Read)}
        return 5 in seen and (2 in seen) == (8 in seen)

    assert shrink([Read(i) for i in range(10)], differs) == [Read(5)]


def test_shrinking_thins_a_batch_of_frames_and_stops_at_its_budget() -> None:
    frames = tuple(Frame(b"\xff" * 6, 60 + i) for i in range(6))

    def differs(candidate: list[Step]) -> bool:
        return any(isinstance(step, Arrive) and frames[3] in step.frames for step in candidate)

    noise: list[Step] = [Read(0)] * 10
    assert shrink([*noise, Arrive(frames), *noise], differs) == [Arrive(frames[3:4])]
    assert shrink([*noise, Arrive(frames)], differs, budget=0) == [*noise, Arrive(frames)]


# --- the command -------------------------------------------------------------------------------


def test_the_command_refuses_a_nic_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--nic", "nonesuch", "--steps", "1"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('bench.truth: no family of NICs is named "nonesuch" (')


@pytest.mark.parametrize(
    ("lacks", "word"), [("differential", "differential"), ("on_qemu", "device on QEMU")]
)
def test_the_command_refuses_a_nic_that_can_not_be_compared(
    lacks: str,
    word: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = families.comparables()[0]
    nothing: dict[str, Any] = {lacks: None}
    family: NicFamily = replace(parts.nic_family(name), name="odd", **nothing)
    known = {name: parts.nic_family(name), "odd": family}
    monkeypatch.setattr(families, "nic_family", known.__getitem__)
    monkeypatch.setattr(families, "NICS", SimpleNamespace(names=lambda: list(known)))
    for more in ([], ["--document"]):
        assert main(["--nic", "odd", *more]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line == (
            f"bench.truth: NIC 'odd' has no {word} to compare; these can be compared: {name}"
        )


def test_two_families_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [
        EntryPoint("twice", value, "netdump_bench.nics") for value in ("one.family:A", "other:B")
    ]
    monkeypatch.setattr(parts, "_registered", lambda group: {"twice": entries})
    with pytest.raises(BadInput, match=r"one\.family:A and other:B; uninstall all but one"):
        parts.nic_family("twice")
