"""A system that runs under QEMU, from its life to its lying still, whatever it is.

The panic path of this bench is code of ours, but the machine on which it "runs" is the guest's own:
its memory, its NIC. So three things happen between its death and its dump, in this order:

1. *Everything stands still.* QEMU stopped it the moment it told of its panic (pvpanic), or QMP did
   when its console had told, or when it was struck. No CPU runs, and no DMA.
2. *The truth is taken* (``freeze``): QMP's own dump of memory and registers, compared with the
   memory that QEMU shares with us.
3. *It is parked* (``park``): the machine runs on, and its CPUs don't.

From then on the NIC is as the crash left it: interrupts enabled, rings live, and frames may still
be written to buffers that are about to be dumped.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from guest.kernel.corpse import changes
from guest.kernel.guard import PanicGuard
from guest.kernel.memory import PhysicalMemory
from guest.qemu import parking
from guest.qemu.console import Console, ConsoleSilent
from guest.qemu.coredump import CoreDump
from guest.qemu.errors import QemuError
from guest.qemu.monitor import Monitor
from guest.qemu.vm import Spawn, Vm, VmOptions

#: A guest that was crashed hangs when it takes longer to tell of it, seconds: a bound that no busy
#: machine reaches. One whose QEMU dies is noticed at once.
CRASH_TIMEOUT_S: Final = 180.0
#: RAM of a PC that a dump is made of: what lies between is the firmware's.
LOW_END, HIGH_START = 0xA0000, 0x100000
PANICKED: Final = "GUEST_PANICKED"
_TURN_S: Final = 0.002


class GuestFailed(QemuError):
    """The guest did not do what it was made for."""


@dataclass(frozen=True, slots=True)
class Panic:
    """What is known of a panic."""

    noticed_by: str
    """Empty: it was stopped as it was struck."""
    message: str
    """The kernel's; empty if it left none."""
    seconds: float
    """From the trigger to the notice."""


class QemuGuest(ABC):
    """One guest; ``close`` whatever happens."""

    def __init__(
        self, options: VmOptions, folder: Path, spawn: Spawn, *, pvpanic: bool = False
    ) -> None:
        """Start QEMU; the guest begins to boot. ``pvpanic``: QEMU stops it when it panics.

        Raises:
            QemuLaunchFailure: QEMU does not come up.
        """
        self._pvpanic = pvpanic
        self.vm = Vm(options, folder, spawn)
        assert self.vm.serial is not None, "it has a serial line"
        self.console = Console(self.vm.serial)

    @property
    def monitor(self) -> Monitor:
        return self.vm.monitor

    @property
    def cpus(self) -> int:
        """How many of its own it has."""
        return self.vm.options.cpus

    @abstractmethod
    def segments(self) -> list[tuple[int, int]]:
        """(start, length) of the RAM that a dump is made of."""

    @abstractmethod
    def memory(self, guard: PanicGuard) -> PhysicalMemory:
        """Its memory, and the panic arena; when it has been frozen."""

    def close(self) -> None:
        self.console.drain()
        self.vm.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def rest(self, seconds: float, idle: Callable[[], None] = lambda: None) -> None:
        """Let it run."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.console.drain()
            idle()
            time.sleep(_TURN_S)

    def watched(self, idle: Callable[[], None]) -> Callable[[], None]:
        """``idle``, and a look whether QEMU is still there."""

        def look() -> None:
            self.vm.check()
            idle()

        return look

    def await_panicked(self, idle: Callable[[], None]) -> None:
        """Wait until it has told QEMU that it panicked; it stands still then.

        Raises:
            ConsoleSilent: it does not.
        """
        look = self.watched(idle)

        def busy() -> None:
            self.console.drain()
            look()

        if self.monitor.wait_for((PANICKED,), CRASH_TIMEOUT_S, busy) is None:
            raise ConsoleSilent(PANICKED, CRASH_TIMEOUT_S, self.console.text)

    def freeze(self) -> CoreDump:
        """The truth, at this instant: memory and registers. The machine stands still.

        Raises:
            GuestFailed: it has run on since the panic, or QMP's memory is not what we share.
        """
        stands = "guest-panicked" if self._pvpanic else "paused"
        status = self.monitor.execute("query-status")["status"]
        if status != stands:
            raise GuestFailed(
                f"the machine is {status!r}, not {stands!r}: its memory is not that of the panic"
            )
        core = self.vm.dump_memory()
        for start, length in self.segments():
            if changes(core.read(start, length), self.vm.ram[start : start + length]):
                raise GuestFailed(
                    f"what QMP says is in memory from {start:#x} on is not what QEMU shares with us"
                )
        return core

    def park(self) -> list[int]:
        """Let the machine run on without its CPUs; where those stand (``parking.park``)."""
        return parking.park(self.vm)
