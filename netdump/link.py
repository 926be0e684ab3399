"""debugnet: the polled link between the dump client and a NIC driver.

The link owns what FreeBSD keeps in ``struct debugnet_pcb``: the two MACs, the server's port, the
counters. It builds frames in batches, payload by address, and it believes a received frame only
after ``inet.py`` has validated it under the profile's ``Checks``; every refusal is counted under a
name. While it polls it also answers ARP requests for the client's own address (nothing else: the
machine is dead), as debugnet_arp.c does.

The ARP walk asks for the server first and for the gateway after that, also when a gateway is
configured, as FreeBSD has since 12; the 2010 patch asked for the gateway alone.

Rules: a batch of frames takes one mbuf for its headers and one for its payload reference, each from
whatever zone the kernel's pointers name at that time; what the NIC does not take is given back, and
the driver gives back the rest when it reclaims. No clock but ``delay_us``, which is DELAY(9).
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from netdump import arp
from netdump.acks import NO_ACKS, AckReader
from netdump.checksum import payload_sums
from netdump.contracts import DebugnetMethods, Mbufs, Memory, TxBatch
from netdump.errors import PeerError
from netdump.inet import ARP, UDP, Expect, Flow, classify_and_validate, udp_headers
from netdump.messages import (
    CLIENT_PORT,
    HEADER_SIZE,
    HERALD_PORT,
    MessageType,
    pack_headers,
)
from netdump.profiles import Profile
from netdump.sack import OFFER
from netdump.window import SendFailed

#: debugnet passes 1000 to dn_poll; drivers mostly have a lower budget of their own.
POLL_BUDGET: Final = 1000
IP_UDP_SIZE: Final = 28

#: ``tell(what, **evidence)``: the client's event log, one call a step.
Tell = Callable[..., None]


@dataclass(frozen=True, slots=True)
class LinkConfig:
    """What dumpon(8) would have configured. Addresses are 4 bytes, network order."""

    client_ip: bytes
    server_ip: bytes
    gateway_ip: bytes | None = None
    herald_port: int = HERALD_PORT


@dataclass(slots=True)
class LinkStats:
    """Counts of one dump."""

    polls: int = 0
    frames_sent: int = 0
    frames_received: int = 0
    retransmissions: int = 0
    retransmit_rounds: int = 0
    probes: int = 0
    """Frames sent once more to be answered, not because they were lost; no retransmissions."""
    acks: int = 0
    """Messages that acks named; a selective one names many, and some again."""
    selective_acks: int = 0
    """How many of the acks were selective."""
    arp_answered: int = 0
    foreign_accepted: int = 0
    """Acks believed although they were addressed to another MAC."""
    refused: Counter[str] = field(default_factory=Counter)


class DebugnetLink:
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
        self._profile = profile
        self._config = config
        self._nic = nic
        self._buffer = memory.buffer
        self._mbufs = mbufs
        self._delay_us = delay_us
        self._tell = tell
        self._mac = nic.mac
        self._expect = Expect(
            mac=self._mac, our_ip=config.client_ip, peer_ip=config.server_ip, port=CLIENT_PORT
        )
        self.peer_mac: bytes | None = None
        self.stats = LinkStats()
        self._acks = AckReader(profile, self._mac, herald_seqno, self.refuse, self._tell_port)

    @property
    def payload_size(self) -> int:
        return self._nic.mtu - IP_UDP_SIZE - HEADER_SIZE

    # -- opening and closing -----------------------------------------------------------------

    def open(self) -> None:
        """Take the NIC over and find the peer's MAC. ``SendFailed``: ENETDOWN or ETIMEDOUT."""
        self._nic.event("start")
        if not self._nic.link_up():
            raise SendFailed(errno.ENETDOWN, "the NIC has no link")
        config = self._config
        if self._profile.arp_targets == "gateway only":
            targets = [("gateway", config.gateway_ip or config.server_ip)]
        else:
            targets = [("server", config.server_ip)]
            if config.gateway_ip is not None and config.gateway_ip != config.server_ip:
                targets.append(("gateway", config.gateway_ip))
        for role, address in targets:
            if self._resolve(role, address):
                return
        names = " nor ".join(f"{role} {_dotted(address)}" for role, address in targets)
        raise SendFailed(
            errno.ETIMEDOUT,
            f"no ARP reply from {names} to {self._profile.arp_retries} requests each",
        )

    def _resolve(self, role: str, address: bytes) -> bool:
        request = arp.request(self._mac, self._config.client_ip, address)
        for attempt in range(self._profile.arp_retries):
            self._tell("arp-request", target=_dotted(address), role=role, attempt=attempt + 1)
            if not self._send_raw(request):
                raise SendFailed(
                    errno.ENOBUFS,
                    f"the ARP request for {_dotted(address)} has no buffer, or no room in the ring",
                )
            polls = 0
            while polls <= self._profile.polls:
                polls += 1
                self.poll()
                if self.peer_mac is not None:
                    self._tell("arp-resolved", role=role, mac=self.peer_mac.hex(":"))
                    return True
                self.delay()
        return False

    def close(self) -> None:
        self._nic.event("end")

    # -- sending -----------------------------------------------------------------------------

    def send(self, kind: MessageType, fragments: NDArray[np.void]) -> int:
        """Queue one message a fragment (dtype ``window.FRAGMENT``); how many the NIC took."""
        if self.peer_mac is None:
            raise SendFailed(errno.EHOSTUNREACH, "the peer's MAC is not known")
        if not len(fragments):
            return 0  # a round in which nothing is left to send again
        config = self._config
        flow = Flow(
            src_mac=self._mac,
            dst_mac=self.peer_mac,
            src_ip=config.client_ip,
            dst_ip=config.server_ip,
            src_port=CLIENT_PORT,
            dst_port=self._acks.server_port or config.herald_port,
        )
        # Structured fields are strided views: the checksum and the driver want plain arrays.
        addresses = np.ascontiguousarray(fragments["address"])
        lengths = np.ascontiguousarray(fragments["length"])
        offers = kind is MessageType.HERALD and self._profile.selective_acks
        app = pack_headers(
            kind, fragments["seqno"], fragments["offset"], lengths, OFFER if offers else 0
        )
        sums = payload_sums(self._buffer, addresses, lengths)
        headers = udp_headers(flow, app, sums, lengths, ttl=self._profile.ttl)
        sizes = np.full(len(headers), headers.shape[1], np.int64)
        taken = self._transmit(TxBatch(headers, sizes, addresses, lengths), 2)
        self._acks.sent(fragments["seqno"][:taken])
        self._tell(
            "sent",
            message=kind.name,
            seqno=int(fragments["seqno"][0]),
            frames=taken,
            refused=len(headers) - taken,
            poll=self.stats.polls,
        )
        return taken

    def _send_raw(self, frame: bytes) -> int:
        headers = np.frombuffer(frame, np.uint8)[None, :]
        nothing = np.zeros(1, np.int64)
        return self._transmit(TxBatch(headers, np.array([len(frame)]), nothing, nothing), 2)

    def _transmit(self, batch: TxBatch, mbufs_a_frame: int) -> int:
        count = len(batch)
        if not self._mbufs.take(mbufs_a_frame * count):
            self.refuse("out-of-mbufs")
            # A zone gives all or nothing, and does not say how much it has: ask for less.
            count //= 2
            while count and not self._mbufs.take(mbufs_a_frame * count):
                count //= 2
            if not count:
                return 0
            batch = batch.front(count)
        taken = self._nic.transmit(batch)
        if taken < count:
            self._mbufs.give(mbufs_a_frame * (count - taken))
        self.stats.frames_sent += taken
        return taken

    # -- receiving ---------------------------------------------------------------------------

    def poll(self) -> NDArray[np.int64]:
        """Poll the NIC once; the seqnos that valid acks named: stock ones in order of arrival."""
        frames = self._nic.poll(POLL_BUDGET)
        stats = self.stats
        stats.polls += 1
        if not len(frames.lengths):
            return NO_ACKS
        stats.frames_received += len(frames.lengths)
        got = classify_and_validate(frames.data, frames.lengths, self._expect, self._profile.checks)
        for reason, count in got.refused.items():
            self.refuse(reason, count)
        for index in np.flatnonzero(got.kind == ARP).tolist():
            self._handle_arp(frames.data[index, : int(frames.lengths[index])].tobytes())
        udp = np.flatnonzero(got.kind == UDP)
        if self.peer_mac is None and udp.size:
            self.refuse("before-arp", int(udp.size))
            return NO_ACKS
        acks = self._acks.read(frames, udp, got)
        stats.acks += len(acks)
        stats.foreign_accepted = self._acks.foreign
        stats.selective_acks = self._acks.selective
        if len(acks):
            first, last = int(acks[0]), int(acks[-1])
            self._tell("acks", first=first, last=last, count=len(acks), poll=stats.polls)
        return acks

    def _handle_arp(self, frame: bytes) -> None:
        config = self._config
        try:
            packet = arp.parse(frame)
        except PeerError as refusal:
            self.refuse(refusal.reason)
            return
        peers = {config.server_ip, config.gateway_ip or config.server_ip}
        types = self._profile.arp_hardware_types
        refusal_reason = arp.accepts(packet, self._mac, config.client_ip, peers, types)
        if refusal_reason:
            self.refuse(refusal_reason)
        elif packet.operation == arp.REQUEST:
            self.stats.arp_answered += 1
            self._send_raw(
                arp.reply(self._mac, config.client_ip, packet.sender_mac, packet.sender_ip)
            )
        elif self.peer_mac is None or self._profile.later_arp_replies_count:
            self.peer_mac = packet.sender_mac
        else:
            self.refuse("arp-unasked")

    def _tell_port(self, port: int) -> None:
        self._tell("server-port", port=port)

    # -- what the windows need ---------------------------------------------------------------

    def delay(self) -> None:
        self._delay_us(self._profile.poll_delay_us)

    def refuse(self, reason: str, count: int = 1) -> None:
        if count:
            self.stats.refused[reason] += count

    def retransmits(self, count: int, why: str) -> None:
        self.stats.retransmissions += count
        self.stats.retransmit_rounds += 1
        self._tell("retransmit", frames=count, why=why, poll=self.stats.polls)

    def probes(self, count: int) -> None:
        self.stats.probes += count
        self._tell("probe", frames=count, poll=self.stats.polls)


def _dotted(address: bytes) -> str:
    return ".".join(map(str, address))
