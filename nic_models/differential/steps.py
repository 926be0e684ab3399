"""What a trace is made of: steps that print as the Python that makes them.

Six steps any family has: a register is written or read, software writes memory, frames come in, the
cable is plugged in or pulled. A family adds ``Relative`` ones of its own, which depend on where its
rings stand when they are played, so that a trace stays meaningful when steps are taken out of it.

A register is an offset. One that is a member of an enum prints by its name: give those.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Literal, Protocol

from nic_models.contracts import Mmio

Bits = Literal[8, 16, 32]

#: EtherType of the frames: local experimental (IEEE 802), so never a VLAN tag.
ETHERTYPE: Final = bytes.fromhex("88b5")
_FROM: Final = bytes.fromhex("0200000000fe")


def name(register: int) -> str:
    """As Python: the member of an enum by its name, any other offset as a number."""
    if isinstance(register, Enum):
        return f"{type(register).__name__}.{register.name}"
    return f"{register:#x}"


def _width(bits: Bits) -> str:
    return "" if bits == 32 else f", bits={bits}"


@dataclass(frozen=True, slots=True)
class Write:
    """A register; an access of ``bits``."""

    register: int
    value: int
    bits: Bits = 32

    def play(self, mmio: Mmio) -> None:
        """Write it."""
        write = {8: mmio.write8, 16: mmio.write16, 32: mmio.write32}[self.bits]
        write(self.register, self.value)

    def __repr__(self) -> str:
        return f"Write({name(self.register)}, {self.value:#x}{_width(self.bits)})"


@dataclass(frozen=True, slots=True)
class Read:
    """A register, compared; an access of ``bits``."""

    register: int
    bits: Bits = 32

    def play(self, mmio: Mmio) -> int:
        """Read it."""
        read = {8: mmio.read8, 16: mmio.read16, 32: mmio.read32}[self.bits]
        return read(self.register)

    def __repr__(self) -> str:
        return f"Read({name(self.register)}{_width(self.bits)})"


@dataclass(frozen=True, slots=True)
class Poke:
    """Software writes memory."""

    address: int
    data: bytes

    def __repr__(self) -> str:
        return f"Poke({self.address:#x}, bytes.fromhex({self.data.hex()!r}))"


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


class Relative(Protocol):
    """A step of one family. It prints as the Python that makes it, too."""

    def resolve(self, state: Any, /) -> Primitive | None:
        """The step in absolute terms, by the family's state; None where it makes no sense now."""
        ...


Step = Primitive | Relative


def listing(trace: Sequence[Step]) -> str:
    """The trace as a list that can be pasted into a test."""
    return "[\n" + "".join(f"    {step!r},\n" for step in trace) + "]"
