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
from typing import Final, Protocol

from guest.linux.console import Console
from guest.qemu.monitor import Monitor

#: The QEMU character device that is the guest's serial line.
SERIAL: Final = "serial0"
_BREAK_SETTLES_S: Final = 0.2


class Victim(Protocol):
    """What a trigger needs."""

    @property
    def console(self) -> Console: ...

    @property
    def monitor(self) -> Monitor: ...

    def rest(self, seconds: float) -> None:
        """Let it run for a while."""
        ...


def _nmi(victim: Victim) -> None:
    victim.monitor.execute("inject-nmi")


def _sysrq(victim: Victim) -> None:
    victim.console.type("echo c > /proc/sysrq-trigger\n")


def _break(victim: Victim) -> None:
    victim.monitor.execute("chardev-send-break", id=SERIAL)
    victim.rest(_BREAK_SETTLES_S)
    victim.console.type("c")


def _keyboard(victim: Victim) -> None:
    keys = [{"type": "qcode", "data": key} for key in ("alt", "sysrq", "c")]
    victim.monitor.execute("send-key", keys=keys)


def _oom(victim: Victim) -> None:
    victim.console.type("sysctl -q -w vm.panic_on_oom=2; tail /dev/zero\n")


TRIGGERS: Final[dict[str, Callable[[Victim], None]]] = {
    "nmi": _nmi,
    "sysrq": _sysrq,
    "break": _break,
    "keyboard": _keyboard,
    "oom": _oom,
}
