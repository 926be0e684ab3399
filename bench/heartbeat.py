"""Did this process get the CPU? Measured, so that a verdict can say when it did not.

A thread wants to run every 50 ms and notes how late it is. A process that was stopped, swapped out,
or kept from the CPU by others is late by that long, on any system and whatever the reason. In a
run of a real tier a client that counts polls then waits longer than it believes, and a server may
look slow that is not.

What the interpreter itself does is no disturbance: it lets other threads run every 5 ms, and a
single call into numpy keeps them waiting for some 100 ms at most.
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

    def note(self, late_s: float) -> None:
        """A beat came that late."""
        if late_s > LATE_S:
            self.longest_s = max(self.longest_s, late_s)
            self.lost_s += late_s

    def _beat(self) -> None:
        before = time.monotonic()
        ended = False
        while not ended:
            ended = self._end.wait(BEAT_S)
            now = time.monotonic()
            self.note(now - before - BEAT_S)
            before = now
