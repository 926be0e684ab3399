"""Which acks a client believes, and what they name.

A stock ack is four octets, the seqno; a whole batch of them is read at once. A selective one
(``sack.py``) names many seqnos, so there are few of them, and they are read one by one. Half
duplex: what is neither is refused.

The server's port is learned here, for it answers a HERALD from a fresh one. Stock clients take the
port of the first ack at all, and never look at a port again. A careful client
(``Profile.ack_port_is_checked``) takes that of the ack that names its HERALD, and believes no other
from then on.

A client that has a key (``opening.py``) believes what has a right tag:

    what comes                   before an ack with a tag was believed      after it
    a challenge                  is answered by a proof, to each MAC that   refused
                                 it came from: copies prove nothing
    an ack with a right tag      believed                                   believed
    a NAK with a right tag       the dump has ended                         the same
    one with a wrong tag         refused                                    refused
    any other ack                refused; believed, for the whole dump, if  refused
                                 the client may go on without its key
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from netdump.contracts import FrameBlock
from netdump.errors import BadAck, BadTag, MalformedMessage
from netdump.inet import Received, is_host
from netdump.messages import parse_acks
from netdump.nak import is_nak, parse_nak
from netdump.offer import AUTHENTICATION
from netdump.opening import Prover, is_challenge
from netdump.profiles import Profile
from netdump.sack import Scoreboard, parse_sack

NO_ACKS: Final = np.empty(0, np.int64)
#: What is wrong with an ack, in the words of a client.
_REASONS: Final = {BadAck.reason: "not-an-ack", BadTag.reason: "ack-tag"}


class AckReader:
    """The acks of one connection."""

    def __init__(
        self,
        profile: Profile,
        mac: bytes,
        herald_seqno: int,
        refuse: Callable[[str, int], None],
        learned_port: Callable[[int], None],
        prover: Prover | None = None,
    ) -> None:
        """``refuse(reason, count)``; ``learned_port(port)`` is told once or never. ``prover``: of a
        client that has a key.
        """
        self.server_port: int | None = None
        self.foreign = 0
        """Acks believed although they were addressed to another MAC than ``mac``."""
        self.selective = 0
        """Selective acks believed."""
        self.offer = profile.offer
        """The bits that the HERALD offers (``offer.py``)."""
        self.refused: int | None = None
        """The reason of a NAK with a right tag (``nak.py``): the dump has ended."""
        self.proofs: dict[bytes, bytes] = {}
        """The answer that the latest challenge from each MAC wants; the link takes them."""
        self.took_from: bytes | None = None
        """The MAC that the ack which took the proof came from, or its copy; the link takes it."""
        self.news_from: bytes | None = None
        """The MAC that the latest ack with a right tag came from, of those that brought ``next``
        forward: the server's, or, where the server's ack was lost, of who says it again."""
        self._prover = prover if self.offer else None
        if self._prover is not None:
            self.offer |= AUTHENTICATION
        self._needs_tag = self._prover is not None and profile.key_is_required
        self.taken = 0
        """Those that the server took, once it has said so. It says so in each ack."""
        self._careful = profile.ack_port_is_checked
        self._mac = np.frombuffer(mac, np.uint8)
        self._herald_seqno = herald_seqno
        self._refuse = refuse
        self._learned_port = learned_port
        self._scoreboard = Scoreboard(herald_seqno) if self.offer else None

    @property
    def unproved(self) -> bool:
        """There is a key, and no server has shown yet that it has it, too."""
        return self._prover is not None and not self.taken and self.server_port is None

    def sent(self, seqnos: NDArray[np.int64]) -> None:
        """Messages that went out, in order, perhaps not for the first time."""
        if self._scoreboard is not None:
            self._scoreboard.sent(seqnos)

    def read(self, frames: FrameBlock, rows: NDArray[np.intp], got: Received) -> NDArray[np.int64]:
        """The seqnos, int64, that the acks in these rows name: those of validated UDP frames."""
        if not len(rows):
            return NO_ACKS
        starts, lengths = got.payload_start[rows], got.payload_length[rows]
        ports = got.source_port[rows]
        seqnos, is_ack = parse_acks(frames.data[rows], lengths, starts)
        believed = np.zeros(len(rows), np.bool_)
        if is_ack.any():
            if self._needs_tag or self.taken & AUTHENTICATION:
                self._refuse("ack-tag", int(np.count_nonzero(is_ack)))
            else:
                believed[is_ack] = self._check_ports(seqnos[is_ack], ports[is_ack])
        named = [seqnos[believed]]
        for i in np.flatnonzero(~is_ack).tolist():
            at = int(starts[i])
            payload = frames.data[rows[i], at : at + int(lengths[i])].tobytes()
            from_mac = frames.data[rows[i], 6:12].tobytes()
            if self._prover is not None and is_nak(payload):
                self._nak(self._prover, payload)
                continue
            if self._prover is not None and is_challenge(payload):
                self._challenged(self._prover, payload, from_mac)
                continue
            more = self._selective(payload, int(ports[i]), from_mac)
            if more is not None:
                believed[i] = True
                named.append(more)
        foreign = (frames.data[rows[believed], :6] != self._mac).any(axis=1)
        self.foreign += int(np.count_nonzero(foreign))
        return named[0] if len(named) == 1 else np.concatenate(named)

    def _nak(self, prover: Prover, payload: bytes) -> None:
        octets = prover.unseal(payload)
        if octets is None:
            self._refuse("nak-tag", 1)
            return
        try:
            self.refused = parse_nak(octets, self._herald_seqno)
        except MalformedMessage as error:
            self._refuse(error.reason, 1)

    def _challenged(self, prover: Prover, payload: bytes, from_mac: bytes) -> None:
        if not self.unproved:
            self._refuse("challenge-late", 1)
            return
        if not is_host(from_mac):
            self._refuse("challenge-mac", 1)
            return
        try:
            self.proofs[from_mac] = prover.challenged(payload, self.offer)
        except MalformedMessage as error:
            self._refuse(error.reason, 1)

    def _unsealed(self, payload: bytes) -> bytes:
        """An ack without its tag. Raises BadTag if it should have a right one."""
        if self._prover is not None and payload[3:4] and payload[3] & AUTHENTICATION:
            ack = self._prover.unseal(payload)
            if ack is not None:
                return ack
        elif not self._needs_tag and not self.taken & AUTHENTICATION:
            return payload
        raise BadTag("an ack that has no right tag", payload)

    def _selective(self, payload: bytes, port: int, from_mac: bytes) -> NDArray[np.int64] | None:
        """What it names; None if it is not believed."""
        if self._scoreboard is None:
            self._refuse("not-an-ack", 1)
            return None
        if self._careful and self.server_port not in (None, port):
            self._refuse("ack-port", 1)
            return None
        try:
            sack = parse_sack(self._unsealed(payload))
            if sack.taken & ~self.offer or self.taken not in (0, sack.taken):
                self._refuse("ack-taken", 1)
                return None
            before = self._scoreboard.next
            seqnos = self._scoreboard.read(sack)
        except MalformedMessage as error:
            self._refuse(_REASONS.get(error.reason, error.reason), 1)
            return None
        first = self.server_port is None
        if first:
            if self._careful and self._herald_seqno not in seqnos:
                self._refuse("ack-before-herald", 1)
                return None
            self._learn(port)
            self.taken = sack.taken
        if self._prover is not None and self._scoreboard.next > before and is_host(from_mac):
            self.news_from = from_mac
            if first:
                self.took_from = from_mac
        self.selective += 1
        return seqnos

    def _check_ports(
        self, seqnos: NDArray[np.int64], ports: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Learn the server's port from the first ack; whether each ack's port is right."""
        everyone = np.ones(len(seqnos), np.bool_)
        if not self._careful:
            if self.server_port is None:
                self._learn(int(ports[0]))
            return everyone
        if self.server_port is None:
            first = np.flatnonzero(seqnos == self._herald_seqno)
            if not first.size:
                self._refuse("ack-before-herald", len(seqnos))
                return ~everyone
            self._learn(int(ports[first[0]]))
        good: NDArray[np.bool_] = ports == self.server_port
        self._refuse("ack-port", int(np.count_nonzero(~good)))
        return good

    def _learn(self, port: int) -> None:
        self.server_port = port
        self._learned_port(port)
