"""Kind ``synthetic``: a machine grown from the run's seed, which can be struck at any step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import Field, StrictBool, StrictInt

from bench.kinds import MachineKind
from bench.scenario import written
from bench.table import Table

if TYPE_CHECKING:
    from bench.scenario.schema import ResolvedCase
    from bench.story.stage import Stage
    from bench.story.told import Story, Tell


class SyntheticOptions(Table):
    """What only this kind has."""

    zero_pages: StrictBool = True
    """Whether some pages hold only zeros, as in a real machine: a hole there can't be seen."""
    panic_cpu: Annotated[StrictInt, Field(ge=0)] = 0
    """The one that panics, and dumps; counted from 0."""
    panic_during: Literal["idle", "transmit", "interrupt"] = "idle"
    """What the driver was at when the panic struck."""
    panic_at: Annotated[str | int, written.STEP] | None = None
    """Before which step of that work: its name or number, from 0; not given: the first."""
    starve_mbufs: StrictBool = False
    """The ordinary allocator has nothing left."""


def _of(case: ResolvedCase) -> SyntheticOptions:
    options: SyntheticOptions = case.machine_part.options
    return options


def _sweeps(case: ResolvedCase) -> bool:
    return case.sweep_over == "panic-step"


def _story(case: ResolvedCase, stage: Stage, seed: int, tell: Tell) -> Story:
    from bench.story.synthetic import SyntheticStory

    return SyntheticStory(case, stage, seed, tell)


def _count_steps(case: ResolvedCase, stage: Stage, seed: int) -> int:
    from bench.story.synthetic import SyntheticStory

    def silent(_kind: str, **_fields: Any) -> None: ...

    return SyntheticStory(case, stage, seed, silent).count_steps()


SYNTHETIC: Final = MachineKind(
    name="synthetic",
    says="memory, CPUs, locks and an allocator grown from the seed; struck at any step",
    options=SyntheticOptions,
    rules=(
        (
            ("machine", "panic_cpu"),
            lambda c: _of(c).panic_cpu >= c.machine.cpus,
            "no such CPU: they are numbered from 0 and machine.cpus counts them",
        ),
        (
            ("machine", "panic_at"),
            lambda c: _of(c).panic_at is not None and _of(c).panic_during == "idle",
            "a machine at idle has no steps: set machine.panic_during to transmit or interrupt",
        ),
        (
            ("machine", "panic_during"),
            lambda c: _of(c).panic_during != "idle" and c.machine.load == "none",
            "there is no such work to panic in: machine.load is 'none'",
        ),
        (
            ("machine", "panic_during"),
            lambda c: _sweeps(c) and _of(c).panic_during == "idle",
            "a sweep over panic steps needs work: set it to transmit or interrupt",
        ),
        (
            ("sweep",),
            lambda c: _sweeps(c) and _of(c).panic_at is not None,
            "panic-step sets machine.panic_at, which is given already",
        ),
        (
            ("machine", "lost"),
            lambda c: c.machine.lost == "reset",
            "a synthetic machine does not boot again after a reset: write power",
        ),
    ),
    story=_story,
    step="panic_at",
    count_steps=_count_steps,
)
