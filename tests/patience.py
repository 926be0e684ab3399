"""How long a test waits for what must come.

A test waits for an event: a line, a file, a process's end. The bound is only against a hang, so it
is one that no busy machine reaches; what is slower than this hangs. pytest's own bound
(pyproject.toml) is longer, so that the test itself says what did not come.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

HANG_S: Final = 240.0
#: Sooner than any bound that the product has, later than a busy machine needs.
SOON_S: Final = 50.0


def until(reached: Callable[[], bool], what: str, seconds: float = HANG_S) -> None:
    """Wait for a condition that has no event of its own."""
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, f"this did not come in {seconds:g} s: {what}"
        time.sleep(0.01)
