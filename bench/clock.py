"""Time. Nothing else in the project reads a clock: whoever needs one is given one of these.

In the sim tier time is an integer that only moves when somebody waits, so a run is a pure function
of its scenario and seed. In the other tiers it is the monotonic clock of this machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    """A clock that can be read and waited on."""

    def now_ns(self) -> int:
        """Nanoseconds since an epoch of the clock's own; never runs backwards."""
        ...

    def delay_us(self, microseconds: int) -> None:
        """Let that much time pass; negative is a caller's mistake (``ValueError``)."""
        ...


class VirtualClock:
    """Simulated time: moves when, and only when, it is told to."""

    __slots__ = ("_now_ns",)

    def __init__(self, start_ns: int = 0) -> None:
        self._now_ns = start_ns

    def now_ns(self) -> int:
        return self._now_ns

    def delay_us(self, microseconds: int) -> None:
        _not_negative(microseconds)
        self._now_ns += microseconds * 1000

    def advance_to(self, time_ns: int) -> None:
        """Jump to a moment; one that has already passed changes nothing."""
        self._now_ns = max(self._now_ns, time_ns)


class RealClock:
    """The monotonic clock of this machine, counted from the clock's creation."""

    __slots__ = ("_start_ns",)

    def __init__(self) -> None:
        self._start_ns = time.monotonic_ns()

    def now_ns(self) -> int:
        return time.monotonic_ns() - self._start_ns

    def delay_us(self, microseconds: int) -> None:
        _not_negative(microseconds)
        time.sleep(microseconds / 1e6)


class Budget:
    """How long a run may take before it counts as hung.

    Time for which the bench itself did not get the CPU is not the run's: it is given back.
    """

    def __init__(self, clock: Clock, length_ns: int, lost_s: Callable[[], float] = float) -> None:
        """Begins now. ``lost_s``: seconds that the bench has lost since; none."""
        self._clock = clock
        self._end_ns = clock.now_ns() + length_ns
        self._length_ns = length_ns
        self._lost_s = lost_s

    def extend(self, more_ns: int) -> None:
        """Something is waited for that is not ours: a system that boots."""
        self._end_ns += more_ns
        self._length_ns += more_ns

    def used_up(self, now_ns: int) -> bool:
        """Whether it has ended by that time."""
        return now_ns > self._end_ns and now_ns > self._end_ns + self._lost_s() * 1e9

    def part(self, length_ns: int) -> Budget:
        """Another that begins now: of what is a part of the run, and is not to take all of it."""
        lost_before = self._lost_s()
        return Budget(self._clock, length_ns, lambda: self._lost_s() - lost_before)

    def __str__(self) -> str:
        return f"the run's budget of {self._length_ns / 1e9:.0f} s is used up"


def _not_negative(microseconds: int) -> None:
    if microseconds < 0:
        raise ValueError(
            f"a delay of {microseconds} us: time does not run backwards; give 0 or more"
        )
