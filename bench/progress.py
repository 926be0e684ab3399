"""How far a run is: a bar on a terminal, plain lines elsewhere, nothing when asked for quiet.

It goes to stderr, for stdout carries the verdict. The runner calls ``cases`` once, ``case`` for
each run, and ``sent`` as often as it likes: drawing is limited here.
"""

from __future__ import annotations

import sys
from typing import Final, Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from bench.clock import RealClock

#: A plain line for a run is followed by the next one no sooner than this.
_PLAIN_PACE_NS: Final = 1_000_000_000


class Progress(Protocol):
    """What a runner tells about its way."""

    def cases(self, count: int) -> None:
        """How many runs there will be; may grow when a sweep is resolved."""
        ...

    def case(self, name: str, dump_bytes: int) -> None:
        """The next run begins; it is to send ``dump_bytes``."""
        ...

    def sent(self, dump_bytes: int) -> None:
        """That much of the dump is on its way, in all."""
        ...

    def close(self) -> None: ...


class Silent:
    """For --json and --quiet."""

    def cases(self, count: int) -> None: ...

    def case(self, name: str, dump_bytes: int) -> None: ...

    def sent(self, dump_bytes: int) -> None: ...

    def close(self) -> None: ...


class Lines:
    """A line for each run; of a sweep's many, those that are a second apart."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._count = self._number = 0
        self._clock = RealClock()
        self._next_at = 0

    def cases(self, count: int) -> None:
        self._count = count

    def case(self, name: str, dump_bytes: int) -> None:
        self._number += 1
        now = self._clock.now_ns()
        if now >= self._next_at or self._number == self._count:
            self._next_at = now + _PLAIN_PACE_NS
            print(f"[{self._number}/{self._count}] {name}", file=self._out, flush=True)

    def sent(self, dump_bytes: int) -> None: ...

    def close(self) -> None: ...


class Bar:
    """A bar a run, gone when all is done: the verdict is what stays on the screen."""

    def __init__(self, out: TextIO) -> None:
        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TimeElapsedColumn(),
            console=Console(file=out),
            transient=True,
        )
        self._task = self._bar.add_task("")
        self._count = self._number = 0
        self._bar.start()

    def cases(self, count: int) -> None:
        self._count = count

    def case(self, name: str, dump_bytes: int) -> None:
        self._number += 1
        self._bar.reset(self._task, total=dump_bytes or None)
        self._bar.update(self._task, description=f"[{self._number}/{self._count}] {name}")

    def sent(self, dump_bytes: int) -> None:
        self._bar.update(self._task, completed=dump_bytes)

    def close(self) -> None:
        self._bar.stop()


def make_progress(quiet: bool, out: TextIO | None = None) -> Progress:
    """The right one for where ``out`` (stderr) leads."""
    out = out or sys.stderr
    if quiet:
        return Silent()
    return Bar(out) if out.isatty() else Lines(out)
