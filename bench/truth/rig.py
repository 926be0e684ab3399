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

from bench.truth.differences import Imitation, Row
from bench.truth.pair import MEMORY, Make, Ours, Theirs
from bench.truth.registers import CLOSING, out_of_scope
from bench.truth.state import RxDesc, State, receives
from bench.truth.steps import (
    Advance,
    Arrive,
    Link,
    Poke,
    Primitive,
    Read,
    RxDescriptor,
    Step,
    TxDescriptor,
    Write,
)
from nic_models.e1000.descriptors import RX_STATUS, SIZE
from nic_models.e1000.fetch import FCS_BYTES
from nic_models.e1000.registers import CTRL, RCTL, Reg
from nic_models.e1000.ring import Ring

#: Compared after every step; the rest of memory at the end of a trace.
WORK: Final = range(0x10_0000, MEMORY)
#: Looks that QEMU gets to agree, and the sleep between the later ones, seconds.
_LOOKS: Final = 60
_PATIENT_LOOKS: Final = 20
_NAP_S: Final = 0.005
_TAIL: Final = {"tx": Reg.TDT, "rx": Reg.RDT}


@dataclass(frozen=True, slots=True)
class Difference:
    """What no row explains."""

    where: str
    ours: str
    theirs: str
    index: int
    step: Step

    def __str__(self) -> str:
        return (
            f"step {self.index}, {self.step!r}: {self.where}:"
            f" ours {self.ours}, QEMU's {self.theirs}"
        )


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

    def __init__(self, theirs: Theirs, rows: Sequence[Row], make: Make | None = None) -> None:
        """``make``: another device in place of ours, for a test of the rig itself."""
        self.theirs = theirs
        self.rows = tuple(rows)
        self.tally = Tally()
        self._make = make
        self._memory = np.empty(MEMORY, np.uint8)
        self._template = template()

    def play(self, trace: Sequence[Step]) -> Difference | None:
        """Both as after power-on, then the trace; the first difference that no row explains."""
        np.copyto(self._memory, self._template)
        self.theirs.renew()
        self.theirs.clean = False
        np.copyto(self.theirs.memory, self._template)
        ours = Ours(self._memory) if self._make is None else Ours(self._memory, self._make)
        state = State(ours, self.theirs)
        self.tally.traces += 1
        found = self._play(state, trace)
        self.theirs.clean = found is None and state.cable and not state.waiting
        return found

    def _play(self, state: State, trace: Sequence[Step]) -> Difference | None:
        for index, step in enumerate(trace):
            primitive = _resolve(state, step)
            if primitive is None or _pointless(state, primitive):
                continue
            if (name := self._left_out(state, primitive)) is not None:
                self.tally.rows[name] += 1
                continue
            self.tally.steps[type(step).__name__] += 1
            found = self._step(state, primitive)
            if found is not None:
                return Difference(*found, index, step)
        for register in CLOSING:
            closing = Read(register)
            if self._left_out(state, closing) is None:
                found = self._step(state, closing)
                if found is not None:
                    return Difference(*found, len(trace), closing)
        found = self._compare_memory(range(MEMORY))
        return Difference(*found, len(trace), Read(Reg.STATUS)) if found else None

    def _left_out(self, state: State, step: Primitive) -> str | None:
        if out_of_scope(step):
            return "out of scope"
        for row in self.rows:
            if row.leave_out is not None and row.leave_out(state, step):
                return row.name
        return None

    # -- one step ------------------------------------------------------------------------------

    def _step(self, state: State, step: Primitive) -> tuple[str, str, str] | None:
        """Play it; where they differ after it, and the two values."""
        if isinstance(step, Poke):
            data = np.frombuffer(step.data, np.uint8)
            for memory in (self._memory, self.theirs.memory):
                memory[step.address : step.address + len(data)] = data
            return None
        ours, theirs = state.ours, self.theirs
        if isinstance(step, Read):
            mine, yours = ours.read(step.register), theirs.read(step.register)
            if mine != yours and not self._excused(state, step.register, mine, yours):
                return repr(step)[5:-1], f"{mine:#x}", f"{yours:#x}"
            if step.register != Reg.ICR:
                return None
            return self._agree(state, [])
        ring, state.ring_before = self._receive_ring(state)
        state.delivered = ()
        woken = [
            (row.name, row.imitate(state, step)) for row in self.rows if row.imitate is not None
        ]
        _wake(woken)
        told = self._translation(state, step)
        if isinstance(step, Write):
            reset = step.register == Reg.CTRL and step.value & CTRL.RST
            ours.write(step.register, step.value)
        elif isinstance(step, Arrive):
            packed = [frame.pack() for frame in step.frames]
            state.waiting += _accepted(state, step)
            ours.arrive(packed)
        else:
            ours.link(step.up)
        _wake(woken)
        expected = ours.sent()
        if receives(step):
            state.delivered = _delivered(state, ring)
        for name, imitation in woken:
            try:
                next(imitation)
            except StopIteration as stop:
                self.tally.rows[name] += bool(stop.value)
            else:
                raise AssertionError(f"row {name} has one yield too many")
        placed = sum(desc.last for desc in state.delivered)
        del state.waiting[:placed]
        self.tally.frames_in += placed
        self.tally.frames_out += len(expected)
        # QEMU's turn, after ours: the rows have seen both memories as they were before the step.
        if told is not None:
            told(theirs)
        elif isinstance(step, Write):
            theirs.write(step.register, step.value)
        elif isinstance(step, Arrive):
            theirs.arrive(packed)
            if not state.waiting and not theirs.heard():
                return "frames that QEMU does not take", "0", "some"
        else:
            theirs.link(step.up)
        if isinstance(step, Write):
            if reset:
                state.written.clear()
            else:
                state.written[step.register] = step.value
        elif isinstance(step, Link):
            state.cable = step.up
        return self._agree(state, expected)

    def _translation(self, state: State, step: Primitive) -> Callable[[Theirs], None] | None:
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

    def _agree(self, state: State, expected: list[bytes]) -> tuple[str, str, str] | None:
        """Look until they agree; what differs if they do not."""
        found: tuple[str, str, str] | None = None
        heard: list[bytes] = []
        for turn in range(_LOOKS):
            yours, mine = self.theirs.look(), state.ours.look()
            heard += self.theirs.sent()
            found = None
            for name in ("tdh", "rdh", "icr", "line"):
                if getattr(yours, name) != getattr(mine, name):
                    values = int(getattr(mine, name)), int(getattr(yours, name))
                    found = (name, f"{values[0]:#x}", f"{values[1]:#x}")
                    break
            else:
                found = _compare_frames(expected, heard) or self._compare_memory(WORK)
            if found is None:
                return None
            if turn >= _PATIENT_LOOKS:
                time.sleep(_NAP_S)
        return found

    def _compare_memory(self, where: range) -> tuple[str, str, str] | None:
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

    def _receive_ring(self, state: State) -> tuple[Ring, bytes]:
        device = state.ours.device.receiver.ring
        ring = Ring(device.base_low, device.base_high, device.length, device.head, device.tail)
        if not ring.usable(MEMORY):
            return ring, b""
        return ring, self._memory[ring.base : ring.base + ring.length].tobytes()


def _wake(woken: list[tuple[str, Imitation]]) -> None:
    for name, imitation in woken:
        try:
            next(imitation)
        except StopIteration:
            raise AssertionError(f"row {name} has to yield twice") from None


def _resolve(state: State, step: Step) -> Primitive | None:
    """The step in absolute terms; None where it makes no sense now."""
    device = state.ours.device
    if isinstance(step, Advance):
        ring = device.transmitter.fetcher.ring if step.direction == "tx" else device.receiver.ring
        return Write(_TAIL[step.direction], (ring.tail + step.by) % ring.count if ring.count else 0)
    if isinstance(step, TxDescriptor | RxDescriptor):
        tx = isinstance(step, TxDescriptor)
        ring = device.transmitter.fetcher.ring if tx else device.receiver.ring
        at = ring.base + (ring.tail + step.ahead) % max(ring.count, 1) * SIZE
        return Poke(at, step.pack()) if at + SIZE <= MEMORY and at >= WORK.start else None
    return step


def _pointless(state: State, step: Primitive) -> bool:
    return isinstance(step, Link) and step.up == state.cable


def _accepted(state: State, step: Arrive) -> list[int]:
    """Lengths of the frames that our receiver will store, now or later."""
    if not (state.link and state.rctl & RCTL.EN):
        return []
    fcs = 0 if state.rctl & RCTL.SECRC else FCS_BYTES
    return [frame.length + fcs for frame in state.arriving(step) if frame.accepted]


def _delivered(state: State, ring: Ring) -> tuple[RxDesc, ...]:
    """The receive descriptors that ours has written back since ``ring``."""
    head = state.ours.device.receiver.ring.head
    if not state.ring_before or head == ring.head or head >= ring.count:
        return ()
    done = []
    while ring.head != head:
        at = ring.base + ring.head * SIZE
        before = state.ring_before[ring.head * SIZE : (ring.head + 1) * SIZE]
        now = state.ours.memory[at : at + SIZE].tobytes()
        address = int.from_bytes(before[:8], "little")
        size = int.from_bytes(now[8:10], "little") if address else 0
        last = bool(address) and bool(now[12] & RX_STATUS.EOP)
        done.append(RxDesc(at, address, before, size, last))
        ring.head = (ring.head + 1) % ring.count
    return tuple(done)


def _compare_frames(mine: list[bytes], yours: list[bytes]) -> tuple[str, str, str] | None:
    if mine == yours:
        return None
    if len(mine) != len(yours):
        return "frames sent", f"{[len(f) for f in mine]}", f"{[len(f) for f in yours]}"
    which = next(i for i, pair in enumerate(zip(mine, yours, strict=True)) if pair[0] != pair[1])
    return f"frame {which}", mine[which].hex(), yours[which].hex()
