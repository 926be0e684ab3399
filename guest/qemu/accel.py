"""KVM where it is any good, TCG where it is not; found out by use.

That /dev/kvm is there proves little. A container may show a node that it may not open, and a KVM
that has no hardware below it runs a guest a thousand times too slowly. So the CPU has to have the
hardware (vmx or svm), and a machine that halts at its first instruction, started with KVM, has to
answer. Everything here works the same with TCG: a guest boots in three seconds.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from guest.qemu.errors import QemuError
from guest.qemu.vm import HALT, Spawn, Vm, VmOptions

KVM_DEVICE: Final = Path("/dev/kvm")
_PROBE_RAM: Final = 16 << 20
_CPUINFO: Final = Path("/proc/cpuinfo")
#: Forces one of the two.
FORCED_BY: Final = "NETDUMP_BENCH_ACCEL"


@dataclass(frozen=True, slots=True)
class Accelerator:
    """``name`` is what -accel takes; ``why`` says why it was chosen."""

    name: str
    why: str


@cache
def accelerator(spawn: Spawn) -> Accelerator:
    """The one to use on this machine; found out once. ``spawn`` starts the probe."""
    forced = os.environ.get(FORCED_BY)
    if forced:
        return Accelerator(forced, f"set by {FORCED_BY}")
    if not KVM_DEVICE.exists():
        return Accelerator("tcg", f"there is no {KVM_DEVICE}")
    if not os.access(KVM_DEVICE, os.R_OK | os.W_OK):
        return Accelerator("tcg", f"{KVM_DEVICE} may not be opened; be in its group")
    try:
        flags = set(_CPUINFO.read_text(encoding="ascii", errors="replace").split())
    except OSError:
        flags = set()
    if not flags & {"vmx", "svm"}:
        return Accelerator(
            "tcg", f"{KVM_DEVICE} is there, but the CPU shows neither vmx nor svm: it would crawl"
        )
    try:
        with Vm(VmOptions(_PROBE_RAM, accelerator="kvm", firmware=HALT), None, spawn):
            pass
    except QemuError as error:
        return Accelerator(
            "tcg", f"a machine with KVM did not start: {str(error).splitlines()[-1]}"
        )
    return Accelerator("kvm", "a machine with KVM started and answered")
