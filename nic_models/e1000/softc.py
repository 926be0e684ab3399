"""What the two halves of the driver share: the interface, as a kernel's ``struct softc`` has it.

Ordinary life (``ordinary.py``) and the panic (``debugnet.py``) never run at the same time: the one
ends where the other begins, at any step. So the panic may find a lock here held for ever. The rings
are not shared: each half has its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from nic_models.contracts import Lock, Mmio, Mode
from nic_models.e1000 import bringup

#: Ethernet header.
ETHER_HEADER: Final = 14
ETHER_MTU: Final = 1500


@dataclass(slots=True)
class DriverStats:
    """Counts since the driver was made."""

    sent: int = 0
    """Frames queued in ordinary life."""
    received: int = 0
    """Frames delivered to the stack."""
    panic_sent: int = 0
    panic_received: int = 0
    panic_ring_full: int = 0
    """Calls of ``transmit`` that could not take all frames."""
    panic_lost: int = 0
    """Frames that still waited when the NIC was taken over anew."""


@dataclass(slots=True, kw_only=True)
class Softc:
    """One interface."""

    name: str
    mode: Mode
    """What is done about the locks in the panic."""
    mtu: int
    """The largest IPv4 packet, bytes."""
    mmio: Mmio
    tx_lock: Lock
    rx_lock: Lock
    promiscuous: int
    """RCTL's bits for it, or 0."""
    address: bytes | None = None
    """Receive address 0, once it has been read."""
    stats: DriverStats = field(default_factory=DriverStats)

    @property
    def mac(self) -> bytes:
        """Six bytes: receive address 0. ``NicFailed`` if the NIC has none."""
        if self.address is None:
            self.address = bringup.station_address(self.mmio.read32)
        return self.address
