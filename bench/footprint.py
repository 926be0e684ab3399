"""How much memory a run will need, before anything of it is started.

A run holds its machine's memory once: the truth is a view of it (``guest/kernel/mapping``). With a
C driver, whose process maps it, too, or a QEMU there are two of it, the RAM and what was
photographed of it. Besides, each dump makes the bench remember something of every frame
(``judge/watch``), and Python, numpy, the server and QEMU have a size of their own (``tiers.ROWS``).
The constants are what `make bench` shows on x86-64, and a little more: it measures all of them, and
``tests/test_peak`` holds a run against them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from bench.parts import is_library
from bench.runs import SNAP_ABOVE
from bench.scenario.schema import ResolvedCase
from bench.tiers import ROWS

#: Bytes with which a frame is remembered, and what one carries at an MTU of 1500.
_REMEMBERED: Final = 181
_CARRIED: Final = 1448
#: Of each frame: the headers of IP, UDP and netdump.
_HEADERS: Final = 52
#: Bytes of a capture for each frame with data and its ack, besides the data of a whole one.
_CAPTURED: Final = 290


@dataclass(frozen=True, slots=True)
class Footprint:
    """What the largest of a scenario's runs needs, in bytes."""

    tier: str
    case: str
    memory: int
    """Of all processes together; pages that they share count once."""
    addresses: int
    """That the bench's own process maps at the least."""
    runs: int = 1
    """That are played at the same time, each in a process of its own."""


def footprint(case: ResolvedCase, tier: str, *, folder_in_memory: bool = False) -> Footprint:
    """What one run needs. ``folder_in_memory``: its run folder takes memory, too (tmpfs)."""
    size, machine = ROWS[tier], case.machine
    frames = machine.memory // min(_CARRIED, case.nic.mtu - _HEADERS)
    copies = size.copies
    if case.nic.driver is not None and is_library(case.nic.driver):
        copies = max(copies, 2)  # its process shares the memory, and the truth is a copy
    memory = machine.memory * copies + frames * _REMEMBERED + machine.arena
    if folder_in_memory:  # the dump and the capture
        whole = machine.memory if machine.memory <= SNAP_ABOVE else 0
        memory += machine.memory + whole + frames * _CAPTURED
    addresses = 2 * machine.memory + machine.arena
    return Footprint(tier, case.name, memory + size.programs, addresses)


def largest(
    cases: Iterable[ResolvedCase], tier: str, *, folder_in_memory: bool = False, at_once: int = 1
) -> Footprint | None:
    """What a scenario needs, or ``at_once`` of it; None of no run.

    Its own runs are played one after the other, so the largest decides.
    """
    needs = (footprint(case, tier, folder_in_memory=folder_in_memory) for case in cases)
    found = max(needs, key=lambda f: f.memory, default=None)
    return None if found is None else replace(found, memory=found.memory * at_once, runs=at_once)
