"""CPUs: who runs, and who stands still, and where.

The machine plays its CPUs one at a time: ``current`` is the one whose code is running. At the
panic all but one are stopped by an NMI wherever they are; ``step`` is how far each of them had
come, which is what a deadlock message needs to tell.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from guest.kernel.guard import PanicGuard


@dataclass(slots=True)
class Cpu:
    """One of them."""

    number: int
    running: bool = True
    step: str = "idle"
    """The last step of ordinary work that it came to."""


@dataclass(slots=True)
class CpuSet:
    """All of them, the one that runs now, and the guard that judges what they do."""

    all: list[Cpu]
    guard: PanicGuard = field(default_factory=PanicGuard)
    current: int = 0

    @property
    def now(self) -> Cpu:
        """The CPU whose code is running."""
        return self.all[self.current]

    def stop_others(self, survivor: int) -> None:
        """The panic's NMI: only ``survivor`` runs from now on."""
        self.current = survivor
        for cpu in self.all:
            cpu.running = cpu.number == survivor
