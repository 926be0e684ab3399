"""A TFTP server that only takes files, without sockets and clock.

A write request opens a session with a port of its own, and is answered from there: by an OACK with
those of its options that are known (RFC 2347), by ACK 0, or by an ERROR. The same request again
gets the same answer and no second session, as long as nothing was stored; so a request that is
doubled on its way can't cut the file under the first (which it does where a server opens the file
for each).

The shape is that of ``simhost/process.Core``: ``herald`` opens, ``receive`` takes a batch, ``tick``
lets time pass. Times are seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from bench.servers.tftp.config import MOST_SESSIONS, TftpConfig
from bench.servers.tftp.folder import Folder, NoFile
from bench.servers.tftp.session import Session
from netdump.errors import MalformedTftp
from netdump.tftp.options import Agreed
from netdump.tftp.packets import (
    BLKSIZES,
    DEFAULT_BLKSIZE,
    ROLLOVERS,
    TIMEOUTS,
    WINDOWSIZES,
    Code,
    Opcode,
    Request,
    decimal,
    pack_ack,
    pack_error,
    pack_oack,
    parse,
)

_ROLLOVER: Final[tuple[Literal[0], Literal[1]]] = (0, 1)
_SIZES: Final = range(1 << 63)
_NONE: Final = range(0)
_NOTHING: Final = np.empty((0, 4), np.uint8)

Client = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Answer:
    """To a request: ``ack`` is the datagram, whatever it is."""

    session_id: int
    fresh: bool
    ack: bytes


@dataclass(slots=True)
class _Kept:
    """A session, or of a request that was refused, what it was told."""

    client: Client
    heard: float
    session: Session | None = None


@dataclass(slots=True)
class TftpCore:
    """All uploads of one server."""

    config: TftpConfig
    folder: Folder
    _sessions: dict[int, _Kept] = field(default_factory=dict)
    _next: int = 1

    def herald(self, client: Client, datagram: bytes, now: float) -> Answer | None:
        """A datagram to the server's own port; None if it is no request."""
        try:
            request = parse(datagram)
        except MalformedTftp:
            return None
        if not isinstance(request, Request):
            return None
        for number, kept in self._sessions.items():
            session = kept.session
            if kept.client == client and session is not None and session.state == "open":
                return None if session.last else Answer(number, False, session.answer)
        if len(self._sessions) >= 2 * MOST_SESSIONS:
            return None  # it is not even told so: that would cost as much as to be told
        number = self._next
        self._next += 1
        kept = _Kept(client, now)
        try:
            self._check(request)
            kept.session = self._open(request)
            ack = kept.session.answer
        except NoFile as refusal:
            ack = pack_error(refusal.error.code, refusal.error.text)
        self._sessions[number] = kept
        return Answer(number, True, ack)

    def _check(self, request: Request) -> None:
        """Raises ``NoFile``."""
        if request.opcode is not Opcode.WRQ:
            raise NoFile(Code.ACCESS, "nothing can be read here")
        if request.mode != "octet":
            raise NoFile(Code.ILLEGAL, "files are taken in mode octet")
        if request.options and self.config.refuses_options:
            raise NoFile(Code.OPTIONS, "no options here")
        if len(self._sessions) >= MOST_SESSIONS:
            raise NoFile(Code.UNDEFINED, "too many uploads at once")

    def _open(self, request: Request) -> Session:
        options = self._options(request.options)
        writing = [kept.session for kept in self._sessions.values() if kept.session is not None]
        name = request.file.decode("ascii", "replace").lstrip("/")
        if any(session.state == "open" and session.name == name for session in writing):
            raise NoFile(Code.ACCESS, f"{name} is being written")
        name, upload = self.folder.open(request.file)
        rollover = self.config.rollover or 0
        agreed = Agreed(
            int(options.get("blksize", DEFAULT_BLKSIZE)),
            int(options.get("windowsize", 1)),
            _ROLLOVER[int(options.get("rollover", rollover))],
        )
        answer = pack_oack(options) if options else pack_ack(0)
        return Session(upload, name, agreed, self.config, answer)

    def _options(self, asked: Mapping[str, str]) -> dict[str, str]:
        """What the OACK says; a value that is none leaves its option out."""
        config = self.config
        if not config.options:
            return {}
        #: Option -> its values, and the most that is told.
        known = {
            "blksize": (BLKSIZES, config.blksize),
            "windowsize": (WINDOWSIZES, config.windowsize),
            "timeout": (TIMEOUTS, TIMEOUTS.stop),
            "tsize": (_SIZES, _SIZES.stop),
        }
        if config.knows_rollover and config.rollover is not None:
            known["rollover"] = (ROLLOVERS, ROLLOVERS.stop)
        told: dict[str, str] = {}
        for name, text in asked.items():
            values, most = known.get(name, (_NONE, 0))
            value = decimal(text)
            if value is not None and value in values:
                told[name] = str(min(value, most))
        return told

    def receive(
        self, session_id: int, data: NDArray[np.uint8], lengths: NDArray[np.int64], now: float
    ) -> NDArray[np.uint8]:
        """Datagrams to the port of a session; the answers, uint8 (n, octets)."""
        kept = self._sessions.get(session_id)
        if kept is None or kept.session is None or kept.session.state == "gone":
            return _NOTHING
        kept.heard = now
        return kept.session.receive(data, lengths)

    def has_socket(self, session_id: int, local: tuple[str, int]) -> None:
        """That is nothing to TFTP: a transfer does not outlive its server."""

    def tick(self, now: float) -> list[int]:
        """Let time pass; the sessions that are no more."""
        ended = [number for number, kept in self._sessions.items() if self._ended(kept, now)]
        for number in ended:
            session = self._sessions.pop(number).session
            if session is not None:
                session.close()
        return ended

    def _ended(self, kept: _Kept, now: float) -> bool:
        session = kept.session
        if session is None or session.state == "gone":
            return True
        patience = self.config.dally_s if session.state == "over" else self.config.idle_s
        return now - kept.heard > patience

    def stop(self) -> None:
        """No upload goes on; what is stored stays."""
        for kept in self._sessions.values():
            if kept.session is not None:
                kept.session.close()
        self._sessions.clear()
