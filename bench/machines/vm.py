"""Kind ``vm``: a machine of the user's own under QEMU, whatever system it runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import AfterValidator, Field, StrictBool, StrictInt, StrictStr

from bench.errors import BadInput
from bench.kinds import MachineKind
from bench.machines.linux import whole_mib
from bench.parts import is_library
from bench.scenario import written
from bench.table import Table, UsersPath
from bench.wire.contracts import Capability

if TYPE_CHECKING:
    from bench.scenario.schema import ResolvedCase
    from bench.story.stage import Stage
    from bench.story.told import Story, Tell
    from guest.vm.machine import Crash, VmConfig


def _pattern(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"{value!r} is no regular expression: {error}") from None
    return value


def _chord(value: str) -> str:
    if not all(value.split("-")):
        raise ValueError(f"{value!r} is no chord: write QEMU's names of keys, as 'alt-sysrq-c'")
    return value


#: Empty: none. So a case can take back what its scenario says.
Pattern = Annotated[StrictStr, Field(min_length=0, max_length=400), AfterValidator(_pattern)]
Line = Annotated[StrictStr, Field(min_length=0, max_length=1000)]
Chord = Annotated[StrictStr, Field(min_length=1, max_length=200), AfterValidator(_chord)]


class Say(Table):
    """A line that is typed at the console, and Return, when it has shown something."""

    after: Annotated[StrictStr, Field(min_length=1, max_length=400), AfterValidator(_pattern)]
    """When the console has shown this."""
    line: Line
    """This is typed."""


class VmOptions(Table):
    """What only this kind has. Patterns are regular expressions, searched in what the serial
    console shows, line by line (``^`` and ``$`` are a line's).
    """

    image: UsersPath | None = None
    """A disk image that QEMU can open; it is never written to."""
    bus: Literal["ide", "virtio"] = "ide"
    """How the machine sees that disk."""
    kernel: UsersPath | None = None
    """A kernel that QEMU can load, instead of a disk's."""
    initrd: UsersPath | None = None
    """Loaded with the kernel."""
    cmdline: StrictStr = ""
    """The kernel's command line."""
    firmware: UsersPath | None = None
    """Instead of QEMU's own, SeaBIOS."""
    cpu: StrictStr = ""
    """QEMU's name of a model, as "max"; default: QEMU's own choice."""

    say: tuple[Say, ...] = ()
    """What is said to it before it is struck, in this order."""
    strike_after: Pattern = ""
    """Strike when the console has shown this."""
    strike_live: StrictBool = False
    """Strike when the NIC's receive ring is live."""
    strike_at_s: Annotated[StrictInt, Field(ge=0, le=3600)] = 0
    """Strike when it has run for so long, seconds."""
    patience_s: Annotated[StrictInt, Field(ge=1, le=3600)] = 240
    """How long that moment is waited for."""

    crash: Literal["nmi", "keys", "break", "console", "stop"] = "nmi"
    """How it is made to die; "stop": it is only stopped."""
    keys: Annotated[tuple[Chord, ...], written.OneOrMore()] = ()
    """Chords for crash = "keys", pressed one after the other: "alt-sysrq-c"."""
    line: Line = ""
    """What crash = "console" types, with Return; and crash = "break" after the BREAK, without."""
    notice: Literal["pvpanic", "console", "crash"] = "crash"
    """How it is seen to have died."""
    dies_saying: Pattern = ""
    """For notice = "console"."""

    def chords(self) -> tuple[tuple[str, ...], ...]:
        return tuple(tuple(chord.split("-")) for chord in self.keys)

    def death(self) -> Crash:
        from guest.vm.machine import Crash

        return Crash(
            by=self.crash,
            keys=self.chords(),
            line=self.line,
            notice=self.notice,
            pattern=compiled(self.dies_saying),
        )


def compiled(pattern: str) -> re.Pattern[str] | None:
    """A pattern of the scenario's; None where there is none."""
    return re.compile(pattern, re.MULTILINE) if pattern else None


def _of(case: ResolvedCase) -> VmOptions:
    options: VmOptions = case.machine_part.options
    return options


def config_of(case: ResolvedCase, accelerator: str) -> VmConfig:
    """The machine of a case."""
    from bench.story.stage import CLIENT_MAC
    from guest.vm.machine import VmConfig

    own, machine = _of(case), case.machine
    assert case.family.on_qemu is not None, "the tier was tried"

    def path(value: str | None) -> Path | None:
        return None if value is None else Path(value).absolute()

    return VmConfig(
        memory_size=machine.memory,
        arena_size=machine.arena,
        mac=CLIENT_MAC,
        accelerator=accelerator,
        cpus=machine.cpus,
        cpu=own.cpu,
        nic=case.family.on_qemu.device,
        image=path(own.image),
        bus=own.bus,
        kernel=path(own.kernel),
        initrd=path(own.initrd),
        cmdline=own.cmdline,
        firmware=path(own.firmware),
        pvpanic=own.notice == "pvpanic",
    )


def _story(case: ResolvedCase, stage: Stage, seed: int, tell: Tell) -> Story:
    from bench.story.vm import VmStory  # needs QEMU's libraries: only who plays it pays

    return VmStory(case, stage, seed, tell)


def _prepare(case: ResolvedCase) -> Capability:
    """See that it can be started at all."""
    from bench.servers.child import start_child
    from guest.vm.examine import BadMachine, ImageInUse, examine

    keys = (key for chord in _of(case).chords() for key in chord)
    try:
        examine(config_of(case, "tcg"), keys, start_child)
    except BadMachine as error:
        raise BadInput(str(error)) from None
    except ImageInUse as error:
        return Capability(False, str(error), "end the machine that uses it, or give a copy")
    return Capability(True, "can be started")


def _probe() -> Capability:
    from bench.qemu_nic import can_qemu

    return can_qemu()


VM: Final = MachineKind(
    name="vm",
    says="a machine of your own under QEMU: a disk image, a kernel, or the firmware alone",
    options=VmOptions,
    probe=_probe,
    rules=(
        (
            ("machine", "memory"),
            lambda c: not whole_mib(c.machine.memory, 16, 65536),
            "QEMU's machine has whole MiB of memory, 16 MiB at least",
        ),
        (
            ("machine", "arena"),
            lambda c: not whole_mib(c.machine.arena, 1, 256),
            "beside QEMU's machine the arena is whole MiB, at most 256",
        ),
        (
            ("nic", "driver"),
            lambda c: c.nic.driver is not None and is_library(c.nic.driver),
            "a library maps a machine's memory as one file, and this machine's lies in several",
        ),
        (
            ("machine", "cpus"),
            lambda c: c.machine.cpus > 64,
            "QEMU's machine has 64 CPUs at most",
        ),
        (
            ("nic", "mode"),
            lambda c: c.nic.mode == "locked",
            "in a system of your own our driver's locks are never held: it can only be polled",
        ),
        (
            ("nic", "promiscuous"),
            lambda c: c.nic.promiscuous,
            "only the system on the machine can set that: leave it false",
        ),
        (
            ("machine", "initrd"),
            lambda c: _of(c).initrd is not None and _of(c).kernel is None,
            "an initrd is loaded with a kernel: name that too",
        ),
        (
            ("machine", "cmdline"),
            lambda c: bool(_of(c).cmdline) and _of(c).kernel is None,
            "a command line is given to a kernel: name that too",
        ),
        (
            ("machine", "strike_live"),
            lambda c: (
                _of(c).strike_live
                and c.family.on_qemu is not None
                and c.family.on_qemu.receives is None
            ),
            "of this nic.model it can't be seen whether it can receive: strike after or at",
        ),
        (
            ("machine", "kind"),
            lambda c: not (_of(c).strike_after or _of(c).strike_live or _of(c).strike_at_s),
            "it has to be said when a machine of your own is struck: give strike_after,"
            " strike_live or strike_at_s",
        ),
        (
            ("machine", "strike_at_s"),
            lambda c: _of(c).strike_at_s > _of(c).patience_s,
            "that is later than patience_s",
        ),
        (
            ("machine", "keys"),
            lambda c: bool(_of(c).keys) != (_of(c).crash == "keys"),
            "keys and crash = 'keys' come together",
        ),
        (
            ("machine", "line"),
            lambda c: bool(_of(c).line) and _of(c).crash not in ("console", "break"),
            "a line is typed by crash = 'console', or after a BREAK by crash = 'break'",
        ),
        (
            ("machine", "line"),
            lambda c: not _of(c).line and _of(c).crash == "console",
            "crash = 'console' needs the line that is to be typed",
        ),
        (
            ("machine", "dies_saying"),
            lambda c: bool(_of(c).dies_saying) != (_of(c).notice == "console"),
            "dies_saying and notice = 'console' come together",
        ),
        (
            ("machine", "notice"),
            lambda c: _of(c).crash == "stop" and _of(c).notice != "crash",
            "a machine that is only stopped does not tell: leave notice at 'crash'",
        ),
    ),
    story=_story,
    emulated=True,
    prepare=_prepare,
)
