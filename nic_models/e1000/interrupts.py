"""Interrupt cause, mask and line (8254x SDM 13.4.17 to 13.4.21).

The line is level: any bit of ICR & IMS. Reading ICR clears it, writing ones to it clears those; IMS
and IMC set and clear bits of the mask, ICS sets causes. ITR and the delay timers hold nothing back.
"""

from __future__ import annotations

from typing import Final

from nic_models.contracts import InterruptLine
from nic_models.e1000.registers import INT, Reg

#: Causes that this silicon has.
CAUSES: Final = int(
    INT.TXDW
    | INT.TXQE
    | INT.LSC
    | INT.RXSEQ
    | INT.RXDMT0
    | INT.RXO
    | INT.RXT0
    | INT.MDAC
    | INT.RXCFG
    | INT.PHYINT
    | INT.GPI_SDP6
    | INT.GPI_SDP7
    | INT.TXD_LOW
    | INT.SRPD
)


class Interrupts:
    """The registers ICR, ICS, IMS and IMC, and the wire that they drive."""

    def __init__(self, line: InterruptLine) -> None:
        self.cause = 0
        self.mask = 0
        self._line = line
        self._level = False

    def reset(self) -> None:
        self.cause = self.mask = 0
        self._drive()

    def post(self, causes: int) -> None:
        """Something happened."""
        self.cause |= causes
        self._drive()

    def read(self, offset: int) -> int:
        """A read by software; ICS and IMC are write-only."""
        if offset == Reg.ICR:
            cause, self.cause = self.cause, 0
            self._drive()
            return cause
        return self.mask if offset == Reg.IMS else 0

    def write(self, offset: int, value: int) -> None:
        """A write by software."""
        value &= CAUSES
        if offset == Reg.ICR:
            self.cause &= ~value
        elif offset == Reg.ICS:
            self.cause |= value
        elif offset == Reg.IMS:
            self.mask |= value
        else:
            self.mask &= ~value
        self._drive()

    def _drive(self) -> None:
        level = bool(self.cause & self.mask)
        if level != self._level:
            self._level = level
            self._line.set(level)
