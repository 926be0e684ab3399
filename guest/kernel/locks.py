"""Mutexes that know their owner: a CPU, and the code that it ran.

    acquire     by            before the panic        in the panic
    free        anyone        owned                   owned
    owned       another CPU   BadLocking              Deadlock: its owner is stopped for ever
    owned       the owner     BadLocking (recursion)  Deadlock, if the interrupted code holds it;
                                                      BadLocking, if the panic code itself does
    bypass      anyone        BadLocking              counted, and counted apart if it was held

Before the panic a contested lock is a defect of the caller, not a wait: the machine plays one CPU
at a time, so nobody could release it meanwhile. In the panic it is what panics are feared for, and
is told in one line instead of a hang.
"""

from __future__ import annotations

from dataclasses import dataclass

from guest.kernel.cpus import CpuSet


class Deadlock(Exception):
    """The panicking CPU wants a lock that nobody will ever release."""


class BadLocking(Exception):
    """Code that no real kernel would let pass: recursion, foreign release, bypass in good times."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Who holds a lock."""

    cpu: int
    in_panic: bool
    """Taken by panic code, not by what the panic interrupted."""


class MachineLock:
    """One mutex; see the table above."""

    def __init__(self, name: str, cpus: CpuSet) -> None:
        self.name = name
        self.owner: Owner | None = None
        self._cpus = cpus

    def acquire(self) -> None:
        """Own the lock.

        Raises:
            Deadlock: in a panic, whoever holds it has stopped; recorded as a violation as well.
            BadLocking: it is contested in good times, or taken twice.
        """
        cpu, panicking = self._cpus.current, self._cpus.guard.armed
        if self.owner is None:
            self.owner = Owner(cpu, panicking)
        elif panicking and not self.owner.in_panic:
            holder = self._describe(self.owner)
            self._cpus.guard.report("lock-of-stopped-cpu", f"{self.name}, held by {holder}")
            raise Deadlock(f"deadlock: CPU {cpu} wants {self.name}, held by {holder}")
        elif self.owner.cpu == cpu:
            raise BadLocking(f"CPU {cpu} acquires {self.name} twice: it is no recursive mutex")
        else:
            raise BadLocking(
                f"CPU {cpu} wants {self.name}, held by CPU {self.owner.cpu}: the machine plays one"
                " CPU at a time, so end that CPU's work first"
            )

    def release(self) -> None:
        """Give the lock up.

        Raises:
            BadLocking: this CPU does not hold it.
        """
        owner = Owner(self._cpus.current, self._cpus.guard.armed)
        if self.owner != owner:
            held = f"held by {self._describe(self.owner)}" if self.owner else "free"
            raise BadLocking(f"CPU {owner.cpu} releases {self.name}, which is {held}")
        self.owner = None

    def bypass(self) -> None:
        """Go round it.

        Raises:
            BadLocking: there is no panic; other CPUs run, and the lock means what it says.
        """
        guard = self._cpus.guard
        if not guard.armed:
            raise BadLocking(f"{self.name} is bypassed without a panic: acquire it")
        guard.locks_bypassed += 1
        guard.bypassed_while_held += self.owner is not None

    def _describe(self, owner: Owner) -> str:
        cpu = self._cpus.all[owner.cpu]
        if cpu.running:
            return f"the interrupted code of CPU {owner.cpu} itself since step '{cpu.step}'"
        return f"stopped CPU {owner.cpu} since step '{cpu.step}'"
