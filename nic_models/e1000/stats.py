"""Statistics registers (8254x SDM 13.7) and the bench's own counters.

The registers clear when read and stick at their maximum; a 64-bit pair clears when its high half is
read. The manual calls their power-on values unknown and has software read them all once; a model
has to choose, so here power-on and CTRL.RST leave zero.

``Counters`` is what no register tells: each way in which this model loses or refuses something has
a name there, so that no frame ever disappears without a number that says where.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from nic_models.e1000.registers import Reg

_MAX32: Final = 0xFFFF_FFFF
_MAX64: Final = 0xFFFF_FFFF_FFFF_FFFF

#: 32-bit statistics.
SINGLE: Final[frozenset[int]] = frozenset(
    {
        Reg.MPC,
        Reg.RLEC,
        Reg.GPRC,
        Reg.BPRC,
        Reg.MPRC,
        Reg.GPTC,
        Reg.RNBC,
        Reg.ROC,
        Reg.TPR,
        Reg.TPT,
    }
)

#: 64-bit statistics: low half; the high half is the next register.
DOUBLE: Final[frozenset[int]] = frozenset({Reg.GORCL, Reg.GOTCL, Reg.TORL, Reg.TOTL})


class Statistics:
    """The silicon's own counters."""

    def __init__(self) -> None:
        self._values: dict[int, int] = {}
        self.reset()

    def reset(self) -> None:
        self._values = dict.fromkeys(SINGLE | DOUBLE, 0)

    def add(self, register: int, amount: int) -> None:
        """Count ``amount`` more; the low half names a 64-bit statistic."""
        limit = _MAX64 if register in DOUBLE else _MAX32
        self._values[register] = min(self._values[register] + amount, limit)

    def offsets(self) -> frozenset[int]:
        """Every offset that ``read`` answers."""
        return SINGLE | DOUBLE | {low + 4 for low in DOUBLE}

    def read(self, offset: int) -> int:
        """The register at ``offset``, cleared by this."""
        if offset in SINGLE:
            value, self._values[offset] = self._values[offset], 0
            return value
        if offset in DOUBLE:
            return self._values[offset] & _MAX32
        value, self._values[offset - 4] = self._values[offset - 4], 0
        return value >> 32


@dataclass(slots=True)
class Counters:
    """What happened to frames, descriptors and register accesses; never cleared by the device."""

    tx_frames: int = 0  # left the wire
    tx_bytes: int = 0  # of these, without FCS
    tx_unsupported: int = 0  # frames refused: DEXT descriptors, or IC
    tx_aborted: int = 0  # frames dropped: data outside memory
    tx_oversize: int = 0  # frames dropped: longer than the transmit FIFO can take
    tx_null: int = 0  # descriptors with a length but address 0: their data was not sent
    tx_empty: int = 0  # EOP after no data at all
    tx_bad_fcs: int = 0  # frames without IFCS whose last four bytes are no FCS
    tx_lost_in_reset: int = 0  # frames in the FIFO when CTRL.RST came
    tx_ring_faults: int = 0  # doorbells on a ring that cannot run
    rx_frames: int = 0  # stored in memory, whole
    rx_bytes: int = 0
    rx_link_down: int = 0
    rx_disabled: int = 0  # RCTL.EN off
    rx_filtered: int = 0  # not for us
    rx_oversize: int = 0
    rx_missed: int = 0  # FIFO full; MPC
    rx_null: int = 0  # descriptors with address 0, passed over
    rx_aborted: int = 0  # frames of which a buffer lay outside memory
    rx_lost_in_reset: int = 0  # frames in the FIFO when CTRL.RST came
    rx_ring_faults: int = 0
    resets: int = 0
    unknown_reads: int = 0
    unknown_writes: int = 0
    ignored_writes: int = 0  # to read-only registers
