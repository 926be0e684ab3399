"""One client's dump, from the ack of its HERALD to the moment it can be forgotten: its messages.

What a message does depends on the state alone; the table is ``RULES``, at the end of this module::

                 VMCORE     KDH        EKCD_KEY   FINISHED
    OFFERED      keep       header     key        judge
    RECEIVING    keep       header     key        judge
    COMPLETE     again      again      again      again       late copies get their acks
    INCOMPLETE   -          -          -          -           silence
    FAILED       -          -          -          -           silence

A session is four things, and each rule is some of them in turn:

    dump      what was received and is stored           ``dump.py``
    acks      what the client was promised              ``acks.py``
    record    what the operator is told                 ``record.py``
    life      its state, and what a step does to files  ``life.py``

The rules behind the table:

1. An ack says "kept": it is handed out after the store has the bytes, never before.
2. A repeated message changes nothing and is acknowledged again, as long as the dump runs or is
   complete; after the end only if it says what is here.
3. The first VMCORE, KDH or key that is in order turns OFFERED into RECEIVING; a HERALD alone, which
   anybody can forge, never does.
4. The protocol has no way to say no but silence, except to a client that has a key: that is told
   why (``no``). So a FINISHED is acknowledged only for a complete
   dump, one that was read back and is what the client sent, as far as it says what that was: the
   client then reports the failure that it is. With ``strict_finish`` off every FINISHED
   is believed, as netdumpd does.
5. The operator gets the reason for the silence: what is refused is named (``refusals.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from netdump import crc
from netdump.digest import parse_digest
from netdump.keys import TAG_SIZE, Opening, SessionKeys
from netdump.messages import Block, MessageType, parse_block
from netdump.nak import Reason, disk_reason, pack_nak
from netdump.offer import CRC32C, DIGEST
from netdump.opening import Facts as Announced
from netdump.tags import parse_tagged
from server.acks import NO_SEQNOS, Selective, Seqnos, acks_for
from server.config import ServerConfig
from server.dump import Dump, payloads
from server.infofile import escape
from server.journal import Head, Kind, Pages, Past
from server.keyblock import KEY_TOO_LONG, MAX_KEY_BYTES, SECOND_KEY
from server.life import Life, State
from server.manifest import Facts, WallClock, no_clock, render
from server.record import Record
from server.refusals import (
    BEYOND,
    NO_DIGEST,
    SECOND_HEADER,
    OnEvent,
    Refusal,
    Refusals,
    beyond_max_dump,
    judge_header,
    malformed,
)
from server.store import FileStore, Store, StoreError


@dataclass(frozen=True, slots=True)
class Herald:
    """What a session is known by before there is data."""

    client: tuple[str, int]
    """Address and port."""
    seqno: int
    taken: int = 0
    """The bits of what it offered that were taken (``netdump/offer.py``); 0: a stock client."""
    keys: SessionKeys | None = field(default=None, repr=False)
    """Of a client that has proved who it is."""


def sealed_nak(herald: Herald, reason: Reason) -> bytes:
    """A NAK with its tag, for a client that has proved that it has the key."""
    assert herald.keys is not None, "no NAK goes without a tag"
    return herald.keys.seal(pack_nak(herald.taken, herald.seqno, reason))


class Session:
    """One client's. Its parts are there to be read."""

    def __init__(
        self,
        session_id: int,
        herald: Herald,
        store: Store,
        config: ServerConfig,
        refusals: Refusals,
        on_event: OnEvent,
        now: float,
        wall_clock: WallClock = no_clock,
        announced: Announced | None = None,
    ) -> None:
        """``refusals``: the server's, shared. ``announced``: what an authenticated client said of
        its dump beforehand.
        """
        self.id = session_id
        self.herald = herald
        self.last_heard = now
        self.acks = acks_for(herald.seqno, herald.taken, config, herald.keys)
        self.record = Record(herald.client, self._about, refusals, on_event)
        self.dump = Dump(store, config, self.record.refuse, self.record.rewritten)
        self.life = Life(self.dump, self.record, self._manifest)
        self.heard = False
        """The latest batch had a message that was not refused by its form."""
        self.opening: Opening | None = None
        """What an authenticated one was opened with."""
        self.local = ("", 0)
        """Its socket's address; "" until it has one."""
        self._journals = config.strict_finish  # netdumpd has no journal
        self._longest = 0
        self._no: Reason | None = None
        self._config = config
        self._counts = refusals.counts
        self._offered_at = now
        self._wall_clock = wall_clock
        self._began = wall_clock()
        self.announced = announced
        if announced is not None:
            for line in _announcement(announced):
                self.record.note(line)

    @property
    def state(self) -> State:
        return self.life.state

    def _about(self) -> dict[str, Any]:
        return {
            "session": self.id,
            "name": self.dump.name,
            "bytes": self.dump.vmcore.coverage.total,
        }

    def _manifest(self) -> str:
        dump, record, header = self.dump, self.record, self.dump.header
        promised = header.dumplength if header is not None else dump.vmcore.coverage.end
        return render(
            Facts(
                dump=dump.name if self.state is State.COMPLETE else f"{dump.name}.partial",
                status=self.state.value,
                outcome=record.outcome,
                length=dump.length,
                digest=dump.digest,
                from_disk=dump.reads_disk,
                client_digest=dump.client_digest,
                key=dump.key.read_back(),
                holes=dump.vmcore.coverage.holes(promised),
                header=header,
                client=self.herald.client,
                taken=self.herald.taken,
                strict=self._config.strict_finish,
                refused={reason: r.message for reason, r in record.named.by_reason.items()},
                announced=self.announced,
                seconds=self.last_heard - self._offered_at,
                began=self._began,
                ended=self._wall_clock(),
            )
        )

    @property
    def authenticated(self) -> bool:
        return self.herald.keys is not None

    def receive(self, data: NDArray[np.uint8], lengths: NDArray[np.int64], now: float) -> Seqnos:
        """Take a batch of datagrams, of ``lengths``, that lie in ``data``, (n, stride).

        Returns the seqnos to acknowledge, in order.
        """
        by_reason = self.record.named.by_reason
        named = len(by_reason)
        limit = data.shape[1]
        if self.herald.keys is not None:
            block = parse_tagged(data, lengths, self.herald.keys.to_server)
            data = data[:, TAG_SIZE:]  # the payload's place is that of a message without a tag
        else:
            block = parse_block(data, lengths)
            if self.herald.taken & CRC32C:
                crc.refuse_wrong(block, data)
        if block.reasons.any():
            longest = int(lengths.max())
            for reason, count in block.refused().items():
                self.record.refuse(malformed(reason, limit, longest, self._config), count)
            good = np.flatnonzero(block.reasons == 0)
            block, data = block.take(good), data[good]
        self.heard = bool(len(block))
        acks = self._follow_rules(block, data, now) if len(block) else []
        if len(by_reason) > named and self.state is State.RECEIVING:
            self.life.write_info()
        return _together(acks)

    def _follow_rules(self, block: Block, data: NDArray[np.uint8], now: float) -> list[Seqnos]:
        types = block.types
        if not self.authenticated:
            self.last_heard = now
        edges = [0, *(np.flatnonzero(types[1:] != types[:-1]) + 1).tolist(), len(types)]
        acks = []
        for first, last in pairwise(edges):
            rule = RULES.get((self.state, MessageType(int(types[first]))))
            if rule is None:
                self._counts[f"unexpected-in-{self.state.value}"] += last - first
            else:
                acks.append(rule(self, block.take(slice(first, last)), data[first:last]))
        return acks

    def acknowledge(self, seqnos: Seqnos, now: float) -> NDArray[np.uint8]:
        """The datagrams, uint8 (m, octets), that say so of these, and perhaps of more.

        In an authenticated session only a message that is acknowledged for the first time is a sign
        of life: all others may have been recorded and sent again.
        """
        acks = self.acks
        if not (self.authenticated and isinstance(acks, Selective)):
            datagrams = acks.datagrams(seqnos)
        else:
            before = acks.known
            datagrams = acks.datagrams(seqnos)
            if acks.known != before:
                self.last_heard = now
        self._write_journal()
        return datagrams

    def _write_journal(self) -> None:
        """What is about to be acknowledged is to outlive the server. Where that can't be, the dump
        goes on without, and no journal tells less than what was acknowledged.
        """
        pages, acks = self.dump.pages, self.acks
        fresh = acks.fresh()
        if not (self.local[0] and self._journals):
            pages.clear()
            return
        for start, end in fresh:
            pages.span(Kind.ACKED, start, end)
        if acks.longest != self._longest:
            self._longest = acks.longest
            pages.longest(self._longest)
        try:
            self.dump.write_journal(self._head, self._say_acks)
        except StoreError as error:
            self._journals = False
            self.dump.end_journal()
            self.record.note(f"If the server is killed, this dump ends: {error}")
            self.record.say("no-journal", message=str(error))
            if self.state is State.RECEIVING:
                self.life.write_info()

    def _head(self) -> Head:
        file, boot, synced = self.dump.lasts
        herald = self.herald
        return Head(
            client=herald.client,
            seqno=herald.seqno,
            taken=herald.taken,
            local=self.local,
            file=file,
            boot=boot,
            synced=synced,
            opening=self.opening,
            announced=self.announced,
            began=self._began,
        )

    def _say_acks(self, pages: Pages) -> None:
        for start, end in self.acks.spans():
            pages.span(Kind.ACKED, start, end)
        if self.acks.longest:
            pages.longest(self.acks.longest)

    def resume(self, past: Past, store: FileStore, crashed: bool) -> None:
        """Go on where another life of the server was. ``crashed``: the machine may have, meanwhile.
        May raise StoreError.
        """
        self.local = past.head.local
        self.opening = past.head.opening
        self._began = past.head.began
        self.acks.datagrams(np.array([self.herald.seqno], np.int64))
        self.acks.resume(past.acked, past.longest)
        self.life.resume(store.finished)
        self.dump.resume(past, store)
        told = store.last_line
        self.record.note("The server was killed, and came up again")
        self.life.end_resuming(store.has_manifest, told, crashed)

    @property
    def no(self) -> Reason | None:
        """Why this dump can't come to a good end any more, as far as its client may be told."""
        if self.state is State.FAILED:
            return disk_reason(self.life.errno)
        if self.state is State.INCOMPLETE:
            return Reason.ENDED
        return self._no if self.state.running else None

    def nak(self, reason: Reason) -> bytes:
        """A datagram that says so. Only of an authenticated session."""
        return sealed_nak(self.herald, reason)

    def end(self, why: str) -> None:
        """Nothing more will come."""
        if self.state is State.RECEIVING:
            self._write_journal()  # it may be complete all the same
        self.life.end(why, self.acks.held)

    def close(self) -> None:
        """The session is forgotten: let go of its files."""
        self.dump.end_journal()
        self.dump.close()

    # -- rules: a run of messages of one type; the seqnos to acknowledge -------------------------

    def _keep(self, block: Block, data: NDArray[np.uint8]) -> Seqnos:
        inside = self.dump.inside(block)
        if not inside.all():
            self.record.refuse(beyond_max_dump(self._config), int((~inside).sum()))
            self._no = Reason.TOO_LARGE
            which = np.flatnonzero(inside)
            if not len(which):
                return NO_SEQNOS
            block, data = block.take(which), data[which]
        if not self.life.begun():
            return NO_SEQNOS
        kept, error = self.dump.keep(block, data)
        if error is not None:
            self.life.fail(error)
        seqnos, lengths = block.seqnos, block.lengths
        if not kept.all():
            seqnos, lengths = seqnos[kept], lengths[kept]
        return self.acks.kept(seqnos, lengths)

    def _take_header(self, block: Block, data: NDArray[np.uint8]) -> Seqnos:
        acks = [
            block.seqnos[row : row + 1]
            for row, octets in enumerate(payloads(block, data))
            if self._accept_header(octets)
        ]
        return self.acks.passed(_together(acks))

    def _accept_header(self, octets: bytes) -> bool:
        if self.dump.header is not None:
            if not self.dump.has_header(octets):
                self.record.refuse(SECOND_HEADER)
                return False
            return True
        header = judge_header(octets, self._config)
        if isinstance(header, Refusal):
            self.record.refuse(header)
            self._no = Reason.TOO_LARGE if header.reason == BEYOND else Reason.REFUSED
            if header.header is not None:
                self.life.begun()  # whole, and right in its way: it proves the session as ours do
            return False
        if not self.life.begun():
            return False
        self.dump.take_header(header, octets)
        self.record.say("header", length=header.dumplength, panic=escape(header.panicstring))
        return self.life.write_info()

    def _take_key(self, block: Block, data: NDArray[np.uint8]) -> Seqnos:
        acks = []
        offsets = block.offsets.tolist()
        for row, (offset, octets) in enumerate(zip(offsets, payloads(block, data), strict=True)):
            if offset + len(octets) > MAX_KEY_BYTES:
                self.record.refuse(KEY_TOO_LONG)
                continue
            if self.dump.key.contradicted_by(offset, octets):
                self.record.refuse(SECOND_KEY)
                continue
            if not self.life.begun():
                break
            try:
                self.dump.keep_key(offset, octets)
            except StoreError as error:
                self.life.fail(error)
                break
            acks.append(block.seqnos[row : row + 1])
        return self.acks.passed(_together(acks))

    def _judge(self, block: Block, data: NDArray[np.uint8]) -> Seqnos:
        if self._config.strict_finish:
            if self.state is State.OFFERED:
                self._counts["finished-without-dump"] += len(block)
                return NO_SEQNOS
            found = self.dump.faults(self.record.named) or self._faults_of_file(block, data)
            if found is None:
                return NO_SEQNOS
            if found:
                self._counts["finished-incomplete"] += len(block)
                said = "; ".join(["Dump incomplete: client finished", *found])
                if self.record.refuse_finish(said):
                    self.life.write_info()
                return NO_SEQNOS
            self._write_journal()  # who has the final name is believed to know all of it
            self.life.complete()
        elif self.life.begun():
            self.life.complete()
        return self.acks.passed(block.seqnos) if self.state is State.COMPLETE else NO_SEQNOS

    def _faults_of_file(self, block: Block, data: NDArray[np.uint8]) -> list[str] | None:
        """What is wrong with a file without holes, read back; None: this FINISHED can't tell."""
        if self.herald.taken & DIGEST:
            digest = parse_digest(payloads(block, data)[-1])
            if digest is None:
                self.record.refuse(NO_DIGEST, len(block))
                return None
            self.dump.client_digest = digest
        try:
            if not self.dump.read_back():
                self._counts["finished-early"] += len(block)  # its next copy reads on
                return None
        except StoreError as error:
            return [str(error)]
        if self.dump.damage:
            self._no = Reason.DAMAGED
        return self.dump.damage

    def _again(self, block: Block, data: NDArray[np.uint8]) -> Seqnos:
        """A late copy: acknowledged if what it says is known already."""
        if block.types[0] == MessageType.FINISHED:
            return block.seqnos
        which = self.dump.knows(block, data)
        self.dump.vmcore.duplicates += int(which.sum())
        self._counts["after-the-end"] += int((~which).sum())
        return block.seqnos[which]


def _announcement(facts: Announced) -> list[str]:
    """For the info file: of a dump that breaks off it is all that tells whose it is."""
    return [
        f"Announced: {facts.length} bytes of {escape(facts.hostname) or 'a host without a name'}"
        f" ({escape(facts.architecture)}), by a client that has the key",
        f"Announced Panic String: {escape(facts.panicstring)}",
    ]


def _together(acks: list[Seqnos]) -> Seqnos:
    if len(acks) == 1:
        return acks[0]
    return np.concatenate(acks) if acks else NO_SEQNOS


Rule = Callable[[Session, Block, NDArray[np.uint8]], Seqnos]

#: What a message does, by state. A pair that is not here gets silence.
RULES: Final[Mapping[tuple[State, MessageType], Rule]] = {
    (State.OFFERED, MessageType.VMCORE): Session._keep,
    (State.OFFERED, MessageType.KDH): Session._take_header,
    (State.OFFERED, MessageType.EKCD_KEY): Session._take_key,
    (State.OFFERED, MessageType.FINISHED): Session._judge,
    (State.RECEIVING, MessageType.VMCORE): Session._keep,
    (State.RECEIVING, MessageType.KDH): Session._take_header,
    (State.RECEIVING, MessageType.EKCD_KEY): Session._take_key,
    (State.RECEIVING, MessageType.FINISHED): Session._judge,
    (State.COMPLETE, MessageType.VMCORE): Session._again,
    (State.COMPLETE, MessageType.KDH): Session._again,
    (State.COMPLETE, MessageType.EKCD_KEY): Session._again,
    (State.COMPLETE, MessageType.FINISHED): Session._again,
}
