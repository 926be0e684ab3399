"""How much memory a run will need, before anything of it is started.

A run holds its machine's memory once: the truth is a view of it (``guest/kernel/mapping``). With a
QEMU there are two of it, the RAM and what was photographed of it. Besides, each dump makes the
bench remember something of every frame (``judge/watch``), and Python, numpy, the server and QEMU
have a size of their own. The constants are what `make bench` shows on x86-64, and a little more: it
measures all of them, and ``tests/test_peak`` holds a run against them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from bench.scenario.schema import ResolvedCase

MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class _Size:
    copies: int
    """Of the machine's memory that are held, and twice as many are mapped at the most."""
    programs: int
    """Bytes of the bench, the server and QEMU themselves."""


#: Tier -> what its runs hold.
_SIZES: Final = {
    "sim": _Size(copies=1, programs=100 * MIB),
    "tap": _Size(copies=1, programs=130 * MIB),
    "qemu": _Size(copies=2, programs=260 * MIB),
}
#: Frames are remembered with some hundred bytes each: an eighth of what they carry.
_REMEMBERED: Final = 8


@dataclass(frozen=True, slots=True)
class Footprint:
    """What the largest of a scenario's runs needs, in bytes."""

    tier: str
    case: str
    memory: int
    """Of all processes together; pages that they share count once."""
    addresses: int
    """That the bench's own process maps at the least."""


def footprint(case: ResolvedCase, tier: str) -> Footprint:
    """What one run needs."""
    size, machine = _SIZES[tier], case.machine
    memory = machine.memory * size.copies + machine.memory // _REMEMBERED + machine.arena
    addresses = 2 * machine.memory + machine.arena
    return Footprint(tier, case.name, memory + size.programs, addresses)


def largest(cases: Iterable[ResolvedCase], tier: str) -> Footprint | None:
    """Runs are played one after the other, so the largest decides; None of no run."""
    return max((footprint(case, tier) for case in cases), key=lambda f: f.memory, default=None)
