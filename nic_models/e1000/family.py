"""What the e1000 says of itself to the bench.

QEMU's is an 82540EM (8086:100e, hw/net/e1000.c). Its ICS can be read, which on the card is
write-only (8254x SDM 13.4.19): it gives the causes, which a read of ICR would clear.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from nic_models.contracts import Mmio
from nic_models.differential.contract import Differential
from nic_models.e1000.descriptors import RX_READ, SIZE, view
from nic_models.e1000.device import E1000Device
from nic_models.e1000.driver import E1000Driver
from nic_models.e1000.registers import RCTL, RCTL_BSIZE_SHIFT, RX_BUFFER_SIZES, Reg
from nic_models.family import NicFamily, OnQemu

#: Base and length of each ring, receive first.
_RINGS: Final = tuple(
    tuple(map(int, ring))
    for ring in ((Reg.RDBAL, Reg.RDBAH, Reg.RDLEN), (Reg.TDBAL, Reg.TDBAH, Reg.TDLEN))
)
_ICS, _IMS = int(Reg.ICS), int(Reg.IMS)
_STATE: Final = ("RCTL", "TCTL", "IMS", "TDH", "TDT", "RDH", "RDT")


def may_write_to(mmio: Mmio, memory: NDArray[np.uint8]) -> list[tuple[int, int]]:
    """The rings, and the buffers of the receive descriptors that are the card's own: RDH to RDT."""
    read = mmio.read32
    control = read(int(Reg.RCTL))
    size = RX_BUFFER_SIZES[bool(control & RCTL.BSEX), control >> RCTL_BSIZE_SHIFT & 3]
    found: list[tuple[int, int]] = []
    for low, high, length in _RINGS:
        base = read(low) | read(high) << 32
        found.append((base, base + read(length)))
    base, end = found[0]
    count = (end - base) // SIZE
    if count and end <= len(memory):
        head, tail = read(int(Reg.RDH)), read(int(Reg.RDT))
        own = (np.arange(count) - head) % count < (tail - head) % count
        addresses = view(memory, base, count, RX_READ)["address"][own].tolist()
        found += [(address, address + size) for address in addresses if address]
    return found


def _cause_pending(mmio: Mmio) -> bool:
    return bool(mmio.read32(_ICS) & mmio.read32(_IMS))


def _state(mmio: Mmio) -> dict[str, int]:
    return {name: mmio.read32(int(Reg[name])) for name in _STATE}


def _differential() -> Differential:
    from nic_models.e1000.differential.table import DIFFERENTIAL  # only who compares pays for it

    return DIFFERENTIAL


def _receives(mmio: Mmio) -> bool:
    read = mmio.read32
    return bool(
        read(int(Reg.RCTL)) & RCTL.EN
        and read(int(Reg.RDLEN))
        and read(int(Reg.RDH)) != read(int(Reg.RDT))
    )


E1000: Final = NicFamily(
    name="e1000",
    says="Intel 8254x (82540EM): legacy descriptors, one ring each way",
    silicon=E1000Device,
    driver=E1000Driver,
    doorbells={int(Reg.TDT): "tdt"},
    on_qemu=OnQemu(
        device="e1000",
        vendor=0x8086,
        pci_device=0x100E,
        modules=("e1000",),
        interrupt_registers=frozenset(map(int, (Reg.ICR, Reg.ICS, Reg.IMS, Reg.IMC))),
        barrier=int(Reg.STATUS),
        cause_pending=_cause_pending,
        may_write_to=may_write_to,
        state=_state,
        receives=_receives,
    ),
    differential=_differential,
)
