"""What ends a command early: each kind has its exit status, and its message is what the user reads.

Anything else that escapes is a defect of the bench, and shows its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


class BenchError(Exception):
    """The message says what, where, and what to do."""

    status: ClassVar[int] = 1


class BadInput(BenchError):
    """What the user gave can't be used: a name, a file, an option, a folder."""

    status = 2


class MachineLacks(BenchError):
    """This machine lacks what was demanded; the message ends with the cure."""

    status = 3


def nearest(word: str, choices: Iterable[str]) -> str:
    """``'; did you mean "locked"?'``, or nothing where no choice is near."""
    lowered = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=0.6)
    return f'; did you mean "{lowered[close[0]]}"?' if close else ""
