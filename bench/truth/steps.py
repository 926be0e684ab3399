"""What a trace is made of: steps that print as the Python that makes them.

Some steps are relative to where the ring stands when they are played (``TxDescriptor``,
``RxDescriptor``, ``Advance``), so that a trace stays meaningful when steps are taken out of it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, Literal

from nic_models.e1000.registers import Reg

Direction = Literal["tx", "rx"]

#: EtherType of the frames: local experimental (IEEE 802), so never a VLAN tag.
ETHERTYPE: Final = bytes.fromhex("88b5")
_FROM: Final = bytes.fromhex("0200000000fe")


def _name(register: int) -> str:
    try:
        return f"Reg.{Reg(register).name}"
    except ValueError:
        return f"{register:#x}"


@dataclass(frozen=True, slots=True)
class Write:
    """A register."""

    register: int
    value: int

    def __repr__(self) -> str:
        return f"Write({_name(self.register)}, {self.value:#x})"


@dataclass(frozen=True, slots=True)
class Read:
    """A register, compared."""

    register: int

    def __repr__(self) -> str:
        return f"Read({_name(self.register)})"


@dataclass(frozen=True, slots=True)
class Poke:
    """Software writes memory."""

    address: int
    data: bytes

    def __repr__(self) -> str:
        return f"Poke({self.address:#x}, bytes.fromhex({self.data.hex()!r}))"


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

    def __repr__(self) -> str:
        return f"RxDescriptor({self.ahead}, {self.address:#x}, {self.rest:#x})"


@dataclass(frozen=True, slots=True)
class Advance:
    """Ring the doorbell: the tail moves ``by`` descriptors, around the ring's end."""

    direction: Direction
    by: int


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame on the wire: destination, length without FCS, and what fills it."""

    to: bytes
    length: int
    fill: int = 0

    def pack(self) -> bytes:
        head = self.to + _FROM + ETHERTYPE
        body = bytes((self.fill + i) & 0xFF for i in range(min(self.length, 256)))
        body = (body * (self.length // 256 + 1))[: self.length]
        return (head + body[len(head) :])[: self.length]

    def __repr__(self) -> str:
        return f"Frame(bytes.fromhex({self.to.hex()!r}), {self.length}, {self.fill})"


@dataclass(frozen=True, slots=True)
class Arrive:
    """Frames come in, in one batch."""

    frames: tuple[Frame, ...]


@dataclass(frozen=True, slots=True)
class Link:
    """The cable is plugged in or pulled."""

    up: bool


#: What is left when a relative step has been resolved.
Primitive = Write | Read | Poke | Arrive | Link
Step = Primitive | TxDescriptor | RxDescriptor | Advance


def listing(trace: tuple[Step, ...] | list[Step]) -> str:
    """The trace as a list that can be pasted into a test."""
    return "[\n" + "".join(f"    {step!r},\n" for step in trace) + "]"
