"""The driver in the panic: FreeBSD's debugnet methods (sys/net/debugnet.h), and nothing else.

    method           locks     rings (``panic_rings.py``)         registers
    event "start"    tx, rx    emptied, poisoned                  all that the panic depends on
    transmit         tx        queue a batch, reclaim if full     TDT
    poll             tx, rx    reclaim, copy out, refill          RDT
    event "end"      none      left alone                         RCTL
    link_up          none                                         STATUS

Their rules:

1. The rings of ordinary life may be in any state, so they are left alone. ``event("start")`` stops
   the NIC and gives it rings of the panic arena, which were reserved when this object was made.
2. After that no register but TDT and RDT is touched, and what was done is read from DD in memory.
3. Nothing is allocated. Receive buffers are static; a sent frame's two mbufs were taken by the
   sender (debugnet: headers, and payload by reference) and go back to ``tx_zone`` when reclaimed.
4. Nothing waits, but for the 10 ms in which old DMA ends.

Locks in the panic are a matter of ``Mode``:

    mode      on the way in    on the way out
    POLLED    bypass           -                 as all have since FreeBSD 12; counted
    LOCKED    acquire          release           as usual, and meets the CPUs that died with them
"""

from __future__ import annotations

from typing import Final, Literal

from nic_models.contracts import DmaMemory, Kernel, Mbufs, Mode, TxBatch
from nic_models.e1000 import bringup
from nic_models.e1000.panic_rings import PanicRxRing, PanicTxRing
from nic_models.e1000.registers import CTRL, STATUS, Reg
from nic_models.e1000.softc import Softc
from nic_models.frames import Frames

#: mbufs of a frame: one for the headers, one that refers to the payload.
MBUFS_A_FRAME: Final = 2
#: Plain ints: an IntEnum costs a call each time it is hashed or passed on.
_TDT: Final = int(Reg.TDT)
_RDT: Final = int(Reg.RDT)


class Debugnet:
    """Of one interface."""

    def __init__(
        self,
        softc: Softc,
        memory: DmaMemory,
        kernel: Kernel,
        *,
        tx_ring: int,
        rx_ring: int,
        tx_zone: Mbufs,
    ) -> None:
        """Reserve all that a panic will need: rings of so many descriptors, and their buffers."""
        self.tx_zone = tx_zone
        self._softc = softc
        self._kernel = kernel
        self._tx = PanicTxRing(memory, tx_ring)
        self._rx = PanicRxRing(memory, rx_ring)

    @property
    def rx_errors(self) -> int:
        """Receive descriptors that were dropped."""
        return self._rx.errors

    def link_up(self) -> bool:
        """8254x SDM 13.4.2, STATUS.LU."""
        return bool(self._softc.mmio.read32(Reg.STATUS) & STATUS.LU)

    def event(self, what: Literal["start", "end"]) -> None:
        """dn_event. "start": take the NIC over, whatever state it is in. "end": stop receiving.

        "start" also empties the panic rings, so it may be called again for another attempt. "end"
        leaves the transmitter on, for what it still has, and takes no lock: it only sees to it
        that nothing more is written to memory.
        """
        softc = self._softc
        mmio, tx, rx = softc.mmio, self._tx, self._rx
        if what == "end":
            mmio.write32(Reg.RCTL, 0)
            return
        self._enter_locks()
        found = bringup.stop(mmio.read32, mmio.write32, self._kernel.delay_us)
        # Somebody listens to the whole segment, and the panic changes nothing there.
        softc.promiscuous |= found & bringup.RCTL_PROMISCUOUS
        lost = tx.clear()
        softc.stats.panic_lost += lost
        self.tx_zone.give(MBUFS_A_FRAME * lost)
        rx.clear()
        if not mmio.read32(Reg.CTRL) & CTRL.SLU:
            bringup.set_link_up(mmio.read32, mmio.write32)
        bringup.start_transmit(mmio.write32, tx.base, tx.count)
        control = bringup.RCTL_ON | softc.promiscuous
        bringup.start_receive(mmio.write32, rx.base, rx.count, rx.tail, control)
        self._leave_locks()

    def transmit(self, batch: TxBatch) -> int:
        """dn_transmit: queue frames from the front, ring the doorbell once; how many were taken.

        Fewer than all: the ring is full. Their headers are copied; payload is read by the device
        until the frame is reclaimed, so it must stay as it is.

        Raises:
            ValueError: headers are wider than a slot of the header ring.
        """
        softc, tx = self._softc, self._tx
        if softc.mode is Mode.LOCKED:
            softc.tx_lock.acquire()
        else:
            softc.tx_lock.bypass()
        wanted = len(batch.header_lengths)
        if MBUFS_A_FRAME * wanted > tx.free:
            self._reclaim()
        taken = tx.push(batch)
        if taken:
            softc.mmio.write32(_TDT, tx.tail)
        softc.stats.panic_sent += taken
        softc.stats.panic_ring_full += taken < wanted
        if softc.mode is Mode.LOCKED:
            softc.tx_lock.release()
        return taken

    def poll(self, budget: int) -> Frames:
        """dn_poll: reclaim, and hand over at most ``budget`` frames, copied. Their time is 0."""
        self._enter_locks()
        self._reclaim()
        softc, rx = self._softc, self._rx
        before = rx.tail
        frames = rx.take(budget)
        if rx.tail != before:
            softc.mmio.write32(_RDT, rx.tail)
        softc.stats.panic_received += len(frames)
        self._leave_locks()
        return frames

    def _reclaim(self) -> None:
        done = self._tx.reclaim()
        if done:
            self.tx_zone.give(MBUFS_A_FRAME * done)

    def _enter_locks(self) -> None:
        softc = self._softc
        if softc.mode is Mode.LOCKED:
            softc.tx_lock.acquire()
            softc.rx_lock.acquire()
        else:
            softc.tx_lock.bypass()
            softc.rx_lock.bypass()

    def _leave_locks(self) -> None:
        if self._softc.mode is Mode.LOCKED:
            self._softc.rx_lock.release()
            self._softc.tx_lock.release()
