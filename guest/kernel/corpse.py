"""What a machine is from the panic on, grown from a seed or booted from a disk.

Two sides look at it. A driver in the panic asks for locks, buffers and busy-waits: structurally it
is the ``Kernel`` of ``nic_models.contracts``. And a judge asks what memory held at the panic, what
changed since, and which rules of the panic context were broken by whom.

*The truth* is memory at the instant of the panic, by physical address. From there on nothing
outside the panic arena may change but by the NIC's doing, until the panic path has stopped it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from guest.kernel.cpus import Cpu, CpuSet
from guest.kernel.guard import PanicGuard
from guest.kernel.locks import MachineLock
from guest.kernel.mbufs import OrdinaryMbufs, PanicPool
from guest.kernel.memory import PAGE_SIZE, PhysicalMemory
from guest.kernel.truth import Truth

#: Pages that ``changes`` compares at a time.
_COMPARED: Final = 4096


class MachineError(Exception):
    """The machine was used in a way that no machine can be: a defect of the bench."""


class Corpse:
    """A machine as its panic path and its judge see it; alive until ``guard`` is armed."""

    def __init__(
        self,
        memory: PhysicalMemory,
        guard: PanicGuard,
        *,
        cpus: int,
        mbufs: int,
        panic_mbufs: int,
        delay_us: Callable[[int], None],
    ) -> None:
        """``guard`` is the memory's. ``delay_us`` is what busy-waiting means in this run."""
        if cpus < 1:
            raise MachineError(f"a machine of {cpus} CPUs can't run: give it one at least")
        self.guard = guard
        self.memory = memory
        self.cpus = CpuSet([Cpu(number) for number in range(cpus)], guard)
        self.mbufs = OrdinaryMbufs(mbufs, guard)
        self.panic_pool = PanicPool(panic_mbufs)
        self.truth: Truth | None = None
        """Memory at the panic instant; None before."""
        self.delayed_us = 0
        """Microseconds busy-waited in all."""
        self._locks: dict[str, MachineLock] = {}
        self._delay_us = delay_us

    # -- what a driver asks of its kernel ------------------------------------------------------

    def lock(self, name: str) -> MachineLock:
        """The lock of that name; made when first asked for."""
        if name not in self._locks:
            self._locks[name] = MachineLock(name, self.cpus)
        return self._locks[name]

    def delay_us(self, microseconds: int) -> None:
        """Busy-wait."""
        self.delayed_us += microseconds
        self._delay_us(microseconds)

    def sleep_us(self, microseconds: int) -> None:
        """Give the CPU up for a while. In a panic that is a violation, and time passes anyhow."""
        self.guard.report("sleep", f"sleeps {microseconds} us")
        self.delay_us(microseconds)

    def wait_interrupt(self, microseconds: int) -> bool:
        """Sleep until the interrupt handler has run, at most so long; whether it ran. In a panic
        that is a violation, and nobody runs it.
        """
        self.guard.report("interrupt", "waits for an interrupt, which nobody delivers in a panic")
        self.delay_us(microseconds)
        return False

    def step(self, what: str) -> None:
        """A step of ordinary work is about to be done: a place where a panic may strike."""

    # -- what a judge asks ---------------------------------------------------------------------

    @property
    def panicked(self) -> bool:
        return self.guard.armed

    def dump_segments(self) -> list[tuple[int, int]]:
        """(start, length) of what a dump must hold: all memory but the arena."""
        return [(self.memory.base, self.memory.size)]

    def memory_changes(self) -> list[tuple[int, int]]:
        """[start, end) of dumped pages that are no longer as at the panic.

        Raises:
            MachineError: there was no panic.
        """
        if self.truth is None:
            raise MachineError("there is no truth to compare with before the panic")
        found: list[tuple[int, int]] = []
        for start, length in self.dump_segments():
            end = start + length
            found += changes(self.truth.read(start, end), self.memory.buffer[start:end], start)
        return found

    def release(self) -> None:
        """It has been judged: give its memory back, and the truth about it."""
        if self.truth is not None:
            self.truth.release()
        self.memory.release()


def changes(
    then: NDArray[np.uint8], now: NDArray[np.uint8], address: int = 0
) -> list[tuple[int, int]]:
    """[start, end) of the pages that differ; both are whole pages, the first at ``address``."""
    old = then.reshape(-1, PAGE_SIZE).view("<u8")
    new = now.reshape(-1, PAGE_SIZE).view("<u8")
    changed = [
        (new[first : first + _COMPARED] != old[first : first + _COMPARED]).any(axis=1)
        for first in range(0, len(new), _COMPARED)
    ]
    edges = np.diff(np.concatenate([[False], *changed, [False]]).astype(np.int8))
    starts = (address + np.flatnonzero(edges == 1) * PAGE_SIZE).tolist()
    ends = (address + np.flatnonzero(edges == -1) * PAGE_SIZE).tolist()
    return list(zip(starts, ends, strict=True))
