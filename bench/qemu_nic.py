"""QEMU's NIC, as the board knows devices: registers on one side, a PHY on the other.

Registers are reached over qtest, descriptors and buffers lie in the RAM that QEMU shares with us,
and its cable is a stream (``wire/stream``). Two things differ from our own model:

* It has a thread of its own. What a doorbell sends has left when a register has been read after it;
  a frame that we give it arrives a little later. ``settle`` waits until it has.
* Its interrupt line is looked at, not heard: PCI's Interrupt Status tells its level. That is done
  when the wire gets its turn, and after an access that may change it.
"""

from __future__ import annotations

import fcntl
import struct
import termios
import time
from typing import Final

from bench.clock import Clock, RealClock
from bench.servers.child import start_child
from bench.wire.contracts import Capability
from bench.wire.stream import StreamWire
from guest.qemu import pci
from guest.qemu.errors import QemuError, QemuMissing
from guest.qemu.vm import Vm, halted
from nic_models.contracts import InterruptLine
from nic_models.e1000.registers import Reg
from nic_models.frames import Frames

INTEL: Final = 0x8086
#: QEMU's name -> PCI device.
DEVICE_IDS: Final = {"e1000": 0x100E}
#: The longest that QEMU is given to take a frame. A NIC that can't receive never takes it.
SETTLE_S: Final = 0.2
_STATUS: Final = int(Reg.STATUS)
_INTERRUPT_REGISTERS: Final = frozenset(map(int, (Reg.ICR, Reg.ICS, Reg.IMS, Reg.IMC)))
_PROBE_RAM: Final = 16 << 20
_PROBE_MAC: Final = bytes.fromhex("020000000002")


class QemuNic:
    """A ``Device`` of the board."""

    def __init__(self, vm: Vm, clock: Clock, line: InterruptLine | None = None) -> None:
        """``line``: driven with the level of INTx, whenever the wire gets its turn."""
        self._vm = vm
        self._function = pci.find(vm.qtest, INTEL, DEVICE_IDS[vm.options.nic])
        self._line = line
        self._wire = None if vm.netdev is None else StreamWire(vm.netdev, clock)

    def enable(self) -> None:
        """Make its registers reachable, and let it do DMA; where firmware did so, nothing changes.

        To be called before any register is used, and not before the firmware is through.
        """
        self._function.enable()

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
        if self._wire is not None:
            self._wire.send(frames)

    def stop_watching_interrupts(self) -> None:
        """Nobody serves them any more, and each look costs two commands."""
        self._line = None

    def settle(self) -> None:
        """Wait until the frames that it was given are in memory, or it can't take them."""
        assert self._vm.netdev is not None, "there is a cable"
        deadline = time.monotonic() + SETTLE_S
        while _unread(self._vm.netdev.fileno()) and time.monotonic() < deadline:
            time.sleep(0.0002)
        self._function.read32(_STATUS)  # QEMU does one thing at a time: now it has done that one

    def _look_at_the_line(self) -> None:
        if self._line is not None:
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
        return Capability(False, str(missing), "scripts/debian-packages qemu, as root")
    except QemuError as error:
        why = f"QEMU's NIC can't be driven: {str(error).splitlines()[-1]}"
        return Capability(False, why, "install QEMU 7.2 or newer")
    return Capability(True, f"started QEMU, and its e1000 answers (STATUS {status:#x})")
