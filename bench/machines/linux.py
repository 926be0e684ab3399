"""Kind ``linux``: a real Linux kernel under QEMU, crashed, and dumped through its own NIC."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final, Literal

from pydantic import StrictBool

from bench.errors import BadInput
from bench.kinds import MachineKind
from bench.table import Table
from bench.wire.contracts import Capability

if TYPE_CHECKING:
    from bench.scenario.schema import ResolvedCase
    from bench.story.stage import Stage
    from bench.story.told import Story, Tell


class LinuxOptions(Table):
    """What only this kind has."""

    crash: Literal["nmi", "sysrq", "break", "keyboard", "oom"] = "nmi"
    """How it is made to panic."""
    notice: Literal["pvpanic", "console"] = "pvpanic"
    """How the bench learns of it."""
    netconsole: StrictBool = False
    """It also sends its log over the network, with its own polled path."""


def _of(case: ResolvedCase) -> LinuxOptions:
    options: LinuxOptions = case.machine_part.options
    return options


def whole_mib(size: int, least: int, most: int) -> bool:
    """Whether it is a number of MiB within these bounds."""
    return size % (1 << 20) == 0 and least <= size >> 20 <= most


def _story(case: ResolvedCase, stage: Stage, seed: int, tell: Tell) -> Story:
    from bench.story.linux import LinuxStory  # needs QEMU's libraries: only who plays it pays

    return LinuxStory(case, stage, seed, tell)


def _prepare(case: ResolvedCase) -> Capability:
    """Have its image. Called before there is a network namespace, where nothing can be fetched."""
    from bench.guests import guest_nics
    from guest.linux.image import GuestImageUnavailable, guest_image
    from guest.linux.ownkernel import BadChoice

    def say(line: str) -> None:
        print(f"netdump-bench: {line}", file=sys.stderr)

    try:
        guest_image(progress=say, choice=case.kernel, nics=guest_nics(case.family))
    except BadChoice as error:
        raise BadInput(str(error)) from None
    except GuestImageUnavailable as error:
        return Capability(False, f"no Linux guest: {error.why}", error.cure)
    return Capability(True, "has its image")


def _probe() -> Capability:
    from bench.qemu_nic import can_qemu

    return can_qemu()


LINUX: Final = MachineKind(
    name="linux",
    says="a real Linux guest under QEMU, made to crash through QMP",
    options=LinuxOptions,
    probe=_probe,
    rules=(
        (
            ("machine", "memory"),
            lambda c: not whole_mib(c.machine.memory, 96, 3072),
            "a Linux guest boots in whole MiB of memory, from 96 MiB to 3 GiB",
        ),
        (
            ("machine", "arena"),
            lambda c: not whole_mib(c.machine.arena, 1, 256),
            "on top of a Linux guest's memory the arena is whole MiB, at most 256",
        ),
        (
            ("machine", "cpus"),
            lambda c: c.machine.cpus > 64,
            "a Linux guest has 64 CPUs at most",
        ),
        (
            ("nic", "mode"),
            lambda c: c.nic.mode == "locked",
            "in a Linux guest our driver's locks are never held: it can only be polled",
        ),
        (
            ("machine", "netconsole"),
            lambda c: _of(c).netconsole and _of(c).notice != "console",
            "only a guest that prints to its end has it whole: set notice to 'console'",
        ),
        (
            ("network", "gateway"),
            lambda c: c.network.gateway and c.machine.load == "heavy",
            "a Linux guest has no route to a peer behind a gateway: its load can't be heavy",
        ),
    ),
    story=_story,
    emulated=True,
    prepare=_prepare,
    takes_kernel=True,
    last_words=lambda options: options.netconsole,
)
