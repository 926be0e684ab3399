"""TFTP, read off the wire by who only listens: what was sent as which block, and what was acked.

Theory (RFC 1350, 2347, 2348, 7440). A write begins with a WRQ from a port that the client draws to
the server's port 69. The server answers from a port that *it* draws: with an OACK, which says the
block size and the window that hold, or, where it knows no option, with an ACK of block 0: then a
block has 512 bytes. The two ports are the transfer. Block k, from 1, carries bytes from
(k - 1) * blksize on; the first that is shorter is the last. An ACK of block n acknowledges all
blocks up to n.

A block's number has 16 bits, and no RFC says what follows 65,535: 0 with most, 1 with some. What
the client sends next says which. In here blocks are numbered on, from 0, and never over.

Rules: only a datagram between the two ports counts, and of the server's only what comes from its
MAC (or the gateway's); a WRQ from another port begins another transfer, and a file anew, so of the
one before nothing is left. It needs no more than windows of 32,767 blocks to tell an old block from
a new one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.wire.kinds import CODE, classify, leading_words
from nic_models.frames import Frames

Ints = NDArray[np.int64]

AT_DATA: Final = 46
_AT_TFTP: Final = 42
_WORDS: Final = 23
_SOURCE, _DESTINATION, _LENGTH, _BLOCK = 17, 18, 19, 22
#: UDP's header and a DATA's.
_HEADERS: Final = 12
_BLKSIZE: Final = 512
#: After this block nobody has said what follows.
_LAST_NUMBER: Final = 65_535
NO_BLOCKS: Final[Ints] = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class Blocks:
    """Blocks of one batch."""

    rows: NDArray[np.intp]
    """Of the batch."""
    numbers: Ints
    """From 0, never over."""
    lengths: Ints
    """Bytes of the file in each."""


@dataclass(slots=True)
class Transfer:
    """What a WRQ began."""

    wrq: bytes = b""
    """The frame; empty before there was one."""
    client_port: int = 0
    server_port: int = 0
    """Where the blocks go; 0 before the first."""
    answers: dict[int, dict[str, str] | None] = field(default_factory=dict)
    """The options that the server's OACK said, by the port that it came from; None: an ACK."""
    blksize: int = _BLKSIZE
    windowsize: int = 1
    highest: int = -1
    """The number of the highest block sent."""
    period: int = 1 << 16
    """After so many blocks their numbers come again."""
    decided: bool = False
    """The period has been seen."""

    @property
    def options(self) -> dict[str, str] | None:
        """What holds; None: the server sent no OACK."""
        return self.answers.get(self.server_port)

    def settle_on(self, port: int) -> None:
        """The client goes on with this port of the server's: what that answered holds."""
        self.server_port = port
        said = self.options or {}
        self.blksize = _number(said, "blksize", _BLKSIZE)
        self.windowsize = _number(said, "windowsize", 1)

    def numbers(self, blocks: Ints) -> Ints:
        """Of blocks that were sent, in order, by the 16 bits that they have on the wire."""
        numbers = self.near(blocks)
        beyond = numbers[numbers >= _LAST_NUMBER]
        if not self.decided and len(beyond):
            self.decided = True
            if beyond[0] > _LAST_NUMBER:  # after 65,535 came 1, and no 0
                self.period = _LAST_NUMBER
                numbers = self.near(blocks)
        return numbers

    def near(self, blocks: Ints) -> Ints:
        """Those of all blocks that have these 16 bits which are nearest to the highest one."""
        half = self.period // 2
        return self.highest + (blocks - 1 - self.highest + half) % self.period - half


class TftpReader:
    """Follows the client's latest transfer; ``sent`` and ``heard`` take every batch."""

    def __init__(self) -> None:
        self.transfer = Transfer()
        self.requests = 0
        """WRQs seen, of all transfers."""
        self.transfers = 0
        self.errors: list[tuple[int, str]] = []
        """ERRORs of the server's: code and text."""

    def sent(self, frames: Frames) -> Blocks | None:
        """The blocks of this transfer in a batch of the client's; None where there are none."""
        kinds = classify(frames)
        for row in np.flatnonzero(kinds == CODE["wrq"]).tolist():
            self._begin(frames.bytes_of(row))
        of = self.transfer
        rows = np.flatnonzero(kinds == CODE["data"])
        if not len(rows):
            return None
        words = leading_words(frames, _WORDS)[rows].astype(np.int64)
        mine = words[:, _SOURCE] == of.client_port
        mine &= np.isin(words[:, _DESTINATION], list(of.answers))
        mine &= frames.lengths[rows] >= AT_DATA - _HEADERS + words[:, _LENGTH]
        rows, words = rows[mine], words[mine]
        if not len(rows):
            return None
        if words[-1, _DESTINATION] != of.server_port:
            of.settle_on(int(words[-1, _DESTINATION]))
        numbers = of.numbers(words[:, _BLOCK])
        of.highest = max(of.highest, int(numbers.max()))
        return Blocks(rows, numbers, words[:, _LENGTH] - _HEADERS)

    def _begin(self, wrq: bytes) -> None:
        self.requests += 1
        port = _ports(wrq)[0]
        if port != self.transfer.client_port:  # else it is the same, said again
            self.transfers += 1
            self.transfer = Transfer(wrq, port)

    def heard(self, frames: Frames) -> Ints:
        """The blocks that a batch of the server's acknowledges, in order; -1 is the WRQ."""
        kinds = classify(frames)
        of = self.transfer
        for row in np.flatnonzero(kinds == CODE["oack"]).tolist():
            source, destination, octets = _datagram(frames.bytes_of(row))
            if destination == of.client_port:
                of.answers.setdefault(source, _options(octets))
        for row in np.flatnonzero(kinds == CODE["error"]).tolist():
            _, destination, octets = _datagram(frames.bytes_of(row))
            if destination == of.client_port:
                text = octets[2:].split(b"\0")[0].decode(errors="replace")
                self.errors.append((int.from_bytes(octets[:2], "big"), text))
        rows = np.flatnonzero(kinds == CODE["ack"])
        if not len(rows):
            return NO_BLOCKS
        words = leading_words(frames, _WORDS)[rows].astype(np.int64)
        words = words[words[:, _DESTINATION] == of.client_port]
        for port in words[words[:, _BLOCK] == 0, _SOURCE].tolist():
            of.answers.setdefault(port, None)
        if not of.server_port:
            first: Ints = words[:1, _BLOCK] - 1
            return first
        return of.near(words[words[:, _SOURCE] == of.server_port, _BLOCK])

    def answers_in(self, frames: Frames) -> bool:
        """Whether one of them answers the WRQ, from whatever port."""
        first = np.isin(classify(frames), (CODE["oack"], CODE["ack"]))
        words = leading_words(frames, _WORDS)[first]
        return bool((words[:, _DESTINATION] == self.transfer.client_port).any())


def _ports(packet: bytes) -> tuple[int, int]:
    return int.from_bytes(packet[34:36], "big"), int.from_bytes(packet[36:38], "big")


def _datagram(packet: bytes) -> tuple[int, int, bytes]:
    """Source, destination, and what follows the opcode."""
    end = _AT_TFTP - 8 + int.from_bytes(packet[38:40], "big")
    return *_ports(packet), packet[_AT_TFTP + 2 : end]


def _options(octets: bytes) -> dict[str, str]:
    """Of an OACK; names in lower case (RFC 2347: they have none)."""
    words = [word.decode(errors="replace") for word in octets.split(b"\0")]
    return {name.lower(): value for name, value in zip(words[::2], words[1::2], strict=False)}


def _number(options: Mapping[str, str], name: str, default: int) -> int:
    """A number that an option says; what is none is as if it had not been said."""
    said = options.get(name, "")
    return int(said) if said.isascii() and said.isdecimal() and int(said) else default
