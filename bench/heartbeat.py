"""Did this process get the CPU? Measured, so that a verdict can say when it did not.

A thread wants to run every 50 ms and notes how late it is. A process that was stopped, swapped out,
or kept from the CPU by others is late by that long, on any system and whatever the reason. One long
pause and many short ones (a container's quota takes the CPU away ten times a second) are the same:
what is lost within ten seconds is added up.

The process may also be late by its own work: a call into numpy or a search through a guest's memory
lets no other thread run for a second and more. That is no disturbance, so the CPU time that the
process had meanwhile does not count as late.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from types import TracebackType
from typing import Final, Self

BEAT_S: Final = 0.05
#: More than this, lost within ``WINDOW_S``, is a disturbance, seconds.
LATE_S: Final = 1.0
WINDOW_S: Final = 10.0
#: After a pause as long as this a peer may rightly have given us up. How long one waits is its own
#: affair (FreeBSD's client 12 s for an ack, our server 600 s); this is below the least of them.
GIVEN_UP_S: Final = 10.0


class Heartbeat:
    """A context manager. Outside of it nothing is measured, and nothing is lost."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        """Of the disturbances, the longest time at once for which the process did not run."""
        self._lost_s = 0.0
        self._late: deque[tuple[float, float]] = deque()
        """(when it was noted, seconds late), of the last ``WINDOW_S``, not yet in ``_lost_s``."""
        self._end = threading.Event()
        self._lock = threading.Lock()
        self._before = self._used_before = 0.0
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._before, self._used_before = time.monotonic(), time.process_time()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._thread is not None
        self._end.set()
        self._thread.join()

    def lost_s(self) -> float:
        """All disturbances together, seconds, up to this moment: one that has just ended counts,
        though the thread has not run since.
        """
        if self._thread is not None and self._thread.is_alive():
            self._look()
        return self._lost_s

    def note(self, now_s: float, late_s: float, cpu_s: float = 0.0) -> None:
        """A beat came at ``now_s``, that late, and the process has had the CPU for so long since
        the last one.
        """
        late_s -= cpu_s
        if late_s <= 0:
            return
        self._late.append((now_s, late_s))
        while self._late[0][0] < now_s - WINDOW_S:
            self._late.popleft()
        lost = sum(late for _, late in self._late)
        if lost > LATE_S:
            self._lost_s += lost
            self.longest_s = max(self.longest_s, *(late for _, late in self._late))
            self._late.clear()

    def _look(self) -> None:
        with self._lock:
            now, used = time.monotonic(), time.process_time()
            self.note(now, now - self._before - BEAT_S, used - self._used_before)
            self._before, self._used_before = now, used

    def _beat(self) -> None:
        ended = False
        while not ended:
            ended = self._end.wait(BEAT_S)
            self._look()
