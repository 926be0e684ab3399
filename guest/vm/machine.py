"""A machine of the user's own under QEMU: what it boots, when it is struck, how, and what is left.

Nothing is known of the system on it but what the user says: what its console shows, when it is
ready, which keys or words make it crash, and whether it tells of its crash. So each of these is a
table here, and nothing is a program.

*The moment* (``Strike``): after a pattern on the console; when the NIC can receive; after a time;
of several of them, when the last has come, in this order. Before it the machine may be talked to,
line by line (``Say``).

*The crash* (``CRASHES``): from outside, by what QEMU has for any PC. ``stop`` does nothing to it.

*The notice* (``NOTICES``): pvpanic, by which a system tells QEMU, which stops it at once; a pattern
on the console; or, where a system can say neither, the crash itself: the machine stands still
before it gets that, or else it might run on for a while, or be reset by it.

The disk image is read and never written: QEMU puts what the machine writes into a file of its own
(``snapshot=on``) in the run's folder, whose name is gone as soon as QEMU has opened it. So it
leaves nothing behind, however the run ends.

What a dump holds: RAM, as QEMU reports it. That is RAM below the devices of a PC and, where there
is more, above 4 GiB; without the firmware's part of the first MiB. The panic arena is no part of it
(``guest/qemu/beside.py``).
"""

from __future__ import annotations

import re
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from guest.kernel.guard import PanicGuard
from guest.kernel.memory import PhysicalMemory
from guest.qemu import guest as qemu_guest
from guest.qemu import triggers
from guest.qemu.beside import plug_arena
from guest.qemu.console import ConsoleSilent
from guest.qemu.coredump import CoreDump
from guest.qemu.guest import HIGH_START, LOW_END, PANICKED, GuestFailed, Panic, QemuGuest
from guest.qemu.vm import HIGH, LOW_MEMORY, Spawn, VmOptions

#: How often the NIC is looked at, seconds.
LOOK_S: Final = 0.05
#: The machine's own reset, which ends the hope that it will tell of its crash.
_RESET: Final = "RESET"

Idle = Callable[[], None]


@dataclass(frozen=True, slots=True)
class VmConfig:
    """What the machine is made of. Sizes in bytes, whole MiB."""

    memory_size: int
    arena_size: int
    mac: bytes
    accelerator: str = "tcg"
    cpus: int = 1
    cpu: str = ""
    """QEMU's name of the CPU's model; its default if empty."""
    nic: str = "e1000"
    image: Path | None = None
    """A disk image of any format that QEMU knows."""
    bus: str = "ide"
    """How the machine sees that disk: "ide" or "virtio"."""
    kernel: Path | None = None
    initrd: Path | None = None
    cmdline: str = ""
    firmware: Path | None = None
    """Instead of QEMU's own (SeaBIOS)."""
    pvpanic: bool = False
    """It has the device by which a system tells QEMU of its panic, and is stopped then."""
    low_memory: int = LOW_MEMORY
    """So much of its RAM is below 4 GiB at most."""

    @property
    def system(self) -> str:
        """What runs on it, as far as that is known."""
        if self.kernel is not None:
            return f"kernel {self.kernel.name}"
        return "the firmware" if self.image is None else f"disk image {self.image.name}"


@dataclass(frozen=True, slots=True)
class Say:
    """A line that is typed, and Return, when the console has shown something."""

    after: re.Pattern[str]
    line: str


@dataclass(frozen=True, slots=True)
class Strike:
    """When to strike; what is empty is not waited for."""

    say: tuple[Say, ...] = ()
    """What is said to the machine before, in this order."""
    after: re.Pattern[str] | None = None
    live: Callable[[], bool] | None = None
    """Whether its NIC can receive."""
    running_s: float = 0.0
    """For how long the machine has run, at the least."""
    patience_s: float = 240.0
    """For how long all this is waited for."""


@dataclass(frozen=True, slots=True)
class Crash:
    """How it is crashed, and how that is noticed."""

    by: str = "nmi"
    """A key of ``CRASHES``."""
    keys: tuple[tuple[str, ...], ...] = ()
    """Chords, in QEMU's names of keys, pressed one after the other."""
    line: str = ""
    """What is typed: with Return at the console, without it after a BREAK."""
    notice: str = "crash"
    """A key of ``NOTICES``."""
    pattern: re.Pattern[str] | None = None
    """What the console shows when it dies."""


class VmGuest(QemuGuest):
    """One machine. ``await_moment``, ``crash``, ``freeze``, in that order; ``close`` whatever
    happens.
    """

    def __init__(self, config: VmConfig, folder: Path, spawn: Spawn) -> None:
        """Start it.

        Raises:
            QemuLaunchFailure: QEMU does not come up.
        """
        self._began = time.monotonic()
        super().__init__(options(config, folder), folder, spawn, pvpanic=config.pvpanic)
        self.config = config
        self._arena_at = 0

    # -- life ----------------------------------------------------------------------------------

    def await_moment(self, strike: Strike, idle: Idle) -> str:
        """Wait for the moment to strike; what has come, in words. ``idle`` is called meanwhile.

        Raises:
            ConsoleSilent, GuestFailed: it did not come in time.
        """
        patience = strike.patience_s
        deadline = time.monotonic() + patience
        watched = self.watched(idle)
        seen = 0
        said: list[str] = []
        for turn in strike.say:
            seen = self._await_text(turn.after, seen, deadline, patience, watched)
            self.console.type(turn.line + "\r")
        if strike.after is not None:
            self._await_text(strike.after, seen, deadline, patience, watched)
            said.append(f"its console had shown {strike.after.pattern!r}")
        if strike.live is not None:
            while not strike.live():
                if time.monotonic() > deadline:
                    silent = ConsoleSilent("anything", patience, self.console.text)
                    ends = str(silent).partition("; ")[2]
                    raise GuestFailed(f"its NIC could not receive within {patience:g} s; {ends}")
                self.rest(LOOK_S, watched)
            said.append("its NIC's receive ring was live")
        if strike.running_s:
            self.rest(self._began + strike.running_s - time.monotonic(), watched)
            said.append(f"it had run for {strike.running_s:g} s")
        return " and ".join(said)

    def _await_text(
        self, pattern: re.Pattern[str], seen: int, deadline: float, patience: float, idle: Idle
    ) -> int:
        """Where the next match ends, from position ``seen`` of the console's text on."""
        left = max(0.0, deadline - time.monotonic())
        try:
            return self.console.wait_for(pattern, left, idle, seen).end()
        except ConsoleSilent:
            # All was waited for in one time, which is the one that the user knows.
            raise ConsoleSilent(repr(pattern.pattern), patience, self.console.text) from None

    # -- death ---------------------------------------------------------------------------------

    def crash(self, crash: Crash, idle: Idle) -> Panic:
        """Crash it, and wait until it is known to have died; it stands still then.

        Raises:
            GuestFailed: it lives on, or was reset instead.
        """
        self.monitor.pending(PANICKED)
        before = len(self.console.text)
        began = time.monotonic()
        if crash.notice == "crash":
            self.monitor.execute("stop")
        CRASHES[crash.by](self, crash)
        message = NOTICES[crash.notice](self, crash, before, idle)
        seconds = time.monotonic() - began
        self.console.drain()
        return Panic(_NOTICED_BY[crash.notice], message, seconds)

    def segments(self) -> list[tuple[int, int]]:
        """(start, length) of its RAM, without the firmware's part."""
        vm = self.vm
        high = [(HIGH, vm.high_size)] if vm.high_size else []
        return [(0, LOW_END), (HIGH_START, vm.low_end - HIGH_START), *high]

    def freeze(self) -> CoreDump:
        """The truth; then the panic arena is plugged in."""
        core = super().freeze()
        self._arena_at = plug_arena(self.vm)
        return core

    def memory(self, guard: PanicGuard) -> PhysicalMemory:
        vm, config = self.vm, self.config
        top = HIGH + vm.high_size if vm.high_size else vm.low_end
        return PhysicalMemory(top, config.arena_size, guard, buffer=vm.ram, arena_at=self._arena_at)


# --- ways to crash it -----------------------------------------------------------------------------


def _nmi(guest: VmGuest, _: Crash) -> None:
    triggers.nmi(guest)


def _keys(guest: VmGuest, crash: Crash) -> None:
    for chord in crash.keys:
        triggers.press(guest, chord)


def _break(guest: VmGuest, crash: Crash) -> None:
    triggers.serial_break(guest, crash.line)


def _console(guest: VmGuest, crash: Crash) -> None:
    guest.console.type(crash.line + "\r")


def _stop(_: VmGuest, __: Crash) -> None:
    """It is noticed by the crash itself."""


CRASHES: Final[dict[str, Callable[[VmGuest, Crash], None]]] = {
    "nmi": _nmi,
    "keys": _keys,
    "break": _break,
    "console": _console,
    "stop": _stop,
}


# --- ways to notice it: what it said of its death, or nothing -------------------------------------


def _by_pvpanic(guest: VmGuest, crash: Crash, before: int, idle: Idle) -> str:
    try:
        guest.await_panicked(idle)
    except ConsoleSilent as silent:
        raise GuestFailed(f"the machine survived crash = {crash.by!r}: {silent}") from None
    return ""


def _by_console(guest: VmGuest, crash: Crash, before: int, idle: Idle) -> str:
    pattern = crash.pattern
    assert pattern is not None, "the grammar asks for it"
    look = guest.watched(idle)

    def watch() -> None:
        look()
        if guest.monitor.pending(_RESET):
            raise GuestFailed(f"it was reset, and its console had not shown {pattern.pattern!r}")

    try:
        found = guest.console.wait_for(pattern, qemu_guest.CRASH_TIMEOUT_S, watch, before)
    except ConsoleSilent as silent:
        raise GuestFailed(f"the machine survived crash = {crash.by!r}: {silent}") from None
    guest.monitor.execute("stop")
    text = guest.console.text
    start = text.rfind("\n", 0, found.start()) + 1
    return text[start:].partition("\n")[0].strip()


def _by_crash(_: VmGuest, __: Crash, ___: int, ____: Idle) -> str:
    """It stands still already."""
    return ""


NOTICES: Final[dict[str, Callable[[VmGuest, Crash, int, Idle], str]]] = {
    "pvpanic": _by_pvpanic,
    "console": _by_console,
    "crash": _by_crash,
}
_NOTICED_BY: Final = {"pvpanic": PANICKED, "console": "its console", "crash": ""}


# --- what QEMU is told ----------------------------------------------------------------------------


#: QEMU's devices that show a machine its disk.
_DISKS: Final = {"ide": "ide-hd", "virtio": "virtio-blk-pci"}


def boots(config: VmConfig) -> list[str]:
    """QEMU's options for what it boots."""
    more: list[str] = []
    if config.image is not None:
        path = str(config.image).replace(",", ",,")
        more += ["-drive", f"file={path},if=none,id=disk,snapshot=on"]
        more += ["-device", f"{_DISKS[config.bus]},drive=disk,bootindex=0"]
    if config.kernel is not None:
        more += ["-kernel", str(config.kernel)]
    if config.initrd is not None:
        path = str(config.initrd)
        more += ["-initrd", path.replace(",", ",,") if _splits_initrd(config) else path]
    if config.cmdline:
        more += ["-append", config.cmdline]
    if config.firmware is not None:
        more += ["-bios", str(config.firmware)]
    if config.cpu:
        more += ["-cpu", config.cpu]
    return more


#: Where QEMU looks for a Linux kernel's signature; and for a multiboot header, which is three
#: words (magic, flags, checksum) whose sum is 0.
_LINUX_AT: Final = 0x202
_LINUX: Final = b"HdrS"
_MULTIBOOT: Final = 0x1BADB002
_MULTIBOOT_WITHIN: Final = 8192


def _splits_initrd(config: VmConfig) -> bool:
    """Whether a comma in ``-initrd`` begins the next module: of a multiboot kernel alone. For all
    others QEMU takes the path as it is. A kernel that can't be read is told of elsewhere.
    """
    try:
        with open(config.kernel or "", "rb") as file:
            head = file.read(_MULTIBOOT_WITHIN)
    except OSError:
        return False
    if head.startswith(_LINUX, _LINUX_AT):
        return False
    words = [word for (word,) in struct.iter_unpack("<I", head[: len(head) & -4])]
    headers = zip(words, words[1:], words[2:], strict=False)
    return any(
        magic == _MULTIBOOT and not sum((magic, *more)) % (1 << 32) for magic, *more in headers
    )


def options(config: VmConfig, folder: Path | None, *, serial: bool = True) -> VmOptions:
    """The machine; what it writes to its disk goes to a nameless file in ``folder``."""
    more = [
        *boots(config),
        *("-machine", "graphics=off"),  # the firmware talks on the serial line
        *("-action", "panic=pause" if config.pvpanic else "panic=none"),
    ]
    more += ["-device", "pvpanic"] if config.pvpanic else []
    return VmOptions(
        config.memory_size,
        nic=config.nic,
        mac=config.mac,
        accelerator=config.accelerator,
        cpus=config.cpus,
        serial=serial,
        more=tuple(more),
        parkable=True,
        arena_size=config.arena_size,
        low_memory=config.low_memory,
        environment=() if folder is None else (f"TMPDIR={folder}",),
    )
