"""Which driver a case has: the family's own, a Python class of a file, or a shared library."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bench.board import Board
from bench.drivers.contain import ContainedDriver, ContainedSilicon
from bench.drivers.lent import LentBoard
from bench.drivers.library import LibraryDriver
from bench.drivers.protocol import Method
from bench.drivers.watched import WatchedDriver, source_of
from bench.foreign import family_is_ours
from bench.parts import is_library, load_part
from bench.scenario.schema import Nic
from guest.kernel.corpse import Corpse
from nic_models.contracts import Driver, InterruptLine, Mbufs, Mode, Silicon
from nic_models.family import NicFamily

#: What a library prints, in the run's folder.
LOG: Final = "driver.log"
#: Rings for the panic of a driver that only lives the ordinary life: the least that there can be.
_LEAST_RING: Final = 8


def choose_silicon(
    name: str,
    family: NicFamily,
    memory: NDArray[np.uint8],
    mac: bytes,
    line: InterruptLine,
    rate: int | None,
) -> Silicon:
    """Our model of the card; contained where it is not ours. ``name``: as the scenario has it."""
    if family_is_ours(family):
        return family.silicon(memory, mac, line, rate)
    return ContainedSilicon(lambda: family.silicon(memory, mac, line, rate), name)


def choose_driver(
    nic: Nic,
    family: NicFamily,
    board: Board,
    machine: Corpse,
    tx_zone: Mbufs,
    folder: Path,
    closing: ExitStack,
) -> Driver:
    """``folder``: the run's. ``closing`` ends its process.

    Raises:
        BadInput: it can't be loaded.
        DriverCrashed: it fails while it is made.
    """
    make = partial(
        family.driver,
        board,
        machine.memory,
        machine,
        mode=Mode(nic.mode),
        mtu=nic.mtu,
        promiscuous=nic.promiscuous,
        tx_zone=tx_zone,
    )
    guard = machine.guard
    if nic.driver is None:
        if family_is_ours(family):
            whole = make(tx_ring=nic.tx_ring, rx_ring=nic.rx_ring)
            return WatchedDriver(whole, board, guard)
        lent = LentBoard(board)
        rings: dict[str, Any] = {"tx_ring": nic.tx_ring, "rx_ring": nic.rx_ring}
        own = ContainedDriver(
            lambda: family.driver(lent, machine.memory, machine, **make.keywords, **rings),
            nic.model,
            lent,
        )
        return WatchedDriver(own, board, guard, lambda: source_of(own.inner, "transmit"))
    if is_library(nic.driver):
        library = closing.enter_context(
            LibraryDriver(
                Path(nic.driver),
                board,
                machine,
                mode=Mode(nic.mode),
                mtu=nic.mtu,
                promiscuous=nic.promiscuous,
                tx_ring=nic.tx_ring,
                rx_ring=nic.rx_ring,
                tx_zone=tx_zone,
                log=folder / LOG,
                living=lambda: make(tx_ring=_LEAST_RING, rx_ring=_LEAST_RING),
            )
        )
        return WatchedDriver(library, board, guard, lambda: library.where(Method.TRANSMIT))
    theirs = load_part(nic.driver, Path(), "driver")
    arguments = {**make.keywords, "tx_ring": nic.tx_ring, "rx_ring": nic.rx_ring}
    lent = LentBoard(board)
    foreign = ContainedDriver(
        lambda: theirs(lent, machine.memory, machine, **arguments), nic.driver, lent
    )
    return WatchedDriver(foreign, board, guard, lambda: source_of(foreign.inner, "transmit"))
