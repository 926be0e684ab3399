"""The board: a NIC soldered to a machine, plugged into a wire, all on one clock.

In hardware everything runs at once. Here the NIC and the wire get their turn at three places, and
at no other: when the driver writes a register, when the CPU waits (DELAY), and when the driver
polls. Between two turns no time passes for the hardware, so in ``sim`` a run is a pure function of
its inputs; and one turn moves whole batches, so that it costs what a frame would.

The order within a turn is the order of cause and effect: what the NIC has put on the wire by now,
what the far end makes of it, what reaches the NIC.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NoReturn

from bench.clock import Budget, Clock
from bench.watchdog import WATCHDOG
from bench.wire.contracts import Wire
from netdump.contracts import DebugnetMethods, Event, FrameBlock, TxBatch
from nic_models.contracts import Silicon


class OutOfTime(Exception):
    """The run's own budget is used up: whatever it waits for, it will not come."""


class MachineLost(Exception):
    """The machine is gone in the middle of its dump: nothing of it runs any more."""


class Board:
    """``Mmio`` for the driver, DELAY for the CPU, and the wire for the NIC."""

    def __init__(
        self,
        clock: Clock,
        silicon: Silicon,
        doorbells: Mapping[int, str],
        wire: Wire,
        far_end: Callable[[int], None],
        budget: Budget,
        tell: Callable[..., None],
    ) -> None:
        """``doorbells``: offset -> name of the registers whose write is the hardware's turn.
        ``far_end(now_ns)`` gives a host in memory its turn; a real one needs none.
        """
        self.clock = clock
        self._silicon = silicon
        self._doorbells = doorbells
        self._wire = wire
        self._far_end = far_end
        self._budget = budget
        self._tell = tell
        self._lost = ""
        self.frames_out = 0
        """Frames that have left the NIC."""

    def lose(self, why: str) -> NoReturn:
        """The machine is gone: whatever its code still tries, it does not do. Raises."""
        self._lost = why
        raise MachineLost(why)

    def turn(self) -> None:
        """Let the hardware catch up with the clock. Raises ``OutOfTime``, ``MachineLost``."""
        WATCHDOG.ours(self._turn)

    def _turn(self) -> None:
        self._alive()
        now = self.clock.now_ns()
        if self._budget.used_up(now):
            raise OutOfTime(str(self._budget))
        out = self._silicon.transmit(now)
        if len(out):
            self.frames_out += len(out)
            self._wire.send(out)
        self._far_end(now)
        got = self._wire.receive()
        if len(got):
            self._silicon.deliver(got)

    def read8(self, offset: int) -> int:
        self._alive()
        return self._silicon.read8(offset)

    def read16(self, offset: int) -> int:
        self._alive()
        return self._silicon.read16(offset)

    def read32(self, offset: int) -> int:
        self._alive()
        return self._silicon.read32(offset)

    def write8(self, offset: int, value: int) -> None:
        self._alive()
        self._silicon.write8(offset, value)
        self._written(offset, value)

    def write16(self, offset: int, value: int) -> None:
        self._alive()
        self._silicon.write16(offset, value)
        self._written(offset, value)

    def write32(self, offset: int, value: int) -> None:
        self._alive()
        self._silicon.write32(offset, value)
        self._written(offset, value)

    def _written(self, offset: int, value: int) -> None:
        name = self._doorbells.get(offset)
        if name is not None:
            self._tell("doorbell", **{name: value})
            self.turn()

    def delay_us(self, microseconds: int) -> None:
        self.clock.delay_us(microseconds)
        self.turn()

    def _alive(self) -> None:
        if self._lost:
            raise MachineLost(self._lost)


class BoardNic:
    """A driver on a board, as the client sees it: each poll is also the hardware's turn."""

    def __init__(self, driver: DebugnetMethods, board: Board) -> None:
        self._driver = driver
        self._board = board

    @property
    def mac(self) -> bytes:
        return self._driver.mac

    @property
    def mtu(self) -> int:
        return self._driver.mtu

    def link_up(self) -> bool:
        return self._driver.link_up()

    def event(self, what: Event) -> None:
        self._driver.event(what)

    def transmit(self, batch: TxBatch) -> int:
        return self._driver.transmit(batch)

    def poll(self, budget: int) -> FrameBlock:
        self._board.turn()
        return self._driver.poll(budget)
