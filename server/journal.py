"""The journal of a dump under way: what a server that comes up again has to know of it. Pure.

Theory. A server that is killed loses what it knew of its clients, and a stock client can't begin
anew: it sends to a port where nobody hears, until it gives up. What was stored is there. So what
else is needed is written down beside the dump, before the ack that rests on it goes; the server
that comes up reads it, has the same port again, and the client notices a delay.

    journal.HOST.N = head | record | record ...

    head      ``HEAD_SIZE`` octets: JSON, and spaces
    record    24 octets: kind, start, end, unsigned, of 8 each, big-endian

    kind      says
    DATA      octets of the dump, [start, end), are in its file
    KEY       the same of the key file
    ACKED     messages, [start, end), were acknowledged: seqnos that don't turn over at 2**32
    LONGEST   a message of the dump had ``start`` octets
    HEADER    the kernel dump header was taken: its ``start`` octets follow, in whole records

Rules:

1. A record is written when what it says is so, and before any ack of it goes.
2. It ends at the first record that is not whole, or of no known kind: what that said was never
   acknowledged.
3. Kill -9 takes nothing from the kernel's cache. A machine's crash may: so of another boot only a
   journal is believed whose server forced all to the disk before each ack (``synced``).
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator
from dataclasses import astuple, dataclass, field
from enum import IntEnum
from ipaddress import IPv4Address
from typing import Any, Final

from netdump.errors import NetdumpError
from netdump.keys import Opening
from netdump.opening import Facts

HEAD_SIZE: Final = 4096
RECORD: Final = struct.Struct(">QQQ")
_VERSION: Final = 1
#: No octet of a dump, and no message, has such a number.
_END: Final = 1 << 62
_YEAR_9999: Final = 253_370_764_800


class Kind(IntEnum):
    """Of a record."""

    DATA = 1
    KEY = 2
    ACKED = 3
    LONGEST = 4
    HEADER = 5


class BadJournal(NetdumpError):
    """It can't be used."""

    reason = "bad-journal"


@dataclass(frozen=True, slots=True)
class Head:
    """Who the client is, and where it dumps to."""

    client: tuple[str, int]
    seqno: int
    """The HERALD's."""
    taken: int
    """What was taken of its offer."""
    local: tuple[str, int]
    """The session's socket."""
    file: int
    """The inode of the dump's file: people move files."""
    boot: str
    """The machine's, while the journal was written: Linux draws an id for each."""
    synced: bool
    """All was on the disk before each ack."""
    opening: Opening | None = None
    """Of a client that has a key; its keys are made of it again."""
    announced: Facts | None = None
    """What such a client said of its dump beforehand."""
    began: float | None = None

    def pack(self) -> bytes:
        opening = self.opening
        told = {
            "journal": _VERSION,
            "client": self.client,
            "seqno": self.seqno,
            "taken": self.taken,
            "local": self.local,
            "file": self.file,
            "boot": self.boot,
            "synced": self.synced,
            "began": self.began,
            "announced": None if self.announced is None else astuple(self.announced),
            "opening": None
            if opening is None
            else [
                p.hex() for p in (opening.client_ip, opening.herald, opening.word, opening.nonce)
            ],
        }
        return json.dumps(told).encode().ljust(HEAD_SIZE)


@dataclass(slots=True)
class Past:
    """What a journal says."""

    head: Head
    data: list[tuple[int, int]] = field(default_factory=list)
    key: list[tuple[int, int]] = field(default_factory=list)
    acked: list[tuple[int, int]] = field(default_factory=list)
    longest: int = 0
    header: bytes = b""


class Pages:
    """Records that are not written yet; ``most`` at the most, for a client that gets no ack may
    send for ever.
    """

    def __init__(self, most: int = sys.maxsize) -> None:
        self.lost = False
        """There were more: it has to be written anew."""
        self._most = most
        self._pending: list[tuple[int, int, int]] = []

    def span(self, kind: Kind, start: int, end: int) -> None:
        """DATA, KEY or ACKED."""
        if len(self._pending) >= self._most:
            self.lost = True
            self._pending.clear()
        last = self._pending[-1] if self._pending else (0, 0, 0)
        if last[0] == kind and last[2] == start:
            self._pending[-1] = (kind, last[1], end)
        else:
            self._pending.append((kind, start, end))

    def longest(self, octets: int) -> None:
        self._pending.append((Kind.LONGEST, octets, 0))

    def header(self, octets: bytes) -> None:
        self._pending.append((Kind.HEADER, len(octets), 0))
        padded = octets + bytes(-len(octets) % RECORD.size)
        self._pending += list(RECORD.iter_unpack(padded))

    def clear(self) -> None:
        """Nobody will write them."""
        self._pending.clear()
        self.lost = False

    def take(self) -> bytes:
        """To be written now."""
        octets = b"".join(RECORD.pack(*record) for record in self._pending)
        self.clear()
        return octets


def parse(octets: bytes) -> Past:
    """A journal's contents. Raises BadJournal if there is no head; see rule 2 for the rest."""
    past = Past(_head(octets[:HEAD_SIZE]))
    usable = (len(octets) - HEAD_SIZE) // RECORD.size * RECORD.size
    records = RECORD.iter_unpack(octets[HEAD_SIZE : HEAD_SIZE + max(usable, 0)])
    for kind, start, end in records:
        if kind in (Kind.DATA, Kind.KEY, Kind.ACKED) and start < end <= _END:
            lists = {Kind.DATA: past.data, Kind.KEY: past.key, Kind.ACKED: past.acked}
            lists[Kind(kind)].append((start, end))
        elif kind == Kind.LONGEST and start < _END:
            past.longest = max(past.longest, start)
        elif kind == Kind.HEADER:
            header = _following(records, start)
            if header is None:
                break
            past.header = header
        else:
            break
    return past


def _following(records: Iterator[tuple[int, int, int]], size: int) -> bytes | None:
    """The next ``size`` octets; None if they are not all there."""
    found = b""
    while len(found) < size <= HEAD_SIZE:
        record = next(records, None)
        if record is None:
            return None
        found += RECORD.pack(*record)
    return found[:size] if size <= HEAD_SIZE else None


def _head(octets: bytes) -> Head:
    if len(octets) < HEAD_SIZE:
        raise BadJournal(f"{len(octets)} octets of a journal")
    try:
        told: dict[str, Any] = json.loads(octets)
        if told["journal"] != _VERSION:
            raise BadJournal(f"a journal of version {told['journal']}")
        opening, announced = told["opening"], told["announced"]
        return Head(
            client=_address(*told["client"]),
            seqno=_number(told["seqno"], 1 << 32),
            taken=_number(told["taken"], 1 << 8),
            local=_address(*told["local"]),
            file=_number(told["file"], 1 << 64),
            boot=str(told["boot"]),
            synced=told["synced"] is True,
            opening=None if opening is None else Opening(*map(bytes.fromhex, opening)),
            announced=None if announced is None else _facts(*announced),
            began=_time(told["began"]),
        )
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise BadJournal(f"no head of a journal: {error}") from error


def _number(told: Any, end: int) -> int:
    """One in [0, end)."""
    if type(told) is not int or not 0 <= told < end:
        raise ValueError(f"{told!r} is no number below {end}")
    return told


def _address(ip: Any, port: Any) -> tuple[str, int]:
    return str(IPv4Address(str(ip))), _number(port, 1 << 16)


def _facts(length: Any, *texts: Any) -> Facts:
    return Facts(_number(length, _END), *map(str, texts))


def _time(told: Any) -> float | None:
    if told is None:
        return None
    if not isinstance(told, int | float) or not 0 <= told < _YEAR_9999:
        raise ValueError(f"{told!r} is no time")
    return float(told)
