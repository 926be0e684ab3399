"""Steps that are relative to where the rings stand when they are played."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, Literal

from nic_models.differential.pc import MEMORY, WORK
from nic_models.differential.steps import Poke, Write
from nic_models.e1000.descriptors import SIZE
from nic_models.e1000.differential.state import State
from nic_models.e1000.registers import CTRL, Reg
from nic_models.e1000.ring import Ring

Direction = Literal["tx", "rx"]

_TAIL: Final = {"tx": Reg.TDT, "rx": Reg.RDT}
#: How nearly all traces begin: the link is up for both.
LINK_UP: Final = int(CTRL.FD | CTRL.SLU)


@dataclass(frozen=True, slots=True)
class TxDescriptor:
    """Write the descriptor ``ahead`` of the transmit tail. Nothing if the ring is not in memory."""

    ahead: int
    address: int
    length: int
    command: int
    cso: int = 0
    status: int = 0
    css: int = 0
    special: int = 0

    def pack(self) -> bytes:
        return struct.pack(
            "<QHBBBBH",
            self.address,
            self.length,
            self.cso,
            self.command,
            self.status,
            self.css,
            self.special,
        )

    def resolve(self, state: State) -> Poke | None:
        return _poke(state.ours.transmitter.fetcher.ring, self.ahead, self.pack())

    def __repr__(self) -> str:
        rest = "".join(
            f", {name}={value:#x}"
            for name in ("cso", "status", "css", "special")
            if (value := getattr(self, name))
        )
        head = f"{self.ahead}, {self.address:#x}, {self.length}, {self.command:#04x}"
        return f"TxDescriptor({head}{rest})"


@dataclass(frozen=True, slots=True)
class RxDescriptor:
    """Write the descriptor ``ahead`` of the receive tail; ``rest`` is its bytes 8 to 15."""

    ahead: int
    address: int
    rest: int = 0

    def pack(self) -> bytes:
        return struct.pack("<QQ", self.address, self.rest)

    def resolve(self, state: State) -> Poke | None:
        return _poke(state.ours.receiver.ring, self.ahead, self.pack())

    def __repr__(self) -> str:
        return f"RxDescriptor({self.ahead}, {self.address:#x}, {self.rest:#x})"


@dataclass(frozen=True, slots=True)
class Advance:
    """Ring the doorbell: the tail moves ``by`` descriptors, around the ring's end."""

    direction: Direction
    by: int

    def resolve(self, state: State) -> Write:
        ours = state.ours
        ring = ours.transmitter.fetcher.ring if self.direction == "tx" else ours.receiver.ring
        return Write(_TAIL[self.direction], (ring.tail + self.by) % ring.count if ring.count else 0)


def _poke(ring: Ring, ahead: int, descriptor: bytes) -> Poke | None:
    at = ring.base + (ring.tail + ahead) % max(ring.count, 1) * SIZE
    return Poke(at, descriptor) if WORK.start <= at <= MEMORY - SIZE else None
