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
from collections.abc import Callable
from typing import Final

from bench.clock import Clock, RealClock
from bench.cures import CURES
from bench.parts import DEFAULT_NIC, nic_family
from bench.servers.child import start_child
from bench.wire.contracts import Capability
from bench.wire.stream import StreamWire
from guest.qemu import pci
from guest.qemu.errors import QemuError, QemuMissing
from guest.qemu.vm import Vm, halted
from nic_models.contracts import InterruptLine
from nic_models.family import OnQemu
from nic_models.frames import Frames

#: The longest that QEMU is given to take a frame. A NIC that can't receive never takes it.
SETTLE_S: Final = 0.2
#: The longest that QEMU may hold an interrupt back: as long as a hang.
INTERRUPT_S: Final = 60.0
_TURN_S: Final = 0.0002
_PROBE_RAM: Final = 16 << 20
_PROBE_MAC: Final = bytes.fromhex("020000000002")


class QemuNic:
    """A ``nic_models.contracts.Silicon``."""

    def __init__(
        self, vm: Vm, family: OnQemu, clock: Clock, line: InterruptLine | None = None
    ) -> None:
        """``line``: driven with the level of INTx, whenever the wire gets its turn."""
        self._vm = vm
        self._family = family
        self._reach: list[tuple[int, int]] = []
        self._found: pci.PciFunction | None = None
        self._line = line
        self._wire = None if vm.netdev is None else StreamWire(vm.netdev, clock)

    def power_on(self) -> None:
        """Find it, make its registers reachable, and let it do DMA.

        To be called before any register is used, and while the machine stands still: PCI's
        configuration takes two accesses, and a guest that is in the middle of its own would take
        ours for its own. Where firmware has set the NIC up, nothing changes.
        """
        family = self._family
        found = pci.find(self._vm.qtest, family.vendor, family.pci_device, family.bar)
        found.enable()
        self._found = found

    @property
    def _function(self) -> pci.PciFunction:
        assert self._found is not None, "power_on() comes first"
        return self._found

    def read8(self, offset: int) -> int:
        return self._read(self._function.read8, offset)

    def read16(self, offset: int) -> int:
        return self._read(self._function.read16, offset)

    def read32(self, offset: int) -> int:
        return self._read(self._function.read32, offset)

    def _read(self, read: Callable[[int], int], offset: int) -> int:
        value = read(offset)
        if offset in self._family.interrupt_registers:
            self._look_at_the_line()
        return value

    # Writes are posted, as on PCI.

    def write8(self, offset: int, value: int) -> None:
        self._write(self._function.write8, offset, value)

    def write16(self, offset: int, value: int) -> None:
        self._write(self._function.write16, offset, value)

    def write32(self, offset: int, value: int) -> None:
        self._write(self._function.write32, offset, value)

    def _write(self, write: Callable[[int, int], None], offset: int, value: int) -> None:
        write(offset, value)
        if offset in self._family.interrupt_registers:
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

    def deliver(self, frames: Frames) -> None:
        if self._wire is not None and len(frames):
            self._vm.qtest.flush()  # the cable is another way: what was written before comes first
            self._wire.send(frames)

    def machine_died(self) -> None:
        """Looking at the line costs two commands each time; that ends, too."""
        self._line = None
        self._reach = self._family.may_write_to(self._function, self._vm.ram)

    def reach(self) -> list[tuple[int, int]]:
        """QEMU keeps no log: all that it may have written to, as its rings stood."""
        return self._reach

    def state(self) -> dict[str, int]:
        """Registers that tell in which state the card is."""
        return self._family.state(self._function)

    def await_interrupt(self) -> None:
        """Wait until the line is up, if there is a cause that is not masked.

        Raises:
            QemuError: it stays down.
        """
        function = self._function
        deadline = time.monotonic() + INTERRUPT_S
        while self._family.cause_pending(function) and not function.interrupt_pending():
            if time.monotonic() > deadline:
                raise QemuError(f"QEMU's NIC raised no interrupt in {INTERRUPT_S:g} s")
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
        self._function.read32(
            self._family.barrier
        )  # QEMU does one thing at a time: now it has done that one
        return True

    def _look_at_the_line(self) -> None:
        if self._line is not None and self._found is not None:
            self._line.set(self._function.interrupt_pending())


def receives(vm: Vm, family: OnQemu) -> bool:
    """Whether the NIC of a machine that is running can receive, as its system has set it up.

    QMP tells where its registers are, because PCI's configuration is the system's own. For families
    that can tell.
    """
    assert family.receives is not None, "the grammar asks for it"
    for bus in vm.monitor.execute("query-pci"):
        for device in bus["devices"]:
            if (device["id"]["vendor"], device["id"]["device"]) != (
                family.vendor,
                family.pci_device,
            ):
                continue
            for region in device["regions"]:
                if region["bar"] == family.bar and region["address"] > 0:
                    card = pci.PciFunction(vm.qtest, device["slot"], family.bar)
                    return family.receives(card.decodes_at(region["address"]))
    return False


def _unread(fd: int) -> int:
    """Bytes that the other side of a stream socket has not read (unix(7), SIOCOUTQ)."""
    raw = fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(4))
    count: int = struct.unpack("i", raw)[0]
    return count


def can_qemu(name: str = DEFAULT_NIC) -> Capability:
    """Try it: start a QEMU without software, bring its NIC up, and read its registers."""
    family = nic_family(name).on_qemu
    if family is None:
        return Capability(False, f"QEMU has no {name}", "")
    try:
        machine = halted(_PROBE_RAM, nic=family.device, mac=_PROBE_MAC)
        with Vm(machine, None, start_child) as vm:
            nic = QemuNic(vm, family, RealClock())
            nic.power_on()
            value = nic.read32(family.barrier)
    except QemuMissing as missing:
        return Capability(False, str(missing), CURES["qemu"])
    except QemuError as error:
        why = f"QEMU's {family.device} can't be driven: {str(error).splitlines()[-1]}"
        return Capability(False, why, CURES["qemu-old"])
    at = f"register {family.barrier:#x} reads {value:#x}"
    return Capability(True, f"started QEMU, and its {family.device} answers ({at})")
