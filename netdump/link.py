"""netdump's link: its messages and acks on the polled UDP link of a dying kernel.

What is netdump's own: the client speaks from port 20024; a HERALD goes to the server's port 20023,
and what follows to the port that its ack came from (``acks.py``); a message is a header of 24 bytes
and a payload by address. All else is ``udplink.py``, which TFTP shares.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from netdump import crc
from netdump.acks import NO_ACKS, AckReader
from netdump.contracts import DebugnetMethods, Mbufs, Memory
from netdump.messages import (
    CLIENT_PORT,
    HEADER_SIZE,
    HERALD_PORT,
    MessageType,
    pack_headers,
)
from netdump.offer import CRC32C, MARK
from netdump.profiles import Profile
from netdump.udplink import IP_UDP_SIZE, Tell, UdpLink
from netdump.udplink import LinkConfig as LinkConfig


class DebugnetLink(UdpLink):
    """One connection. ``open``, then ``send`` and ``poll``, then ``close``."""

    def __init__(
        self,
        profile: Profile,
        config: LinkConfig,
        nic: DebugnetMethods,
        memory: Memory,
        mbufs: Mbufs,
        delay_us: Callable[[int], None],
        tell: Tell,
        herald_seqno: int = 1,
    ) -> None:
        """``herald_seqno``: that of the first message, whose ack tells the server's port."""
        super().__init__(profile, config, CLIENT_PORT, nic, memory, mbufs, delay_us, tell)
        self._herald_port = HERALD_PORT if config.server_port is None else config.server_port
        self._acks = AckReader(profile, self._mac, herald_seqno, self.refuse, self._tell_port)

    @property
    def payload_size(self) -> int:
        return self.mtu - IP_UDP_SIZE - HEADER_SIZE

    @property
    def taken(self) -> int:
        """What the server took of the offer (``offer.py``); 0 before it has answered."""
        return self._acks.taken

    def send(self, kind: MessageType, fragments: NDArray[np.void]) -> int:
        """Queue one message a fragment (dtype ``window.FRAGMENT``); how many the NIC took."""
        if not len(fragments):
            return 0  # a round in which nothing is left to send again
        # Structured fields are strided views: the checksum and the driver want plain arrays.
        addresses = np.ascontiguousarray(fragments["address"])
        lengths = np.ascontiguousarray(fragments["length"])
        offer = self._acks.offer if kind is MessageType.HERALD else 0
        word = offer and MARK | offer
        app = pack_headers(kind, fragments["seqno"], fragments["offset"], lengths, word)
        if self.taken & CRC32C and not offer:
            crc.put(app, self._buffer, addresses, lengths)
        port = self._acks.server_port or self._herald_port
        taken = self.send_udp(port, app, addresses, lengths)
        self._acks.sent(fragments["seqno"][:taken])
        self._tell(
            "sent",
            message=kind.name,
            seqno=int(fragments["seqno"][0]),
            frames=taken,
            refused=len(fragments) - taken,
            poll=self.stats.polls,
        )
        return taken

    def poll(self) -> NDArray[np.int64]:
        """Poll the NIC once; the seqnos that valid acks named: stock ones in order of arrival."""
        heard = self.poll_udp()
        if heard is None:
            return NO_ACKS
        stats = self.stats
        acks = self._acks.read(*heard)
        stats.acks += len(acks)
        stats.foreign_accepted = self._acks.foreign
        stats.selective_acks = self._acks.selective
        if len(acks):
            first, last = int(acks[0]), int(acks[-1])
            self._tell("acks", first=first, last=last, count=len(acks), poll=stats.polls)
        return acks

    def _tell_port(self, port: int) -> None:
        self._tell("server-port", port=port)
