"""The receive address filter (8254x SDM 3.2.1, 13.4.22, 13.5).

A frame passes when any row of this table accepts its destination:

    exact       any address   equals one of 16 RAL/RAH pairs whose AV is set
    broadcast   ff:..:ff      RCTL.BAM
    hash        group         its bit in the 4096-bit multicast table is set (RCTL.MO: which bit)
    UPE         individual    promiscuous
    MPE         group         promiscuous; broadcast is a group address

The hash is inexact: 2^35 group addresses share a bit. VLAN filtering (RCTL.VFE) is not modelled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nic_models.e1000.registers import (
    MTA_COUNT,
    MTA_HASH_SHIFT,
    RAR_COUNT,
    RCTL,
    RCTL_MO_SHIFT,
    mac_to_ral_rah,
)

_BROADCAST: Final = 0xFFFF_FFFF_FFFF
_AV: Final = 1 << 31
_UPE: Final = int(RCTL.UPE)
_MPE: Final = int(RCTL.MPE)
_BAM: Final = int(RCTL.BAM)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Masks over a batch: bool, shape (n,)."""

    accepted: NDArray[np.bool_]
    broadcast: NDArray[np.bool_]
    group: NDArray[np.bool_]  # multicast and broadcast


class ReceiveFilter:
    """The address registers, and the comparison they drive."""

    def __init__(self, mac: bytes) -> None:
        self._mac = mac
        self.low = [0] * RAR_COUNT
        self.high = [0] * RAR_COUNT
        self.table: NDArray[np.uint32] = np.zeros(MTA_COUNT, np.uint32)
        self.reset()

    def reset(self) -> None:
        """Pair 0 is loaded from the EEPROM, the others become invalid.

        The multicast table is a memory that no reset clears (its initial state is undefined;
        8254x SDM 14.4 has software zero it), so a driver that forgets to inherits the old bits.
        """
        self.low = [0] * RAR_COUNT
        self.high = [0] * RAR_COUNT
        self.low[0], self.high[0] = mac_to_ral_rah(self._mac)

    def judge(self, data: NDArray[np.uint8], rctl: int) -> Verdict:
        """``data`` uint8 (n, 6 or more): each row starts with the destination."""
        words = np.zeros((len(data), 8), np.uint8)
        words[:, :6] = data[:, :6]
        destination = words.view("<u8")[:, 0]
        broadcast = destination == _BROADCAST
        group = (destination & 1).astype(bool)
        if rctl & _UPE and rctl & _MPE:
            return Verdict(np.ones(len(data), bool), broadcast, group)
        accepted = broadcast & bool(rctl & _BAM)
        for low, high in zip(self.low, self.high, strict=True):
            if high & _AV:
                accepted |= destination == (high & 0xFFFF) << 32 | low
        if rctl & _UPE:
            accepted |= ~group
        if rctl & _MPE:
            accepted |= group
        elif self.table.any() and group.any():
            bits = np.unpackbits(self.table.astype("<u4").view(np.uint8), bitorder="little")
            shift = MTA_HASH_SHIFT[rctl >> RCTL_MO_SHIFT & 3]
            accepted |= group & bits[destination >> (32 + shift) & 0xFFF].astype(bool)
        return Verdict(accepted, broadcast, group)
