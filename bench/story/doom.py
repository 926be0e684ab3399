"""The moment at which the machine is lost: after so many frames of its dump have left it.

A wire around the machine's end. When the last of those frames is on its way, ``strike`` is called,
which ends the machine and does not return.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import numpy as np

from bench.wire.contracts import Wire
from bench.wire.kinds import DATA, classify
from nic_models.frames import Frames


class Doom:
    """Lets ``after`` data frames pass, and no frame more. A ``Wire``."""

    def __init__(self, inner: Wire, after: int, strike: Callable[[], NoReturn]) -> None:
        self._inner = inner
        self._left = after
        self._strike = strike

    def send(self, frames: Frames) -> None:
        if not self._left:
            return  # whoever still speaks is dead
        is_data = np.isin(classify(frames), DATA)
        passed = int(np.count_nonzero(is_data))
        if passed < self._left:
            self._left -= passed
            self._inner.send(frames)
            return
        last = int(np.flatnonzero(is_data)[self._left - 1])
        self._left = 0
        self._inner.send(frames.take(slice(0, last + 1)))
        self._strike()

    def receive(self) -> Frames:
        return self._inner.receive()

    def close(self) -> None:
        self._inner.close()
