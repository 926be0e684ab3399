"""A panic arena beside a machine's memory, which its system never saw.

A kernel of ours would set the arena aside at boot. A system that we know nothing of can't be told,
and whatever memory it was told of may be in use. So the arena is RAM on a PCI card (QEMU's
ivshmem-plain: a BAR that is plain memory), which is plugged in when the machine is dead, and gets
its place above the RAM below 4 GiB, where no other device is. To a NIC that reads or writes it, it
is memory like any other.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from guest.qemu import pci
from guest.qemu.errors import MonitorRefused, QemuError
from guest.qemu.vm import ARENA, Vm

_CARD: Final = "ivshmem-plain"
_VENDOR, _DEVICE, _BAR = 0x1AF4, 0x1110, 2
#: From here up to 4 GiB a PC has its APICs and its firmware.
_END: Final = 0xFEC0_0000


def plug_arena(vm: Vm) -> int:
    """Plug it in; its physical address. The machine stands still.

    Raises:
        QemuError: this QEMU has no such card, or there is no room for it.
    """
    size = vm.arena_size
    try:
        vm.monitor.execute("device_add", driver=_CARD, id=ARENA, memdev=ARENA)
    except MonitorRefused as error:
        raise QemuError(f"the panic arena can't be plugged in: {error}") from error
    address = place_for(size, vm.low_end, taken(vm.monitor.execute("query-pci")))
    card = pci.find(vm.qtest, _VENDOR, _DEVICE, _BAR)
    card.config_write(pci.COMMAND, 0)
    card.config_write(pci.BAR0 + 4 * (_BAR + 1), 0)  # the upper half of its address
    card.config_write(pci.BAR0 + 4 * _BAR, 0)
    card.enable(address)
    vm.lay_arena(address)
    return address


def taken(buses: Iterable[dict[str, Any]]) -> list[tuple[int, int]]:
    """[start, end) of the memory that PCI devices have; ``buses`` as query-pci tells them."""
    return [
        (region["address"], region["address"] + region["size"])
        for bus in buses
        for device in bus["devices"]
        for region in device["regions"]
        if region["type"] == "memory" and region["address"] > 0
    ]


def place_for(size: int, start: int, occupied: Iterable[tuple[int, int]]) -> int:
    """The first multiple of ``size`` from ``start`` on at which so much room is.

    Raises:
        QemuError: there is none below 4 GiB.
    """
    address = -(-start // size) * size
    for low, high in sorted(occupied):
        if low < address + size and address < high:
            address = -(-high // size) * size
    if address + size > _END:
        raise QemuError(f"below 4 GiB there is no room for a panic arena of {size >> 20} MiB")
    return address
