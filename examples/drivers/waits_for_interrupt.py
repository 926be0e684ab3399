"""A driver for the e1000 with a defect: in the panic it waits for an interrupt.

It is ours, but that it sleeps after each batch until the NIC says that the batch has left. In
ordinary life that is how one waits. In a panic interrupts are off, the scheduler is stopped, and
the handler never runs: each wait lasts until its timeout. The dump still comes home, so nothing but
a bench tells.

    [nic]
    driver = "waits_for_interrupt.py:WaitsForInterrupt"
"""

from __future__ import annotations

from typing import Any

from nic_models.contracts import DmaMemory, Kernel, Mmio, TxBatch
from nic_models.e1000.driver import E1000Driver
from nic_models.e1000.registers import INT, Reg

#: The longest wait for one batch.
PATIENCE_US = 100


class WaitsForInterrupt(E1000Driver):
    """Breaks panic-hygiene: rule *interrupt*."""

    def __init__(self, mmio: Mmio, memory: DmaMemory, kernel: Kernel, **wanted: Any) -> None:
        super().__init__(mmio, memory, kernel, **wanted)
        self._mmio, self._kernel = mmio, kernel

    def transmit(self, batch: TxBatch) -> int:
        taken = super().transmit(batch)
        if taken:
            self._mmio.write32(Reg.IMS, INT.TXDW)
            self._kernel.wait_interrupt(PATIENCE_US)
        return taken
