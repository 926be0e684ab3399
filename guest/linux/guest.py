"""A real Linux guest under QEMU: it boots, lives, is crashed, and lies still to be looked at.

The panic path of this bench is code of ours, but the machine on which it "runs" is this guest's
own: its memory, its NIC, its panicked CPU. So three things happen between the panic and the dump,
in this order:

1. *Everything stands still.* With pvpanic QEMU stops the machine the moment the kernel says that
   it panics (``-action panic=pause``): no CPU runs, no DMA. Without it the console tells, a little
   later, and QMP stops the machine.
2. *The truth is taken*: QMP's own dump of memory and registers, compared with the memory that QEMU
   shares with us.
3. *The CPU is parked.* A panicked CPU spins, and goes on writing to its stack. Ours has other work:
   the panic path, which we do for it. So ``cli; hlt`` is written where it stands, the machine runs
   on, the CPU halts there for ever, and the bytes are put back: they are memory that is dumped.

From then on the NIC is as the panic left it: interrupts enabled, rings live, and frames may still
be written to buffers that are about to be dumped.

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

from guest.kernel.corpse import changes
from guest.linux.console import Console, ConsoleSilent
from guest.linux.crash import TRIGGERS
from guest.linux.image import GuestImage
from guest.qemu.coredump import CoreDump
from guest.qemu.errors import QemuError
from guest.qemu.monitor import Monitor
from guest.qemu.vm import Spawn, Vm, VmOptions

#: A guest hangs when it takes longer, seconds: bounds that no busy machine reaches. One that
#: panics, or whose QEMU dies, is noticed at once.
BOOT_TIMEOUT_S: Final = 240.0
CRASH_TIMEOUT_S: Final = 180.0
SHELL_TIMEOUT_S: Final = 120.0
SPEAK_TIMEOUT_S: Final = 120.0
PARK_TIMEOUT_S: Final = 120.0
_TURN_S: Final = 0.002
#: RAM of a PC that a dump is made of: what lies between is the firmware's.
LOW_END, HIGH_START = 0xA0000, 0x100000

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

#: cli; hlt; jmp back to the hlt.
#: The flag that lets interrupts in.
_IF: Final = 1 << 9
_PARKED: Final = bytes.fromhex("faf4ebfd")


class GuestFailed(QemuError):
    """The guest did not do what it was made for."""


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


@dataclass(frozen=True, slots=True)
class Panic:
    """What is known of a panic."""

    noticed_by: str
    message: str
    """The kernel's; empty if it left none."""
    seconds: float
    """From the trigger to the notice."""


class LinuxGuest:
    """One guest. ``boot``, ``crash``, ``freeze``, in that order; ``close`` whatever happens."""

    def __init__(self, config: LinuxConfig, folder: Path, spawn: Spawn) -> None:
        """Start QEMU; the guest begins to boot.

        Raises:
            QemuLaunchFailure: QEMU does not come up.
        """
        self.config = config
        self.vm = Vm(_options(config), folder, spawn)
        assert self.vm.serial is not None, "it has a serial line"
        self.console = Console(self.vm.serial)

    @property
    def monitor(self) -> Monitor:
        return self.vm.monitor

    def close(self) -> None:
        self.console.drain()
        self.vm.close()

    def __enter__(self) -> LinuxGuest:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- life ----------------------------------------------------------------------------------

    def boot(self, idle: Callable[[], None]) -> str:
        """Wait until its network is up; its ready line. ``idle`` is called meanwhile.

        Raises:
            GuestFailed: it says what failed, or panics, or says nothing in ``BOOT_TIMEOUT_S``.
        """
        try:
            found = self.console.wait_for(
                _BOOT_ENDS, BOOT_TIMEOUT_S, self._watched(idle), what="that it is ready"
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
        self.console.wait_for(_PROMPT, SHELL_TIMEOUT_S, self._watched(idle), found.end())
        return str(said)

    def shell(self, command: str, idle: Callable[[], None]) -> str:
        """What a command prints on its console.

        Raises:
            ConsoleSilent: it did not come back to its prompt.
        """
        start = len(self.console.text)
        self.console.type(command + "\n")
        end = self.console.wait_for(_PROMPT, SHELL_TIMEOUT_S, self._watched(idle), start)
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

    def rest(self, seconds: float, idle: Callable[[], None] = lambda: None) -> None:
        """Let it run."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.console.drain()
            idle()
            time.sleep(_TURN_S)

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
        self.monitor.pending("GUEST_PANICKED")
        before = len(self.console.text)
        began = time.monotonic()
        TRIGGERS[trigger](self)
        try:
            if self.config.pvpanic:
                self._await_event(idle)
                noticed_by = "GUEST_PANICKED"
            else:
                self.console.wait_for(_PANIC_END, CRASH_TIMEOUT_S, self._watched(idle), before)
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

    def _await_event(self, idle: Callable[[], None]) -> None:
        look = self._watched(idle)

        def busy() -> None:
            self.console.drain()
            look()

        if self.monitor.wait_for(("GUEST_PANICKED",), CRASH_TIMEOUT_S, busy) is None:
            raise ConsoleSilent("GUEST_PANICKED", CRASH_TIMEOUT_S, self.console.text)

    def segments(self) -> list[tuple[int, int]]:
        """(start, length) of the RAM that the kernel was given, without the firmware's part."""
        return [(0, LOW_END), (HIGH_START, self.config.memory_size - HIGH_START)]

    def freeze(self) -> CoreDump:
        """The truth, at this instant: memory and registers. The machine stands still.

        Raises:
            GuestFailed: it has run on since the panic, or QMP's memory is not what we share.
        """
        stands = "guest-panicked" if self.config.pvpanic else "paused"
        status = self.monitor.execute("query-status")["status"]
        if status != stands:
            raise GuestFailed(
                f"the machine is {status!r}, not {stands!r}: its memory is not that of the panic"
            )
        core = self.vm.dump_memory()
        for start, length in self.segments():
            if changes(core.read(start, length), self.vm.ram[start : start + length]):
                raise GuestFailed(
                    f"what QMP says is in memory from {start:#x} on is not what QEMU shares with us"
                )
        return core

    def park(self) -> list[int]:
        """Let the machine run on with its CPUs halted where they stand; where that is.

        Memory is as it was before when this returns. Physical addresses; none for a CPU that had
        halted by itself.

        Raises:
            GuestFailed: a CPU does not halt, or has halted and may wake.
        """
        places: list[int] = []
        saved: list[tuple[int, int]] = []
        for number, state in enumerate(self._cpu_states()):
            if state["HLT"] == "1":
                if int(state["RFL"], 16) & _IF:
                    raise GuestFailed(
                        f"CPU {number} sleeps with interrupts enabled: it would wake, and write"
                    )
                continue
            self.monitor.human(f"cpu {number}")
            for offset, byte in enumerate(_PARKED):
                at = self._physical(int(state["RIP"], 16) + offset)
                if offset == 0:
                    places.append(at)
                saved.append((at, int(self.vm.ram[at])))
                # Through QEMU, not through the mapping: its translated code has to notice.
                self.vm.qtest.write(at, bytes([byte]))
        self.vm.qtest.flush()
        self.monitor.execute("cont")
        deadline = time.monotonic() + PARK_TIMEOUT_S
        while not all(state["HLT"] == "1" for state in self._cpu_states()):
            if time.monotonic() > deadline:
                raise GuestFailed(f"a CPU of the guest did not halt in {PARK_TIMEOUT_S:g} s")
            time.sleep(_TURN_S)
        for at, byte in reversed(saved):
            self.vm.ram[at] = byte
        return places

    def _cpu_states(self) -> list[dict[str, str]]:
        """RIP, RFL and HLT of each CPU."""
        text = self.monitor.human("info registers -a")
        states = [dict(re.findall(r"\b(RIP|RFL|HLT)=([0-9a-f]+)", part)) for part in _by_cpu(text)]
        if not states or not all({"RIP", "RFL", "HLT"} <= state.keys() for state in states):
            raise GuestFailed(f"'info registers' is not understood: {text[:200]!r}")
        return states

    def _physical(self, virtual: int) -> int:
        said = self.monitor.human(f"gva2gpa {virtual:#x}")
        found = re.search(r"gpa: (?:0x)?([0-9a-f]+)", said)
        if not found:
            raise GuestFailed(f"the CPU stands at {virtual:#x}, which has no place in RAM: {said}")
        return int(found[1], 16)

    def _watched(self, idle: Callable[[], None]) -> Callable[[], None]:
        """``idle``, and a look whether QEMU is still there."""

        def look() -> None:
            self.vm.check()
            idle()

        return look


def _by_cpu(text: str) -> list[str]:
    return text.split("CPU#")[1:]


def _options(config: LinuxConfig) -> VmOptions:
    words = {
        "console": "ttyS0",
        "mem": f"{config.memory_size >> 20}M",
        "net.ifnames": "0",
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
    )
