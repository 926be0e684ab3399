"""A driver for the e1000 with a defect: in the panic it never frees what was sent.

It is ours, but that it reclaims nothing. All goes well until the ring is full, which takes 511
frames of two descriptors each: a dump of a small machine would even come home. Then transmit finds
no room any more, and the client gives up.

    [nic]
    driver = "forgets_to_reclaim.py:ForgetsToReclaim"
"""

from __future__ import annotations

from nic_models.contracts import TxBatch
from nic_models.e1000.debugnet import Debugnet
from nic_models.e1000.driver import E1000Driver


class ReclaimsNothing(Debugnet):
    def _reclaim(self) -> None: ...


class ForgetsToReclaim(E1000Driver):
    """Breaks panic-hygiene: rule *never-reclaimed*."""

    DEBUGNET = ReclaimsNothing

    def transmit(self, batch: TxBatch) -> int:
        return super().transmit(batch)
