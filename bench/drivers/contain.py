"""Drivers and cards of somebody's own: what goes wrong in them is no defect of the bench.

An exception of a driver's is a verdict, ``DriverCrashed``: a kernel does not survive it, and the
run is judged. One of a card's own silicon is a broken tool, ``SiliconBroke``: nothing can be judged
with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal, ParamSpec, TypeVar

import numpy as np

from bench.drivers.around import DriverAround
from bench.drivers.errors import DriverCrashed, DriverHangs
from bench.drivers.lent import LentBoard
from bench.errors import BadInput
from bench.foreign import ENDS, NOT_ITS_OWN, told
from bench.watchdog import WATCHDOG, Overrun
from nic_models.contracts import Silicon, TxBatch
from nic_models.frames import Frames
from nic_models.narrow import NarrowAccess

P = ParamSpec("P")
T = TypeVar("T")

#: What a ``Driver`` has, and a driver of somebody's own may lack.
_REQUIRED: Final = (
    *("mac", "mtu", "tx_zone", "stack"),
    *("attach", "send", "interrupt", "link_up", "event", "transmit", "poll"),
)


class ContainedDriver(DriverAround):
    """A ``Driver`` round the user's: an exception of its own becomes ``DriverCrashed``, a call that
    does not come back ``DriverHangs``."""

    def __init__(self, make: Callable[[], Any], text: str, lent: LentBoard | None = None) -> None:
        """``text``: as the scenario names it. ``lent``: the registers that ``make`` gives it.

        Raises:
            DriverCrashed: its constructor fails, or what it made is no driver.
            DriverHangs: its constructor does not come back.
        """
        self._text = text
        self._lent = lent
        self._hung = ""
        """How; then it is not called any more."""
        super().__init__(self._contained("__init__", make))
        lacks = [name for name in _REQUIRED if not hasattr(type(self._driver), name)]
        lacks = [name for name in lacks if name not in getattr(self._driver, "__dict__", {})]
        if lacks:
            raise DriverCrashed(f"{text} is no Driver: it has no {', '.join(lacks)}")

    @property
    def mac(self) -> bytes:
        mac = self._contained("mac", lambda: self._driver.mac)
        if not isinstance(mac, bytes) or len(mac) != 6:
            raise DriverCrashed(f"{self._text}: mac is {mac!r}, and should be 6 bytes")
        return mac

    @property
    def mtu(self) -> int:
        return self._contained("mtu", lambda: self._driver.mtu)

    def attach(self) -> None:
        self._contained("attach", self._driver.attach)

    def send(self, frames: list[bytes]) -> int:
        return self._contained("send", lambda: self._driver.send(frames))

    def interrupt(self) -> None:
        self._contained("interrupt", self._driver.interrupt)

    def link_up(self) -> bool:
        return self._contained("link_up", self._driver.link_up)

    def event(self, what: Literal["start", "end"]) -> None:
        self._contained("event", lambda: self._driver.event(what))

    def transmit(self, batch: TxBatch) -> int:
        taken = self._contained("transmit", lambda: self._driver.transmit(batch))
        count = len(batch.header_lengths)
        if not isinstance(taken, int | np.integer) or not 0 <= taken <= count:
            says = f"transmit says that it took {taken!r} frames of {count}"
            raise DriverCrashed(f"{self._text}: {says}")
        return int(taken)

    def poll(self, budget: int) -> Frames:
        frames: object = self._contained("poll", lambda: self._driver.poll(budget))
        if not isinstance(frames, Frames):
            says = f"poll gives {type(frames).__name__}, and should give Frames"
            raise DriverCrashed(f"{self._text}: {says}")
        if len(frames) > budget:
            says = f"poll hands {len(frames)} frames up, and its budget was {budget}"
            raise DriverCrashed(f"{self._text}: {says}")
        return frames

    def _contained(self, method: str, call: Callable[[], T]) -> T:
        if self._hung:
            raise DriverHangs(self._hung)
        if self._lent is not None:
            self._lent.begin()
        try:
            return WATCHDOG.foreign(call)
        except Overrun as late:
            self._hung = f"{self._text}: its {method} {late}"
            raise DriverHangs(self._hung) from None
        except NOT_ITS_OWN:
            raise
        except ENDS as error:
            says = told(error, self._text)
            raise DriverCrashed(f"in its {method}: {says}") from None


class SiliconBroke(BadInput):
    """A card of somebody's own raised."""


class ContainedSilicon:
    """A ``Silicon`` round the user's. What it refuses by ``NarrowAccess`` is the driver's
    mistake."""

    def __init__(self, make: Callable[[], Silicon], text: str) -> None:
        """``text``: the family, as the scenario names it."""
        self._text = text
        self._silicon: Silicon = self._contained(make)

    def read8(self, offset: int) -> int:
        return self._contained(self._silicon.read8, offset)

    def read16(self, offset: int) -> int:
        return self._contained(self._silicon.read16, offset)

    def read32(self, offset: int) -> int:
        return self._contained(self._silicon.read32, offset)

    def write8(self, offset: int, value: int) -> None:
        self._contained(self._silicon.write8, offset, value)

    def write16(self, offset: int, value: int) -> None:
        self._contained(self._silicon.write16, offset, value)

    def write32(self, offset: int, value: int) -> None:
        self._contained(self._silicon.write32, offset, value)

    def power_on(self) -> None:
        self._contained(self._silicon.power_on)

    def transmit(self, now_ns: int) -> Frames:
        return self._contained(self._silicon.transmit, now_ns)

    def deliver(self, frames: Frames) -> None:
        self._contained(self._silicon.deliver, frames)

    def settle(self, at_most_s: float) -> bool:
        return self._contained(self._silicon.settle, at_most_s)

    def await_interrupt(self) -> None:
        self._contained(self._silicon.await_interrupt)

    def machine_died(self) -> None:
        self._contained(self._silicon.machine_died)

    def reach(self) -> list[tuple[int, int]]:
        return self._contained(self._silicon.reach)

    def _contained(self, call: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        try:
            return WATCHDOG.foreign(call, *arguments, **named)
        except Overrun as late:
            name = getattr(call, "__name__", "function")
            raise SiliconBroke(f"{self._text}: its {name} {late}") from None
        except NarrowAccess:
            raise
        except ENDS as error:
            raise SiliconBroke(f"{self._text}: {told(error, self._text)}") from None
