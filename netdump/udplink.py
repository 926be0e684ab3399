"""debugnet: the polled UDP link between a dying kernel and a NIC driver.

What any protocol of a dying kernel needs, and nothing of a protocol. The link owns what FreeBSD
keeps in ``struct debugnet_pcb``: the two MACs and the counters. It builds UDP frames in batches,
payload by address, and it believes a received frame only after ``inet.py`` has validated it under
the ``Checks`` of its rules; every refusal is counted under a name. While it polls it also answers
ARP requests for the client's own address (nothing else: the machine is dead), as debugnet_arp.c
does.

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
from netdump.checksum import payload_sums
from netdump.contracts import DebugnetMethods, FrameBlock, LinkRules, Mbufs, Memory, TxBatch
from netdump.errors import PeerError, SendFailed
from netdump.inet import (
    ARP,
    IP_SIZE,
    UDP,
    UDP_SIZE,
    Expect,
    Flow,
    Received,
    classify_and_validate,
    udp_headers,
)

#: debugnet passes 1000 to dn_poll; drivers mostly have a lower budget of their own.
POLL_BUDGET: Final = 1000
IP_UDP_SIZE: Final = IP_SIZE + UDP_SIZE

#: ``tell(what, **evidence)``: the client's event log, one call a step.
Tell = Callable[..., None]

#: UDP of one poll: the frames, which of their rows are meant, and where in them the payload lies.
Heard = tuple[FrameBlock, NDArray[np.intp], Received]


@dataclass(frozen=True, slots=True)
class LinkConfig:
    """What dumpon(8) would have configured. Addresses are 4 bytes, network order."""

    client_ip: bytes
    server_ip: bytes
    gateway_ip: bytes | None = None
    server_port: int | None = None
    """Where the server is first spoken to; None: at the protocol's own port."""


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


class UdpLink:
    """One client port, one server. ``open``, then ``send_udp`` and ``poll_udp``, then ``close``."""

    def __init__(
        self,
        rules: LinkRules,
        config: LinkConfig,
        client_port: int,
        nic: DebugnetMethods,
        memory: Memory,
        mbufs: Mbufs,
        delay_us: Callable[[int], None],
        tell: Tell,
    ) -> None:
        self._rules = rules
        self._config = config
        self._client_port = client_port
        self._nic = nic
        self._buffer = memory.buffer
        self._mbufs = mbufs
        self._delay_us = delay_us
        self._tell = tell
        self._mac = nic.mac
        self._expect = Expect(
            mac=self._mac, our_ip=config.client_ip, peer_ip=config.server_ip, port=client_port
        )
        self.peer_mac: bytes | None = None
        self._asked_for = config.server_ip  # the address whose MAC the peer's is
        self.stats = LinkStats()

    @property
    def mac(self) -> bytes:
        return self._mac

    @property
    def mtu(self) -> int:
        """Largest IPv4 packet, bytes."""
        return self._nic.mtu

    # -- opening and closing -----------------------------------------------------------------

    def open(self) -> None:
        """Take the NIC over and find the peer's MAC. ``SendFailed``: ENETDOWN or ETIMEDOUT."""
        self._nic.event("start")
        if not self._nic.link_up():
            raise SendFailed(errno.ENETDOWN, "the NIC has no link")
        config = self._config
        if self._rules.arp_targets == "gateway only":
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
            f"no ARP reply from {names} to {self._rules.arp_retries} requests each",
        )

    def _resolve(self, role: str, address: bytes) -> bool:
        request = arp.request(self._mac, self._config.client_ip, address)
        self._asked_for = address
        for attempt in range(self._rules.arp_retries):
            self._tell("arp-request", target=_dotted(address), role=role, attempt=attempt + 1)
            if not self._send_raw(request):
                raise SendFailed(
                    errno.ENOBUFS,
                    f"the ARP request for {_dotted(address)} has no buffer, or no room in the ring",
                )
            polls = 0
            while polls <= self._rules.polls:
                polls += 1
                self.poll_udp()
                if self.peer_mac is not None:
                    self._tell("arp-resolved", role=role, mac=self.peer_mac.hex(":"))
                    return True
                self.delay()
        return False

    def close(self) -> None:
        self._nic.event("end")

    # -- sending -----------------------------------------------------------------------------

    def send_udp(
        self,
        port: int,
        app_headers: NDArray[np.uint8],
        addresses: NDArray[np.int64],
        lengths: NDArray[np.int64],
    ) -> int:
        """Queue datagrams to a port of the server's; how many the NIC took, from the front.

        ``app_headers`` uint8 (n, w); behind each follow ``lengths`` bytes at physical ``addresses``
        (plain int64 arrays). ``SendFailed`` with EHOSTUNREACH before ``open``.
        """
        if self.peer_mac is None:
            raise SendFailed(errno.EHOSTUNREACH, "the peer's MAC is not known")
        config = self._config
        flow = Flow(
            src_mac=self._mac,
            dst_mac=self.peer_mac,
            src_ip=config.client_ip,
            dst_ip=config.server_ip,
            src_port=self._client_port,
            dst_port=port,
        )
        sums = payload_sums(self._buffer, addresses, lengths)
        headers = udp_headers(flow, app_headers, sums, lengths, ttl=self._rules.ttl)
        sizes = np.full(len(headers), headers.shape[1], np.int64)
        return self._transmit(TxBatch(headers, sizes, addresses, lengths), 2)

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

    def poll_udp(self) -> Heard | None:
        """Poll the NIC once; the valid UDP from the server that it found, None if there is none."""
        frames = self._nic.poll(POLL_BUDGET)
        stats = self.stats
        stats.polls += 1
        if not len(frames.lengths):
            return None
        stats.frames_received += len(frames.lengths)
        got = classify_and_validate(frames.data, frames.lengths, self._expect, self._rules.checks)
        for reason, count in got.refused.items():
            self.refuse(reason, count)
        for index in np.flatnonzero(got.kind == ARP).tolist():
            self._handle_arp(frames.data[index, : int(frames.lengths[index])].tobytes())
        udp = np.flatnonzero(got.kind == UDP)
        if not udp.size:
            return None
        if self.peer_mac is None:
            self.refuse("before-arp", int(udp.size))
            return None
        return frames, udp, got

    def _handle_arp(self, frame: bytes) -> None:
        config = self._config
        try:
            packet = arp.parse(frame)
        except PeerError as refusal:
            self.refuse(refusal.reason)
            return
        peers = {config.server_ip, config.gateway_ip or config.server_ip}
        types = self._rules.arp_hardware_types
        refusal_reason = arp.accepts(packet, self._mac, config.client_ip, peers, types)
        if refusal_reason:
            self.refuse(refusal_reason)
        elif packet.operation == arp.REQUEST:
            self.stats.arp_answered += 1
            self._send_raw(
                arp.reply(self._mac, config.client_ip, packet.sender_mac, packet.sender_ip)
            )
        elif self.peer_mac is None or self._rules.later_arp_replies_count:
            self.peer_mac = packet.sender_mac
        else:
            self._another_peer(packet.sender_mac)

    def _another_peer(self, _mac: bytes) -> None:
        """A valid ARP reply, when the peer's MAC is known already."""
        self.refuse("arp-unasked")

    def announce(self) -> None:
        """Ask for the peer's MAC once more: whoever hears it learns ours."""
        self._send_raw(arp.request(self._mac, self._config.client_ip, self._asked_for))

    # -- what the windows need ---------------------------------------------------------------

    def delay(self, us: int | None = None) -> None:
        """DELAY; None: between two polls, as the rules have it."""
        self._delay_us(self._rules.poll_delay_us if us is None else us)

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
