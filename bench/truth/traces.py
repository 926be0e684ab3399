"""Random traces, drawn from what a family offers."""

from __future__ import annotations

from random import Random

from nic_models.differential.contract import Differential
from nic_models.differential.steps import Step

#: One trace of so many begins without a bring-up.
_BARE: int = 16


def trace(of: Differential, rng: Random, length: int) -> list[Step]:
    """About ``length`` steps. hypothesis can stand in for ``rng``."""
    moves, weights = tuple(of.moves), tuple(of.moves.values())
    steps = of.bring_up(rng) if rng.randrange(_BARE) else []
    while len(steps) < length:
        steps += rng.choices(moves, weights)[0](rng)
    return steps
