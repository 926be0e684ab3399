"""The dump server without its sockets, files and clock.

HERALDs come to one port; each one that is believed makes a *session* with a socket of its own, and
the client learns that port from the source of the ack. Here a session is a number: the shell keeps
the sockets and says which session a datagram was for. Time comes in as float seconds, bytes go out
through the Store that each session was given.

Who is who: stock clients send everything from port 20024, start at seqno 1, and have no session id.
So a HERALD from a known endpoint is either a copy that the network or an impatient client made, or
the next boot of a machine that died again. Until data tells, it may be both:

* a HERALD of the same endpoint and seqno, before data: the same session, acknowledged again. It
  has to offer the same, too: a forged offer must not cost a stock client the acks it understands;
* after data, with a seqno that a client must have drawn (neither 0 nor 1): the same boot, the same
  session. But one with selective acks has said already what it has, and a client that begins anew
  would not believe that: it gets a new session;
* else a new session is offered beside the old one, and the old one goes on undisturbed. The first
  data on the new session's socket proves it; only then is the old one ended.

A client that has a key (``gate.py``) proves who it is before there is a session. What is opened so
gives way to nobody without a key: it is not evicted for such a client, and not ended by one that
says that it has started again. A client that has proved itself may take the place of one that has
not, even of a running dump.

Whatever comes, nothing escapes from here but acks; refusals are counted and told, by reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from netdump.errors import BadHeraldPath, BadProof, MalformedMessage
from netdump.keys import KEY_SIZE, SessionKeys
from netdump.messages import (
    ACK_SIZE,
    HEADER_SIZE,
    HERALD_PATH_MAX,
    Message,
    MessageType,
    herald_path,
    parse,
)
from netdump.nak import Reason
from netdump.offer import AUTHENTICATION, CRC32C, DIGEST, bits_of
from netdump.opening import Facts, is_proof
from server.config import ServerConfig
from server.gate import Gate
from server.journal import BadJournal, Head
from server.journal import parse as parse_journal
from server.life import State
from server.manifest import WallClock, no_clock
from server.refusals import (
    KEYLESS,
    NO_HERALD,
    OnEvent,
    Refusal,
    Refusals,
    announces_too_much,
    folder_refused,
    malformed,
    no_store,
    not_proved,
    too_many_clients,
)
from server.rescue import STOCK_FIRST_SEQNO
from server.session import Herald, Session, sealed_nak
from server.store import FileStore, Store, StoreError, StoreFactory

__all__ = ["HeraldReply", "ServerConfig", "ServerCore"]

#: The HERALD seqnos of programs that don't draw them: FreeBSD's userland test client, its kernel.
_FIXED_SEQNOS: Final = (0, STOCK_FIRST_SEQNO)
#: The longest datagram that netdumpd has a buffer for: a header and 4096 bytes of payload.
STOCK_DATAGRAM: Final = HEADER_SIZE + 4096
#: What is lost with a session that has (not been, been) quiet; the least is evicted first. A dump
#: that failed gets silence anyway; an offer holds no data; a client may still wait for the ack of
#: its FINISHED, but not for ever.
_WORTH: Final = {
    State.INCOMPLETE: (0, 0),
    State.FAILED: (0, 0),
    State.OFFERED: (2, 0),
    State.COMPLETE: (3, 1),
    State.RECEIVING: (4, 4),
}
_NO_ACKS: Final = np.empty((0, ACK_SIZE), np.uint8)
#: ``HeraldReply.session_id`` of an answer that belongs to no session.
NO_SESSION: Final = 0


@dataclass(frozen=True, slots=True)
class HeraldReply:
    """Send ``ack`` from the socket of ``session_id``; make that socket first if it is ``fresh``.
    ``NO_SESSION``: send it from the HERALDs' socket.
    """

    session_id: int
    fresh: bool
    ack: bytes


class ServerCore:
    """All sessions of a server."""

    def __init__(
        self,
        config: ServerConfig,
        store_factory: StoreFactory,
        on_event: OnEvent | None = None,
        wall_clock: WallClock = no_clock,
        secret: bytes = bytes(KEY_SIZE),
    ) -> None:
        """``wall_clock``: for people, in manifests; nothing is decided by it. ``secret``: 32 octets
        that nobody else knows and no other life of the server had; only clients with keys need it.
        """
        self.config = config
        self._gate = Gate(config.keys, secret)
        self._wall_clock = wall_clock
        self._stores = store_factory
        self._on_event: OnEvent = on_event or _ignore
        self._refusals = Refusals(self._on_event)
        self.refused: Counter[str] = self._refusals.counts
        """How many datagrams were refused, by reason."""
        self._sessions: dict[int, Session] = {}
        self._next_id = 1
        self._evicted: list[int] = []

    @property
    def sessions(self) -> Mapping[int, Session]:
        """Every session that is remembered, by id; to be read."""
        return MappingProxyType(self._sessions)

    def herald(self, client: tuple[str, int], datagram: bytes, now: float) -> HeraldReply | None:
        """A datagram to the herald port. None: say nothing."""
        self._refusals.advance(now)
        try:
            message = parse(datagram)
        except MalformedMessage as error:
            self._refusals.refuse(client, malformed(error.reason, 0, 0, self.config))
            return None
        if message.type is not MessageType.HERALD:
            self._refusals.refuse(client, NO_HERALD)
            return None
        # A HERALD is no sign of life, for anybody can forge it: last_heard stays as it is.
        if self.config.strict_finish and is_proof(message.aux2):
            return self._proved(client, message, now)
        taken = self._gate.take(client[0], message.aux2) if self.config.strict_finish else 0
        if taken & AUTHENTICATION:
            if len(message.payload) > HERALD_PATH_MAX:
                self._refusals.refuse(client, not_proved(BadProof("a HERALD with a path too long")))
                return None
            return HeraldReply(NO_SESSION, False, self._gate.challenge(client, message, now))
        if self.config.require_key or self._gate.names(client[0]):
            self._refusals.refuse(client, KEYLESS)
            return None
        herald = Herald(client, message.seqno, taken)
        if (known := self._same_boot(herald)) is not None:
            return _reply(known, fresh=False)
        begun = self._begin(herald, message.payload, now)
        return None if isinstance(begun, Reason) else begun

    def _proved(self, client: tuple[str, int], message: Message, now: float) -> HeraldReply | None:
        """What answers a proof: a session, if it is one."""
        try:
            proved = self._gate.prove(client, message)
            herald = Herald(client, message.seqno, proved.taken, proved.keys)
            if (known := self._same_boot(herald)) is not None:
                return _reply(known, fresh=False)
            self._gate.check_fresh(client, proved.opening, now)
        except BadProof as error:
            self._refusals.refuse(client, not_proved(error))
            return None
        begun: HeraldReply | Reason
        if self._gate.full:
            begun = Reason.BUSY
        elif proved.facts.length > self.config.max_dump:
            self._refusals.refuse(client, announces_too_much(proved.facts.length, self.config))
            begun = Reason.TOO_LARGE
        else:
            begun = self._begin(herald, proved.path, now, proved.facts)
        if isinstance(begun, Reason):
            return HeraldReply(NO_SESSION, False, sealed_nak(herald, begun))
        self._gate.spend(proved.opening, now)
        self._sessions[begun.session_id].opening = proved.opening
        return begun

    def _begin(
        self, herald: Herald, path: bytes, now: float, facts: Facts | None = None
    ) -> HeraldReply | Reason:
        """A new session, if there is room for it; else why not."""
        if not self._make_room(herald, now):
            return Reason.BUSY
        store, refused = self._open_store(herald.client, path)
        if store is None:
            return Reason.DISK_ERROR
        session = self._offer(herald, store, now, facts)
        if refused is not None:
            session.record.note(f"Refused: {refused.message}")
        return _reply(session, fresh=True)

    def receive(
        self,
        session_id: int,
        data: NDArray[np.uint8],
        lengths: NDArray[np.int64],
        now: float,
    ) -> NDArray[np.uint8]:
        """Datagrams to a session's socket: uint8 (n, stride), one a row, and their lengths.

        Returns the acks to send, uint8 (m, octets), in order. All that they stand for is in the
        store.
        """
        self._refusals.advance(now)
        session = self._sessions.get(session_id)
        if session is None or not len(lengths):
            return _NO_ACKS
        if not self.config.strict_finish:
            # netdumpd's recv() cuts what is longer, and then finds the length wrong.
            data = data[:, :STOCK_DATAGRAM]
        offered = session.state is State.OFFERED
        seqnos = session.receive(data, lengths, now)
        if offered and session.state in (State.RECEIVING, State.COMPLETE):
            self._supersede(session)
        if session.authenticated and session.heard and session.no is not None:
            return np.frombuffer(session.nak(session.no), np.uint8)[None, :]
        return session.acknowledge(seqnos, now) if len(seqnos) else _NO_ACKS

    def tick(self, now: float) -> list[int]:
        """Let time pass. Returns the sessions that are forgotten: close their sockets."""
        self._refusals.advance(now)
        forgotten, self._evicted = self._evicted, []
        for session in list(self._sessions.values()):
            silence = now - session.last_heard
            if session.state is State.RECEIVING:
                if silence >= self.config.idle:
                    # From here on it is one of the ended, and lingers.
                    session.last_heard = now
                    session.end("client timed out")
            elif session.state is State.OFFERED:
                if silence >= self.config.idle:
                    session.end("client timed out")
                    forgotten.append(self._forget(session))
            elif silence >= self.config.hold:
                forgotten.append(self._forget(session))
        return forgotten

    def abandon(self, session_id: int, why: str = "server has no socket for it") -> None:
        """The shell has no socket for this session, or lost it."""
        if (session := self._sessions.get(session_id)) is not None:
            session.end(why)
            self._forget(session)

    def has_socket(self, session_id: int, local: tuple[str, int]) -> None:
        """Where a session's client finds it."""
        self._sessions[session_id].local = local

    def take_up(
        self, left: Iterable[tuple[FileStore, bytes]], boot: str, now: float
    ) -> list[Session]:
        """Go on with dumps that a server which died has left under way: their stores, and what
        their journals have. Those that were taken up want a socket at ``local`` again.
        """
        found = []
        for store, octets in left:
            session = self._take_up(store, octets, boot, now)
            if session is not None and session.state in (State.RECEIVING, State.COMPLETE):
                found.append(session)
        return found

    def _take_up(self, store: FileStore, octets: bytes, boot: str, now: float) -> Session | None:
        try:
            past = parse_journal(octets)
            if past.head.client[0] != store.host:
                raise BadJournal(f"a journal of {past.head.client[0]}'s")
        except BadJournal as error:
            self.not_resumed(store.name, str(error))
            store.close()
            return None
        head = past.head
        keys = None if head.opening is None else self._gate.session(head.client, head.opening)
        herald = Herald(head.client, head.seqno, head.taken, keys)
        session = self._new_session(herald, store, now, head.announced)
        # Where the machine does not tell its boots, each may be another one.
        crashed = (not head.boot or head.boot != boot) and not head.synced
        try:
            session.resume(past, store, crashed)
        except StoreError as error:
            why = str(error)
        else:
            why = self._why_not(head, keys, crashed)
        if not why:
            session.record.say("resumed")
            return session
        session.life.give_up(why)
        if session.state is State.COMPLETE:  # it had ended well, and its client gets silence
            self.not_resumed(store.name, why)
            self._forget(session)
        return None

    def not_resumed(self, dump: str, why: str) -> None:
        """A dump that was left under way, or its journal, can't be read, or is not believed."""
        self._on_event("not-resumed", {"dump": dump, "message": why})

    def _why_not(self, head: Head, keys: SessionKeys | None, crashed: bool) -> str:
        """Why a dump can't be gone on with; "" if it can."""
        if crashed:
            return "the machine crashed, and what was acknowledged may not be on its disk"
        if not self.config.strict_finish:
            return "the server was killed, and does as netdumpd does now (--stock-acks)"
        if head.opening is not None and keys is None:
            return "the server was killed, and has no key of this client's any more"
        if keys is None and (self.config.require_key or self._gate.names(head.client[0])):
            return "the server was killed, and wants a key of this client now"
        return ""

    def no_socket(self, session_id: int) -> bytes | None:
        """The shell can't make one for a new session: as if it had not been opened. What its client
        can be told, as an answer to its proof.
        """
        session = self._sessions[session_id]
        self.abandon(session_id)
        if not session.authenticated:
            return None
        if session.opening is not None:
            self._gate.give_back(session.opening.nonce)
        return session.nak(Reason.BUSY)

    def farewells(self) -> list[tuple[int, bytes]]:
        """The server is about to end: (session, datagram) for those of its clients that can be
        told.
        """
        return [
            (session.id, session.nak(Reason.SHUTTING_DOWN))
            for session in self._sessions.values()
            if session.authenticated and session.state.running
        ]

    def stop(self) -> None:
        """The server ends: finish every info file."""
        for session in self._sessions.values():
            session.end("server stopped")
            session.close()
        self._refusals.finish()

    # -- HERALDs -----------------------------------------------------------------------------

    def _same_boot(self, herald: Herald) -> Session | None:
        for session in self._sessions.values():
            if session.herald == herald:
                if session.state is State.OFFERED:
                    return session
                drawn = herald.seqno not in _FIXED_SEQNOS and not herald.taken
                # A proof opens one session, so a copy of it means that one.
                same = drawn or session.authenticated
                if same and session.state in (State.RECEIVING, State.COMPLETE):
                    return session
        return None

    def _make_room(self, herald: Herald, now: float) -> bool:
        """For one more session. Only running dumps can be in the way; all others give way."""
        proved = herald.keys is not None
        offers = [
            session
            for session in self._sessions.values()
            if session.herald.client[0] == herald.client[0]
            and session.state is State.OFFERED
            and session.authenticated == proved
        ]
        if len(offers) >= self.config.max_offers:
            self._evict(offers, now)
        if len(self._sessions) >= self.config.max_clients:
            strangers = [s for s in self._sessions.values() if not s.authenticated]
            theirs = [s for s in self._sessions.values() if s.authenticated and proved]
            for sessions in (_at_rest(strangers), _at_rest(theirs), strangers if proved else []):
                if sessions:
                    self._evict(sessions, now)
                    return True
            self._refusals.refuse(herald.client, too_many_clients(self.config))
            return False
        return True

    def _evict(self, sessions: list[Session], now: float) -> None:
        """Forget the least worth having; of equals the one that has been quiet longest."""

        def worth(session: Session) -> tuple[int, float]:
            quiet = now - session.last_heard >= self.config.quiet
            return _WORTH[session.state][quiet], session.last_heard

        session = min(sessions, key=worth)
        session.end("evicted for a new client")
        self._evicted.append(self._forget(session))

    def _open_store(
        self, client: tuple[str, int], payload: bytes
    ) -> tuple[Store | None, Refusal | None]:
        """In the folder that the client asks for; if that is refused, in the dump folder itself."""
        refused = None
        try:
            path = herald_path(payload)
            if path:
                return self._stores(client, path), None
        except (BadHeraldPath, StoreError) as error:
            refused = folder_refused(error)
            self._refusals.refuse(client, refused)
        try:
            return self._stores(client, ""), refused
        except StoreError as error:
            self._refusals.refuse(client, no_store(error))
            return None, refused

    def _offer(
        self, herald: Herald, store: Store, now: float, facts: Facts | None = None
    ) -> Session:
        session = self._new_session(herald, store, now, facts)
        self._say(
            "herald",
            herald.client,
            session=session.id,
            seqno=herald.seqno,
            selective=bool(herald.taken),
            crc32c=bool(herald.taken & CRC32C),
            digest=bool(herald.taken & DIGEST),
            authenticated=session.authenticated,
        )
        return session

    def _new_session(
        self, herald: Herald, store: Store, now: float, facts: Facts | None = None
    ) -> Session:
        session = Session(
            session_id=self._next_id,
            herald=herald,
            store=store,
            config=self.config,
            refusals=self._refusals,
            on_event=self._on_event,
            now=now,
            wall_clock=self._wall_clock,
            announced=facts,
        )
        self._sessions[session.id] = session
        self._next_id += 1
        return session

    # -- sessions ----------------------------------------------------------------------------

    def _supersede(self, proven: Session) -> None:
        """The client dumps to this session; what else it had begun, it has given up."""
        for other in list(self._sessions.values()):
            same = other.herald.client == proven.herald.client
            if other is proven or not same or not other.state.running:
                continue
            if other.authenticated and (not proven.authenticated or other.id > proven.id):
                continue  # a message of an earlier session may be a recorded one
            offered = other.state is State.OFFERED
            other.end("client started again")
            if offered:
                self._evicted.append(self._forget(other))

    def _forget(self, session: Session) -> int:
        session.close()
        del self._sessions[session.id]
        return session.id

    def _say(self, kind: str, client: tuple[str, int], **fields: Any) -> None:
        self._on_event(kind, {"client": f"{client[0]}:{client[1]}", **fields})


def _reply(session: Session, *, fresh: bool) -> HeraldReply:
    ack = session.acks.datagrams(np.array([session.herald.seqno], np.int64))
    return HeraldReply(session.id, fresh, ack.tobytes())


def rank(datagram: bytes) -> int:
    """Of those that wait at the HERALDs' port, which come first: proofs, then offers of a key."""
    word = int.from_bytes(datagram[HEADER_SIZE - 4 : HEADER_SIZE], "big")
    if is_proof(word):
        return 0
    return 1 if bits_of(word) & AUTHENTICATION else 2


def _at_rest(sessions: list[Session]) -> list[Session]:
    return [session for session in sessions if session.state is not State.RECEIVING]


def _ignore(kind: str, fields: Mapping[str, Any]) -> None:
    """Nobody listens."""
