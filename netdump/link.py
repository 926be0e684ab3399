"""netdump's link: its messages and acks on the polled UDP link of a dying kernel.

What is netdump's own: the client speaks from port 20024; a HERALD goes to the server's port 20023,
and what follows to the port that its ack came from (``acks.py``); a message is a header of 24 bytes
and a payload by address. All else is ``udplink.py``, which TFTP shares.

With a key the HERALD is answered by a challenge, and that by a proof, at once (``opening.py``).
Until a server has proved itself, no ARP reply is worth more than another: each that names another
MAC gets a HERALD at once, and a copy of each later one, and each MAC that a right challenge comes
from gets the proof, for a stranger may say a recorded one again. The peer is who answers with a
right tag. From then on each message has a tag (``tags.py``), and the peer is whoever the latest ack
with news came from. If none comes, it may have been a stranger's copy of one that was lost: so a
probe goes to all that may be the peer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from netdump import crc, tags
from netdump.acks import NO_ACKS, AckReader
from netdump.contracts import DebugnetMethods, Mbufs, Memory
from netdump.errors import SendFailed
from netdump.keys import TAG_SIZE
from netdump.messages import (
    CLIENT_PORT,
    HEADER_SIZE,
    HERALD_PORT,
    MessageType,
    pack_headers,
)
from netdump.nak import meaning
from netdump.offer import AUTHENTICATION, CRC32C, MARK
from netdump.opening import PROOF, PROOF_SIZE, Prover
from netdump.profiles import Profile
from netdump.udplink import IP_UDP_SIZE, Tell, UdpLink
from netdump.udplink import LinkConfig as LinkConfig

#: MACs besides the first that get a copy of each HERALD, the latest to claim to be the peer's.
MOST_CLAIMANTS: Final = 8
#: HERALDs to claimants in one poll: half of a ring, for a proof needs room, too.
MOST_AT_ONCE: Final = 256


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
        prover: Prover | None = None,
        facts_at: int = 0,
    ) -> None:
        """``herald_seqno``: that of the first message, whose ack tells the server's port.
        ``prover``: of a client that has a key; its facts, and the HERALD's path behind them, lie at
        the physical address ``facts_at``.
        """
        super().__init__(profile, config, CLIENT_PORT, nic, memory, mbufs, delay_us, tell)
        self._herald_port = HERALD_PORT if config.server_port is None else config.server_port
        self._acks = AckReader(
            profile, self._mac, herald_seqno, self.refuse, self._tell_port, prover
        )
        self._prover = prover
        self._facts_at = facts_at
        self._herald: NDArray[np.void] | None = None  # the fragment, once it was sent
        self._claimants: list[bytes] = []  # other MACs that may be the peer's
        self._at_once = 0  # HERALDs that they got in this poll

    @property
    def payload_size(self) -> int:
        tag = TAG_SIZE if self.taken & AUTHENTICATION else 0
        return self.mtu - IP_UDP_SIZE - HEADER_SIZE - tag

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
        if offer:
            self._heralds(app, fragments, addresses, lengths)
        elif self.taken & CRC32C:
            crc.put(app, self._buffer, addresses, lengths)
        elif self.taken & AUTHENTICATION and self._prover is not None and self._prover.keys:
            key = self._prover.keys.to_server
            app = tags.tagged(key, app, self._buffer, addresses, lengths)
        port = self._acks.server_port or self._herald_port
        taken = self.send_udp(port, app, addresses, lengths)
        if offer and self._claimants:
            self._to_claimants(self._claimants, app, addresses, lengths)
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
        """Poll the NIC once; the seqnos that valid acks named: stock ones in order of arrival.

        ``SendFailed``: the server says no, with a right tag.
        """
        self._at_once = 0
        heard = self.poll_udp()
        if heard is None:
            return NO_ACKS
        stats = self.stats
        acks = self._acks.read(*heard)
        if self._acks.proofs and self._prover is not None:
            self._prove_to_all(self._prover)
        took, self._acks.took_from = self._acks.took_from, None
        if took not in (None, self.peer_mac):
            self._remember(self.peer_mac)
            self.peer_mac = took
        if self._acks.news_from != self.peer_mac:
            self._remember(self._acks.news_from)
        if self._acks.refused is not None:
            code, why = meaning(self._acks.refused)
            raise SendFailed(code, f"the server says no: {why}")
        stats.acks += len(acks)
        stats.foreign_accepted = self._acks.foreign
        stats.selective_acks = self._acks.selective
        if len(acks):
            first, last = int(acks[0]), int(acks[-1])
            self._tell("acks", first=first, last=last, count=len(acks), poll=stats.polls)
        return acks

    def _tell_port(self, port: int) -> None:
        self._tell("server-port", port=port)

    # -- a client that has a key -------------------------------------------------------------

    def _heralds(
        self,
        app: NDArray[np.uint8],
        fragments: NDArray[np.void],
        addresses: NDArray[np.int64],
        lengths: NDArray[np.int64],
    ) -> None:
        """A HERALD with an offer goes out: of one that has a key the nonce is in its offset."""
        if self._prover is None:
            return
        app[:, 8:16] = np.frombuffer(self._prover.nonce, np.uint8)
        path = self._buffer[int(addresses[0]) : int(addresses[0] + lengths[0])].tobytes()
        self._prover.heralded(app[0].tobytes(), path)
        if self._herald is not None:
            self.announce()  # it was not answered: who else says that he is the peer?
        self._herald = fragments.copy()

    def _another_peer(self, mac: bytes) -> None:
        known = (self.peer_mac, *self._claimants)
        if not self._acks.unproved or mac in known:
            super()._another_peer(mac)
            return
        self._remember(mac)
        if self._herald is not None and self._at_once < MOST_AT_ONCE:
            self._at_once += 1
            head = self._header_of(MARK | self._acks.offer, int(self._herald["length"][0]))
            lies_at, lengths = (self._herald[name].copy() for name in ("address", "length"))
            self._to_claimants([mac], head, lies_at, lengths)

    def _remember(self, mac: bytes | None) -> None:
        """It may be the peer's."""
        if mac is not None and mac not in self._claimants:
            self._claimants = [*self._claimants[1 - MOST_CLAIMANTS :], mac]

    def _to_claimants(
        self,
        macs: Iterable[bytes],
        app: NDArray[np.uint8],
        addresses: NDArray[np.int64],
        lengths: NDArray[np.int64],
    ) -> None:
        """A message to the HERALDs' port, to each of these as if it were the peer."""
        peer = self.peer_mac
        for self.peer_mac in macs:
            self.send_udp(self._herald_port, app, addresses, lengths)
        self.peer_mac = peer

    def _header_of(self, word: int, length: int) -> NDArray[np.uint8]:
        """Of the HERALD, or of its proof: uint8 (1, 24)."""
        assert self._herald is not None, "it was sent"
        assert self._prover is not None, "there is a key"
        head = pack_headers(MessageType.HERALD, self._herald["seqno"], [0], [length], word)
        head[:, 8:16] = np.frombuffer(self._prover.nonce, np.uint8)
        return head

    def _prove_to_all(self, prover: Prover) -> None:
        """Answer challenges: the proof's 32 octets, and what lies at ``facts_at``."""
        herald = self._herald
        assert herald is not None, "a challenge is the answer to a HERALD"
        length = len(prover.facts) + int(herald["length"][0])
        head = self._header_of(PROOF | self._acks.offer, PROOF_SIZE + length)
        lies_at, lengths = np.array([self._facts_at]), np.array([length])
        # Strangers' copies, however many: first come those whom ARP has named.
        known = [mac for mac in (self.peer_mac, *self._claimants) if mac is not None]
        macs = [mac for mac in known if mac in self._acks.proofs]
        macs += [mac for mac in self._acks.proofs if mac not in known]
        for mac in macs[: 1 + MOST_CLAIMANTS]:
            proof = np.frombuffer(self._acks.proofs[mac], np.uint8)
            self._to_claimants([mac], np.hstack([head, proof[None, :]]), lies_at, lengths)
            self._tell("proof", poll=self.stats.polls)
            if len(self._claimants) < MOST_CLAIMANTS and mac != self.peer_mac:
                self._remember(mac)
        self._acks.proofs.clear()

    def goes_elsewhere(self) -> None:
        """Nothing that went to this MAC was answered: from now on all goes to the next that may be
        the server's. An ack does not say which of them it is, for anybody may say it again; that
        messages *to* a MAC are acknowledged does.
        """
        others = [mac for mac in self._claimants if mac != self.peer_mac]
        if self.taken & AUTHENTICATION and others and self.peer_mac is not None:
            self._claimants = [*others[1:], self.peer_mac]
            self.peer_mac = others[0]

    def probes(self, count: int) -> None:
        if self.taken & AUTHENTICATION:
            self.announce()  # somebody may have told the server that our MAC is another
        super().probes(count)
