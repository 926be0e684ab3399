"""Where the two devices may differ: one row each, with how the comparison accounts for it.

A row explains in one of four ways, and as narrowly as it can:

    reads      what QEMU answers to a read, computed from what ours answers
    imitate    after QEMU's manner the rig changes what ours did: memory, a cause, a statistic
    translate  QEMU is told something else, so that it does what the step means
    leave_out  the step is not played, for QEMU's state could not be followed after it

``imitate`` is a generator that is woken three times: before the step; when ours has seen the write
but not yet transmitted; when ours has done all. It returns whether it changed anything.

Each row has a *story*: a trace on which the two differ without it, and agree with it. So a row
whose difference is gone is found (tests/test_device_truth.py), and no row is there for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Final

from bench.truth.pair import Theirs
from bench.truth.state import State
from bench.truth.steps import Primitive, Step

Imitation = Generator[None, None, bool]

#: The version of QEMU that the table was made with.
VERSION: Final = (7, 2)


@dataclass(frozen=True, slots=True)
class Row:
    """One difference."""

    name: str
    situation: str
    manual: str
    """What the 8254x SDM says, with its section."""
    ours: str
    qemu: str
    accounted: str
    story: tuple[Step, ...]
    shows: str
    """Where the story shows the difference, without the row: what ``Difference.where`` is."""
    strays: str = "QEMU"
    """Who strays from the manual: QEMU, ours, or neither, where the manual leaves it open."""
    reads: Callable[[State, int, int, int], bool] | None = None
    """``(state, register, ours, theirs)`` -> whether that is what the row says."""
    imitate: Callable[[State, Primitive], Imitation] | None = None
    translate: Callable[[State, Primitive], Callable[[Theirs], None] | None] | None = None
    leave_out: Callable[[State, Primitive], bool] | None = None
