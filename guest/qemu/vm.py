"""A QEMU process that leaves nothing behind, and all its evidence.

Everything between it and us is an inherited file descriptor: its RAM (a memfd that both sides map),
qtest, the monitor, the NIC's wire. (But for the serial line: two pipes, whose names are gone when
QEMU has opened them.) So there is no socket file, no file in /dev/shm and no port; when the process
ends, however it ends, they are gone with it. And it does not outlive us, because whoever starts it
(``Spawn``) sees to that.

What is kept, in the run's folder:

    qemu.command    the command line, to be read
    qemu.log        what QEMU printed
    console.log     what the guest printed on its serial line, if it has one

Three machines are made of it: ``halted``, on which no instruction but HLT ever runs, ``linux``
(``guest/linux``), and one of the user's own (``guest/vm``). Their options differ; this module knows
only what they share.

RAM lies at physical address 0, and as far as it does not fit below ``low_memory``, at 4 GiB:
between the two a PC has its devices.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import socket
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from guest.kernel.mapping import AddressSpace, Mapping
from guest.qemu import coredump
from guest.qemu.coredump import CoreDump
from guest.qemu.errors import QemuGone, QemuLaunchFailure, QemuMissing
from guest.qemu.monitor import Monitor
from guest.qemu.qtest import Qtest
from guest.qemu.serial import SerialLine

PROGRAM: Final = "qemu-system-x86_64"
COMMAND, LOG, CONSOLE = "qemu.command", "qemu.log", "console.log"
_SERIAL: Final = "serial"
#: Names that QEMU has for the gdb server's socket, and for the memory of an arena beside RAM.
GDB, ARENA = "gdb", "arena"
#: Where the rest of RAM begins.
HIGH: Final = 1 << 32
#: So much of it is below that, at most.
LOW_MEMORY: Final = 3 << 30
#: QEMU's name for the file that a dump of the machine goes to.
_CORE: Final = "core"
#: How long a process that was killed may take to end, seconds.
_END_TIMEOUT_S: Final = 120.0
#: The same of one that hung up by itself, or hangs; its exit status is part of the message.
_STATUS_TIMEOUT_S: Final = 10.0
#: qtest's answer to this shows that the machine stands: PCI's configuration address.
_HELLO_PORT: Final = 0xCF8

#: ``spawn(command, output, pass_fds)`` starts a child that ends with us; ``output`` takes what it
#: prints.
Spawn = Callable[[Sequence[str], int, Sequence[int]], "subprocess.Popen[bytes]"]

#: 64 KiB of firmware that only halts: cli; hlt; jmp back. The CPU starts at its last 16 bytes.
HALT: Final = b"\xff" * 0xFFF0 + bytes.fromhex("faf4ebfd") + b"\xff" * 12


@dataclass(frozen=True, slots=True)
class VmOptions:
    """What a machine is made of, besides its RAM and its connections."""

    memory_size: int
    """Bytes of RAM, whole MiB."""
    nic: str = "e1000"
    mac: bytes = b"\x02\x00\x00\x00\x00\x02"
    accelerator: str = "tcg"
    cpus: int = 1
    serial: bool = False
    firmware: bytes | None = None
    """Instead of QEMU's own."""
    more: tuple[str, ...] = ()
    netdev_fd: int | None = None
    """A TAP to plug the NIC into; default: ``Vm.netdev``."""
    parkable: bool = False
    """It has what ``parking`` needs."""
    arena_size: int = 0
    """RAM beside the machine's own, which ``beside`` plugs in; its size becomes a power of two."""
    low_memory: int = LOW_MEMORY
    """So much RAM is below 4 GiB at most."""
    environment: tuple[str, ...] = ()
    """NAME=VALUE of its own environment."""


def halted(memory_size: int, *, nic: str = "e1000", mac: bytes) -> VmOptions:
    """A machine without software: its CPU sleeps, its devices live.

    With ``-icount sleep=off`` virtual time jumps to the next timer whenever the CPU sleeps, so that
    a device's timer (QEMU's e1000 hears nothing for a second after each write of RCTL) takes no
    time of ours. The PIT and the HPET tick for ever, and would make that a busy loop: they are left
    out.
    """
    return VmOptions(
        memory_size,
        nic=nic,
        mac=mac,
        firmware=HALT,
        more=("-icount", "shift=0,sleep=off", "-machine", "pit=off,hpet=off"),
    )


@dataclass(slots=True)
class Vm:
    """A running QEMU; a context manager. For one thread."""

    options: VmOptions
    folder: Path | None
    """Where the evidence goes; None keeps what QEMU prints in memory, and nothing else."""
    spawn: Spawn
    qtest: Qtest = field(init=False)
    ram: NDArray[np.uint8] = field(init=False)
    """uint8, flat, writable; index = physical address. What devices see, QEMU's own included."""
    ram_fd: int = field(init=False, default=-1)
    """What ``ram`` is a mapping of, until ``close``."""
    netdev: socket.socket | None = field(init=False, default=None)
    """The NIC's wire: frames, each behind its length in 4 bytes, big-endian. None with a TAP."""
    serial: SerialLine | None = field(init=False, default=None)
    gdb: socket.socket | None = field(init=False, default=None)
    """Where QEMU's gdb server will listen, if the machine is parkable."""
    command: list[str] = field(init=False, default_factory=list)
    _log: int = field(init=False, default=-1)
    _said: str = field(init=False, default="")
    _child: subprocess.Popen[bytes] | None = field(init=False, default=None)
    _monitor: Monitor | None = field(init=False, default=None)
    _monitor_end: socket.socket = field(init=False)
    _memory: Mapping | None = field(init=False, default=None)
    _arena: int = field(init=False, default=-1)
    _ends: contextlib.ExitStack = field(init=False, default_factory=contextlib.ExitStack)

    def __post_init__(self) -> None:
        """Start it.

        Raises:
            QemuLaunchFailure: there is no QEMU, or it does not come up.
        """
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    # -- what it is used for -----------------------------------------------------------------

    @property
    def monitor(self) -> Monitor:
        """QMP; connected when first asked for."""
        if self._monitor is None:
            self._monitor = Monitor(self._monitor_end)
        return self._monitor

    @property
    def low_end(self) -> int:
        """Where RAM below 4 GiB ends."""
        return min(self.options.memory_size, self.options.low_memory)

    @property
    def high_size(self) -> int:
        """Bytes of RAM from 4 GiB on."""
        return self.options.memory_size - self.low_end

    @property
    def arena_size(self) -> int:
        """Of the arena beside RAM."""
        return 1 << (self.options.arena_size - 1).bit_length()

    def lay_arena(self, address: int) -> None:
        """``ram`` has it there, too."""
        assert isinstance(self._memory, AddressSpace), "it has an arena beside RAM"
        self._memory.lay(address, self.arena_size, self._arena)

    @property
    def pid(self) -> int:
        assert self._child is not None, "it was started"
        return self._child.pid

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def check(self) -> None:
        """Raises ``QemuGone``, with its last words, if it has ended."""
        if not self.running:
            status = None if self._child is None else self._child.poll()
            how = f"was ended by signal {-status}" if status and status < 0 else f"exited {status}"
            said = self.output()[-500:].strip()
            raise QemuGone(f"QEMU {how}" + (f"; it printed: {said}" if said else ""))

    def output(self) -> str:
        """What it printed so far."""
        if self._log < 0:
            return self._said
        size = os.fstat(self._log).st_size
        return os.pread(self._log, size, 0).decode("utf-8", "replace")

    def dump_memory(self) -> CoreDump:
        """What QEMU says that memory and CPU registers hold; the machine stands still meanwhile."""
        fd = os.memfd_create("core")
        try:
            self.dump_into(fd)
            return coredump.parse(fd)
        finally:
            os.close(fd)

    def dump_into(self, fd: int) -> None:
        """Let QEMU write such a dump to a file, which it lets go of afterwards."""
        self.monitor.pass_fd(_CORE, fd)
        self.monitor.execute("dump-guest-memory", paging=False, protocol=f"fd:{_CORE}")

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone. What it was connected with stays open on our side."""
        if self._child is not None:
            self._child.kill()
            self._child.wait(_END_TIMEOUT_S)

    def close(self) -> None:
        """End it, and let go of everything but its RAM: see ``release_ram``. Twice is harmless."""
        self.kill()
        if self._monitor is not None:
            self._monitor.close()
        self._said, self._log = self.output(), -1
        self._ends.close()

    def release_ram(self) -> None:
        """Give its RAM back, when it has ended and what it left has been looked at."""
        if self._memory is not None:
            self._memory.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # -- starting ------------------------------------------------------------------------------

    def _start(self) -> None:
        options = self.options
        self._log = self._make_log()
        self._ends.callback(os.close, self._log)
        program = shutil.which(PROGRAM)
        if program is None:
            raise QemuMissing(PROGRAM)
        theirs: list[int] = []

        def share(fd: int) -> int:
            theirs.append(fd)
            return fd

        def connect() -> tuple[socket.socket, int]:
            ours, other = socket.socketpair()
            self._ends.enter_context(ours)
            return ours, share(os.dup(other.fileno()))

        try:
            ram = share(self._make_ram(options.memory_size))
            qtest_end, qtest = connect()
            self._monitor_end, monitor = connect()
            spare = f",maxcpus={options.cpus + 1}" if options.parkable else ""
            shape = f",max-ram-below-4g={options.low_memory}" if self.high_size else ""
            command = [
                *(("/usr/bin/env", *options.environment) if options.environment else ()),
                program,
                *("-no-user-config", "-nodefaults", "-display", "none"),
                *("-accel", options.accelerator, "-smp", f"{options.cpus}{spare}"),
                *("-m", f"{options.memory_size >> 20}M"),
                "-object",
                f"memory-backend-file,id=ram0,size={options.memory_size},share=on,"
                f"mem-path=/proc/self/fd/{ram}",
                *("-machine", f"pc,memory-backend=ram0{shape}"),
                # The option wants a character device that bears the name of the option.
                *("-chardev", f"socket,id=qtest,fd={qtest}"),
                *("-qtest", "chardev:qtest", "-qtest-log", "none"),
                *("-chardev", f"socket,id=qmp,fd={monitor}", "-mon", "chardev=qmp,mode=control"),
            ]
            if options.parkable:
                self.gdb, gdb = connect()
                command += ["-chardev", f"socket,id={GDB},fd={gdb}"]
            if options.arena_size:
                self._arena = os.memfd_create("guest-arena")
                self._ends.callback(os.close, self._arena)
                os.ftruncate(self._arena, self.arena_size)
                beside = share(os.dup(self._arena))
                command += [
                    "-object",
                    f"memory-backend-file,id={ARENA},size={self.arena_size},share=on,"
                    f"mem-path=/proc/self/fd/{beside}",
                ]
            if options.firmware is not None:
                image = share(os.memfd_create("firmware"))
                os.write(image, options.firmware)
                command += ["-bios", f"/proc/self/fd/{image}"]
            if options.netdev_fd is None:
                self.netdev, wire = connect()
                command += ["-netdev", f"socket,id=net0,fd={wire}"]
            else:
                wire = share(os.dup(options.netdev_fd))
                command += ["-netdev", f"tap,id=net0,fd={wire}"]
            command += ["-device", f"{options.nic},netdev=net0,mac={options.mac.hex(':')}"]
            if options.serial:
                assert self.folder is not None, "a serial line's pipes need a folder"
                self.serial = SerialLine(self.folder / _SERIAL)
                self._ends.callback(self.serial.close)
                files = f"path={_quoted(self.folder / _SERIAL)}"
                files += f",logfile={_quoted(self.folder / CONSOLE)}"
                command += ["-chardev", f"pipe,id=serial0,{files}", "-serial", "chardev:serial0"]
            self.command = [*command, *options.more]
            if self.folder is not None:
                told = shlex.join(self.command) + "\n"
                (self.folder / COMMAND).write_text(told, encoding="utf-8")
            self._child = self.spawn(self.command, self._log, theirs)
        finally:
            for fd in theirs:
                os.close(fd)
        self.qtest = Qtest(qtest_end)
        try:
            self.qtest.inl(_HELLO_PORT)
        except QemuGone:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(_STATUS_TIMEOUT_S)
            raise QemuLaunchFailure(self.command, self._child.poll(), self.output()) from None
        if self.serial is not None:
            self.serial.hide()

    def _make_log(self) -> int:
        if self.folder is None:
            return os.memfd_create("qemu.log")
        return os.open(self.folder / LOG, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)

    def _make_ram(self, size: int) -> int:
        fd = os.memfd_create("guest-ram")
        os.ftruncate(fd, size)
        self.ram_fd = os.dup(fd)
        self._ends.callback(os.close, self.ram_fd)
        if self.high_size or self.options.arena_size:
            space = AddressSpace(HIGH + self.high_size)
            space.lay(0, self.low_end, fd)
            if self.high_size:
                space.lay(HIGH, self.high_size, fd, self.low_end)
            self._memory = space
        else:
            self._memory = Mapping(size, fd)
        self.ram = self._memory.array
        return fd


def _quoted(path: Path) -> str:
    """A path as part of an option: QEMU takes a doubled comma for one."""
    return str(path).replace(",", ",,")
