"""A dead machine's CPUs stand still, and its devices live.

The panic path is ours and runs outside; it needs the machine's NIC, which works only in a machine
that is running. But the machine's own CPUs must not run on: a panicked one spins and writes to its
stack, and one that was stopped in the middle of something would finish it. So the machine gets one
CPU more, plugged in after its death, which sleeps until another wakes it up; and QEMU's gdb server
lets that one go on, and no other (``gdb``). The machine is running then, and each CPU of its own
stands where it stood, in whatever mode, at whatever privilege, asleep or not, with whatever
interrupt pending. Nothing of memory or registers is touched for it.

Two parts of it are there from the start (``VmOptions.parkable``): a free place for the CPU, and the
socket. The system that runs on the machine may see that place, as one of a CPU that could come.
"""

from __future__ import annotations

import re
import time
from typing import Any, Final

from guest.qemu.errors import QemuError
from guest.qemu.gdb import Gdb
from guest.qemu.vm import GDB, Vm

PARK_TIMEOUT_S: Final = 120.0
_TURN_S: Final = 0.002
_SLEEPER: Final = "sleeper"
_CS: Final = re.compile(r"^CS =[0-9a-f]+ ([0-9a-f]+)", re.MULTILINE)
_IP: Final = re.compile(r"\b[RE]IP=([0-9a-f]+)")
_HALTED: Final = re.compile(r"\bHLT=([01])")
_PHYSICAL: Final = re.compile(r"gpa: (?:0x)?([0-9a-f]+)")


def park(vm: Vm) -> list[int]:
    """Let the machine, which stands still, run on without its CPUs; where those stand.

    Physical addresses; none for a CPU that had halted by itself, or whose address has no place.

    Raises:
        QemuError: this QEMU can't.
    """
    places = stand_at(vm)
    sleeper = _plug_sleeper(vm)
    assert vm.gdb is not None, "it was made to be parked"
    said = vm.monitor.human(f"gdbserver chardev:{GDB}").strip()
    gdb = Gdb(vm.gdb)
    gdb.resume_alone(sleeper)
    deadline = time.monotonic() + PARK_TIMEOUT_S
    while not vm.monitor.execute("query-status")["running"]:
        if time.monotonic() > deadline:
            raise QemuError(
                f"the machine did not run on without its CPUs in {PARK_TIMEOUT_S:g} s"
                + (f"; QEMU's gdb server said: {said}" if said else "")
            )
        time.sleep(_TURN_S)
    return places


def stand_at(vm: Vm) -> list[int]:
    """Where each CPU that has not halted is about to fetch: physical addresses."""
    places: list[int] = []
    text = vm.monitor.human("info registers -a")
    states = text.split("CPU#")[1:]
    if not states:
        raise QemuError(f"'info registers' is not understood: {text[:200]!r}")
    for number, state in enumerate(states):
        base, pointer, halted = (p.search(state) for p in (_CS, _IP, _HALTED))
        if base is None or pointer is None or halted is None:
            raise QemuError(f"'info registers' is not understood: {state[:200]!r}")
        if halted[1] == "1":
            continue
        vm.monitor.human(f"cpu {number}")
        virtual = int(base[1], 16) + int(pointer[1], 16)
        if found := _PHYSICAL.search(vm.monitor.human(f"gva2gpa {virtual:#x}")):
            places.append(int(found[1], 16))
    return places


def _plug_sleeper(vm: Vm) -> int:
    """A CPU in the free place; its number. It waits to be started by another one."""
    places: list[dict[str, Any]] = vm.monitor.execute("query-hotpluggable-cpus")
    free = next((place for place in places if "qom-path" not in place), None)
    if free is None:
        raise QemuError("this machine has no place for one CPU more: it was not made to be parked")
    vm.monitor.execute("device_add", driver=free["type"], id=_SLEEPER, **free["props"])
    for cpu in vm.monitor.execute("query-cpus-fast"):
        if cpu["qom-path"].endswith(f"/{_SLEEPER}"):
            return int(cpu["cpu-index"])
    raise QemuError("QEMU does not show the CPU that was plugged in")
