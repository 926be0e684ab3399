"""Code of somebody else's that does not come back is ended, where it runs, by an exception.

The bench and such code call each other: a driver asks the board, the board gives a card its turn.
Each step over that border is counted. A thread looks four times a second; if the same foreign
function is at work and the border has not been crossed since, that is a turn of waiting. What it
may use is what a C driver may (``library.py``): seconds of CPU, and, if it uses none, turns; so a
pause of the whole machine is one turn. Then the main thread gets a signal, whose handler raises
``Overrun`` in the midst of that function.

Code that comes back is not touched: no signal, no timer, no clock that it could see. ``Overrun`` is
no ``Exception``, so only a bare ``except:`` holds it up, and then it comes again. A loop inside an
extension of C's that never returns to Python can't be ended.

Only the main thread is watched: only there does Python run handlers.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

from bench.drivers.limits import CPU_S, TURN_S, TURNS
from guest.kernel.guard import place

P = ParamSpec("P")
T = TypeVar("T")

#: Nothing else here uses it, and no timer of a process does by itself.
_SIGNAL: Final = signal.SIGVTALRM


class Overrun(BaseException):
    """Raised in the midst of what does not come back; says how, and where it was."""


class Watchdog:
    """Of the process."""

    def __init__(self) -> None:
        self._inside: list[bool] = []
        """Whose code is at work, from the outermost call to the innermost: foreign or ours."""
        self._crossed = 0
        self._thread: threading.Thread | None = None
        self._verdict: tuple[int, str] | None = None
        """What the thread has found: at which crossing, and how."""

    def foreign(self, call: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Call what is not ours. Raises ``Overrun`` too."""
        if self._thread is None and not self._start():
            return call(*arguments, **named)
        return self._enter(True, call, *arguments, **named)

    def ours(self, call: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Call what is ours, and may take its time."""
        if not self._inside:
            return call(*arguments, **named)
        return self._enter(False, call, *arguments, **named)

    def cross(self) -> None:
        """Foreign code asks for something that is answered at once."""
        self._crossed += 1

    def _enter(
        self, foreign: bool, call: Callable[P, T], *arguments: P.args, **named: P.kwargs
    ) -> T:
        if threading.get_ident() != threading.main_thread().ident:
            return call(*arguments, **named)
        depth = len(self._inside)
        try:
            self._inside.append(foreign)
            self._crossed += 1
            return call(*arguments, **named)
        finally:
            self._crossed += 1
            del self._inside[depth:]

    def _start(self) -> bool:
        """False: not the main thread, whose signals are a caller's affair."""
        if threading.current_thread() is not threading.main_thread():
            return False
        signal.signal(_SIGNAL, self._strike)
        self._thread = threading.Thread(target=self._look, name="watchdog", daemon=True)
        self._thread.start()
        return True

    def _look(self) -> None:
        main = threading.main_thread()
        assert main.ident is not None
        clock = time.pthread_getcpuclockid(main.ident)
        seen, turns, began = -1, 0, 0.0
        while main.is_alive():
            time.sleep(TURN_S)
            inside = self._inside[-1:]
            if inside != [True] or self._crossed != seen:
                seen, turns, began = self._crossed, 0, time.clock_gettime(clock)
                continue
            turns += 1
            how = ""
            if time.clock_gettime(clock) - began > CPU_S:
                how = f"{CPU_S:g} s of CPU without a callback"
            elif turns >= TURNS:
                how = f"no callback in {turns * TURN_S:g} s"
            if how:
                self._verdict = seen, how
                signal.pthread_kill(main.ident, _SIGNAL)

    def _strike(self, _number: int, frame: object) -> None:
        found, self._verdict = self._verdict, None
        if found is None or found[0] != self._crossed or self._inside[-1:] != [True]:
            return  # it has come back meanwhile
        code = getattr(frame, "f_code", None)
        line = getattr(frame, "f_lineno", 0)
        where = f", in {place(code.co_filename, line, code.co_name)}" if code else ""
        self._crossed += 1  # struck once: what the thread found meanwhile is of the same hang
        raise Overrun(f"does not come back{where}: {found[1]}")


WATCHDOG: Final = Watchdog()
