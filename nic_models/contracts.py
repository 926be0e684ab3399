"""What a NIC's driver and device need from the world: registers, memory, locks, buffers, time.

Each is a small Protocol, owned here because it is used here. The machine (``guest/``) and the bench
implement them; QEMU's device over qtest implements ``Mmio`` and ``DmaMemory`` as well.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Mmio(Protocol):
    """A device's 32-bit register window (BAR 0)."""

    def read32(self, offset: int) -> int: ...

    def write32(self, offset: int, value: int) -> None: ...


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
