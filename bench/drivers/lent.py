"""The board as a driver in Python gets it that is not ours: its callbacks are counted.

A driver that asks a register for ever lets no time pass, so no budget of the run's ends it.
"""

from __future__ import annotations

from bench.drivers.limits import CALLBACKS
from bench.watchdog import WATCHDOG, Overrun
from nic_models.contracts import Mmio


class LentBoard:
    """An ``Mmio`` round another."""

    def __init__(self, board: Mmio) -> None:
        self._board = board
        self._asked = 0

    def begin(self) -> None:
        """The driver is called."""
        self._asked = 0

    def read8(self, offset: int, /) -> int:
        self._ask()
        return self._board.read8(offset)

    def read16(self, offset: int, /) -> int:
        self._ask()
        return self._board.read16(offset)

    def read32(self, offset: int, /) -> int:
        self._ask()
        return self._board.read32(offset)

    def write8(self, offset: int, value: int, /) -> None:
        self._ask()
        self._board.write8(offset, value)

    def write16(self, offset: int, value: int, /) -> None:
        self._ask()
        self._board.write16(offset, value)

    def write32(self, offset: int, value: int, /) -> None:
        self._ask()
        self._board.write32(offset, value)

    def _ask(self) -> None:
        WATCHDOG.cross()
        self._asked += 1
        if self._asked > CALLBACKS:
            raise Overrun(f"does not come back: {CALLBACKS:,} callbacks")
