"""``Differential``: all that the comparison with QEMU's device has to know of a NIC family.

The bench plays the same steps on our model and on QEMU's device, side by side with the same memory,
and compares after every step. What it plays, what it looks at, and where the two may differ is the
family's, and is said here:

* *moves*: what random traces are drawn from (``bring_up``, ``moves``);
* *looks*: what is compared after every step besides memory, frames and the interrupt line
  (``watched``), and the registers that are read at a trace's end (``closing``);
* *rows*: where they may differ, one row each, with how the comparison accounts for it
  (``chapters``).

A row explains in one of four ways, and as narrowly as it can:

    reads      what QEMU answers to a read, computed from what ours answers
    imitate    after QEMU's manner the row changes what ours did: memory, a cause, a statistic
    translate  QEMU is told something else, so that it does what the step means
    leave_out  the step is not played, for QEMU's state could not be followed after it

``imitate`` is a generator that is woken three times: before the step; when ours has seen the write
but not yet transmitted; when ours has done all. It returns whether it changed anything.

Each row has a *story*: a trace on which the two differ without it, and agree with it. So a row
whose difference is gone is found, and no row is there for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from nic_models.contracts import InterruptLine, Mmio
from nic_models.differential.steps import Primitive, Read, Step
from nic_models.frames import Frames

T = TypeVar("T")


class Model(Mmio, Protocol):
    """Our model, on an infinitely fast wire and with the cable plugged in."""

    def transmit(self, now_ns: int) -> Frames:
        """What has left it. What a register write makes it send may wait for this call."""
        ...

    def deliver(self, frames: Frames) -> None: ...

    def set_link(self, up: bool) -> None:
        """Plug the cable in, or pull it."""
        ...


class OtherDevice(Mmio, Protocol):
    """QEMU's device, for a row that tells it something else."""

    def reset(self) -> None:
        """As after power-on, but for memory and the cable."""
        ...


class State(Protocol):
    """What rows and relative steps may look at: our model before a step, what the step would do.

    The family makes one for each trace, beside a new model. The rig tells it of each step but reads
    and pokes.
    """

    cable: bool
    """Whether the cable is plugged in; kept by the rig."""

    @property
    def waits(self) -> bool:
        """Whether frames wait inside our model, so that QEMU may hold some back, too."""
        ...

    def begin(self, step: Primitive, /) -> None:
        """``step`` is about to be played on our model."""
        ...

    def done(self, step: Primitive, /) -> int:
        """Our model has done all of it; how many frames it stored."""
        ...


class Dice(Protocol):
    """What random traces are drawn with; a ``random.Random`` is one."""

    def randrange(self, start: int, stop: int | None = None, /) -> int: ...

    def randint(self, a: int, b: int, /) -> int: ...

    def choice(self, seq: Sequence[T], /) -> T: ...

    def getrandbits(self, k: int, /) -> int: ...

    def randbytes(self, n: int, /) -> bytes: ...


#: Some steps that belong together, drawn.
Move = Callable[[Dice], list[Step]]
MakeModel = Callable[[NDArray[np.uint8], bytes, InterruptLine], Model]
Imitation = Generator[None, None, bool]


@dataclass(frozen=True, slots=True)
class Row:
    """One difference. ``state`` of its hooks is what the family's ``state`` made."""

    name: str
    situation: str
    manual: str
    """What the manual says, with its section."""
    ours: str
    qemu: str
    accounted: str
    story: tuple[Step, ...]
    shows: str
    """Where the story shows the difference, without the row: a name of ``watched``, "line",
    "memory", "frames sent", "frame N", or the register."""
    strays: str = "QEMU"
    """Who strays from the manual: QEMU, ours, or neither, where the manual leaves it open."""
    reads: Callable[[Any, int, int, int], bool] | None = None
    """``(state, register, ours, theirs)`` -> whether that is what the row says."""
    imitate: Callable[[Any, Primitive], Imitation] | None = None
    translate: Callable[[Any, Primitive], Callable[[OtherDevice], None] | None] | None = None
    leave_out: Callable[[Any, Primitive], bool] | None = None


@dataclass(frozen=True, slots=True)
class Chapter:
    """Rows about one subject."""

    title: str
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Watched:
    """A value that is compared after every step; looking at it changes nothing."""

    name: str
    ours: Callable[[Any], int]
    """Of our model."""
    theirs: Callable[[Mmio], int]
    """Of QEMU's device."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """Prose of the page that the table makes, Markdown."""

    device: str
    """What QEMU's device is: "the e1000 (82540EM)"."""
    model: str
    """The file of our model, from the project's root."""
    manual: str
    """In short, for the head of a column."""
    sections: str
    """A sentence: which manual the sections are of."""
    time: str
    """What takes time in QEMU's device, and none in ours."""
    out_of_scope: str
    """What is not compared."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Differential:
    """What the comparison has to know of a family."""

    qemu: tuple[int, int]
    """The version of QEMU that the table was made with."""
    model: MakeModel
    """``(memory, mac, line)`` -> our model; ``memory`` is flat, index = physical address."""
    state: Callable[[Any, NDArray[np.uint8]], State]
    """``(model, memory)`` -> the state of a trace that begins."""
    bring_up: Move
    """What most traces begin with: rings and engines up, valid, in many variants."""
    moves: Mapping[Move, int]
    """What they go on with, and how often: weights."""
    watched: tuple[Watched, ...]
    closing: tuple[Read, ...]
    """Registers that are read and compared at the end of each trace."""
    reads_that_act: frozenset[int]
    """Registers whose read may change what is watched, or the interrupt line."""
    out_of_scope: Callable[[Primitive], bool]
    """A step that our model does not claim to play: left out, and counted."""
    deaf_ns: Mapping[int, int]
    """Register -> for how long QEMU's receiver hears nothing after a write of it, virtual ns."""
    sees_link: Callable[[Mmio], bool]
    """Whether QEMU's device sees a link; changes nothing."""
    chapters: tuple[Chapter, ...]
    page: Page

    @property
    def rows(self) -> tuple[Row, ...]:
        """All rows, in the order in which they are asked."""
        return tuple(row for chapter in self.chapters for row in chapter.rows)
