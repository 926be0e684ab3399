"""A witness of what a client sends: its dump, by offset, read off the wire before any fault.

Of a client that is somebody else's program there is no memory to look into. What it sent is then
all that can be known of what it meant. So this keeps the bytes of every message that carries some,
at their offsets, in a file without a name; what comes later for a byte replaces what came before,
as it does in a server.

It believes a message that a host would: IPv4 and UDP lengths that fit the frame, and right
checksums. IP fragments it only counts. It reads the wire by itself, and shares no code with server
or client but checksums and the layout of a message. One reader a protocol: ``READERS``, by what the
server says that it speaks.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from bench.judge.tftp import AT_DATA, TftpReader
from bench.servers import ServerProtocol
from bench.wire.kinds import CODE, are_messages, are_pieces, classify, leading_words
from netdump.checksum import ONES, row_sums
from netdump.messages import HEADER, HEADER_SIZE, MessageType
from nic_models.frames import Frames

_AT_IP, _AT_UDP, _AT_MESSAGE = 14, 34, 42
_AT_PAYLOAD: Final = _AT_MESSAGE + HEADER_SIZE
_UDP: Final = 17
#: Of a DATA without data.
_TFTP_SIZE: Final = 4
#: Sizes and places of a kernel dump header that matter here (FreeBSD sys/sys/kerneldump.h).
_KDH_SIZE: Final = 512
_DUMPLENGTH: Final = slice(40, 48)
#: The highest offset, and how many bytes in all, that are kept of one client.
MOST_OFFSET: Final = 1 << 40
MOST_BYTES: Final = 64 << 30

Span = tuple[int, int]


Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Messages:
    """Those of one batch. Of each that carries bytes of the dump: its row, offset and length."""

    names: Ints
    """Of all; the same message has the same name."""
    rows: NDArray[np.intp]
    offsets: NDArray[np.int64] | NDArray[np.uint64]
    lengths: Ints
    at: int
    """Where in a row those bytes begin."""


class Reader(Protocol):
    """Reads one protocol."""

    has_headers: bool
    """The protocol has a message that is a kernel dump header."""
    header: bytes
    """The latest kernel dump header; empty where none was sent."""

    def sent(self, frames: Frames) -> Messages | None: ...

    def heard(self, frames: Frames) -> None:
        """What the server says, where that says how the client's messages are to be read."""


class NetdumpSent:
    """netdump's messages say themselves where they belong."""

    has_headers = True

    def __init__(self) -> None:
        self.header = b""

    def sent(self, frames: Frames) -> Messages | None:
        which = np.flatnonzero(_sound(frames, are_messages(frames), HEADER_SIZE))
        if not len(which):
            return None
        data = frames.data
        heads = np.ascontiguousarray(data[which, _AT_MESSAGE:_AT_PAYLOAD]).view(HEADER)[:, 0]
        whole = heads["length"].astype(np.int64) == _datagram(frames)[which] - 8 - HEADER_SIZE
        which, heads = which[whole], heads[whole]
        for row in np.flatnonzero(heads["type"] == MessageType.KDH).tolist():
            if heads["length"][row] == _KDH_SIZE:
                at = slice(_AT_PAYLOAD, _AT_PAYLOAD + _KDH_SIZE)
                self.header = data[which[row], at].tobytes()
        core = heads["type"] == MessageType.VMCORE
        return Messages(
            names=heads["seqno"].astype(np.int64),
            rows=which[core],
            offsets=heads["offset"][core],
            lengths=heads["length"][core].astype(np.int64),
            at=_AT_PAYLOAD,
        )

    def heard(self, frames: Frames) -> None:
        """A server's acks change nothing of it."""


class TftpSent:
    """Where a block belongs the server's OACK says. There is no kernel dump header in TFTP."""

    has_headers = False
    header = b""

    def __init__(self) -> None:
        self._reader = TftpReader()

    def sent(self, frames: Frames) -> Messages | None:
        theirs = np.isin(classify(frames), (CODE["wrq"], CODE["data"]))
        which = np.flatnonzero(_sound(frames, theirs, _TFTP_SIZE))
        if not len(which):
            return None
        blocks = self._reader.sent(frames if len(which) == len(frames) else frames.take(which))
        if blocks is None:
            return None
        # Blocks of a transfer that was begun anew are not those of the one before.
        names = (np.int64(self._reader.transfers) << 40) + blocks.numbers
        offsets = blocks.numbers * self._reader.transfer.blksize
        return Messages(names, which[blocks.rows], offsets, blocks.lengths, AT_DATA)

    def heard(self, frames: Frames) -> None:
        self._reader.heard(frames)


#: By ``DumpServer.protocol``.
READERS: Final[Mapping[ServerProtocol, Callable[[], Reader]]] = {
    "stock": NetdumpSent,
    "netdump2": NetdumpSent,
    "tftp": TftpSent,
}


class SentBytes:
    """``observe`` every frame on its way to the server, and let it be ``heard`` what comes back;
    then ``read``, as an image of the dump.
    """

    def __init__(self, folder: Path, protocol: ServerProtocol = "stock") -> None:
        """``folder`` is on the disk that the file without a name takes its room from."""
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self._reader = READERS[protocol]()
        self.has_headers = self._reader.has_headers
        self.length = 0
        """The end of what was sent; may be made another, where the dump has another length."""
        self.messages = 0
        self.repeats = 0
        """Of these, those that had been seen before."""
        self.not_kept = 0
        """Messages with bytes of the dump beyond what is kept."""
        self.pieces = 0
        """Frames that it can't read (``kinds.are_pieces``): what they brought is not here."""
        self._kept = 0
        self._names: set[int] = set()
        self._spans: list[Ints] = []

    @property
    def header(self) -> bytes:
        """The latest kernel dump header; empty where none was sent."""
        return self._reader.header

    def observe(self, frames: Frames) -> None:
        self.pieces += int(np.count_nonzero(are_pieces(frames)))
        found = self._reader.sent(frames)
        if found is None:
            return
        before = len(self._names)
        self._names.update(found.names.tolist())
        self.messages += len(found.names)
        self.repeats += len(found.names) - (len(self._names) - before)
        self._keep(frames.data, found)

    def heard(self, frames: Frames) -> None:
        self._reader.heard(frames)

    def _keep(self, data: NDArray[np.uint8], found: Messages) -> None:
        fits = found.offsets <= MOST_OFFSET
        fits &= self._kept + np.cumsum(found.lengths) <= MOST_BYTES
        self.not_kept += int((~fits).sum())
        which, lengths = found.rows[fits], found.lengths[fits]
        offsets = found.offsets[fits].astype(np.int64)
        for row, offset, length in zip(
            which.tolist(), offsets.tolist(), lengths.tolist(), strict=True
        ):
            payload = np.ascontiguousarray(data[row, found.at : found.at + length])
            os.pwrite(self._file.fileno(), payload.data, offset)
        if len(lengths):
            self._kept += int(lengths.sum())
            self._spans.append(np.stack([offsets, offsets + lengths], axis=1))
            self.length = max(self.length, int((offsets + lengths).max()))

    @property
    def promised(self) -> int | None:
        """The length that the header gives the dump; None where none was sent."""
        return int.from_bytes(self.header[_DUMPLENGTH], "big") if self.header else None

    def read(self, start: int, end: int) -> NDArray[np.uint8]:
        """Bytes [start, end) of the dump, fewer where it ends before; zeros where none was sent."""
        found = np.zeros(max(min(end, self.length) - start, 0), np.uint8)
        got = 0
        while got < len(found):
            more = os.preadv(self._file.fileno(), [found.data[got:]], start + got)
            if not more:
                break  # nothing was sent from here on
            got += more
        return found

    def never_sent(self, length: int) -> list[Span]:
        """Those stretches of the first ``length`` bytes that no message carried."""
        gaps: list[Span] = []
        at = 0
        spans = np.concatenate(self._spans) if self._spans else np.empty((0, 2), np.int64)
        for start, end in [*spans[np.argsort(spans[:, 0])].tolist(), (length, length)]:
            if at < min(start, length):
                gaps.append((at, min(start, length)))
            at = max(at, end)
        return gaps

    def close(self) -> None:
        self._file.close()


def _datagram(frames: Frames) -> NDArray[np.int64]:
    """What UDP says that its length is, header and all; int64 (n,)."""
    return leading_words(frames, _AT_MESSAGE // 2)[:, 19].astype(np.int64)


def _sound(frames: Frames, theirs: NDArray[np.bool_], least: int) -> NDArray[np.bool_]:
    """Which of these frames a host would take for a client's message, bool (n,), changed in place.

    ``least``: bytes of the smallest message."""
    if not theirs.any() or frames.data.shape[1] < _AT_MESSAGE + least:
        return np.zeros(len(frames), np.bool_)
    words = leading_words(frames, _AT_MESSAGE // 2).astype(np.int64)
    udp = words[:, 19]
    theirs &= words[:, 8] == udp + 20
    theirs &= (udp >= 8 + least) & (_AT_UDP + udp <= frames.lengths)
    theirs &= _AT_UDP + udp <= frames.data.shape[1]
    which = np.flatnonzero(theirs)
    starts = np.full(len(which), _AT_UDP, np.int64)
    sums = row_sums(frames.data[which], starts, udp[which])
    pseudo = words[which, 13:17].sum(axis=1) + _UDP + udp[which]
    right = ((sums + pseudo) % ONES == 0) | (words[which, 20] == 0)  # 0: it has no checksum
    right &= words[which, 7:17].sum(axis=1) % ONES == 0
    theirs[which[~right]] = False
    return theirs
