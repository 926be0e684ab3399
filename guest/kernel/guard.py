"""The panic contract, enforced: what the dying kernel may not do, and who did it.

    rule                    broken by
    ordinary-allocation     taking a buffer from the allocator of ordinary life
    lock-of-stopped-cpu     acquiring a lock whose owner will never run again
    sleep                   giving up the CPU: there is no scheduler to give it back
    interrupt               running an interrupt handler, or waiting for one
    memory-outside-arena    asking for ordinary memory
    store-outside-arena     writing to memory that is dumped; where a store can be caught at all
    never-reclaimed         keeping what was sent: the ring fills, and stays full

Two rules of the guard itself. It records and never forbids: what breaks a rule still happens, as it
would in the real kernel, and then does there what it does. And it names the *call site*: file, line
and function of the nearest caller outside this package, which is the code to mend.

Code that is not Python has no frame here: who runs it sets ``caller``, which tells its call site.

Writes to ordinary memory leave no call to catch; the machine finds them by comparing pages with the
truth (``SyntheticMachine.memory_changes``).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

Rule = Literal[
    "ordinary-allocation",
    "lock-of-stopped-cpu",
    "sleep",
    "interrupt",
    "memory-outside-arena",
    "store-outside-arena",
    "never-reclaimed",
]

_PACKAGE: Final = str(Path(__file__).resolve().parents[1])
_ROOT: Final = str(Path(__file__).resolve().parents[2])

#: Violations kept in full; the rest is only counted. A loop that breaks a rule breaks it often.
MAX_KEPT: Final = 1000


@dataclass(frozen=True, slots=True)
class Violation:
    """One breach."""

    rule: Rule
    call_site: str
    detail: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.detail} ({self.call_site})"


@dataclass(slots=True)
class PanicGuard:
    """Quiet until ``arm``; then it counts and records."""

    armed: bool = False
    violations: list[Violation] = field(default_factory=list)
    """The first ``MAX_KEPT``, in order."""
    violation_count: int = 0
    """All of them."""
    locks_bypassed: int = 0
    """Times that code went round a lock."""
    bypassed_while_held: int = 0
    """Of these, how often somebody held it."""
    interrupts_asserted: int = 0
    """Times that a device raised its interrupt line: allowed, and nobody listens."""
    caller: Callable[[], str] | None = None
    """Tells the call site, where that is not to be found on Python's stack."""

    def arm(self) -> None:
        """The panic begins."""
        self.armed = True

    def report(self, rule: Rule, detail: str) -> None:
        """Called by the package when a rule is broken; does nothing before the panic."""
        if not self.armed:
            return
        self.violation_count += 1
        if len(self.violations) < MAX_KEPT:
            site = call_site() if self.caller is None else self.caller()
            self.violations.append(Violation(rule, site, detail))

    def summary(self) -> list[str]:
        """One line for each rule and call site, with its count; for the verdict."""
        seen: dict[tuple[str, str], list[Violation]] = {}
        for violation in self.violations:
            seen.setdefault((violation.rule, violation.call_site), []).append(violation)
        lines = [f"{group[0]}{_times(len(group))}" for group in seen.values()]
        hidden = self.violation_count - len(self.violations)
        return [*lines, f"and {hidden} more violations"] if hidden else lines


def _times(count: int) -> str:
    return f", {count} times" if count > 1 else ""


def call_site() -> str:
    """``netdump/udplink.py:204 _transmit``: the nearest caller outside guest/."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    return place(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)


def place(file: str, line: int, name: str) -> str:
    """``netdump/udplink.py:204 _transmit``; a file that is not ours keeps its whole path."""
    return f"{file.removeprefix(_ROOT + os.sep)}:{line} {name}"
