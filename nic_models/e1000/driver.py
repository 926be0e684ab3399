"""The kernel's code for the 82540EM: an ordinary life, and a part to play in a panic.

It meets the silicon only at registers, DMA memory and the interrupt line, so the same code drives
our own ``device``, QEMU's, and the NIC of a guest that has just crashed.

    half                           methods                           rings
    ordinary life (``ordinary``)   attach, send, interrupt           ``live_rings``
    the panic (``debugnet``)       link_up, event, transmit, poll    ``panic_rings``

The halves share the interface (``softc``), the register sequences that start a NIC (``bringup``),
and no ring. This module puts them together: a kernel knows a driver by one table of methods.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

from nic_models.contracts import DmaMemory, Kernel, Mbufs, Mmio, Mode, TxBatch
from nic_models.e1000 import bringup
from nic_models.e1000.debugnet import Debugnet
from nic_models.e1000.ordinary import LIVE_RING, OrdinaryLife
from nic_models.e1000.softc import ETHER_MTU, DriverStats, Softc
from nic_models.frames import Frames


class E1000Driver:
    """One interface. Make it at boot, ``attach`` it, and in the panic use the debugnet methods."""

    #: What carries the panic's methods out; a driver that differs there names its own.
    DEBUGNET: ClassVar[type[Debugnet]] = Debugnet

    def __init__(
        self,
        mmio: Mmio,
        memory: DmaMemory,
        kernel: Kernel,
        *,
        mode: Mode = Mode.POLLED,
        mtu: int = ETHER_MTU,
        promiscuous: bool = False,
        tx_ring: int = 1024,
        rx_ring: int = 1024,
        tx_zone: Mbufs | None = None,
        name: str = "em0",
    ) -> None:
        """Reserve all that a panic will need.

        Args:
            mtu: largest IPv4 packet, bytes.
            promiscuous: somebody listens to the whole segment, and the panic changes nothing there.
            tx_ring, rx_ring: descriptors of the panic rings, multiples of 8, 8 to 4096.
            tx_zone: where the mbufs of sent frames go back to; default the kernel's panic pool.

        Raises:
            ValueError: a ring has another size.
        """
        for size in (tx_ring, rx_ring):
            if size % 8 or not 8 <= size <= 4096:
                raise ValueError(f"a ring of {size} descriptors: give a multiple of 8, 8 to 4096")
        self._softc = Softc(
            name=name,
            mode=mode,
            mtu=mtu,
            mmio=mmio,
            tx_lock=kernel.lock(f"{name}:tx"),
            rx_lock=kernel.lock(f"{name}:rx"),
            promiscuous=bringup.RCTL_PROMISCUOUS if promiscuous else 0,
        )
        self._ordinary = OrdinaryLife(self._softc, memory, kernel)
        self._debugnet = self.DEBUGNET(
            self._softc,
            memory,
            kernel,
            tx_ring=tx_ring,
            rx_ring=rx_ring,
            tx_zone=kernel.panic_pool if tx_zone is None else tx_zone,
        )

    # -- the interface -------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self._softc.name

    @property
    def mode(self) -> Mode:
        return self._softc.mode

    @property
    def mtu(self) -> int:
        return self._softc.mtu

    @property
    def mac(self) -> bytes:
        """Six bytes: receive address 0."""
        return self._softc.mac

    @property
    def stats(self) -> DriverStats:
        return self._softc.stats

    # -- ordinary life -------------------------------------------------------------------------

    @property
    def stack(self) -> list[Callable[[bytes], None]]:
        """Called with each frame that ordinary life receives."""
        return self._ordinary.stack

    @stack.setter
    def stack(self, stack: list[Callable[[bytes], None]]) -> None:
        self._ordinary.stack = stack

    def attach(self, ring: int = LIVE_RING) -> None:
        self._ordinary.attach(ring)

    def send(self, frames: list[bytes]) -> int:
        return self._ordinary.send(frames)

    def interrupt(self) -> None:
        self._ordinary.interrupt()

    # -- the panic -----------------------------------------------------------------------------

    @property
    def tx_zone(self) -> Mbufs:
        """Where the mbufs of frames that were sent go back to."""
        return self._debugnet.tx_zone

    @tx_zone.setter
    def tx_zone(self, zone: Mbufs) -> None:
        self._debugnet.tx_zone = zone

    @property
    def rx_errors(self) -> int:
        """Receive descriptors that the panic path dropped."""
        return self._debugnet.rx_errors

    def link_up(self) -> bool:
        return self._debugnet.link_up()

    def event(self, what: Literal["start", "end"]) -> None:
        self._debugnet.event(what)

    def transmit(self, batch: TxBatch) -> int:
        return self._debugnet.transmit(batch)

    def poll(self, budget: int) -> Frames:
        return self._debugnet.poll(budget)
