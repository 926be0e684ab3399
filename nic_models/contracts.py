"""Both sides of a NIC: what it is to the bench, and what its driver needs from the world.

A NIC is two things that meet at registers, DMA memory and the interrupt line and nowhere else:
``Silicon``, a model of ours or QEMU's own device, and ``Driver``, the kernel's code for it. A
``family`` says which belong together.

What they need (registers, memory, locks, buffers, time) is a small Protocol each, owned here
because it is used here. The machine (``guest/``) and the bench implement them.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from nic_models.frames import Frames


class Mmio(Protocol):
    """A device's register window: accesses of 8, 16 and 32 bits at an offset of its BAR."""

    def read8(self, offset: int, /) -> int: ...

    def read16(self, offset: int, /) -> int: ...

    def read32(self, offset: int, /) -> int: ...

    def write8(self, offset: int, value: int, /) -> None: ...

    def write16(self, offset: int, value: int, /) -> None: ...

    def write32(self, offset: int, value: int, /) -> None: ...


class Silicon(Mmio, Protocol):
    """The card: registers on one side, a PHY on the other."""

    def power_on(self) -> None:
        """Registers can be reached and the cable is plugged in. Comes first."""
        ...

    def transmit(self, now_ns: int) -> Frames:
        """From the driver to the wire: the frames that have left by ``now_ns``."""
        ...

    def deliver(self, frames: Frames) -> None:
        """From the wire to the card: frames that reach the PHY, copied before this returns."""
        ...

    def settle(self, at_most_s: float) -> bool:
        """Wait until what was delivered is in memory, or dropped; False if it still waits."""
        ...

    def await_interrupt(self) -> None:
        """Wait until a cause that is not masked has reached the line; nothing if there is none."""
        ...

    def machine_died(self) -> None:
        """The machine stands still: what is written to its memory from here on, by the card alone,
        is in ``reach``. Nobody serves its interrupts any more.
        """
        ...

    def reach(self) -> list[tuple[int, int]]:
        """[start, end) of memory that the card has, or may have, written to since then."""
        ...


class DmaMemory(Protocol):
    """Guest-physical memory; index = physical address."""

    @property
    def buffer(self) -> NDArray[np.uint8]:
        """All of it, flat, uint8, writable."""
        ...

    def allocate(self, size: int, align: int) -> int:
        """Boot-time memory for rings and buffers of ordinary life; a physical address."""
        ...

    def reserve(self, size: int, align: int) -> int:
        """A piece of the panic arena, carved out at boot; a physical address."""
        ...


class Lock(Protocol):
    """A mutex with an owner CPU. The machine decides what acquiring a dead CPU's lock means."""

    def acquire(self) -> None: ...

    def release(self) -> None: ...

    def bypass(self) -> None:
        """Go round the lock, as a polled panic path does; counted, also whether it was held."""
        ...


class Mbufs(Protocol):
    """A counted supply of network buffers."""

    def take(self, count: int) -> bool:
        """All ``count`` of them, or none and False."""
        ...

    def give(self, count: int) -> None: ...


class Kernel(Protocol):
    """What the machine lends to a driver besides memory."""

    def lock(self, name: str) -> Lock: ...

    @property
    def mbufs(self) -> Mbufs:
        """The allocator of ordinary life."""
        ...

    @property
    def panic_pool(self) -> Mbufs:
        """The pool that was filled before the panic."""
        ...

    def step(self, what: str) -> None:
        """Called before each step of ordinary work: a place where a panic may strike."""
        ...

    def delay_us(self, microseconds: int) -> None:
        """Busy-wait, as DELAY(9) does. Allowed in a panic."""
        ...

    def wait_interrupt(self, microseconds: int) -> bool:
        """Sleep until the interrupt handler has run, at most so long; whether it ran. Not allowed
        in a panic: nobody runs it.
        """
        ...


class InterruptLine(Protocol):
    """INTx: level triggered."""

    def set(self, level: bool) -> None: ...


class TxBatch(Protocol):
    """Frames to send: a block of headers, and where the payload of each lies in memory."""

    @property
    def headers(self) -> NDArray[np.uint8]:
        """uint8 (n, width): Ethernet to the last protocol header; the row's tail is unused."""
        ...

    @property
    def header_lengths(self) -> NDArray[np.int64]:
        """int64 (n,), bytes."""
        ...

    @property
    def payload_addresses(self) -> NDArray[np.int64]:
        """int64 (n,), guest-physical; ignored where the payload is empty."""
        ...

    @property
    def payload_lengths(self) -> NDArray[np.int64]:
        """int64 (n,), bytes; 0 = the header block is the whole frame."""
        ...


# --- the kernel's code for it ---------------------------------------------------------------------


class Mode(Enum):
    """What a driver does about its locks in a panic: acquire them, or go round them."""

    POLLED = "polled"
    LOCKED = "locked"


class Driver(Protocol):
    """An ordinary life (``attach``, ``send``, ``interrupt``), and FreeBSD's debugnet methods
    (sys/net/debugnet.h) for the panic (``link_up``, ``event``, ``transmit``, ``poll``).
    """

    tx_zone: Mbufs
    """Where the mbufs of frames that were sent in the panic go back to."""

    @property
    def stack(self) -> list[Callable[[bytes], None]]:
        """Called with each frame that ordinary life receives."""
        ...

    @property
    def mac(self) -> bytes: ...

    @property
    def mtu(self) -> int:
        """The largest IPv4 packet, bytes."""
        ...

    def attach(self) -> None:
        """Reset the NIC and start it, interrupts on."""
        ...

    def send(self, frames: list[bytes]) -> int:
        """Queue Ethernet frames; how many were taken from the front."""
        ...

    def interrupt(self) -> None:
        """The handler."""
        ...

    def link_up(self) -> bool: ...

    def event(self, what: Literal["start", "end"]) -> None:
        """ "start": take the NIC over, whatever state it is in. "end": stop receiving."""
        ...

    def transmit(self, batch: TxBatch) -> int:
        """Queue frames from the front; how many were taken."""
        ...

    def poll(self, budget: int) -> Frames:
        """Reclaim, and hand over at most ``budget`` frames."""
        ...
