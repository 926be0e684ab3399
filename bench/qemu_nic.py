"""QEMU's NIC, as the board knows devices: registers on one side, a PHY on the other.

Registers are reached over qtest, descriptors and buffers lie in the RAM that QEMU shares with us,
and its cable is a stream (``wire/stream``). Three things differ from our own model:

* It has a thread of its own. What a doorbell sends has left when a register has been read after it;
  a frame that we give it arrives a little later. ``settle`` waits until it has.
* Its interrupt line is looked at, not heard: PCI's Interrupt Status tells its level. That is done
  when the wire gets its turn, and after an access that may change it.
* After one interrupt it holds the next back for 128 us or more of its own time (hw/net/e1000.c,
  set_interrupt_cause), and that goes on only while QEMU gets the CPU. ``await_interrupt`` waits
  until a cause has reached the line, so that a driver takes the same steps in each run.
"""

from __future__ import annotations

import fcntl
import struct
import termios
import time
from typing import Final

import numpy as np

from bench.clock import Clock, RealClock
from bench.cures import CURES
from bench.servers.child import start_child
from bench.wire.contracts import Capability
from bench.wire.stream import StreamWire
from guest.qemu import pci
from guest.qemu.errors import QemuError, QemuMissing
from guest.qemu.vm import Vm, halted
from nic_models.contracts import InterruptLine
from nic_models.e1000.descriptors import RX_READ, SIZE, view
from nic_models.e1000.registers import RCTL, RCTL_BSIZE_SHIFT, RX_BUFFER_SIZES, Reg
from nic_models.frames import Frames

INTEL: Final = 0x8086
#: QEMU's name -> PCI device.
DEVICE_IDS: Final = {"e1000": 0x100E}
#: The longest that QEMU is given to take a frame. A NIC that can't receive never takes it.
SETTLE_S: Final = 0.2
#: The same where it can receive, and will: as long as a hang.
LIVE_SETTLE_S: Final = 60.0
_TURN_S: Final = 0.0002
_STATUS: Final = int(Reg.STATUS)
_ICS, _IMS = int(Reg.ICS), int(Reg.IMS)
_INTERRUPT_REGISTERS: Final = frozenset(map(int, (Reg.ICR, Reg.ICS, Reg.IMS, Reg.IMC)))
#: Base and length of each ring, receive first.
_RINGS: Final = tuple(
    tuple(map(int, ring))
    for ring in ((Reg.RDBAL, Reg.RDBAH, Reg.RDLEN), (Reg.TDBAL, Reg.TDBAH, Reg.TDLEN))
)
_PROBE_RAM: Final = 16 << 20
_PROBE_MAC: Final = bytes.fromhex("020000000002")


class QemuNic:
    """A ``Device`` of the board."""

    def __init__(self, vm: Vm, clock: Clock, line: InterruptLine | None = None) -> None:
        """``line``: driven with the level of INTx, whenever the wire gets its turn."""
        self._vm = vm
        self._found: pci.PciFunction | None = None
        self._line = line
        self._wire = None if vm.netdev is None else StreamWire(vm.netdev, clock)

    def enable(self) -> None:
        """Find it, make its registers reachable, and let it do DMA.

        To be called before any register is used, and while the machine stands still: PCI's
        configuration takes two accesses, and a guest that is in the middle of its own would take
        ours for its own. Where firmware has set the NIC up, nothing changes.
        """
        found = pci.find(self._vm.qtest, INTEL, DEVICE_IDS[self._vm.options.nic])
        found.enable()
        self._found = found

    @property
    def _function(self) -> pci.PciFunction:
        assert self._found is not None, "enable() comes first"
        return self._found

    def read32(self, offset: int) -> int:
        value = self._function.read32(offset)
        if offset in _INTERRUPT_REGISTERS:
            self._look_at_the_line()
        return value

    def write32(self, offset: int, value: int) -> None:
        """Posted, as on PCI."""
        self._function.write32(offset, value)
        if offset in _INTERRUPT_REGISTERS:
            self._look_at_the_line()

    def transmit(self, now_ns: int) -> Frames:
        """What has left the NIC by now.

        Raises:
            QemuGone: QEMU has ended.
        """
        self._look_at_the_line()
        if self._wire is None:
            return Frames.empty()
        frames = self._wire.receive()
        if self._wire.ended:
            self._vm.check()
        return frames

    def receive(self, frames: Frames) -> None:
        if self._wire is not None and len(frames):
            self._vm.qtest.flush()  # the cable is another way: what was written before comes first
            self._wire.send(frames)

    def stop_watching_interrupts(self) -> None:
        """Nobody serves them any more, and each look costs two commands."""
        self._line = None

    def reach(self) -> list[tuple[int, int]]:
        """[start, end) of what it may write to by itself, as its rings stand: the rings, and the
        buffers of the receive descriptors that are its own, from RDH to RDT.
        """
        read, ram = self._function.read32, self._vm.ram
        control = read(int(Reg.RCTL))
        size = RX_BUFFER_SIZES[bool(control & RCTL.BSEX), control >> RCTL_BSIZE_SHIFT & 3]
        found: list[tuple[int, int]] = []
        for low, high, length in _RINGS:
            base = read(low) | read(high) << 32
            found.append((base, base + read(length)))
        base, end = found[0]
        count = (end - base) // SIZE
        if count and end <= len(ram):
            head, tail = read(int(Reg.RDH)), read(int(Reg.RDT))
            own = (np.arange(count) - head) % count < (tail - head) % count
            addresses = view(ram, base, count, RX_READ)["address"][own].tolist()
            found += [(address, address + size) for address in addresses if address]
        return found

    def await_interrupt(self) -> None:
        """Wait until the line is up, if there is a cause that is not masked.

        QEMU's ICS can be read: the causes, which a read of ICR would clear.

        Raises:
            QemuError: it stays down.
        """
        read = self._function.read32
        deadline = time.monotonic() + LIVE_SETTLE_S
        while read(_ICS) & read(_IMS) and not self._function.interrupt_pending():
            if time.monotonic() > deadline:
                raise QemuError(f"QEMU's NIC raised no interrupt in {LIVE_SETTLE_S:g} s")
            time.sleep(_TURN_S)
        self._look_at_the_line()

    def settle(self, at_most_s: float = SETTLE_S) -> bool:
        """Wait until what it was given is in memory, or dropped; False if it still waits."""
        wire = self._wire
        assert wire is not None, "there is a cable"
        deadline = time.monotonic() + at_most_s
        for prepare in (wire.flush, wire.knock):
            prepare()
            while wire.flush() or _unread(wire.fileno()):
                if time.monotonic() > deadline:
                    return False
                time.sleep(_TURN_S)
        self._function.read32(_STATUS)  # QEMU does one thing at a time: now it has done that one
        return True

    def _look_at_the_line(self) -> None:
        if self._line is not None and self._found is not None:
            self._line.set(self._function.interrupt_pending())


def _unread(fd: int) -> int:
    """Bytes that the other side of a stream socket has not read (unix(7), SIOCOUTQ)."""
    raw = fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(4))
    count: int = struct.unpack("i", raw)[0]
    return count


def can_qemu() -> Capability:
    """Try it: start a QEMU without software, bring its NIC up, and read its registers."""
    try:
        with Vm(halted(_PROBE_RAM, mac=_PROBE_MAC), None, start_child) as vm:
            nic = QemuNic(vm, RealClock())
            nic.enable()
            status = nic.read32(_STATUS)
    except QemuMissing as missing:
        return Capability(False, str(missing), CURES["qemu"])
    except QemuError as error:
        why = f"QEMU's NIC can't be driven: {str(error).splitlines()[-1]}"
        return Capability(False, why, CURES["qemu-old"])
    return Capability(True, f"started QEMU, and its e1000 answers (STATUS {status:#x})")
