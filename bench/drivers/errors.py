"""What a driver that is not ours can come to, besides what every driver can."""

from __future__ import annotations

from bench.board import OutOfTime
from bench.errors import BadInput


class UnusableDriver(BadInput):
    """It can't be loaded, or is none."""


class DriverCrashed(Exception):
    """The driver's own code ended in a way that a kernel does not survive."""


class DriverHangs(OutOfTime):
    """The driver's own code does not come back."""
