"""pcapng files, written a batch at a time (draft-ietf-opsawg-pcapng, sections 3 and 4).

A file is a section header block, one interface description (Ethernet, nanoseconds) and an enhanced
packet block a frame::

    type 6 | length | interface 0 | time high | time low | captured | original | data, padded to 4
    | opt_comment, padded | epb_flags | opt_endofopt | length

The interface is the machine's NIC: what it sends is outbound (2), what it hears inbound (1). The
same frames give the same bytes: neither a host name nor today's date is written. Blocks of one size
and with one comment are made at once, as a matrix with a block a row; where they alternate, as when
somebody's short frames are among long ones, the rows then go to their places among the others.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from bench.wire.contracts import Direction
from nic_models.frames import Frames

_EPB: Final = 6
_FIXED: Final = 28  # block header and packet fields, before the data
#: Frames whose blocks are made at once: they stay in the processor's cache.
_AT_ONCE: Final = 256
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
        captured = np.minimum(frames.lengths, self._snaplen) if self._snaplen else frames.lengths
        flags = _option(_OPT_EPB_FLAGS, struct.pack("<I", _FLAGS[direction])) + _option(_OPT_END)
        tails = {"": flags}
        noted = np.zeros(len(frames), np.int64)  # which of the tails a frame has
        for index, note in (notes or {}).items():
            if note not in tails:
                tails[note] = _option(_OPT_COMMENT, note.encode()[:0xFFFC]) + flags
            noted[index] = list(tails).index(note)
        for start in range(0, len(frames), _AT_ONCE):
            rows = np.arange(start, min(start + _AT_ONCE, len(frames)))
            self._write(frames, rows, captured[rows], noted[rows], list(tails.values()))
        self.frames += len(frames)

    def _write(
        self,
        frames: Frames,
        rows: NDArray[np.int64],
        captured: NDArray[np.int64],
        noted: NDArray[np.int64],
        tails: list[bytes],
    ) -> None:
        """These frames; how much of each is kept, and which of the tails it has."""
        if (captured == captured[0]).all() and (noted == noted[0]).all():
            self._file.write(_blocks(frames, rows, int(captured[0]), tails[noted[0]]).data)
            return
        longest = np.array([len(tail) for tail in tails])
        sizes = _FIXED + captured + -captured % 4 + longest[noted] + 4
        places = np.cumsum(sizes) - sizes
        out = np.empty(int(sizes.sum()), np.uint8)
        for length, tail in np.unique(np.stack([captured, noted]), axis=1).T.tolist():
            mine = (captured == length) & (noted == tail)
            blocks = _blocks(frames, rows[mine], length, tails[tail])
            out[places[mine][:, None] + np.arange(blocks.shape[1])] = blocks
        self._file.write(out.data)


def _blocks(
    frames: Frames, rows: NDArray[np.int64], captured: int, tail: bytes
) -> NDArray[np.uint8]:
    """Of these frames ``captured`` bytes each are kept, with the same options: uint8, a block a
    row.
    """
    padded = _FIXED + captured + -captured % 4
    size = padded + len(tail) + 4
    some = slice(int(rows[0]), int(rows[-1]) + 1) if len(rows) > rows[-1] - rows[0] else rows
    blocks = np.empty((len(rows), size), np.uint8)
    fields: NDArray[np.uint32] = blocks[:, :_FIXED].view("<u4")
    time_ns = frames.time_ns[some]
    fields[:, 0] = _EPB
    fields[:, 1] = size
    fields[:, 2] = 0
    fields[:, 3] = time_ns >> 32
    fields[:, 4] = time_ns & 0xFFFFFFFF
    fields[:, 5] = captured
    fields[:, 6] = frames.lengths[some]
    blocks[:, _FIXED : _FIXED + captured] = frames.data[some, :captured]
    blocks[:, _FIXED + captured : padded] = 0
    blocks[:, padded:] = np.frombuffer(tail + struct.pack("<I", size), np.uint8)
    return blocks


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
