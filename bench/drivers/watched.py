"""A driver that is watched for the one defect that breaks no rule at any one moment.

A driver that never reclaims does nothing that it may not do: it only ends with a full ring. So its
frames are counted: those that it took, those that have left the NIC since the takeover, and the
buffers that came back. When it refuses a frame, two things show that the ring is full of frames
that were sent, and each is told once, as *never-reclaimed*:

* All have left, it has been polled since, and not one buffer has come back.
* All have left, and it refuses several times in a row, with a poll before each.

Frames from before the takeover may still leave after it, and count as some of its own. So for the
second nothing may leave meanwhile: then there are none under way.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Final, Literal

from bench.board import Board
from bench.drivers.around import DriverAround
from guest.kernel.guard import PanicGuard, place
from nic_models.contracts import Driver, Mbufs, TxBatch
from nic_models.frames import Frames

#: Refusals in a row, with a poll before each, while no frame leaves.
IN_VAIN: Final = 3
#: The sender takes two: headers, and the payload by reference.
MBUFS_A_FRAME: Final = 2


class WatchedDriver(DriverAround):
    """A ``Driver`` whose frames are counted."""

    def __init__(
        self, driver: Driver, board: Board, guard: PanicGuard, site: Callable[[], str] | None = None
    ) -> None:
        """``site``: where its transmit is to be found; by default its source tells."""
        super().__init__(driver)
        self._board = board
        self._guard = guard
        self._site = site or (lambda: source_of(driver, "transmit"))
        self._begin()

    def _begin(self) -> None:
        self._left_before = self._left = self._board.frames_out
        self._taken = 0
        self._out_before = _out(self._driver.tx_zone)
        self._polled = self._told = False
        self._refusals = 0

    def event(self, what: Literal["start", "end"]) -> None:
        super().event(what)
        if what == "start":
            self._begin()

    def transmit(self, batch: TxBatch) -> int:
        wanted, before = len(batch.header_lengths), self._taken
        taken = super().transmit(batch)
        self._taken += taken
        if taken < wanted:
            kept = _out(self.tx_zone) - self._out_before - MBUFS_A_FRAME * wanted
            self._refused(before, taken, nothing_back=kept >= MBUFS_A_FRAME * before)
        else:
            self._refusals = 0
        return taken

    def poll(self, budget: int) -> Frames:
        self._polled = True
        return super().poll(budget)

    def _refused(self, before: int, taken: int, *, nothing_back: bool) -> None:
        """``before``: frames that it had taken until then; ``taken`` are those of this call."""
        left = self._board.frames_out
        idle, self._left = left - taken <= self._left, left
        polled, self._polled = self._polled, False
        if not before or not polled or left - self._left_before < before:
            self._refusals = 0
            return
        self._refusals = self._refusals + 1 if idle and not taken else 0
        if nothing_back or self._refusals == IN_VAIN:
            self._tell(before)

    def _tell(self, before: int) -> None:
        if self._told:
            return
        self._told = True
        guard = self._guard
        caller, guard.caller = guard.caller, self._site
        guard.report(
            "never-reclaimed",
            f"transmit finds no room, though all {before} frames that it took have left the NIC",
        )
        guard.caller = caller


def _out(zone: Mbufs) -> int:
    """Buffers that are out; 0 of a zone that does not tell."""
    found: int = getattr(zone, "in_use", 0)
    return found


def source_of(driver: object, method: str) -> str:
    """``FILE:LINE NAME`` of the class's own method."""
    function = inspect.unwrap(getattr(type(driver), method))
    code = function.__code__
    return place(code.co_filename, code.co_firstlineno, code.co_name)
