"""Third hosts on the machine's segment: what a NIC hears that was not meant for it.

A promiscuous NIC hears everything; any NIC hears broadcasts. ``Bystanders`` wraps a wire and adds,
for every n-th frame that the machine sends, one frame of a third host to what the machine hears
next, ahead of any answer to that frame:

| trick | what the machine hears |
|---|---|
| acks-for-another-mac | a perfect ack of what it has just sent, but to another host's MAC |
| unicast-to-others | UDP between two other hosts |
| broadcast-noise | ARP requests for other hosts, and UDP broadcasts |
| arp-spoof | ARP replies, unasked, for other hosts; in mid-dump also for whom the machine asked |
| arp-race | ARP replies in the server's name, before its own; and the server, ARP in the client's |
| forged-data | nothing; but the server, data in the client's name |
| forged-dump | acks in the server's name; and the server, messages in the client's |
| replayed-dump | what the server has ever said; and the server, what the client has |

The last four are ``attackers.py``'s.

``TRICKS`` is that table, and all that the bench knows of a trick: the grammar takes its names for
its choices, the verdict its words.

The forged acks need the server's port, learned from the first frame that the server sends to the
client; until then that trick keeps quiet. A client that does not compare the destination MAC
believes them: to see the harm wrap this round the faults, ``Bystanders(Faults(...))``, so that
frames that the wire loses are acked as well.

Nothing is random: the same frames sent bring the same frames heard. scapy builds the noise, once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from bench.clock import Clock
from bench.wire.attackers import ArpRacer, Attacker, DataForger, Forger, Replayer
from bench.wire.contracts import MINIMUM_FRAME, Observer, Wire
from bench.wire.kinds import CODE, classify, leading_words
from netdump import arp
from netdump.inet import Flow, udp_headers
from netdump.messages import CLIENT_PORT
from nic_models.frames import Frames

#: Locally administered addresses of hosts that exist nowhere else in the bench.
OTHER_MACS: Final = ("02:00:5e:00:99:01", "02:00:5e:00:99:02", "02:00:5e:00:99:03")
OTHER_IPS: Final = ("198.18.0.201", "198.18.0.202", "198.18.0.203")

_MESSAGES: Final = [CODE[kind] for kind in ("vmcore", "kdh", "key", "finished")]
#: Ethernet, IPv4 and UDP headers and a netdump header.
_MESSAGE_SIZE: Final = 66
_ARP_OPERATION: Final = 21  # low octet
_ARP_SENDER: Final = slice(28, 32)
_ARP_TARGET: Final = slice(38, 42)
_SEQNO_COLUMNS: Final = slice(46, 50)
#: How the note of an attacker's frame begins.
ATTACKER: Final = "attacker: "
_EVERYBODY: Final = "ff:ff:ff:ff:ff:ff"


@dataclass(frozen=True, kw_only=True, slots=True)
class Deed:
    """A row of the table."""

    heard: str
    """What the machine hears, in a verdict."""
    craft: Callable[[], list[Any]] | None = None
    """Makes the scapy frames that are sent in turn; None, and no attacker: an ack of each frame is
    forged."""
    claims_asked: bool = False
    """In mid-dump every other frame is an ARP reply for an address that the machine asked for."""
    attacker: Callable[[], Attacker] | None = None
    """Who decides what is said, both to the machine and to the server."""


def _between_others() -> list[Any]:
    from scapy.layers.inet import IP, UDP
    from scapy.layers.l2 import Ether

    return [
        Ether(src=OTHER_MACS[0], dst=OTHER_MACS[1])
        / IP(src=OTHER_IPS[0], dst=OTHER_IPS[1])
        / UDP(sport=port, dport=port)
        / (bytes([fill]) * size)
        for port, fill, size in ((5004, 0x55, 1400), (53, 0xAA, 60), (CLIENT_PORT, 0, 4))
    ]


def _noise() -> list[Any]:
    from scapy.layers.inet import IP, UDP
    from scapy.layers.l2 import ARP, Ether

    (mac_a, mac_b, _), (ip_a, ip_b, ip_c) = OTHER_MACS, OTHER_IPS
    return [
        Ether(src=mac_a, dst=_EVERYBODY)
        / ARP(op=arp.REQUEST, hwsrc=mac_a, psrc=ip_a, hwdst="00:00:00:00:00:00", pdst=ip_c),
        Ether(src=mac_b, dst=_EVERYBODY)
        / IP(src=ip_b, dst="255.255.255.255")
        / UDP(sport=138, dport=138)
        / b"is anybody there?",
    ]


def _unasked_replies() -> list[Any]:
    from scapy.layers.l2 import ARP, Ether

    mac = OTHER_MACS[2]
    return [
        Ether(src=mac, dst=_EVERYBODY)
        / ARP(op=arp.REPLY, hwsrc=mac, psrc=ip, hwdst=_EVERYBODY, pdst=ip)
        for ip in OTHER_IPS
    ]


def _forges_acks(deed: Deed) -> bool:
    return deed.craft is None and deed.attacker is None


def _notes(name: str, frames: Frames) -> dict[int, str]:
    says = ATTACKER if TRICKS[name].attacker is not None else "bystander: "
    return dict.fromkeys(range(len(frames)), f"{says}{name}")


def are_attackers(notes: Mapping[int, str]) -> bool:
    """Are these an observer's notes of what attackers said? Then it is nobody's evidence."""
    return next(iter(notes.values()), "").startswith(ATTACKER)


TRICKS: Final[dict[str, Deed]] = {
    "acks-for-another-mac": Deed(heard="acks for another MAC"),
    "unicast-to-others": Deed(heard="unicast frames between others", craft=_between_others),
    "broadcast-noise": Deed(heard="broadcasts", craft=_noise),
    "arp-spoof": Deed(
        heard="ARP replies that claim others' addresses", craft=_unasked_replies, claims_asked=True
    ),
    "arp-race": Deed(heard="ARP frames in the server's name, and the client's", attacker=ArpRacer),
    "forged-data": Deed(heard="forged frames, all to the server", attacker=DataForger),
    "forged-dump": Deed(heard="forged frames, those to the server included", attacker=Forger),
    "replayed-dump": Deed(heard="replayed frames, those to the server included", attacker=Replayer),
}


@dataclass(frozen=True, slots=True)
class Trick:
    """One bystander: what it sends, and after every how many of the machine's frames."""

    sends: str
    """One of ``TRICKS``."""
    every: int = 1

    def __post_init__(self) -> None:
        if self.sends not in TRICKS:
            raise ValueError(f"bystander {self.sends!r}: it sends one of {tuple(TRICKS)}")
        if self.every < 1:
            raise ValueError(f"bystander {self.sends}: every {self.every} frames; give 1 or more")


class Bystanders:
    """A wire with third hosts on it."""

    def __init__(
        self,
        inner: Wire,
        tricks: Sequence[Trick],
        *,
        clock: Clock,
        observer: Observer | None = None,
        to_server: Wire | None = None,
    ) -> None:
        """``observer`` is told of the added frames only, each with a note. ``to_server``: the wire
        that attackers reach the server by, past all that befalls the machine's frames.
        """
        self.added = dict.fromkeys((trick.sends for trick in tricks), 0)
        """Frames added, by trick."""
        self._inner = inner
        self._clock = clock
        self._observer = observer
        self._tricks = tricks
        self._seen = [0] * len(tricks)
        self._noise = {
            trick.sends: Frames.of([bytes(frame).ljust(MINIMUM_FRAME, b"\0") for frame in craft()])
            for trick in tricks
            if (craft := TRICKS[trick.sends].craft) is not None
        }
        self._to_server = to_server or inner
        self._attackers = {
            trick.sends: attacker()
            for trick in tricks
            if (attacker := TRICKS[trick.sends].attacker) is not None
        }
        self._forges = any(_forges_acks(TRICKS[name]) for name in self.added)
        self._server_port = 0
        self._asked: list[bytes] = []
        self._under_way = False
        self._pending: list[tuple[str, Frames]] = []

    @property
    def replayers(self) -> list[Replayer]:
        """Those that can be told of a dump before this one."""
        return [who for who in self._attackers.values() if isinstance(who, Replayer)]

    def send(self, frames: Frames) -> None:
        if len(frames):
            for attacker in self._attackers.values():
                attacker.hears("to-server", frames)
            for i, trick in enumerate(self._tricks):
                self._watch(i, trick, frames)
        self._inner.send(frames)

    def receive(self) -> Frames:
        """The bystanders' frames, then what really arrived."""
        arrived = self._inner.receive()
        if len(arrived):
            for attacker in self._attackers.values():
                attacker.hears("to-client", arrived)
        if self._forges and len(arrived):
            self._learn_port(arrived)
        if not self._pending:
            return arrived
        now_ns = self._clock.now_ns()
        added = [(name, frames.at(now_ns)) for name, frames in self._pending]
        self._pending.clear()
        for name, frames in added:
            if self._observer:
                self._observer("to-client", frames, _notes(name, frames))
        return Frames.concat([*(frames for _, frames in added), arrived])

    def close(self) -> None:
        self._inner.close()

    def _watch(self, i: int, trick: Trick, frames: Frames) -> None:
        """Count the machine's frames, and prepare an answer to every n-th."""
        deed = TRICKS[trick.sends]
        if _forges_acks(deed):
            if not self._server_port:
                return
            frames = frames.take(
                np.isin(classify(frames), _MESSAGES) & (frames.lengths >= _MESSAGE_SIZE)
            )
        if deed.claims_asked:
            self._learn_asked(frames)
        before = self._seen[i]
        self._seen[i] += len(frames)
        nth = np.flatnonzero((before + 1 + np.arange(len(frames))) % trick.every == 0)
        if not len(nth):
            return
        if deed.attacker is not None:
            self._attack(trick.sends, len(nth), int(frames.time_ns[-1]))
            return
        if deed.craft is None:
            heard = self._forged_acks(frames.take(nth))
        else:
            templates = self._noise[trick.sends]
            heard = templates.take((self.added[trick.sends] + np.arange(len(nth))) % len(templates))
            if deed.claims_asked:
                self._claim_asked(heard, self.added[trick.sends])
        self.added[trick.sends] += len(nth)
        self._pending.append((trick.sends, heard))

    def _attack(self, name: str, turns: int, now_ns: int) -> None:
        heard, to_server = self._attackers[name].says(turns)
        self.added[name] += len(heard) + len(to_server)
        if len(heard):
            self._pending.append((name, heard))
        if len(to_server):
            to_server = to_server.at(now_ns)
            if self._observer:
                self._observer("to-server", to_server, _notes(name, to_server))
            self._to_server.send(to_server)

    def _learn_asked(self, sent: Frames) -> None:
        """Which addresses the machine asks for, and whether it has found one."""
        kinds = classify(sent)
        for row in np.flatnonzero(kinds == CODE["arp"]).tolist():
            asked = sent.data[row, _ARP_TARGET].tobytes()
            if sent.data[row, _ARP_OPERATION] == arp.REQUEST and asked not in self._asked:
                self._asked.append(asked)
        self._under_way |= bool((kinds == CODE["vmcore"]).any())

    def _claim_asked(self, heard: Frames, before: int) -> None:
        """Make every other reply claim one of those addresses; ``before`` came before these."""
        if not (self._under_way and self._asked):
            return
        for row in range(before % 2, len(heard), 2):
            address = self._asked[row // 2 % len(self._asked)]
            heard.data[row, _ARP_SENDER] = np.frombuffer(address, np.uint8)

    def _learn_port(self, arrived: Frames) -> None:
        acks = np.flatnonzero(classify(arrived) == CODE["ack"])
        if len(acks):
            last = arrived.take(acks[-1:])
            self._server_port = int(leading_words(last, 18)[0, 17])

    def _forged_acks(self, messages: Frames) -> Frames:
        """An ack of each of these messages of one client, to another host's MAC."""
        first = messages.bytes_of(0)
        flow = Flow(
            src_mac=first[0:6],
            dst_mac=bytes.fromhex(OTHER_MACS[0].replace(":", "")),
            src_ip=first[30:34],
            dst_ip=first[26:30],
            src_port=self._server_port,
            dst_port=CLIENT_PORT,
        )
        nothing = np.zeros(len(messages), np.int64)
        acks = udp_headers(flow, messages.data[:, _SEQNO_COLUMNS], nothing, nothing, ttl=64)
        padded = np.pad(acks, ((0, 0), (0, MINIMUM_FRAME - acks.shape[1])))
        return Frames(padded, np.full(len(messages), MINIMUM_FRAME), messages.time_ns)
