"""What the panic-time client asks of a NIC driver: FreeBSD's four debugnet methods, in batches.

debugnet's table (``struct debugnet_methods``) has dn_init, dn_event, dn_transmit and dn_poll, one
mbuf a call. Here a call carries a batch; a batch of one is the stock behaviour. The memory and the
buffers that it works with are here too, and what the link asks of a client's rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from netdump.inet import Checks

#: The argument of dn_event.
Event = Literal["start", "end"]


@dataclass(frozen=True, slots=True)
class TxBatch:
    """Frames to send, payload by reference: nobody copies it but the device's DMA.

    ``headers`` uint8 (n, width), ``header_lengths`` int64 (n,), ``payload_addresses`` int64 (n,)
    guest-physical, ``payload_lengths`` int64 (n,) in bytes, 0 where the headers are all.
    """

    headers: NDArray[np.uint8]
    header_lengths: NDArray[np.int64]
    payload_addresses: NDArray[np.int64]
    payload_lengths: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.header_lengths)

    def front(self, count: int) -> TxBatch:
        """The first ``count`` frames."""
        return TxBatch(
            self.headers[:count],
            self.header_lengths[:count],
            self.payload_addresses[:count],
            self.payload_lengths[:count],
        )


class FrameBlock(Protocol):
    """Received Ethernet frames: one row a frame."""

    @property
    def data(self) -> NDArray[np.uint8]:
        """uint8 (n, stride); bytes beyond a row's length mean nothing."""
        ...

    @property
    def lengths(self) -> NDArray[np.int64]:
        """int64 (n,), bytes, without FCS."""
        ...


class DebugnetMethods(Protocol):
    """A NIC driver, as the dumping kernel sees it."""

    @property
    def mac(self) -> bytes:
        """Six bytes: the interface's link address."""
        ...

    @property
    def mtu(self) -> int:
        """Largest IPv4 packet, bytes."""
        ...

    def link_up(self) -> bool: ...

    def event(self, what: Event) -> None:
        """A connection starts (the driver takes the NIC over) or ends."""
        ...

    def transmit(self, batch: TxBatch) -> int:
        """Queue frames from the front of the batch and ring the doorbell; how many were taken.

        Fewer than ``len(batch)``: the ring or the buffer supply is exhausted (ENOBUFS, EBUSY).
        """
        ...

    def poll(self, budget: int) -> FrameBlock:
        """Reclaim what was sent, and hand over at most ``budget`` received frames."""
        ...


class Memory(Protocol):
    """The dumping machine's physical memory, as the dump code reads it."""

    @property
    def buffer(self) -> NDArray[np.uint8]:
        """uint8, flat; index = physical address."""
        ...

    def reserve(self, size: int, align: int) -> int:
        """A piece of the panic arena; a physical address."""
        ...


class Mbufs(Protocol):
    """A zone of network buffers: whichever the kernel's zone pointers name."""

    def take(self, count: int) -> bool:
        """All ``count`` of them, or none and False (ENOBUFS)."""
        ...

    def give(self, count: int) -> None: ...


class LinkRules(Protocol):
    """How a link behaves. Counts are polls and rounds, times are microseconds of DELAY."""

    @property
    def checks(self) -> Checks:
        """What is verified of a received frame before it is believed."""
        ...

    @property
    def arp_hardware_types(self) -> frozenset[int]: ...

    @property
    def arp_targets(self) -> Literal["server, then gateway", "gateway only"]: ...

    @property
    def arp_retries(self) -> int: ...

    @property
    def later_arp_replies_count(self) -> bool:
        """A reply that comes when the MAC is known already replaces it."""
        ...

    @property
    def ttl(self) -> int: ...

    @property
    def polls(self) -> int:
        """Polls without an ARP reply before the next request."""
        ...

    @property
    def poll_delay_us(self) -> int: ...
