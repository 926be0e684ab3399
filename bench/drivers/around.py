"""A driver round another: what all of them pass on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

from nic_models.contracts import Driver, Mbufs, TxBatch
from nic_models.frames import Frames


class DriverAround:
    """A ``Driver`` that asks the one in it for everything; a subclass overrides what it is
    about."""

    def __init__(self, driver: Driver) -> None:
        self._driver: Final = driver

    @property
    def inner(self) -> Driver:
        """The driver itself."""
        return self._driver

    @property
    def tx_zone(self) -> Mbufs:
        return self._driver.tx_zone

    @tx_zone.setter
    def tx_zone(self, zone: Mbufs) -> None:
        self._driver.tx_zone = zone

    @property
    def stack(self) -> list[Callable[[bytes], None]]:
        return self._driver.stack

    @property
    def mac(self) -> bytes:
        return self._driver.mac

    @property
    def mtu(self) -> int:
        return self._driver.mtu

    def attach(self) -> None:
        self._driver.attach()

    def send(self, frames: list[bytes]) -> int:
        return self._driver.send(frames)

    def interrupt(self) -> None:
        self._driver.interrupt()

    def link_up(self) -> bool:
        return self._driver.link_up()

    def event(self, what: Literal["start", "end"]) -> None:
        self._driver.event(what)

    def transmit(self, batch: TxBatch) -> int:
        return self._driver.transmit(batch)

    def poll(self, budget: int) -> Frames:
        return self._driver.poll(budget)
