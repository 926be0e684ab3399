"""Standard output: as wide as its terminal, and in good order where it is closed or full."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

from rich.console import Console

from bench.errors import BadInput
from bench.report import WIDTH


@contextlib.contextmanager
def printing() -> Iterator[None]:
    """Print in here. A reader that leaves early is no error; a full disk is a ``BadInput``."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        # What is still in the buffer must not fail once more when the interpreter ends.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            raise BadInput(f"can't write to standard output: {error.strerror}") from None


class _Console(Console):
    """A console that leaves a closed pipe to ``printing``; rich's own exits with 1."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def console() -> Console:
    """As wide as the terminal, and the verdict's own width elsewhere."""
    return _Console() if sys.stdout.isatty() else _Console(width=WIDTH)
