"""What ends a command early: each kind has its exit status, and its message is what the user reads.

Anything else that escapes is a defect of the bench, and shows its traceback.
"""

from __future__ import annotations

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
