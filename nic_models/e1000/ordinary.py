"""The driver's ordinary life, until a panic ends it between any two of its steps.

It is written as such drivers are: a lock for each ring, a doorbell a batch, an interrupt handler
that reclaims, delivers and refills.

    task         lock    rings (``live_rings.py``)    doorbell    then
    send         tx      queue frames                 TDT
    interrupt    tx      reclaim what was sent
                 rx      take what came, refill       RDT         frames go up the stack

Each register access, descriptor access and lock operation is a step (``stepped.py``): there a
panic may strike, and then this code stops for ever, in the middle of what it was doing. So it uses
neither ``finally`` nor ``with`` for a lock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from nic_models.contracts import DmaMemory, Kernel
from nic_models.e1000 import bringup
from nic_models.e1000.live_rings import LiveRxRing, LiveTxRing
from nic_models.e1000.panic_rings import RX_BUFFER
from nic_models.e1000.registers import INT, RCTL, Reg
from nic_models.e1000.softc import ETHER_HEADER, ETHER_MTU, Softc
from nic_models.e1000.stepped import SteppedLock, SteppedRegisters

#: Ring size. Small, so that it wraps often and fits the smallest machine: its buffers lie in memory
#: that is dumped.
LIVE_RING: Final = 8

#: The causes that the handler serves.
_ENABLED: Final = int(INT.TXDW | INT.LSC | INT.RXDMT0 | INT.RXO | INT.RXT0)


class OrdinaryLife:
    """Of one interface."""

    def __init__(self, softc: Softc, memory: DmaMemory, kernel: Kernel) -> None:
        self.stack: list[Callable[[bytes], None]] = []
        """Called with each frame that is received."""
        self._softc = softc
        self._memory = memory
        self._kernel = kernel
        self._registers = SteppedRegisters(softc.mmio, kernel)
        self._tx_lock = SteppedLock(f"{softc.name}:tx", softc.tx_lock, kernel)
        self._rx_lock = SteppedLock(f"{softc.name}:rx", softc.rx_lock, kernel)
        self._rings: tuple[LiveTxRing, LiveRxRing] | None = None

    def attach(self, ring: int = LIVE_RING) -> None:
        """Reset the NIC and start it, with ``ring`` descriptors each way, interrupts on.

        8254x SDM 14.3 to 14.5. Ring and buffers come from ordinary memory: about 4 KiB a descriptor
        at an MTU of 1500.

        Raises:
            NicFailed: the NIC does not reset, or has no address.
        """
        softc, kernel = self._softc, self._kernel
        read, write = self._registers.read, self._registers.write
        longest = ETHER_HEADER + softc.mtu
        tx = LiveTxRing(self._memory, kernel, ring, -(-longest // RX_BUFFER) * RX_BUFFER)
        rx = LiveRxRing(self._memory, kernel, ring)
        bringup.stop(read, write, kernel.delay_us)
        bringup.reset(read, write, kernel.delay_us)
        softc.address = bringup.station_address(read)
        bringup.set_link_up(read, write)
        bringup.start_transmit(write, tx.base, tx.count)
        control = bringup.RCTL_ON | softc.promiscuous
        if softc.mtu > ETHER_MTU:
            control |= RCTL.LPE
        bringup.start_receive(write, rx.base, rx.count, rx.tail, control)
        self._rings = (tx, rx)
        write(Reg.IMS, _ENABLED)

    def send(self, frames: list[bytes]) -> int:
        """Queue Ethernet frames; how many were taken from the front.

        Raises:
            ValueError: a frame is longer than the MTU allows.
            RuntimeError: the driver was not attached.
        """
        softc = self._softc
        longest = ETHER_HEADER + softc.mtu
        if any(len(frame) > longest for frame in frames):
            raise ValueError(
                f"a frame of {max(map(len, frames))} bytes; {softc.name} takes {longest}"
            )
        tx, _ = self._attached()
        self._tx_lock.acquire()
        taken = tx.push(frames)
        if taken:
            self._registers.write(Reg.TDT, tx.tail)
        self._tx_lock.release()
        softc.stats.sent += taken
        return taken

    def interrupt(self) -> None:
        """The handler: reclaim, receive, refill; frames go to ``stack`` when the lock is free."""
        if not self._registers.read(Reg.ICR):
            return  # the line is shared, and this was not us
        tx, rx = self._attached()
        self._tx_lock.acquire()
        tx.reclaim()
        self._tx_lock.release()
        self._rx_lock.acquire()
        before = rx.tail
        frames = rx.take()
        if rx.tail != before:
            self._registers.write(Reg.RDT, rx.tail)
        self._rx_lock.release()
        for frame in frames:
            for deliver in self.stack:
                deliver(frame)
            # The stack is done with it.
            self._kernel.mbufs.give(-(-len(frame) // RX_BUFFER))
        self._softc.stats.received += len(frames)

    def _attached(self) -> tuple[LiveTxRing, LiveRxRing]:
        if self._rings is None:
            raise RuntimeError(f"{self._softc.name} has no rings: attach() it first")
        return self._rings
