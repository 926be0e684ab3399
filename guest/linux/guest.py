"""A real Linux guest under QEMU: it boots, lives, is crashed, and lies still to be looked at.

What all guests have in common between death and dump is told in ``guest/qemu/guest.py``. With
pvpanic QEMU stops the machine the moment the kernel says that it panics (``-action panic=pause``).
Without it the console tells, a little later, and QMP stops the machine.

The top of RAM is the panic arena: the kernel is told of less memory than there is (``mem=``), as a
kernel would set it aside at boot.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from guest.kernel.guard import PanicGuard
from guest.kernel.memory import PhysicalMemory
from guest.linux.crash import TRIGGERS
from guest.linux.image import GuestImage
from guest.qemu import guest as qemu_guest
from guest.qemu.console import ConsoleSilent
from guest.qemu.guest import HIGH_START, LOW_END, PANICKED, GuestFailed, Panic, QemuGuest
from guest.qemu.vm import Spawn, VmOptions

#: A guest hangs when it takes longer, seconds: bounds that no busy machine reaches. One that
#: panics, or whose QEMU dies, is noticed at once.
BOOT_TIMEOUT_S: Final = 240.0
SHELL_TIMEOUT_S: Final = 120.0
SPEAK_TIMEOUT_S: Final = 120.0

_READY: Final = re.compile(r"netdump-bench guest: (ready .*|FAILED: .*)\n")
_PANIC: Final = re.compile(r"Kernel panic - not syncing: (.*)\n")
_BOOT_ENDS: Final = re.compile(f"{_READY.pattern}|{_PANIC.pattern}")
_TAIL: Final = 600
#: The log holds the text, the kernel's own constants the format.
_PANIC_IN_MEMORY: Final = re.compile(rb"Kernel panic - not syncing: (?!%)([\x20-\x7e]+)")
#: From the beginning of its last line to the end.
_LAST_WORDS_S: Final = 0.2
_LOG_ALIGNMENT: Final = 8
_PANIC_END: Final = re.compile(r"end Kernel panic")
_BANNER: Final = re.compile(r"Linux version .*")
_PROMPT: Final = re.compile(r"netdump-bench# ")
#: What the kernel prints may come in between.
_RECORD: Final = re.compile(r"^\[ *\d+\.\d+\] .*\n", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class LinuxConfig:
    """What the guest is made of. Sizes in bytes, whole MiB."""

    image: GuestImage
    memory_size: int
    """What the kernel is told to have."""
    arena_size: int
    """On top of that: the panic arena."""
    mac: bytes
    address: str
    """Its IPv4 address and prefix length, as 198.18.0.2/24."""
    accelerator: str = "tcg"
    cpus: int = 1
    nic: str = "e1000"
    pvpanic: bool = True
    """It tells QEMU that it panics, and QEMU stops it there."""
    promiscuous: bool = False
    hostname: str = "guest"
    load: str = ""
    """The peer of its network load; none if empty."""
    netconsole: str = ""
    """The argument of the module netconsole; not loaded if empty."""
    netdev_fd: int | None = None


class LinuxGuest(QemuGuest):
    """One guest. ``boot``, ``crash``, ``freeze``, in that order; ``close`` whatever happens."""

    def __init__(self, config: LinuxConfig, folder: Path, spawn: Spawn) -> None:
        """Start QEMU; the guest begins to boot.

        Raises:
            QemuLaunchFailure: QEMU does not come up.
        """
        super().__init__(_options(config), folder, spawn, pvpanic=config.pvpanic)
        self.config = config

    # -- life ----------------------------------------------------------------------------------

    def boot(self, idle: Callable[[], None]) -> str:
        """Wait until its network is up; its ready line. ``idle`` is called meanwhile.

        Raises:
            GuestFailed: it says what failed, or panics, or says nothing in ``BOOT_TIMEOUT_S``.
        """
        try:
            found = self.console.wait_for(
                _BOOT_ENDS, BOOT_TIMEOUT_S, self.watched(idle), what="that it is ready"
            )
        except ConsoleSilent as silent:
            hint = "" if self.config.accelerator == "tcg" else " (NETDUMP_BENCH_ACCEL=tcg may help)"
            raise GuestFailed(f"with -accel {self.config.accelerator}{hint} {silent}") from None
        said, panic = found.groups()
        if panic is not None:
            self.rest(_LAST_WORDS_S, idle)
            tail = self.console.text[-_TAIL:]
            raise GuestFailed(
                f"the guest's console ends with:\n{tail}\nand it panicked while it booted: {panic}"
            )
        if not said.startswith("ready"):
            raise GuestFailed(f"the guest says: {said}")
        self.console.wait_for(_PROMPT, SHELL_TIMEOUT_S, self.watched(idle), found.end())
        return str(said)

    def shell(self, command: str, idle: Callable[[], None]) -> str:
        """What a command prints on its console.

        Raises:
            ConsoleSilent: it did not come back to its prompt.
        """
        start = len(self.console.text)
        self.console.type(command + "\n")
        end = self.console.wait_for(_PROMPT, SHELL_TIMEOUT_S, self.watched(idle), start)
        return _RECORD.sub("", self.console.text[start : end.start()])

    def speak(self, peer: str, idle: Callable[[], None]) -> None:
        """Talk with a peer until it has answered: only then its NIC has sent, and has heard.

        Raises:
            GuestFailed: there is no answer in ``SPEAK_TIMEOUT_S``. QEMU's e1000 is deaf for its
                first second.
        """
        deadline = time.monotonic() + SPEAK_TIMEOUT_S
        while " 0% packet loss" not in self.shell(f"ping -c 2 -W 1 {peer}", idle):
            if time.monotonic() > deadline:
                raise GuestFailed(f"the guest can't reach {peer} in {SPEAK_TIMEOUT_S:g} s")

    @property
    def banner(self) -> str:
        """ "Linux version ...", as it was printed at boot."""
        found = _BANNER.search(self.console.text)
        return found[0] if found else ""

    # -- death ---------------------------------------------------------------------------------

    def crash(self, trigger: str, idle: Callable[[], None]) -> Panic:
        """Crash it, and wait until it is known to have panicked; it stands still then.

        Raises:
            GuestFailed: it lives on.
        """
        self.monitor.pending(PANICKED)
        before = len(self.console.text)
        began = time.monotonic()
        TRIGGERS[trigger](self)
        try:
            if self.config.pvpanic:
                self.await_panicked(idle)
                noticed_by = PANICKED
            else:
                self.console.wait_for(
                    _PANIC_END, qemu_guest.CRASH_TIMEOUT_S, self.watched(idle), before
                )
                self.rest(_LAST_WORDS_S, idle)
                noticed_by = "its console"
                self.monitor.execute("stop")
        except ConsoleSilent as silent:
            raise GuestFailed(f"{silent}: the guest survived {trigger}") from None
        seconds = time.monotonic() - began
        self.console.drain()
        message = _PANIC.search(self.console.text, before)
        said = message[1].strip() if message else self._message_in_memory()
        return Panic(noticed_by, said, seconds)

    def _message_in_memory(self) -> str:
        """The panic message as it lies in memory: in an NMI nothing is printed.

        The log does not end its texts, and up to seven letters of an older one may follow; panic()
        keeps the same message as a C string.
        """
        memory = self.vm.ram[: self.config.memory_size].data
        found = _PANIC_IN_MEMORY.search(memory)
        if not found:
            return ""
        text = found[1]
        for end in range(len(text), max(len(text) - _LOG_ALIGNMENT, 0), -1):
            if re.search(b"\0" + re.escape(text[:end]) + b"\0", memory):
                return text[:end].decode("ascii")
        return text.decode("ascii")

    def segments(self) -> list[tuple[int, int]]:
        """(start, length) of the RAM that the kernel was given, without the firmware's part."""
        return [(0, LOW_END), (HIGH_START, self.config.memory_size - HIGH_START)]

    def memory(self, guard: PanicGuard) -> PhysicalMemory:
        config = self.config
        return PhysicalMemory(
            config.memory_size,
            config.arena_size,
            guard,
            buffer=self.vm.ram,
            buffer_fd=self.vm.ram_fd,
        )


def _options(config: LinuxConfig) -> VmOptions:
    words = {
        "console": "ttyS0",
        "mem": f"{config.memory_size >> 20}M",
        "net.ifnames": "0",
        # Else the kernel panics at boot when a busy host keeps the emulated timer from ticking.
        "no_timer_check": "",
        "nb.ip": config.address,
        "nb.hostname": config.hostname,
    }
    # A bzImage that unpacks itself would choose its place by chance.
    words |= {"nokaslr": ""} if config.image.packed else {}
    words |= {"nb.promisc": "1"} if config.promiscuous else {}
    words |= {"nb.load": config.load} if config.load else {}
    words |= {"nb.netconsole": config.netconsole} if config.netconsole else {}
    more = [
        *("-kernel", str(config.image.kernel), "-initrd", str(config.image.initramfs)),
        *("-append", " ".join(f"{key}={value}" if value else key for key, value in words.items())),
        # The guest leaves its VMCOREINFO there, and QMP's dump carries it.
        *("-device", "vmcoreinfo"),
        *("-action", "panic=pause" if config.pvpanic else "panic=none"),
    ]
    more += ["-device", "pvpanic"] if config.pvpanic else []
    return VmOptions(
        config.memory_size + config.arena_size,
        nic=config.nic,
        mac=config.mac,
        accelerator=config.accelerator,
        cpus=config.cpus,
        serial=True,
        more=tuple(more),
        netdev_fd=config.netdev_fd,
        parkable=True,
    )
