"""The synthetic machine: it lives from a seed, and dies when it is told to.

It is everything that a driver asks of a kernel (locks, buffers, busy-waits, an interrupt line, and
a place at each step where a panic may strike), and everything that a judge asks of a corpse: what
memory held at the instant of the panic, what changed since, and which rules of the panic context
were broken by whom.

How it dies, and these are the rules that everything below obeys:

1. *Steps.* Ordinary driver code calls ``step(what)`` before each register access, each write to a
   descriptor and each lock operation. ``arm_panic`` names one; when it comes, ``PanicStrikes``
   unwinds that CPU's code *before* the step is done.
2. *Nothing is released.* A CPU that is stopped by an NMI runs no ``finally`` and leaves no ``with``
   block. So code that may be struck uses neither for locks or rings: what it held, it holds.
   (``PanicStrikes`` is no ``Exception``, so that no ``except Exception`` revives a dead CPU.)
3. *Then comes the truth.* ``panic(cause)`` stops the other CPUs, arms the guard, writes the last
   words to the message buffer, and only then freezes memory. From there on nothing outside the
   arena may change.

Interrupts are level triggered and taken between pieces of work (``take_interrupts``), never inside
one: the machine plays one CPU at a time. In the panic the line is only counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from guest.kernel.corpse import Corpse, MachineError
from guest.kernel.guard import PanicGuard
from guest.kernel.memory import PhysicalMemory
from guest.synthetic.contents import fill
from guest.synthetic.msgbuf import BOOT_LINES, MessageBuffer

#: How often a CPU that waits for an interrupt looks at the line, microseconds.
_LOOK_US: Final = 10
#: Handler runs in one ``take_interrupts`` before it is called a storm.
_STORM: Final = 1000


class PanicStrikes(BaseException):
    """Unwinds the code of the CPU on which the armed panic struck; carries where that was."""

    def __init__(self, number: int, name: str, cpu: int, cause: str) -> None:
        super().__init__(f"panic strikes CPU {cpu} before step {number} '{name}': {cause}")
        self.number = number
        self.name = name
        self.cpu = cpu
        self.cause = cause


@dataclass(frozen=True, slots=True)
class MachineConfig:
    """What the machine is built of. Sizes are bytes, in whole pages of 4096."""

    memory_size: int = 16 << 20
    """Ordinary memory: all of it is dumped."""
    arena_size: int = 4 << 20
    """The panic arena, on top of that; never dumped."""
    cpus: int = 4
    base: int = 0
    """Where ordinary memory begins; what lies below is not the machine's."""
    seed: int = 0
    hostname: str = "victim"
    zero_pages: bool = True
    """Whether some pages are all zeros, as in a real machine: holes hide in them."""
    mbufs: int = 8192
    """Buffers of the ordinary allocator."""
    panic_mbufs: int = 4096
    """Buffers set aside for the panic."""


class IntxLine:
    """The device's interrupt line, level triggered."""

    def __init__(self, guard: PanicGuard) -> None:
        self.level = False
        self.asserted = 0
        """Times that it rose, in all."""
        self._guard = guard

    def set(self, level: bool) -> None:
        """The device drives the line."""
        if level and not self.level:
            self.asserted += 1
            self._guard.interrupts_asserted += self._guard.armed
        self.level = level


class SyntheticMachine(Corpse):
    """A ``Kernel`` for ``nic_models.contracts``, that lives until it is told to die."""

    def __init__(
        self,
        config: MachineConfig,
        delay_us: Callable[[int], None] = lambda microseconds: None,
        buffer: NDArray[np.uint8] | None = None,
        buffer_fd: int | None = None,
    ) -> None:
        """Boot: memory is filled from the seed, the message buffer gets its first lines.

        ``delay_us`` is what busy-waiting means in this run: it moves a clock, or does nothing.
        ``buffer``: the memory to live in, and the descriptor that it is a mapping of; default:
        fresh memory.
        """
        guard = PanicGuard()
        size, arena = config.memory_size, config.arena_size
        super().__init__(
            PhysicalMemory(
                size, arena, guard, base=config.base, buffer=buffer, buffer_fd=buffer_fd
            ),
            guard,
            cpus=config.cpus,
            mbufs=config.mbufs,
            panic_mbufs=config.panic_mbufs,
            delay_us=delay_us,
        )
        self.config = config
        self.interrupt_line = IntxLine(guard)
        self.panic_cause: str | None = None
        self.step_names: list[str] = []
        """The steps since ``begin_steps`` or ``arm_panic``, in order."""
        self._handler: tuple[Callable[[], None], int | None] | None = None
        self._armed: tuple[int | str, str] | None = None
        self._struck: PanicStrikes | None = None
        self._boot()

    def _boot(self) -> None:
        config, memory = self.config, self.memory
        fill(memory.ordinary, config.seed, zero_pages=config.zero_pages)
        size = min(16 << 10, memory.size // 16)
        start = memory.allocate(size, 16)
        self.msgbuf = MessageBuffer(memory.buffer[start : start + size])
        facts = {
            "hostname": config.hostname,
            "seed": config.seed,
            "memory": config.memory_size,
            "mib": config.memory_size >> 20,
            "arena": config.arena_size,
            "arena_start": memory.arena[0],
            "cpus": config.cpus,
        }
        for line in BOOT_LINES:
            self.msgbuf.append(line.format_map(facts))

    # -- what a driver asks of its kernel ------------------------------------------------------

    def step(self, what: str) -> None:
        """A step of ordinary work is about to be done.

        Raises:
            PanicStrikes: it is the one that ``arm_panic`` named.
        """
        if self.guard.armed:
            return
        cpu = self.cpus.now
        cpu.step = what
        number = len(self.step_names)
        self.step_names.append(what)
        if self._armed is not None and self._armed[0] in (number, what):
            cause = self._armed[1]
            self._armed = None
            self._struck = PanicStrikes(number, what, cpu.number, cause)
            raise self._struck

    # -- CPUs and interrupts -------------------------------------------------------------------

    @contextmanager
    def on_cpu(self, number: int) -> Iterator[None]:
        """The code in this block runs on CPU ``number``.

        Who runs is restored after it; nothing else is, so a panic may unwind through this.
        """
        if not 0 <= number < len(self.cpus.all):
            raise MachineError(f"no CPU {number}: they are 0 to {len(self.cpus.all) - 1}")
        if not self.cpus.all[number].running:
            raise MachineError(f"CPU {number} was stopped by the panic and runs nothing any more")
        before, self.cpus.current = self.cpus.current, number
        try:
            yield
        finally:
            self.cpus.current = before

    def register_interrupt(self, handler: Callable[[], None], cpu: int | None = None) -> None:
        """``handler`` serves the line; on ``cpu``, or on whichever takes it."""
        self._handler = (handler, cpu)

    def take_interrupts(self, cpu: int | None = None) -> int:
        """Run the handler while the line is up; how many times it ran.

        ``cpu``: who takes it, unless the handler is bound to one; default the current CPU. In a
        panic nothing runs, and to try is a violation.

        Raises:
            MachineError: the line stays up whatever the handler does.
        """
        if self.guard.armed:
            self.guard.report("interrupt", "interrupts are waited for; nobody delivers them")
            return 0
        if self._handler is None:
            return 0
        handler, bound = self._handler
        chosen = bound if bound is not None else cpu
        for count in range(_STORM):
            if not self.interrupt_line.level:
                return count
            with self.on_cpu(self.cpus.current if chosen is None else chosen):
                handler()
        raise MachineError(
            f"the interrupt line is still up after {_STORM} runs of its handler: the handler must"
            " clear the cause at the device"
        )

    def wait_interrupt(self, microseconds: int) -> bool:
        """As ``Corpse.wait_interrupt``; before the panic the handler runs when the line is up."""
        if self.guard.armed:
            return super().wait_interrupt(microseconds)
        for waited in range(0, microseconds + 1, _LOOK_US):
            if self.take_interrupts():
                return True
            self.delay_us(min(_LOOK_US, microseconds - waited))
        return False

    # -- dying ---------------------------------------------------------------------------------

    @property
    def steps_taken(self) -> int:
        """Steps since ``begin_steps`` or ``arm_panic``."""
        return len(self.step_names)

    def begin_steps(self) -> None:
        """Count steps from 0 again."""
        self.step_names = []

    def arm_panic(self, at: int | str, cause: str) -> None:
        """Strike before step ``at``: its number, from 0, counted from here; or its name."""
        self.begin_steps()
        self._armed = (at, cause)

    def disarm_panic(self) -> None:
        """Whatever was armed strikes no more."""
        self._armed = None

    def panic(self, cause: str | None = None, cpu: int | None = None) -> None:
        """The machine dies, on ``cpu``; memory is frozen when this returns.

        Defaults: the cause and the CPU of the panic that struck, or else the CPU that runs now.

        Raises:
            MachineError: it is dead already.
        """
        if self.guard.armed:
            raise MachineError("the machine has panicked already: a second panic makes no dump")
        struck = self._struck
        if cause is None:
            cause = struck.cause if struck else "unknown cause"
        if cpu is None:
            cpu = struck.cpu if struck else self.cpus.current
        if not 0 <= cpu < len(self.cpus.all):
            raise MachineError(f"no CPU {cpu}: they are 0 to {len(self.cpus.all) - 1}")
        self._armed = None
        self.cpus.stop_others(cpu)
        self.guard.arm()
        self.panic_cause = cause
        self.msgbuf.append(f"panic: {cause}")
        self.msgbuf.append(f"cpuid = {cpu}")
        for stopped in self.cpus.all:
            self.msgbuf.append(f"cpu{stopped.number}: {stopped.step}")
        self.truth = self.memory.freeze()
