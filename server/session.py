"""One dump: from the ack of its HERALD to the moment it can be forgotten.

What a message does depends on the state alone; the table is ``RULES``, at the end of this module::

                 VMCORE     KDH        EKCD_KEY   FINISHED
    OFFERED      keep       header     key        judge       a HERALD was acknowledged, no file yet
    RECEIVING    keep       header     key        judge       files open, the vmcore is .partial
    COMPLETE     again      again      again      again       final name; late copies get their acks
    INCOMPLETE   -          -          -          -           ended early; silence
    FAILED       -          -          -          -           the disk refused; silence

The first VMCORE, KDH or key that is in order turns OFFERED into RECEIVING and creates the files; a
HERALD alone, which anybody can forge, never does. The rules behind the table:

1. An ack says "kept": it is handed out after the store has the bytes, never before.
2. A repeated message changes nothing and is acknowledged again. Bytes that are there already are
   not written a second time, but compared: if they differ, the last ones win while the dump runs,
   as with netdumpd; after its end they get silence.
3. A dump is complete when ``completeness.py`` finds nothing wrong with it.
4. The protocol has no way to say no but silence. So a FINISHED is acknowledged only for a complete
   dump: the client then reports the failure that it is. With ``strict_finish`` off every FINISHED
   is believed, as netdumpd does.
5. The operator gets the reason for the silence: what is refused is named (``refusals.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from netdump.kdh import (
    COMPRESSION_GZIP,
    COMPRESSION_NONE,
    COMPRESSION_ZSTD,
    KernelDumpHeader,
)
from netdump.messages import HEADER_SIZE, Block, MessageType
from server.acks import Acks, OneByOne, Selective
from server.completeness import faults, has_footer
from server.config import ServerConfig
from server.corefile import CoreFile
from server.infofile import escape, render
from server.keyblock import KEY_TOO_LONG, MAX_KEY_BYTES, KeyBlock
from server.refusals import (
    SECOND_HEADER,
    Named,
    OnEvent,
    Refusal,
    Refusals,
    beyond_max_dump,
    judge_header,
    malformed,
)
from server.rescue import AckHold
from server.store import Store, StoreError

Seqnos = NDArray[np.int64]
_NONE: Final = np.empty(0, np.int64)

SUFFIX: Final = {COMPRESSION_GZIP: ".gz", COMPRESSION_ZSTD: ".zst"}


class State(Enum):
    """See the module's table."""

    OFFERED = "offered"
    RECEIVING = "receiving"
    COMPLETE = "complete"
    INCOMPLETE = "incomplete"
    FAILED = "failed"

    @property
    def running(self) -> bool:
        return self in (State.OFFERED, State.RECEIVING)


class Session:
    """One client's dump. Counters and state are there to be read."""

    def __init__(
        self,
        session_id: int,
        client: tuple[str, int],
        seqno: int,
        store: Store,
        config: ServerConfig,
        selective: bool,
        hold: AckHold | None,
        refusals: Refusals,
        on_event: OnEvent,
        now: float,
    ) -> None:
        """``seqno``: the HERALD's; ``selective``: it offered such acks, and will get them.
        ``refusals``: the server's, shared.
        """
        self.id = session_id
        self.client = client
        self.seqno = seqno
        self.state = State.OFFERED
        self.name = ""
        self.outcome = ""
        self.last_heard = now
        self.vmcore = CoreFile(store, config.max_intervals, self._refuse, self._say_rewritten)
        self.header: KernelDumpHeader | None = None
        self.frames = 0
        self.selective = selective
        self.acks: Acks = Selective(seqno, config.max_intervals) if selective else OneByOne()
        self.hold = hold
        self._header_bytes = b""
        self._key = KeyBlock(store)
        self._notes: list[str] = []
        self._named = Named()
        self._info = ""
        self._store = store
        self._config = config
        self._refusals = refusals
        self._counts = refusals.counts
        self._on_event = on_event

    # -- what the server calls -----------------------------------------------------------------

    def receive(
        self, block: Block, data: NDArray[np.uint8], lengths: NDArray[np.int64], now: float
    ) -> Seqnos:
        """Take a parsed batch whose datagrams, of ``lengths``, lie in ``data``, (n, stride).

        Returns the seqnos to acknowledge, in order.
        """
        named = len(self._named.by_reason)
        if block.reasons.any():
            limit, longest = data.shape[1], int(lengths.max())
            for reason, count in block.refused().items():
                self._refuse(malformed(reason, limit, longest, self._config), count)
            good = np.flatnonzero(block.reasons == 0)
            block, data = block.take(good), data[good]
        acks = self._follow_rules(block, data, now) if len(block) else []
        if len(self._named.by_reason) > named and self.state is State.RECEIVING:
            self._write_info()
        if len(acks) == 1:
            return acks[0]
        return np.concatenate(acks) if acks else _NONE

    def _follow_rules(self, block: Block, data: NDArray[np.uint8], now: float) -> list[Seqnos]:
        types = block.types
        self.last_heard = now
        self.frames += len(types)
        edges = [0, *(np.flatnonzero(types[1:] != types[:-1]) + 1).tolist(), len(types)]
        acks = []
        for first, last in pairwise(edges):
            rule = RULES.get((self.state, MessageType(int(types[first]))))
            if rule is None:
                self._counts[f"unexpected-in-{self.state.value}"] += last - first
            else:
                acks.append(rule(self, block.take(slice(first, last)), data[first:last]))
        return acks

    def end(self, why: str) -> None:
        """Nothing more will come. A dump that lacks only its FINISHED is complete all the same."""
        if self.state is State.RECEIVING:
            found = self._faults()
            if not found:
                self._notes.append(f"No FINISHED came: {why}")
                self._complete()
                return
            held = self.hold.held if self.hold is not None else 0
            if held and not self._named.costs_the_header:
                # Either the client was lost in mid-chunk, or it is no FreeBSD kernel at all.
                found.append(f"{held} acks of an unfinished chunk were held (see --no-rescue)")
            self._close(State.INCOMPLETE, "; ".join([f"Dump incomplete: {why}", *found]))
        elif self.state is State.OFFERED:
            # Anybody can forge HERALDs by the thousand, so this is no news of a dump.
            self._close(State.INCOMPLETE, f"No dump came: {why}", "no-dump")

    def note(self, line: str) -> None:
        """A line for the info file."""
        self._notes.append(line)

    def close(self) -> None:
        """The session is forgotten: let go of its files."""
        self._store.close()

    # -- rules ---------------------------------------------------------------------------------

    def _keep(self, block: Block, data: NDArray[np.uint8]) -> Seqnos:
        inside = self._inside(block)
        if not inside.all():
            self._refuse(beyond_max_dump(self._config), int((~inside).sum()))
            which = np.flatnonzero(inside)
            if not len(which):
                return _NONE
            block, data = block.take(which), data[which]
        if not self._begun():
            return _NONE
        kept, error = self.vmcore.keep(block.offsets.astype(np.int64), block.lengths, data)
        if error is not None:
            self._break(error)
        seqnos, lengths = block.seqnos, block.lengths
        if not kept.all():
            seqnos, lengths = seqnos[kept], lengths[kept]
        return seqnos if self.hold is None else self.hold.kept(seqnos, lengths)

    def _inside(self, block: Block) -> NDArray[np.bool_]:
        """Which rows lie within the largest dump; their offsets fit int64."""
        limit = self._config.max_dump
        inside = block.offsets <= np.uint64(limit)
        inside &= block.offsets.astype(np.int64) + block.lengths <= limit
        return inside

    def _take_header(self, block: Block, data: NDArray[np.uint8]) -> Seqnos:
        acks = []
        for row, length in enumerate(block.lengths.tolist()):
            octets = data[row, HEADER_SIZE : HEADER_SIZE + length].tobytes()
            if self._accept_header(octets):
                acks.append(block.seqnos[row : row + 1])
        return self._at_once(acks)

    def _accept_header(self, octets: bytes) -> bool:
        if self.header is not None:
            if octets != self._header_bytes:
                self._refuse(SECOND_HEADER)
            return octets == self._header_bytes
        header = judge_header(octets, self._config)
        if isinstance(header, Refusal):
            self._refuse(header)
            if header.header is not None:
                self._begun()  # whole, and right in its way: it proves the session as ours do
            return False
        if not self._begun():
            return False
        self.header, self._header_bytes = header, octets
        self._say("header", length=header.dumplength, panic=escape(header.panicstring))
        return self._write_info()

    def _take_key(self, block: Block, data: NDArray[np.uint8]) -> Seqnos:
        acks = []
        for row, (offset, length) in enumerate(
            zip(block.offsets.tolist(), block.lengths.tolist(), strict=True)
        ):
            if offset + length > MAX_KEY_BYTES:
                self._refuse(KEY_TOO_LONG)
                continue
            if not self._begun():
                break
            try:
                self._key.keep(offset, data[row, HEADER_SIZE : HEADER_SIZE + length].tobytes())
            except StoreError as error:
                self._break(error)
                break
            acks.append(block.seqnos[row : row + 1])
        return self._at_once(acks)

    def _judge(self, block: Block, data: NDArray[np.uint8]) -> Seqnos:
        if self._config.strict_finish:
            if self.state is State.OFFERED:
                self._counts["finished-without-dump"] += len(block)
                return _NONE
            found = self._faults()
            if found:
                self._counts["finished-incomplete"] += len(block)
                said = "; ".join(["Dump incomplete: client finished", *found])
                if said != self.outcome:
                    self.outcome = said
                    self._refusals.tell(
                        "finish-refused", self.client, **self._about(), outcome=said
                    )
                    self._write_info()
                return _NONE
            self._complete()
        elif self._begun():
            self._complete()
        return self._at_once([block.seqnos]) if self.state is State.COMPLETE else _NONE

    def _again(self, block: Block, data: NDArray[np.uint8]) -> Seqnos:
        """A late copy: acknowledged if what it says is known already."""
        kind = int(block.types[0])
        if kind == MessageType.FINISHED:
            return block.seqnos
        if kind == MessageType.VMCORE:
            which = self._known(block, data)
        else:
            payloads = [
                data[row, HEADER_SIZE : HEADER_SIZE + length].tobytes()
                for row, length in enumerate(block.lengths.tolist())
            ]
            if kind == MessageType.KDH:
                known = [octets == self._header_bytes for octets in payloads]
            else:
                known = list(map(self._key.has, block.offsets.tolist(), payloads))
            which = np.array(known, np.bool_)
        self.vmcore.duplicates += int(which.sum())
        self._counts["after-the-end"] += int((~which).sum())
        return block.seqnos[which]

    def _known(self, block: Block, data: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Which VMCORE rows say what the file has."""
        known = self._inside(block)
        which = np.flatnonzero(known)
        offsets = block.offsets[which].astype(np.int64)
        known[which] = self.vmcore.knows(offsets, block.lengths[which], data[which])
        return known

    # -- steps ---------------------------------------------------------------------------------

    def _begun(self) -> bool:
        """Are the files there? Creates them for the first message that proves the session."""
        if self.state is State.OFFERED:
            try:
                self.name = self._store.begin()
                self.state = State.RECEIVING
                self._say("begin")
                self._write_info()
            except StoreError as error:
                self._break(error)
        return self.state is State.RECEIVING

    def _faults(self) -> list[str]:
        """What keeps the dump from being complete, in words."""
        try:
            return faults(
                self.vmcore.coverage,
                self.header,
                self._header_bytes,
                self._key.coverage,
                self._store,
                self._named,
            )
        except StoreError as error:
            return [str(error)]

    def _complete(self) -> None:
        header = self.header
        length, suffix, encrypted = None, "", False
        if header is not None:
            suffix, encrypted = SUFFIX.get(header.compression, ""), header.dumpkeysize > 0
            # netdumpd cuts nothing but the padding of compressed dumps.
            if self._config.strict_finish or header.compression != COMPRESSION_NONE:
                length = header.dumplength
            if self._config.strict_finish and has_footer(self.vmcore.coverage, header):
                self._notes.append("Footer Check: Pass")
        try:
            self.name = self._store.finish(length, suffix, encrypted)
        except StoreError as error:
            self._break(error)
            return
        self.vmcore.cut = length
        try:
            self._store.publish()
        except StoreError as error:
            # The dump is whole and has its name. Only who looks for the latest is led astray.
            self._notes.append(f"Latest dump not marked: {error}")
        self._close(State.COMPLETE, "Dump complete")

    def _break(self, error: StoreError) -> None:
        self._close(State.FAILED, f"Dump unsuccessful: {error}")

    def _close(self, state: State, outcome: str, event: str = "") -> None:
        began = self.state is State.RECEIVING
        self.state, self.outcome = state, outcome
        if began:
            self._write_info()
        if state is State.COMPLETE:
            self._store.seal()  # late copies are compared with the file
        else:
            self._store.close()
        self._say(event or state.value, outcome=outcome)

    def _write_info(self) -> bool:
        """The info file as things stand. If the disk refuses it, so it does the dump."""
        refused = [f"Refused: {why}" for why in self._named.sentences if why not in self.outcome]
        header = self.header or self._named.header
        text = render(self.client, header, [*refused, *self._notes], self.outcome)
        if text == self._info:
            return True
        try:
            self._store.write_info(text)
        except StoreError as error:
            if self.state is State.RECEIVING:
                self._break(error)
            else:
                self._say("info-lost", message=str(error))
            return False
        self._info = text
        return True

    def _at_once(self, seqnos: list[Seqnos]) -> Seqnos:
        """Acks of other kinds than VMCORE are never held; they move the base of those that are."""
        if not seqnos:
            return _NONE
        acks = np.concatenate(seqnos)
        if self.hold is None:
            return acks
        return np.concatenate([self.hold.passed(acks), acks])

    def _say_rewritten(self, offset: int, frames: int) -> None:
        self._say("rewritten", offset=offset, frames=frames)

    def _refuse(self, refusal: Refusal, count: int = 1) -> None:
        self._named.add(refusal)
        self._refusals.refuse(self.client, refusal, count, **self._about())

    def _say(self, kind: str, **fields: Any) -> None:
        client = f"{self.client[0]}:{self.client[1]}"
        self._on_event(kind, {"client": client, **self._about(), **fields})

    def _about(self) -> dict[str, Any]:
        return {"session": self.id, "name": self.name, "bytes": self.vmcore.coverage.total}


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
