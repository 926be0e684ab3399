"""The shortest trace that still shows a difference: take steps out for as long as it does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from nic_models.differential.steps import Arrive, Step

#: Traces that may be played on the way.
BUDGET: Final = 500
#: Traces of at most so many steps are tried without any two of them.
PAIRS: Final = 24


def shrink(
    trace: Sequence[Step], differs: Callable[[list[Step]], bool], budget: int = BUDGET
) -> list[Step]:
    """``trace`` differs; so does what comes back, but for a budget that ran out without less of it.

    Runs of steps go first, halves before quarters, then single steps, then pairs that need each
    other (head and tail of a ring), then frames of a batch.
    """
    best = list(trace)

    def try_(candidate: list[Step]) -> bool:
        nonlocal best, budget
        if budget <= 0:
            return False
        budget -= 1
        if differs(candidate):
            best = candidate
            return True
        return False

    size = len(best) // 2
    while size:
        at = len(best)
        went = False
        while at > 0:
            at = max(at - size, 0)
            went |= try_(best[:at] + best[at + size :])
            at = min(at, len(best))
        if size == 1 and went:
            continue
        size //= 2
    if len(best) <= PAIRS:
        at = 0
        while at < len(best):
            pairs = (
                (best[:at] + best[at + 1 : i] + best[i + 1 :]) for i in range(at + 1, len(best))
            )
            at += not any(try_(candidate) for candidate in pairs)
    for index in range(len(best)):
        step = best[index]
        while isinstance(step, Arrive) and len(step.frames) > 1:
            fewer = (
                replace(step, frames=step.frames[:i] + step.frames[i + 1 :])
                for i in range(len(step.frames))
            )
            if not any(try_([*best[:index], less, *best[index + 1 :]]) for less in fewer):
                break
            step = best[index]
    return best
