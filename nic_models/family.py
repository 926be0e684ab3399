"""A family of NICs: which silicon and driver belong together, and what the bench has to know.

All that is known of a family outside its own package is what it says here. The bench finds it by
its entry point (group ``netdump_bench.nics``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nic_models.contracts import (
    DmaMemory,
    Driver,
    InterruptLine,
    Kernel,
    Mbufs,
    Mmio,
    Mode,
    Silicon,
)
from nic_models.differential.contract import Differential


class MakeSilicon(Protocol):
    """Makes our model of the card."""

    def __call__(
        self,
        memory: NDArray[np.uint8],
        mac: bytes,
        interrupt: InterruptLine,
        rate_bps: int | None = None,
        /,
    ) -> Silicon:
        """``memory``: flat, index = physical address. ``rate_bps``: the wire's; None = infinite."""
        ...


class MakeDriver(Protocol):
    """Makes the kernel's code for it, and reserves all that a panic will need."""

    def __call__(
        self,
        mmio: Mmio,
        memory: DmaMemory,
        kernel: Kernel,
        /,
        *,
        mode: Mode = ...,
        mtu: int = ...,
        promiscuous: bool = ...,
        tx_ring: int = ...,
        rx_ring: int = ...,
        tx_zone: Mbufs | None = ...,
    ) -> Driver: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class OnQemu:
    """QEMU's device of the family, and how it is watched from outside."""

    device: str
    """As in ``-device``."""
    vendor: int
    pci_device: int
    modules: tuple[str, ...]
    """Linux' modules that drive it."""
    bar: int = 0
    """Where its registers are."""
    interrupt_registers: frozenset[int]
    """Offsets: an access may change the level of its interrupt line."""
    barrier: int
    """Offset of a register of 32 bits: reading it changes nothing, and is answered after all that
    was asked of the device before."""
    cause_pending: Callable[[Mmio], bool]
    """Whether there is a cause of interrupt that is not masked; changes nothing."""
    may_write_to: Callable[[Mmio, NDArray[np.uint8]], list[tuple[int, int]]]
    """``(registers, memory)`` -> [start, end) of what the card may write to by itself, as its rings
    stand; changes nothing."""
    state: Callable[[Mmio], dict[str, int]]
    """Registers, by name, that tell in which state a panic left the card; changes nothing."""
    receives: Callable[[Mmio], bool] | None = None
    """Whether its receiver is on and owns buffers; changes nothing, whoever drives the card at the
    time. None: that can't be seen."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NicFamily:
    """What the bench knows of a family."""

    name: str
    says: str
    """One line for who looks for a NIC."""
    silicon: MakeSilicon
    driver: MakeDriver
    doorbells: Mapping[int, str]
    """Offset -> name of the registers whose write gives the wire its turn."""
    on_qemu: OnQemu | None = None
    """None: QEMU has no such NIC, and tiers that need it can't be played."""
    differential: Callable[[], Differential] | None = None
    """Makes, when it is asked for, what the comparison with QEMU's device has to know; None: they
    can't be compared."""
