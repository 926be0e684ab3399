"""A witness of what a client sends: its dump, by offset, read off the wire before any fault.

Of a client that is somebody else's program there is no memory to look into. What it sent is then
all that can be known of what it meant. So this keeps the bytes of every VMCORE message, at their
offsets, in a file without a name; what comes later for a byte replaces what came before, as it does
in a server.

It believes a message that a host would: IPv4 and UDP lengths that fit the frame, and right
checksums. IP fragments it only counts. It reads the wire by itself, and shares no code with server
or client but checksums and the layout of a message.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.wire.kinds import are_messages, are_pieces, leading_words
from netdump.checksum import ONES, row_sums
from netdump.messages import HEADER, HEADER_SIZE, MessageType
from nic_models.frames import Frames

_AT_IP, _AT_UDP, _AT_MESSAGE = 14, 34, 42
_AT_PAYLOAD: Final = _AT_MESSAGE + HEADER_SIZE
_UDP: Final = 17
#: Sizes and places of a kernel dump header that matter here (FreeBSD sys/sys/kerneldump.h).
_KDH_SIZE: Final = 512
_DUMPLENGTH: Final = slice(40, 48)
#: The highest offset, and how many bytes in all, that are kept of one client.
MOST_OFFSET: Final = 1 << 40
MOST_BYTES: Final = 64 << 30

Span = tuple[int, int]


class SentBytes:
    """``observe`` every frame on its way to the server; then ``read``, as an image of the dump."""

    def __init__(self, folder: Path) -> None:
        """``folder`` is on the disk that the file without a name takes its room from."""
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self.length = 0
        """The end of what was sent; may be made another, where the dump has another length."""
        self.header = b""
        """The latest kernel dump header; empty where none was sent."""
        self.messages = 0
        self.repeats = 0
        """Of these, those whose sequence number had been seen before."""
        self.not_kept = 0
        """VMCORE messages beyond what is kept."""
        self.pieces = 0
        """Frames that it can't read (``kinds.are_pieces``): what they brought is not here."""
        self._kept = 0
        self._seqnos: set[int] = set()
        self._spans: list[NDArray[np.int64]] = []

    def observe(self, frames: Frames) -> None:
        which = np.flatnonzero(_sound(frames))
        if len(which) < len(frames):
            self.pieces += int(np.count_nonzero(are_pieces(frames)))
        if not len(which):
            return
        data = frames.data
        heads = np.ascontiguousarray(data[which, _AT_MESSAGE:_AT_PAYLOAD]).view(HEADER)[:, 0]
        whole = heads["length"].astype(np.int64) == _datagram(frames)[which] - 8 - HEADER_SIZE
        which, heads = which[whole], heads[whole]
        before = len(self._seqnos)
        self._seqnos.update(heads["seqno"].tolist())
        self.messages += len(heads)
        self.repeats += len(heads) - (len(self._seqnos) - before)
        for row in np.flatnonzero(heads["type"] == MessageType.KDH).tolist():
            if heads["length"][row] == _KDH_SIZE:
                at = slice(_AT_PAYLOAD, _AT_PAYLOAD + _KDH_SIZE)
                self.header = data[which[row], at].tobytes()
        core = heads["type"] == MessageType.VMCORE
        self._keep(data, which[core], heads[core])

    def _keep(
        self, data: NDArray[np.uint8], which: NDArray[np.intp], heads: NDArray[np.void]
    ) -> None:
        lengths = heads["length"].astype(np.int64)
        fits = heads["offset"] <= MOST_OFFSET
        fits &= self._kept + np.cumsum(lengths) <= MOST_BYTES
        self.not_kept += int((~fits).sum())
        which, lengths, offsets = which[fits], lengths[fits], heads["offset"][fits].astype(np.int64)
        for row, offset, length in zip(
            which.tolist(), offsets.tolist(), lengths.tolist(), strict=True
        ):
            payload = np.ascontiguousarray(data[row, _AT_PAYLOAD : _AT_PAYLOAD + length])
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


def _sound(frames: Frames) -> NDArray[np.bool_]:
    """Which frames a host would take for a client's message, bool (n,)."""
    theirs = are_messages(frames)
    if not theirs.any() or frames.data.shape[1] < _AT_PAYLOAD:
        return np.zeros(len(frames), np.bool_)
    words = leading_words(frames, _AT_MESSAGE // 2).astype(np.int64)
    udp = words[:, 19]
    theirs &= words[:, 8] == udp + 20
    theirs &= (udp >= 8 + HEADER_SIZE) & (_AT_UDP + udp <= frames.lengths)
    theirs &= _AT_UDP + udp <= frames.data.shape[1]
    which = np.flatnonzero(theirs)
    starts = np.full(len(which), _AT_UDP, np.int64)
    sums = row_sums(frames.data[which], starts, udp[which])
    pseudo = words[which, 13:17].sum(axis=1) + _UDP + udp[which]
    right = ((sums + pseudo) % ONES == 0) | (words[which, 20] == 0)  # 0: it has no checksum
    right &= words[which, 7:17].sum(axis=1) % ONES == 0
    theirs[which[~right]] = False
    return theirs
