"""What ordinary life touches, so that a panic may strike before each touch.

``kernel.step`` is called *before* the access. If it does not return, this CPU has stopped there for
ever, and the access never came. The step names are part of what scenarios are written with:

    read TDT, write MTA[3]      a register, by its name in the manual
    lock em0:tx, unlock em0:tx  a lock

The rings have steps of their own (``live_rings.py``). The panic has none: it strikes once.
"""

from __future__ import annotations

from nic_models.contracts import Kernel, Lock, Mmio
from nic_models.e1000.registers import MTA_COUNT, Reg


class SteppedRegisters:
    """Registers of 32 bits."""

    def __init__(self, mmio: Mmio, kernel: Kernel) -> None:
        self._mmio = mmio
        self._kernel = kernel

    def read(self, register: int) -> int:
        self._kernel.step(f"read {_name(register)}")
        return self._mmio.read32(register)

    def write(self, register: int, value: int) -> None:
        self._kernel.step(f"write {_name(register)}")
        self._mmio.write32(register, value)


class SteppedLock:
    """A lock; no context manager, for a stopped CPU leaves none."""

    def __init__(self, name: str, lock: Lock, kernel: Kernel) -> None:
        self._name = name
        self._lock = lock
        self._kernel = kernel

    def acquire(self) -> None:
        self._kernel.step(f"lock {self._name}")
        self._lock.acquire()

    def release(self) -> None:
        self._kernel.step(f"unlock {self._name}")
        self._lock.release()


def _name(register: int) -> str:
    """``TDT``, or ``MTA[3]``."""
    if Reg.MTA <= register < Reg.MTA + 4 * MTA_COUNT:
        return f"MTA[{(register - Reg.MTA) // 4}]"
    return Reg(register).name
