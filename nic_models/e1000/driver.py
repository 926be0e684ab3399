"""The kernel's code for the 82540EM: an ordinary life, and a part to play in a panic.

It meets the silicon only at registers, DMA memory and the interrupt line, so the same code drives
our own ``device``, QEMU's, and the NIC of a guest that has just crashed.

*Ordinary life* (``attach``, ``send``, ``interrupt``) is written as such drivers are: a lock for
each ring, a doorbell a batch, an interrupt handler that reclaims, delivers and refills. It calls
``kernel.step`` before each register access, descriptor access and lock operation: there a panic may
strike, and then this code stops for ever, in the middle of whatever it was doing. So it uses
neither ``finally`` nor ``with`` for a lock.

*In the panic* four methods remain, FreeBSD's debugnet methods (sys/net/debugnet.h): ``event``,
``transmit``, ``poll``, and ``link_up``. Their rules:

1. The rings of ordinary life may be in any state, so they are left alone. ``event("start")`` stops
   the NIC and gives it rings of the panic arena, which were reserved when this object was made.
2. After that no register but TDT and RDT is touched, and what was done is read from DD in memory.
3. Nothing is allocated. Receive buffers are static; a sent frame's two mbufs were taken by the
   sender (debugnet: headers, and payload by reference) and go back to ``tx_zone`` when reclaimed.
4. Nothing waits, but for the 10 ms in which old DMA ends.

Locks in the panic are a matter of ``Mode``: a *polled* driver goes round them, as all have since
FreeBSD 12; a *locked* one acquires them as usual, and meets the CPUs that died with them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from nic_models.contracts import DmaMemory, Kernel, Mbufs, Mmio, Mode, TxBatch
from nic_models.e1000 import bringup
from nic_models.e1000.live_rings import LiveRxRing, LiveTxRing
from nic_models.e1000.panic_rings import RX_BUFFER, PanicRxRing, PanicTxRing
from nic_models.e1000.registers import CTRL, INT, MTA_COUNT, RCTL, STATUS, Reg
from nic_models.frames import Frames

#: Ethernet header.
ETHER_HEADER: Final = 14
ETHER_MTU: Final = 1500
#: mbufs of a frame: one for the headers, one that refers to the payload.
MBUFS_A_FRAME: Final = 2
#: Ring size of ordinary life. Small, so that it wraps often and fits the smallest machine: its
#: buffers lie in memory that is dumped.
LIVE_RING: Final = 8

#: The causes that the handler serves.
_ENABLED: Final = int(INT.TXDW | INT.LSC | INT.RXDMT0 | INT.RXO | INT.RXT0)
#: Plain ints: an IntEnum costs a call each time it is hashed or passed on.
_TDT: Final = int(Reg.TDT)
_RDT: Final = int(Reg.RDT)


@dataclass(slots=True)
class DriverStats:
    """Counts since the driver was made."""

    sent: int = 0
    """Frames queued in ordinary life."""
    received: int = 0
    """Frames delivered to the stack."""
    panic_sent: int = 0
    panic_received: int = 0
    panic_ring_full: int = 0
    """Calls of ``transmit`` that could not take all frames."""
    panic_lost: int = 0
    """Frames that still waited when the NIC was taken over anew."""


class E1000Driver:
    """One interface. Make it at boot, ``attach`` it, and in the panic use the debugnet methods."""

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
        self.name: Final = name
        self.mode: Final = mode
        self.mtu: Final = mtu
        self.tx_zone: Mbufs = kernel.panic_pool if tx_zone is None else tx_zone
        self.stack: list[Callable[[bytes], None]] = []
        """Called with each frame that ordinary life receives."""
        self.stats: Final = DriverStats()
        self._mmio = mmio
        self._memory = memory
        self._kernel = kernel
        self._promiscuous = bringup.RCTL_PROMISCUOUS if promiscuous else 0
        self._tx_lock = kernel.lock(f"{name}:tx")
        self._rx_lock = kernel.lock(f"{name}:rx")
        self._tx = PanicTxRing(memory, tx_ring)
        self._rx = PanicRxRing(memory, rx_ring)
        self._mac: bytes | None = None
        self._live: tuple[LiveTxRing, LiveRxRing] | None = None

    @property
    def mac(self) -> bytes:
        """Six bytes: receive address 0."""
        if self._mac is None:
            self._mac = bringup.station_address(self._mmio.read32)
        return self._mac

    @property
    def rx_errors(self) -> int:
        """Receive descriptors that the panic path dropped."""
        return self._rx.errors

    def link_up(self) -> bool:
        """8254x SDM 13.4.2, STATUS.LU."""
        return bool(self._mmio.read32(Reg.STATUS) & STATUS.LU)

    # -- ordinary life -------------------------------------------------------------------------

    def attach(self, ring: int = LIVE_RING) -> None:
        """Reset the NIC and start it, with ``ring`` descriptors each way, interrupts on.

        8254x SDM 14.3 to 14.5. Ring and buffers come from ordinary memory: about 4 KiB a descriptor
        at an MTU of 1500.

        Raises:
            NicFailed: the NIC does not reset, or has no address.
        """
        kernel, read, write = self._kernel, self._read, self._write
        longest = ETHER_HEADER + self.mtu
        tx = LiveTxRing(self._memory, kernel, ring, -(-longest // RX_BUFFER) * RX_BUFFER)
        rx = LiveRxRing(self._memory, kernel, ring)
        bringup.stop(read, write, kernel.delay_us)
        bringup.reset(read, write, kernel.delay_us)
        self._mac = bringup.station_address(read)
        bringup.set_link_up(read, write)
        bringup.start_transmit(write, tx.base, tx.count)
        control = bringup.RCTL_ON | self._promiscuous
        if self.mtu > ETHER_MTU:
            control |= RCTL.LPE
        bringup.start_receive(write, rx.base, rx.count, rx.tail, control)
        self._live = (tx, rx)
        write(Reg.IMS, _ENABLED)

    def send(self, frames: list[bytes]) -> int:
        """Queue Ethernet frames; how many were taken from the front.

        Raises:
            ValueError: a frame is longer than the MTU allows.
            RuntimeError: the driver was not attached.
        """
        longest = ETHER_HEADER + self.mtu
        if any(len(frame) > longest for frame in frames):
            raise ValueError(
                f"a frame of {max(map(len, frames))} bytes; {self.name} takes {longest}"
            )
        tx, _ = self._attached()
        kernel = self._kernel
        kernel.step(f"lock {self.name}:tx")
        self._tx_lock.acquire()
        taken = tx.push(frames)
        if taken:
            self._write(Reg.TDT, tx.tail)
        kernel.step(f"unlock {self.name}:tx")
        self._tx_lock.release()
        self.stats.sent += taken
        return taken

    def interrupt(self) -> None:
        """The handler: reclaim, receive, refill; frames go to ``stack`` when the lock is free."""
        if not self._read(Reg.ICR):
            return  # the line is shared, and this was not us
        tx, rx = self._attached()
        kernel = self._kernel
        kernel.step(f"lock {self.name}:tx")
        self._tx_lock.acquire()
        tx.reclaim()
        kernel.step(f"unlock {self.name}:tx")
        self._tx_lock.release()
        kernel.step(f"lock {self.name}:rx")
        self._rx_lock.acquire()
        before = rx.tail
        frames = rx.take()
        if rx.tail != before:
            self._write(Reg.RDT, rx.tail)
        kernel.step(f"unlock {self.name}:rx")
        self._rx_lock.release()
        for frame in frames:
            for deliver in self.stack:
                deliver(frame)
            kernel.mbufs.give(-(-len(frame) // RX_BUFFER))  # the stack is done with it
        self.stats.received += len(frames)

    def _attached(self) -> tuple[LiveTxRing, LiveRxRing]:
        if self._live is None:
            raise RuntimeError(f"{self.name} has no rings: attach() it first")
        return self._live

    def _read(self, register: int) -> int:
        self._kernel.step(f"read {_name(register)}")
        return self._mmio.read32(register)

    def _write(self, register: int, value: int) -> None:
        self._kernel.step(f"write {_name(register)}")
        self._mmio.write32(register, value)

    # -- the panic -----------------------------------------------------------------------------

    def event(self, what: Literal["start", "end"]) -> None:
        """dn_event. "start": take the NIC over, whatever state it is in. "end": stop receiving.

        "start" also empties the panic rings, so it may be called again for another attempt. "end"
        leaves the transmitter on, for what it still has, and takes no lock: it only sees to it
        that nothing more is written to memory.
        """
        if what == "end":
            self._mmio.write32(Reg.RCTL, 0)
            return
        self._enter_panic_locks()
        mmio, tx, rx = self._mmio, self._tx, self._rx
        found = bringup.stop(mmio.read32, mmio.write32, self._kernel.delay_us)
        self._promiscuous |= found & bringup.RCTL_PROMISCUOUS
        lost = tx.clear()
        self.stats.panic_lost += lost
        self.tx_zone.give(MBUFS_A_FRAME * lost)
        rx.clear()
        if not mmio.read32(Reg.CTRL) & CTRL.SLU:
            bringup.set_link_up(mmio.read32, mmio.write32)
        bringup.start_transmit(mmio.write32, tx.base, tx.count)
        control = bringup.RCTL_ON | self._promiscuous
        bringup.start_receive(mmio.write32, rx.base, rx.count, rx.tail, control)
        self._leave_panic_locks()

    def transmit(self, batch: TxBatch) -> int:
        """dn_transmit: queue frames from the front, ring the doorbell once; how many were taken.

        Fewer than all: the ring is full. Their headers are copied; payload is read by the device
        until the frame is reclaimed, so it must stay as it is.

        Raises:
            ValueError: headers are wider than a slot of the header ring.
        """
        if self.mode is Mode.LOCKED:
            self._tx_lock.acquire()
        else:
            self._tx_lock.bypass()
        wanted = len(batch.header_lengths)
        if MBUFS_A_FRAME * wanted > self._tx.free:
            self._reclaim()
        taken = self._tx.push(batch)
        if taken:
            self._mmio.write32(_TDT, self._tx.tail)
        self.stats.panic_sent += taken
        self.stats.panic_ring_full += taken < wanted
        if self.mode is Mode.LOCKED:
            self._tx_lock.release()
        return taken

    def poll(self, budget: int) -> Frames:
        """dn_poll: reclaim, and hand over at most ``budget`` frames, copied. Their time is 0."""
        self._enter_panic_locks()
        self._reclaim()
        before = self._rx.tail
        frames = self._rx.take(budget)
        if self._rx.tail != before:
            self._mmio.write32(_RDT, self._rx.tail)
        self.stats.panic_received += len(frames)
        self._leave_panic_locks()
        return frames

    def _reclaim(self) -> int:
        done = self._tx.reclaim()
        if done:
            self.tx_zone.give(MBUFS_A_FRAME * done)
        return done

    def _enter_panic_locks(self) -> None:
        if self.mode is Mode.LOCKED:
            self._tx_lock.acquire()
            self._rx_lock.acquire()
        else:
            self._tx_lock.bypass()
            self._rx_lock.bypass()

    def _leave_panic_locks(self) -> None:
        if self.mode is Mode.LOCKED:
            self._rx_lock.release()
            self._tx_lock.release()


def _name(register: int) -> str:
    """``TDT``, or ``MTA[3]``."""
    if Reg.MTA <= register < Reg.MTA + 4 * MTA_COUNT:
        return f"MTA[{(register - Reg.MTA) // 4}]"
    return Reg(register).name
