"""The two devices, seen through one interface: registers, memory, wire, interrupt line.

How it is known that QEMU has *settled*, for it works in a process of its own:

* a register read is answered after all that was asked before it, transmission included;
* frames for it lie in a socket: it has taken them when the kernel says that none is left there
  (SIOCOUTQ). While it holds frames back, for want of descriptors, some stay: that is no hurry;
* timers (the line rises 128 us late, reception starts 1 s after a write of RCTL, a link comes up
  in 0.5 s) run in virtual time, which jumps to the next timer when the CPU sleeps and QEMU's main
  loop goes round, as each register read makes it; never past a timer that has not fired. The PC's
  power management timer tells that time, and brings another timer: when time has gone past the
  second, the receiver hears again. The other timers show in what they do.

So ``look`` reads a few registers in turn, and the caller looks again, a bounded number of times,
until what it expects is there.
"""

from __future__ import annotations

import fcntl
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from bench.clock import RealClock
from bench.servers.child import start_child
from bench.wire.stream import StreamWire
from guest.qemu import pci
from guest.qemu.errors import QemuError
from guest.qemu.vm import Vm, halted
from nic_models.contracts import InterruptLine
from nic_models.e1000 import registers as r
from nic_models.e1000.device import E1000Device
from nic_models.e1000.registers import CTRL, STATUS, Reg
from nic_models.frames import Frames

MAC: Final = bytes.fromhex("525400123456")
MEMORY: Final = 2 << 20
#: Where a PC has no memory for DMA below its top: VGA and ROMs. Traces keep away from it, as from
#: everything between 2 GiB and 4 GiB, where other devices are.
HOLE: Final = range(0xA_0000, 0x10_0000)
_VENDOR, _DEVICE = 0x8086, 0x100E
_SIOCOUTQ: Final = 0x5411
#: Rounds of reads that QEMU may take to hear what was sent to it, or to let a timer fire; and the
#: sleep between the later ones, seconds.
_ROUNDS: Final = 4000
_NAP_S: Final = 0.0005
#: PIIX4 power management: function 3 of slot 1, its I/O base (0x40), its enable bit (0x80), and in
#: its I/O space events (status and enable; bit 0 is the timer's overflow) and the ACPI timer, 24
#: bits of 3.579545 MHz, which overflows every 2.3 s.
_PM_SLOT, _PM_BASE, _PM_ENABLE = 1, 0x300 | 0x40, 0x300 | 0x80
_PM_EVENTS: Final = 0x600
_PM_OVERFLOW: Final = 1 << 16 | 1
_PM_TIMER: Final = _PM_EVENTS + 8
_PM_MASK: Final = (1 << 24) - 1
#: How long a write of RCTL makes QEMU deaf, and a bit, in ticks.
_DEAF_TICKS: Final = 3_579_545 * 1001 // 1000


@dataclass(frozen=True, slots=True)
class Look:
    """What is compared after every step, besides memory and frames."""

    tdh: int
    rdh: int
    icr: int
    line: bool


class Device(Protocol):
    """Either of the two."""

    memory: NDArray[np.uint8]

    def read(self, register: int) -> int: ...

    def write(self, register: int, value: int) -> None: ...

    def arrive(self, frames: Sequence[bytes]) -> None: ...

    def link(self, up: bool) -> None: ...

    def look(self) -> Look: ...

    def sent(self) -> list[bytes]: ...


class _Line:
    level = False

    def set(self, level: bool) -> None:
        self.level = level


#: Makes our device; a test makes a broken one.
Make = Callable[[NDArray[np.uint8], bytes, InterruptLine], E1000Device]


class Ours:
    """Our model, on an infinitely fast wire."""

    def __init__(self, memory: NDArray[np.uint8], make: Make = E1000Device) -> None:
        self.memory = memory
        self._line = _Line()
        self.device = make(memory, MAC, self._line)

    def read(self, register: int) -> int:
        return self.device.read32(register)

    def write(self, register: int, value: int) -> None:
        """What it makes the transmitter do waits for ``sent``."""
        self.device.write32(register, value)

    def arrive(self, frames: Sequence[bytes]) -> None:
        self.device.deliver(Frames.of(frames))

    def link(self, up: bool) -> None:
        self.device.set_link(up)

    def look(self) -> Look:
        now = self.device.snapshot()
        return Look(now["tdh"], now["rdh"], now["icr"], self._line.level)

    def sent(self) -> list[bytes]:
        frames = self.device.transmit(0)
        return [frames.bytes_of(i) for i in range(len(frames))]


class Theirs:
    """QEMU's e1000, in a machine that runs no software. A context manager."""

    def __init__(self, folder: Path) -> None:
        """``folder``: for QEMU's log.

        Raises:
            QemuError: there is no QEMU, or it does not come up.
        """
        self._folder = folder
        self._start()

    def renew(self) -> None:
        """As after power-on; memory is anybody's guess.

        Only a new machine sheds the frames that QEMU holds back for its receiver, and whatever a
        difference has left behind: then ``clean`` says so.
        """
        if self.clean:
            self.reset()
        else:
            self.close()
            self._start()

    def _start(self) -> None:
        self.clean = True
        self._vm = Vm(halted(MEMORY, mac=MAC), self._folder, start_child)
        try:
            assert self._vm.netdev is not None, "no TAP was given"
            self._socket = self._vm.netdev
            self.memory = self._vm.ram
            self._function = pci.find(self._vm.qtest, _VENDOR, _DEVICE)
            self._enable()
            self._wire = StreamWire(self._socket, RealClock())
            self.version = self._read_version()
        except BaseException:
            self._vm.close()
            raise

    def read(self, register: int) -> int:
        return self._function.read32(register)

    def write(self, register: int, value: int) -> None:
        """A write of RCTL comes back when the receiver hears again.

        Raises:
            QemuError: it never does.
        """
        if register != Reg.RCTL:
            self._function.write32(register, value)
            return
        before = self._ticks()
        self._function.write32(register, value)
        passed = 0
        for turn in range(_ROUNDS):
            # Without a timer behind it, time would stop at its own, fired or not.
            self._vm.qtest.outl(_PM_EVENTS, _PM_OVERFLOW)
            now = self._ticks()
            passed, before = passed + (now - before & _PM_MASK), now
            if passed > _DEAF_TICKS:
                return
            if turn > _ROUNDS // 2:
                time.sleep(_NAP_S)
        raise QemuError("QEMU's virtual time stands still: its receiver never hears again")

    def arrive(self, frames: Sequence[bytes]) -> None:
        """They are in QEMU's hands as soon as it wants them; see ``heard``."""
        self._vm.qtest.flush()
        self._wire.send(Frames.of(frames))

    def heard(self) -> bool:
        """Whether QEMU has taken in all that was sent to it, after waiting a bounded while."""
        for turn in range(_ROUNDS):
            if not self._unread():
                self.read(Reg.STATUS)  # and done with it
                return True
            self.read(Reg.STATUS)
            if turn > _ROUNDS // 2:
                time.sleep(_NAP_S)
        return False

    def link(self, up: bool) -> None:
        """A link that comes up is up when this returns.

        Raises:
            QemuError: it does not.
        """
        self._vm.qtest.flush()
        self._vm.monitor.execute("set_link", name="net0", up=up)
        for turn in range(_ROUNDS):
            if not up or self.read(Reg.STATUS) & STATUS.LU:
                return
            if turn > _ROUNDS // 2:
                time.sleep(_NAP_S)
        raise QemuError("QEMU's link does not come up again")

    def look(self) -> Look:
        function = self._function
        # ICS reads as ICR does, without clearing it: a row of the table, used here.
        tdh, rdh, icr = (function.read32(reg) for reg in (Reg.TDH, Reg.RDH, Reg.ICS))
        return Look(tdh, rdh, icr, function.interrupt_pending())

    def sent(self) -> list[bytes]:
        frames = self._wire.receive()
        return [frames.bytes_of(i) for i in range(len(frames))]

    def reset(self) -> None:
        """As after power-on, but for memory and cable."""
        self._vm.qtest.flush()
        self._vm.monitor.execute("system_reset")
        self._enable()
        self.read(Reg.STATUS)

    def close(self) -> None:
        self._vm.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _enable(self) -> None:
        self._function.enable()
        power = pci.PciFunction(self._vm.qtest, _PM_SLOT)
        power.config_write(_PM_BASE, _PM_EVENTS | 1)
        power.config_write(_PM_ENABLE, 1)

    def _ticks(self) -> int:
        """Virtual time."""
        return self._vm.qtest.inl(_PM_TIMER) & _PM_MASK

    def _unread(self) -> int:
        """Bytes that lie in the socket."""
        answer = fcntl.ioctl(self._socket.fileno(), _SIOCOUTQ, bytes(4))
        return int(struct.unpack("i", answer)[0])

    def _read_version(self) -> tuple[int, int]:
        found = self._vm.monitor.execute("query-version")["qemu"]
        return int(found["major"]), int(found["minor"])


def reset_by_hand(theirs: Theirs, ours: Ours) -> None:
    """What CTRL.RST would do to QEMU's e1000: a power-on reset, with the multicast table kept."""
    theirs.reset()
    for index in range(r.MTA_COUNT):
        value = ours.read(r.mta(index))
        if value:
            theirs.write(r.mta(index), value)


#: How nearly all traces begin: the link is up for both.
LINK_UP: Final = int(CTRL.FD | CTRL.SLU)
