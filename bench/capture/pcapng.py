"""pcapng files, written a batch at a time (draft-ietf-opsawg-pcapng, sections 3 and 4).

A file is a section header block, one interface description (Ethernet, nanoseconds) and an enhanced
packet block a frame::

    type 6 | length | interface 0 | time high | time low | captured | original | data, padded to 4
    | opt_comment, padded | epb_flags | opt_endofopt | length

The interface is the machine's NIC: what it sends is outbound (2), what it hears inbound (1). The
same frames give the same bytes: neither a host name nor today's date is written. A run of frames
of which equally much is kept, without comments, is one matrix with a block a row, and one write.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from itertools import pairwise
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from bench.wire.contracts import Direction
from nic_models.frames import Frames

_EPB: Final = 6
_FIXED: Final = 28  # block header and packet fields, before the data
_FLAGS: Final[Mapping[Direction, int]] = {"to-client": 1, "to-server": 2}

_OPT_END, _OPT_COMMENT, _OPT_EPB_FLAGS = 0, 1, 2
_OPT_IF_NAME, _OPT_IF_TSRESOL, _OPT_SHB_USERAPPL = 2, 9, 4


class PcapngWriter:
    """Writes frames of one interface to a binary file, which stays the caller's to close."""

    def __init__(self, file: BinaryIO, *, snaplen: int = 0, interface: str = "nic0") -> None:
        """``snaplen``: keep at most that many bytes of a frame; 0 keeps all."""
        if snaplen < 0:
            raise ValueError(f"snaplen {snaplen}: give the bytes to keep of a frame, 0 for all")
        self.frames = 0
        """Frames written."""
        self._file = file
        self._snaplen = snaplen
        file.write(_section_header() + _interface_description(snaplen, interface))

    def write(
        self, direction: Direction, frames: Frames, notes: Mapping[int, str] | None = None
    ) -> None:
        """Append a batch; ``notes`` (index -> text) become packet comments. An ``Observer``."""
        flags = _option(_OPT_EPB_FLAGS, struct.pack("<I", _FLAGS[direction]))
        noted = sorted(notes) if notes else []
        captured = np.minimum(frames.lengths, self._snaplen) if self._snaplen else frames.lengths
        for start, stop in _runs(captured, noted):
            if noted and notes and start in notes:
                comment = _option(_OPT_COMMENT, notes[start].encode()[:0xFFFC])
                tail = comment + flags + _option(_OPT_END)
            else:
                tail = flags + _option(_OPT_END)
            self._write_run(frames.take(slice(start, stop)), int(captured[start]), tail)
        self.frames += len(frames)

    def _write_run(self, frames: Frames, captured: int, tail: bytes) -> None:
        """Frames of which ``captured`` bytes each are kept, with the same options."""
        padded = _FIXED + captured + -captured % 4
        size = padded + len(tail) + 4
        blocks = np.empty((len(frames), size), np.uint8)
        fields: NDArray[np.uint32] = blocks[:, :_FIXED].view("<u4")
        time_ns = frames.time_ns
        fields[:, 0] = _EPB
        fields[:, 1] = size
        fields[:, 2] = 0
        fields[:, 3] = time_ns >> 32
        fields[:, 4] = time_ns & 0xFFFFFFFF
        fields[:, 5] = captured
        fields[:, 6] = frames.lengths
        blocks[:, _FIXED : _FIXED + captured] = frames.data[:, :captured]
        blocks[:, _FIXED + captured : padded] = 0
        blocks[:, padded:] = np.frombuffer(tail + struct.pack("<I", size), np.uint8)
        self._file.write(blocks.data)


def _runs(captured: NDArray[np.int64], noted: list[int]) -> list[tuple[int, int]]:
    """Stretches [start, stop) with equally much captured, and every noted frame alone."""
    if not len(captured):
        return []
    cuts = {0, len(captured), *(np.flatnonzero(np.diff(captured)) + 1).tolist()}
    for index in noted:
        cuts.update((index, index + 1))
    edges = sorted(cuts)
    return list(pairwise(edges))


def _option(code: int, value: bytes = b"") -> bytes:
    return struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4)


def _block(kind: int, body: bytes) -> bytes:
    size = struct.pack("<I", 12 + len(body))
    return struct.pack("<I", kind) + size + body + size


def _section_header() -> bytes:
    """Byte order magic, version 1.0, section length not given (-1)."""
    body = struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1)
    return _block(
        0x0A0D0D0A, body + _option(_OPT_SHB_USERAPPL, b"netdump-bench") + _option(_OPT_END)
    )


def _interface_description(snaplen: int, name: str) -> bytes:
    """LINKTYPE_ETHERNET 1; time stamps in units of 10^-9 s."""
    options = _option(_OPT_IF_NAME, name.encode()) + _option(_OPT_IF_TSRESOL, b"\x09")
    return _block(1, struct.pack("<HHI", 1, 0, snaplen) + options + _option(_OPT_END))
