"""What a row of the table may look at: our device before a step, and what the step would do.

Views only read; nothing here has an effect on either device. ``begin`` and ``done`` keep account of
what the device can't be asked: what was last written, which frames wait, what a step stored.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nic_models.differential.pc import MEMORY, reachable
from nic_models.differential.steps import Arrive, Link, Primitive, Write
from nic_models.e1000.descriptors import RX_STATUS, SIZE, TX_CMD
from nic_models.e1000.device import E1000Device
from nic_models.e1000.fetch import FCS_BYTES, SHORTEST
from nic_models.e1000.registers import (
    CTRL,
    RCTL,
    RCTL_BSIZE_SHIFT,
    RX_BUFFER_SIZES,
    TCTL,
    WRITE_MASK,
    Reg,
)
from nic_models.e1000.ring import Ring
from nic_models.e1000.rx import LONGEST, LONGEST_LPE
from nic_models.e1000.stats import DOUBLE, Statistics
from nic_models.frames import Frames

_TX_FIELDS: Final = {
    Reg.TDBAL: "base_low",
    Reg.TDBAH: "base_high",
    Reg.TDLEN: "length",
    Reg.TDH: "head",
    Reg.TDT: "tail",
}
_RX_FIELDS: Final = {
    Reg.RDBAL: "base_low",
    Reg.RDBAH: "base_high",
    Reg.RDLEN: "length",
    Reg.RDH: "head",
    Reg.RDT: "tail",
}
#: Writes after which QEMU looks for transmit descriptors.
DOORBELLS: Final = frozenset({Reg.TDT, Reg.TCTL})


@dataclass(frozen=True, slots=True)
class TxDesc:
    """A transmit descriptor that a step would make run, and where it lies."""

    at: int
    address: int
    length: int
    command: int
    status: int

    @property
    def end_of_packet(self) -> bool:
        return bool(self.command & TX_CMD.EOP)


@dataclass(frozen=True, slots=True)
class TxView:
    """The transmitter as a step would leave it, before anything ran."""

    enabled: bool
    link: bool
    usable: bool
    idle: bool
    """Head equals tail."""
    ring: range
    """Where it lies; empty if it is not usable."""
    pending: tuple[TxDesc, ...]
    """What would run now; empty if it cannot."""


@dataclass(frozen=True, slots=True)
class RxDesc:
    """A receive descriptor that a frame would use or has used; ``before`` is its old 16 bytes."""

    at: int
    address: int
    before: bytes
    size: int
    """Bytes of the frame that it takes, the FCS included if it is stored; 0 = passed over."""
    last: bool


@dataclass(frozen=True, slots=True)
class RxView:
    """The receiver as a step would leave it, and what of waiting and arriving frames it places."""

    enabled: bool
    link: bool
    usable: bool
    ring: range
    buffer_size: int
    used: tuple[RxDesc, ...]
    overrun: bool
    """A frame finds descriptors, but not enough of them."""
    frames: int
    """Whole frames placed."""
    refused_late: bool
    """A frame that our filter refuses comes when no descriptor is free."""


@dataclass(frozen=True, slots=True)
class Arriving:
    """Of each frame of a batch: its length as a wire carries it, and what our filter says."""

    length: int
    passes: bool
    short_enough: bool
    group: bool
    broadcast: bool
    exact: bool
    """It equals an address register."""
    to: bytes

    @property
    def accepted(self) -> bool:
        return self.passes and self.short_enough


@dataclass(slots=True)
class State:
    """Our device, its memory, and what is known besides; a ``differential.contract.State``."""

    ours: E1000Device
    memory: NDArray[np.uint8]
    """Flat uint8; index = physical address."""
    cable: bool = True
    written: dict[int, int] = field(default_factory=dict)
    """Register -> what was last written to it since the last reset."""
    waiting: list[int] = field(default_factory=list)
    """Lengths (FCS included if it is stored) of the frames in our receive FIFO, oldest first."""
    delivered: tuple[RxDesc, ...] = ()
    """What the receiver used in this step; known once it has been played."""
    _ring: Ring = field(default_factory=Ring)
    """The receive ring before the step, and its bytes; none if it was not usable."""
    _ring_bytes: bytes = b""
    _entering: list[int] = field(default_factory=list)
    """Lengths, as in ``waiting``, of the frames of this step that our receiver will store."""

    # -- step by step ----------------------------------------------------------------------------

    @property
    def waits(self) -> bool:
        return bool(self.waiting)

    def begin(self, step: Primitive) -> None:
        """Look at the receiver before it acts."""
        self._ring = ring = replace(self.ours.receiver.ring)
        usable = ring.usable(MEMORY)
        self._ring_bytes = (
            self.memory[ring.base : ring.base + ring.length].tobytes() if usable else b""
        )
        self.delivered = ()
        self._entering = self._accepted(step) if isinstance(step, Arrive) else []

    def done(self, step: Primitive) -> int:
        """Find out what the receiver did; how many frames it stored."""
        if receives(step):
            self.delivered = self._used()
        stored = sum(desc.last for desc in self.delivered)
        self.waiting += self._entering
        del self.waiting[:stored]
        if isinstance(step, Write):
            if step.register == Reg.CTRL and step.value & CTRL.RST:
                self.written.clear()
            else:
                self.written[step.register] = step.value
        return stored

    def _accepted(self, step: Arrive) -> list[int]:
        if not (self.link and self.rctl & RCTL.EN):
            return []
        fcs = 0 if self.rctl & RCTL.SECRC else FCS_BYTES
        return [frame.length + fcs for frame in self.arriving(step) if frame.accepted]

    def _used(self) -> tuple[RxDesc, ...]:
        """The receive descriptors that ours has written back since ``begin``."""
        ring, head = self._ring, self.ours.receiver.ring.head
        if not self._ring_bytes or head == ring.head or head >= ring.count:
            return ()
        done = []
        while ring.head != head:
            at = ring.base + ring.head * SIZE
            before = self._ring_bytes[ring.head * SIZE : (ring.head + 1) * SIZE]
            now = self.memory[at : at + SIZE].tobytes()
            address = int.from_bytes(before[:8], "little")
            size = int.from_bytes(now[8:10], "little") if address else 0
            last = bool(address) and bool(now[12] & RX_STATUS.EOP)
            done.append(RxDesc(at, address, before, size, last))
            ring.head = (ring.head + 1) % ring.count
        return tuple(done)

    # -- receive and transmit control ----------------------------------------------------------

    @property
    def rctl(self) -> int:
        return self.ours.receiver.rctl

    @property
    def tctl(self) -> int:
        return self.ours.read32(Reg.TCTL)

    @property
    def slu(self) -> bool:
        return bool(self.ours.read32(Reg.CTRL) & CTRL.SLU)

    @property
    def link(self) -> bool:
        return self.cable and self.slu

    # -- transmission ----------------------------------------------------------------------------

    def transmission(self, step: Primitive) -> TxView:
        """What ``step`` would make the transmitter do."""
        ring = _after(self.ours.transmitter.fetcher.ring, _TX_FIELDS, step)
        tctl = _value(step, Reg.TCTL, self.tctl)
        enabled = bool(tctl & TCTL.EN)
        usable = _in_memory(ring)
        pending: list[TxDesc] = []
        link = self._link_after(step)
        if enabled and link and usable:
            for i in range(ring.owned(ring.tail)):
                at = ring.base + (ring.head + i) % ring.count * SIZE
                raw = self.memory[at : at + SIZE].tobytes()
                address, length, _, command, status = struct.unpack_from("<QHBBB", raw)
                pending.append(TxDesc(at, address, length, command, status))
        return TxView(
            enabled,
            link,
            usable,
            ring.head == ring.tail,
            range(ring.base, ring.base + ring.length) if usable else range(0),
            tuple(pending),
        )

    # -- reception -------------------------------------------------------------------------------

    def reception(self, step: Primitive) -> RxView:
        """What ``step`` would make the receiver do."""
        ring = _after(self.ours.receiver.ring, _RX_FIELDS, step)
        rctl = _value(step, Reg.RCTL, self.rctl)
        size = RX_BUFFER_SIZES[int(bool(rctl & RCTL.BSEX)), rctl >> RCTL_BSIZE_SHIFT & 3]
        enabled, link, usable = bool(rctl & RCTL.EN), self._link_after(step), _in_memory(ring)
        used: list[RxDesc] = []
        overrun, placed, refused_late = False, 0, False
        if enabled and receives(step):
            queue = list(self.waiting)
            if isinstance(step, Arrive) and link:
                fcs = 0 if rctl & RCTL.SECRC else FCS_BYTES
                arriving = self.arriving(step)
                queue += [frame.length + fcs if frame.accepted else 0 for frame in arriving]
            free, head = ring.owned(ring.tail) if usable else int(ring.head != ring.tail), ring.head
            stuck = not usable
            for length in queue:
                if not length:
                    refused_late |= not free
                    continue
                left = length
                while left and free and not stuck:
                    at = ring.base + head * SIZE
                    before = self.memory[at : at + SIZE].tobytes()
                    address = int.from_bytes(before[:8], "little")
                    take = min(left, size) if address else 0
                    left -= take
                    used.append(RxDesc(at, address, before, take, bool(take) and not left))
                    head, free = (head + 1) % ring.count, free - 1
                if left and not stuck:
                    # If nothing was free at all when its turn came, it just waits.
                    overrun = bool(used) and not used[-1].last
                    stuck = True
                placed += not left
        where = range(ring.base, ring.base + ring.length) if usable else range(0)
        return RxView(
            enabled, link, usable, where, size, tuple(used), overrun, placed, refused_late
        )

    def arriving(self, step: Arrive) -> list[Arriving]:
        """What our filter makes of each frame."""
        raw = [frame.pack().ljust(SHORTEST, b"\0") for frame in step.frames]
        receiver = self.ours.receiver
        verdict = receiver.filter.judge(Frames.of(raw).data, self.rctl)
        longest = LONGEST_LPE if self.rctl & RCTL.LPE else LONGEST
        exact = {
            low | (high & 0xFFFF) << 32
            for low, high in zip(receiver.filter.low, receiver.filter.high, strict=True)
            if high >> 31
        }
        return [
            Arriving(
                len(data),
                bool(verdict.accepted[i]),
                len(data) <= longest,
                bool(verdict.group[i]),
                bool(verdict.broadcast[i]),
                int.from_bytes(data[:6], "little") in exact,
                data[:6],
            )
            for i, data in enumerate(raw)
        ]

    def _link_after(self, step: Primitive) -> bool:
        if isinstance(step, Link):
            return step.up and self.slu
        return self.cable and bool(_value(step, Reg.CTRL, self.ours.read32(Reg.CTRL)) & CTRL.SLU)


def peek(statistics: Statistics, register: int) -> int:
    """A statistic, not cleared; the low half names one of 64 bits."""
    value = statistics.read(register)
    if register in DOUBLE:
        value |= statistics.read(register + 4) << 32
    statistics.add(register, value)
    return value


def put(statistics: Statistics, register: int, value: int) -> None:
    """Make it ``value``."""
    statistics.read(register)
    if register in DOUBLE:
        statistics.read(register + 4)
    statistics.add(register, value)


def buffers(used: Sequence[RxDesc]) -> list[range]:
    """Where they put data."""
    return [range(desc.address, desc.address + desc.size) for desc in used if desc.size]


def receives(step: Primitive) -> bool:
    """Whether the receiver looks for descriptors after it."""
    return isinstance(step, Arrive) or (
        isinstance(step, Write) and step.register in (Reg.RDT, Reg.RCTL)
    )


def _value(step: Primitive, register: int, now: int) -> int:
    return step.value if isinstance(step, Write) and step.register == register else now


def _after(ring: Ring, fields: dict[Reg, str], step: Primitive) -> Ring:
    if isinstance(step, Write):
        for register, name in fields.items():
            if register == step.register:
                return replace(ring, **{name: step.value & WRITE_MASK.get(register, 0xFFFF_FFFF)})
    return replace(ring)


def _in_memory(ring: Ring) -> bool:
    return ring.usable(MEMORY) and reachable(ring.base, ring.length)
