"""QEMU's device, in a machine that runs no software.

How it is known that QEMU has *settled*, for it works in a process of its own:

* a register read is answered after all that was asked before it, transmission included;
* frames for it lie in a socket: it has taken them when the kernel says that none is left there
  (SIOCOUTQ). While it holds frames back, for want of descriptors, some stay: that is no hurry;
* timers (of an e1000: the line rises 128 us late, reception starts 1 s after a write of RCTL, a
  link comes up in 0.5 s) run in virtual time, which jumps to the next timer when the CPU sleeps and
  QEMU's main loop goes round, as each register read makes it; never past a timer that has not
  fired. The PC's power management timer tells that time, and brings another timer: when time has
  gone past what the family says (``deaf_ns``), the receiver hears again. The other timers show in
  what they do.

So ``look`` reads a few registers in turn, and the caller looks again, a bounded number of times,
until what it expects is there.
"""

from __future__ import annotations

import fcntl
import struct
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from bench.clock import RealClock
from bench.servers.child import start_child
from bench.truth.pair import LINE
from bench.wire.stream import StreamWire
from guest.qemu import pci
from guest.qemu.errors import QemuError
from guest.qemu.vm import Vm, halted
from nic_models.differential.contract import Differential
from nic_models.differential.pc import MAC, MEMORY
from nic_models.family import OnQemu
from nic_models.frames import Frames

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
_PM_HZ: Final = 3_579_545


class Theirs:
    """A ``Counterpart``, and a context manager."""

    def __init__(self, of: Differential, on_qemu: OnQemu, folder: Path) -> None:
        """``folder``: for QEMU's log.

        Raises:
            QemuError: there is no QEMU, or it does not come up.
        """
        self._of = of
        self._on_qemu = on_qemu
        self._folder = folder
        self._start()

    def renew(self) -> None:
        """As after power-on; memory is anybody's guess.

        Only a new machine sheds the frames that QEMU holds back for its receiver, and what a
        difference has left behind: then it is not ``clean``.
        """
        if self.clean:
            self.reset()
        else:
            self.close()
            self._start()

    def _start(self) -> None:
        self.clean = True
        device = self._on_qemu
        self._vm = Vm(halted(MEMORY, nic=device.device, mac=MAC), self._folder, start_child)
        try:
            assert self._vm.netdev is not None, "no TAP was given"
            self._socket = self._vm.netdev
            self.memory = self._vm.ram
            self._function = pci.find(self._vm.qtest, device.vendor, device.pci_device, device.bar)
            self._enable()
            self._wire = StreamWire(self._socket, RealClock())
            self.version = self._read_version()
        except BaseException:
            self._vm.close()
            raise

    # -- registers -----------------------------------------------------------------------------

    def read8(self, offset: int) -> int:
        return self._function.read8(offset)

    def read16(self, offset: int) -> int:
        return self._function.read16(offset)

    def read32(self, offset: int) -> int:
        return self._function.read32(offset)

    # A write comes back when the receiver hears again. QemuError: it never does.

    def write8(self, offset: int, value: int) -> None:
        self._write(self._function.write8, offset, value)

    def write16(self, offset: int, value: int) -> None:
        self._write(self._function.write16, offset, value)

    def write32(self, offset: int, value: int) -> None:
        self._write(self._function.write32, offset, value)

    def _write(self, write: Callable[[int, int], None], offset: int, value: int) -> None:
        deaf_ns = self._of.deaf_ns.get(offset)
        if deaf_ns is None:
            write(offset, value)
            return
        before = self._ticks()
        write(offset, value)
        passed, enough = 0, _PM_HZ * deaf_ns // 10**9
        for turn in range(_ROUNDS):
            # Without a timer behind it, time would stop at its own, fired or not.
            self._vm.qtest.outl(_PM_EVENTS, _PM_OVERFLOW)
            now = self._ticks()
            passed, before = passed + (now - before & _PM_MASK), now
            if passed > enough:
                return
            if turn > _ROUNDS // 2:
                time.sleep(_NAP_S)
        raise QemuError("QEMU's virtual time stands still: its receiver never hears again")

    # -- wire and line -------------------------------------------------------------------------

    def arrive(self, frames: Sequence[bytes]) -> None:
        """They are in QEMU's hands as soon as it wants them; see ``heard``."""
        self._vm.qtest.flush()
        self._wire.send(Frames.of(frames))

    def heard(self) -> bool:
        """Whether QEMU has taken in all that was sent to it, after waiting a bounded while."""
        for turn in range(_ROUNDS):
            if not self._unread():
                self._barrier()  # and done with it
                return True
            self._barrier()
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
            if not up or self._of.sees_link(self):
                return
            if turn > _ROUNDS // 2:
                time.sleep(_NAP_S)
        raise QemuError("QEMU's link does not come up again")

    def look(self) -> dict[str, int]:
        seen = {watched.name: watched.theirs(self) for watched in self._of.watched}
        return {**seen, LINE: int(self._function.interrupt_pending())}

    def sent(self) -> list[bytes]:
        frames = self._wire.receive()
        return [frames.bytes_of(i) for i in range(len(frames))]

    # -- the machine ---------------------------------------------------------------------------

    def reset(self) -> None:
        """As after power-on, but for memory and the cable."""
        self._vm.qtest.flush()
        self._vm.monitor.execute("system_reset")
        self._enable()
        self._barrier()

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

    def _barrier(self) -> None:
        """Back when QEMU has done what was asked of it before."""
        self._function.read32(self._on_qemu.barrier)

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
