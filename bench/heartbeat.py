"""Did this process get the CPU? Measured, so that a verdict can say when it did not.

A thread wants to run every 50 ms and notes how late it is. A process that was stopped, swapped out,
or kept from the CPU by others is late by that long, on any system and whatever the reason. In a
run of a real tier a client that counts polls then waits longer than it believes, and a server may
look slow that is not.

The process may also be late by its own work: a call into numpy or a search through a guest's memory
lets no other thread run for a second and more. That is no disturbance, so the CPU time that the
process had meanwhile does not count as late.
"""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Final, Self

BEAT_S: Final = 0.05
#: A beat that comes later than this is a disturbance, seconds.
LATE_S: Final = 1.0


class Heartbeat:
    """A context manager; ``longest_s`` and ``lost_s`` can be read at any time."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        """The longest time for which the process did not run, if more than ``LATE_S``."""
        self.lost_s = 0.0
        """All such times together."""
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end.set()
        self._thread.join()

    def note(self, late_s: float, cpu_s: float = 0.0) -> None:
        """A beat came that late, and the process has had the CPU for so long since the last one."""
        late_s -= cpu_s
        if late_s > LATE_S:
            self.longest_s = max(self.longest_s, late_s)
            self.lost_s += late_s

    def _beat(self) -> None:
        before, used_before = time.monotonic(), time.process_time()
        ended = False
        while not ended:
            ended = self._end.wait(BEAT_S)
            now, used = time.monotonic(), time.process_time()
            self.note(now - before - BEAT_S, used - used_before)
            before, used_before = now, used
