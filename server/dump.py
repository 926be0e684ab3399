"""What was received of one dump, and is stored.

    part      comes in    on the disk                  in memory
    vmcore    VMCORE      vmcore.HOST.N[.partial]      which bytes are there (``coverage.py``)
    header    KDH         in words, in info.HOST.N     all of it
    key       EKCD_KEY    key.HOST.N                   all of it

Here is no state, no client and no clock: when files are made and named is ``life.py``'s business,
what a client is told is ``acks.py``'s. Rules:

1. What is kept is in the store when a method returns; an ack may follow then, and not before.
2. A repeated message changes nothing. Bytes that are there already are not written a second time,
   but compared: if they differ, the last ones win while the dump runs, as with netdumpd; after its
   end they are not known.
3. A dump is whole when ``completeness.py`` finds nothing wrong with it. Only then does it get its
   final name.
4. With ``strict_finish`` off, netdumpd's way: nothing is checked, and nothing is cut off but the
   padding of compressed dumps.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from netdump.digest import NAME, Digest
from netdump.errors import MalformedHeader
from netdump.kdh import (
    COMPRESSION_GZIP,
    COMPRESSION_NONE,
    COMPRESSION_ZSTD,
    KernelDumpHeader,
    parse_kdh,
)
from netdump.messages import HEADER_SIZE, Block, MessageType
from server.completeness import faults, has_footer
from server.config import ServerConfig
from server.corefile import CoreFile
from server.journal import Head, Kind, Pages, Past
from server.keyblock import KeyBlock
from server.readback import ReadBack
from server.refusals import Named, Refusal
from server.store import FileStore, Store, StoreError

#: Octets by which a journal grows, beyond twice what it was, before it is written anew.
JOURNAL_GROWS: Final = 1 << 20
SUFFIX: Final = {COMPRESSION_GZIP: ".gz", COMPRESSION_ZSTD: ".zst"}


class Dump:
    """One dump's parts and files. Batches are a ``Block`` and its datagrams, uint8 (n, stride)."""

    def __init__(
        self,
        store: Store,
        config: ServerConfig,
        refuse: Callable[[Refusal, int], None],
        on_rewrite: Callable[[int, int], None],
    ) -> None:
        """``refuse`` and ``on_rewrite`` are told what ``CoreFile`` tells."""
        self.name = ""
        """``vmcore.HOST.N``; "" until ``begin``."""
        self.pages = Pages(config.max_intervals)
        """What the journal lacks."""
        self._journaled = 0  # octets of it
        self.vmcore = CoreFile(
            store,
            config.max_intervals,
            refuse,
            self._rewritten,
            partial(self.pages.span, Kind.DATA),
        )
        self.readback = ReadBack(store)
        self.key = KeyBlock(store)
        self.header: KernelDumpHeader | None = None
        self.client_digest: Digest | None = None
        """What FINISHED said."""
        self._header_bytes = b""
        self._on_rewrite = on_rewrite
        self._store = store
        self._config = config
        self._compact = 0  # octets of it when it was written anew

    # -- what comes in -------------------------------------------------------------------------

    def inside(self, block: Block) -> NDArray[np.bool_]:
        """Which rows lie within the largest dump; their offsets fit int64."""
        limit = self._config.max_dump
        inside = block.offsets <= np.uint64(limit)
        inside &= block.offsets.astype(np.int64) + block.lengths <= limit
        return inside

    def keep(
        self, block: Block, data: NDArray[np.uint8]
    ) -> tuple[NDArray[np.bool_], StoreError | None]:
        """VMCORE rows that are ``inside``: which are in the store, and what the disk said."""
        found = self.vmcore.keep(block.offsets.astype(np.int64), block.lengths, data)
        with suppress(StoreError):  # it is read again at the end, and told then
            self.readback.follow(self.vmcore.coverage.prefix)
        return found

    def _rewritten(self, offset: int, frames: int) -> None:
        self.readback.rewritten(offset)
        self.client_digest = None
        self._on_rewrite(offset, frames)

    def take_header(self, header: KernelDumpHeader, octets: bytes) -> None:
        self.header, self._header_bytes = header, octets
        self.pages.header(octets)

    def keep_key(self, offset: int, octets: bytes) -> None:
        """May raise StoreError."""
        self.key.keep(offset, octets)
        self.pages.span(Kind.KEY, offset, offset + len(octets))

    def has_header(self, octets: bytes) -> bool:
        """Are they the header that was taken?"""
        return octets == self._header_bytes

    def knows(self, block: Block, data: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Which rows, all of one type with a payload, say what is here already."""
        kind = int(block.types[0])
        if kind == MessageType.VMCORE:
            known = self.inside(block)
            which = np.flatnonzero(known)
            offsets = block.offsets[which].astype(np.int64)
            known[which] = self.vmcore.knows(offsets, block.lengths[which], data[which])
            return known
        octets = payloads(block, data)
        if kind == MessageType.KDH:
            return np.array(list(map(self.has_header, octets)), np.bool_)
        return np.array(list(map(self.key.has, block.offsets.tolist(), octets)), np.bool_)

    # -- its files -----------------------------------------------------------------------------

    def begin(self) -> None:
        """Create the files. May raise StoreError."""
        self.name = self._store.begin()

    def write_info(self, text: str) -> None:
        """May raise StoreError."""
        self._store.write_info(text)

    # -- its next life -------------------------------------------------------------------------

    def write_journal(self, head: Callable[[], Head], state: Callable[[Pages], None]) -> None:
        """All that is not in it yet. ``head`` and ``state`` say what it begins with, and what the
        acks need, where it is to be written anew: at first, and when it has grown much. May raise
        StoreError.
        """
        grown = self._journaled > JOURNAL_GROWS + 2 * self._compact
        anew = not self._journaled or grown or self.pages.lost
        octets = self.pages.take()
        if anew:
            octets = head().pack() + self._all(state)
            self._journaled, self._compact = 0, len(octets)
        elif not octets:
            return
        self._store.journal(octets, anew)
        self._journaled += len(octets)

    def _all(self, state: Callable[[Pages], None]) -> bytes:
        pages = Pages()
        for kind, coverage in ((Kind.DATA, self.vmcore.coverage), (Kind.KEY, self.key.coverage)):
            for start, end in coverage.intervals():
                pages.span(kind, start, end)
        if self._header_bytes:
            pages.header(self._header_bytes)
        state(pages)
        return pages.take()

    def end_journal(self) -> None:
        """Nobody will go on with it."""
        self._store.end_journal()

    @property
    def lasts(self) -> tuple[int, str, bool]:
        """Its file's inode, the machine's boot, and whether what is kept outlasts it. May raise
        StoreError.
        """
        return self._store.inode, self._store.boot, self._store.synced

    def resume(self, past: Past, store: FileStore) -> None:
        """Go on where another life of the server was. May raise StoreError."""
        if store.inode != past.head.file:
            raise StoreError("another file has its name", errno.EEXIST)
        for start, end in past.data:
            self.vmcore.coverage.add(start, end)
        self.key.resume(past.key)
        self.name = store.name
        if past.header:
            try:
                self.header, self._header_bytes = parse_kdh(past.header), past.header
            except MalformedHeader as error:
                raise StoreError("the header in its journal is none", errno.EIO) from error
        if store.finished:
            self.vmcore.cut = self._cut()
        elif self.length > store.size:  # killed before the final name, it may be cut already
            raise StoreError("its file is shorter than what was kept", errno.EIO)

    def faults(self, named: Named) -> list[str]:
        """What keeps it from being whole, in words; nothing if it is. ``named``: what was refused.

        A disk that can't be read is one of them.
        """
        try:
            return faults(
                self.vmcore.coverage,
                self.header,
                self._header_bytes,
                self.key.coverage,
                self._store,
                named,
            )
        except StoreError as error:
            return [str(error)]

    @property
    def length(self) -> int:
        """Bytes that the file has; without holes, those that it will have when it is finished."""
        if self.vmcore.cut is not None:
            return self.vmcore.cut
        cut, coverage = self._cut(), self.vmcore.coverage
        return coverage.end if cut is None or not coverage.covers(0, cut) else cut

    def read_back(self) -> bool:
        """Read the file back, a slice at most: to its end? May raise StoreError."""
        return self.readback.reach(self.length)

    @property
    def digest(self) -> Digest | None:
        """Of the file; None if it was not read back to its end."""
        return self.readback.digest() if self.readback.done == self.length else None

    @property
    def damage(self) -> list[str]:
        """How what is read back differs from what came, in words: the digest of the file, if both
        are known, from the client's, and the key block."""
        if self.key.damaged:
            return ["what was read back of the key block is not what came"]
        ours, theirs = self.digest, self.client_digest
        if ours is None or theirs is None or ours == theirs:
            return []
        if ours.length != theirs.length:
            return [f"the client has digested {theirs.length} bytes, {ours.length} are stored"]
        return [
            f"what was read back is not what the client sent: {NAME} {ours.value.hex()},"
            f" the client's {theirs.value.hex()}"
        ]

    @property
    def reads_disk(self) -> bool:
        """It is read back from the disk."""
        return self._store.reads_disk

    def write_manifest(self, text: str) -> None:
        """May raise StoreError."""
        self._store.write_manifest(text)

    @property
    def has_footer(self) -> bool:
        """Does a dump without faults end with the header once more, as the 2010 client's does?"""
        header = self.header
        if header is None or not self._config.strict_finish:
            return False
        return has_footer(self.vmcore.coverage, header)

    def finish(self) -> None:
        """Cut it to its length and give it its final name. May raise StoreError."""
        header, length = self.header, self._cut()
        suffix, encrypted = "", False
        if header is not None:
            suffix, encrypted = SUFFIX.get(header.compression, ""), header.dumpkeysize > 0
        self.name = self._store.finish(length, suffix, encrypted)
        self.vmcore.cut = length

    def _cut(self) -> int | None:
        """Where the end cuts the file off; None: nowhere."""
        header = self.header
        cuts = header is not None and (
            self._config.strict_finish or header.compression != COMPRESSION_NONE
        )
        return header.dumplength if header is not None and cuts else None

    def publish(self) -> None:
        """It is the latest from now on. May raise StoreError."""
        self._store.publish()

    def seal(self) -> None:
        """It is only compared with from now on."""
        self._store.seal()

    def close(self) -> None:
        """Let go of the files."""
        self.readback.close()
        self._store.close()


def payloads(block: Block, data: NDArray[np.uint8]) -> list[bytes]:
    """Of each row what follows its message's header."""
    return [
        data[row, HEADER_SIZE : HEADER_SIZE + length].tobytes()
        for row, length in enumerate(block.lengths.tolist())
    ]
