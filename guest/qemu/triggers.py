"""Ways to crash a system from outside, which QEMU has for any of them.

None of them returns anything: that the guest has died is found out by whoever watches it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from guest.qemu.guest import QemuGuest

#: The QEMU character device that is the guest's serial line.
SERIAL: Final = "serial0"
#: What the receiver of a BREAK needs before it takes a letter, seconds.
_BREAK_SETTLES_S: Final = 0.2


def nmi(guest: QemuGuest) -> None:
    """An interrupt that can't be masked, to all CPUs."""
    guest.monitor.execute("inject-nmi")


def press(guest: QemuGuest, chord: Sequence[str]) -> None:
    """Keys of the PC's keyboard, held down together; QEMU's names of them."""
    keys = [{"type": "qcode", "data": key} for key in chord]
    guest.monitor.execute("send-key", keys=keys)


def serial_break(guest: QemuGuest, then: str = "") -> None:
    """A BREAK on the serial line, and letters after it."""
    guest.monitor.execute("chardev-send-break", id=SERIAL)
    if then:
        guest.rest(_BREAK_SETTLES_S)
        guest.console.type(then)
