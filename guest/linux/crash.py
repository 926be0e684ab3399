"""Ways to crash a Linux guest, from outside and from inside.

    nmi        QMP inject-nmi; the guest was told to panic on an NMI that nobody knows
    sysrq      echo c > /proc/sysrq-trigger, typed at its shell
    break      a BREAK on the serial line, then "c" (Documentation/admin-guide/sysrq.rst)
    keyboard   Alt-SysRq-C on the PC's keyboard
    oom        a process takes all memory, and the guest was told to panic then

None of them returns anything: that the guest has died is found out by whoever watches it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from guest.qemu import triggers
from guest.qemu.guest import QemuGuest


def _sysrq(victim: QemuGuest) -> None:
    victim.console.type("echo c > /proc/sysrq-trigger\n")


def _break(victim: QemuGuest) -> None:
    triggers.serial_break(victim, "c")


def _keyboard(victim: QemuGuest) -> None:
    triggers.press(victim, ("alt", "sysrq", "c"))


def _oom(victim: QemuGuest) -> None:
    victim.console.type("sysctl -q -w vm.panic_on_oom=2; tail /dev/zero\n")


TRIGGERS: Final[dict[str, Callable[[QemuGuest], None]]] = {
    "nmi": triggers.nmi,
    "sysrq": _sysrq,
    "break": _break,
    "keyboard": _keyboard,
    "oom": _oom,
}
