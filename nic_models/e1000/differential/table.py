"""The e1000's ``Differential``, and the prose of its page, docs/e1000-differences.md."""

from __future__ import annotations

from typing import Final

from nic_models.contracts import Mmio
from nic_models.differential.contract import Chapter, Differential, Page, Watched
from nic_models.differential.steps import Read
from nic_models.e1000.device import E1000Device
from nic_models.e1000.differential import arrival, delivery, moves, registers, transmit
from nic_models.e1000.differential.state import State
from nic_models.e1000.registers import STATUS, Reg


def _tdh(ours: E1000Device) -> int:
    return ours.transmitter.fetcher.ring.head


def _rdh(ours: E1000Device) -> int:
    return ours.receiver.ring.head


def _icr(ours: E1000Device) -> int:
    return ours.interrupts.cause


_WATCHED: Final = (
    Watched("tdh", _tdh, lambda qemu: qemu.read32(Reg.TDH)),
    Watched("rdh", _rdh, lambda qemu: qemu.read32(Reg.RDH)),
    # ICS reads as ICR does, without clearing it: a row of the table, used here.
    Watched("icr", _icr, lambda qemu: qemu.read32(Reg.ICS)),
)

_PAGE: Final = Page(
    device="the e1000 (82540EM)",
    model="nic_models/e1000/device.py",
    manual="8254x SDM",
    sections="Sections are those of Intel's 8254x Software Developer's Manual (317453).",
    time="""\
QEMU's line rises at most every 128 us, its receiver is deaf for a second after each write of RCTL,
and a link takes half a second to come up; a frame leaves inside the write of TDT.
""",
    out_of_scope="""\
Not compared, for ours does not model it: MDIC and the PHY, EECD, VLANs (CTRL.VME, tagged frames),
extended descriptors and every offload, flow control and wake-up beyond their registers, loopback,
bad frames (RCTL.SBP on frames that are damaged), the EEPROM's words 3 to 63. QEMU's own registers
that the model has not (LEDCTL, diagnostics, the other statistics) are not read.
""",
)


def _sees_link(qemu: Mmio) -> bool:
    return bool(qemu.read32(Reg.STATUS) & STATUS.LU)


DIFFERENTIAL: Final = Differential(
    qemu=(7, 2),
    model=E1000Device,
    state=State,
    bring_up=moves.bring_up,
    moves=moves.MOVES,
    watched=_WATCHED,
    closing=tuple(map(Read, registers.CLOSING)),
    reads_that_act=frozenset({int(Reg.ICR)}),
    out_of_scope=registers.out_of_scope,
    deaf_ns={int(Reg.RCTL): 1_001_000_000},  # a second, and a bit
    sees_link=_sees_link,
    chapters=(
        Chapter("Registers", registers.ROWS),
        Chapter("Transmission", transmit.ROWS),
        Chapter("Reception: which frames, and when", arrival.ROWS),
        Chapter("Reception: what is written and counted", delivery.ROWS),
    ),
    page=_PAGE,
)
