"""A NIC's wire as a byte stream: each frame behind its length in 4 bytes, big-endian.

That is what QEMU's ``-netdev socket`` speaks on a stream socket. Unlike datagrams a stream loses
nothing when its reader is slow, and carries a whole batch in one system call.

Nothing blocks. What does not fit into the socket waits here, as in a switch's buffer, and what does
not fit there is dropped and counted, as in a switch: a NIC whose receive ring is full stops to
read, and must not stop us.
"""

from __future__ import annotations

import socket
import struct
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.clock import Clock
from bench.wire.contracts import WireError
from nic_models.frames import Frames

_LENGTH: Final = struct.Struct("!I")
#: Bytes that one receive takes from the socket at most.
_CHUNK: Final = 1 << 20
#: Bytes that may wait to be sent.
BACKLOG: Final = 4 << 20
#: The longest frame that QEMU sends (net/socket.c: NET_BUFSIZE); more is not this protocol.
_MAX_FRAME: Final = 4096 + 65536


class StreamWire:
    """Our end of the NIC's cable: ``send`` is what the NIC will hear. A ``Wire``."""

    def __init__(self, end: socket.socket, clock: Clock) -> None:
        """``end``: connected, stream; made non-blocking, and closed by ``close``."""
        end.setblocking(False)
        self.dropped = 0
        """Frames that found no room."""
        self.ended = False
        """The other side hung up."""
        self._socket = end
        self._clock = clock
        self._waiting = bytearray()
        self._buffer = bytearray(_CHUNK + _MAX_FRAME)
        self._filled = 0
        self._knocked = 0
        """Octets of the next length that were sent ahead."""

    def send(self, frames: Frames) -> None:
        if not len(frames) or self.ended:
            return
        if len(self._waiting) > BACKLOG:
            self.flush()
        if len(self._waiting) > BACKLOG:
            self.dropped += len(frames)
            return
        self._waiting += _pack(frames)[self._knocked :]
        self._knocked = 0
        self.flush()

    def knock(self) -> None:
        """Send the first octet of the next length, which is 0 whatever comes.

        QEMU does not read on while its NIC has a frame yet to take. So once it has read this octet,
        sent by itself, the NIC has taken all that came before.
        """
        if not self._knocked:
            self._waiting += b"\0"
            self._knocked = 1

    def receive(self) -> Frames:
        """What the NIC has sent by now."""
        self.flush()
        batches: list[Frames] = []
        while not self.ended:
            view = memoryview(self._buffer)[self._filled :]
            try:
                size = self._socket.recv_into(view)
            except BlockingIOError:
                break
            except ConnectionError:
                size = 0
            finally:
                view.release()
            if not size:
                self.ended = True
                break
            self._filled += size
            batches.append(self._unpack())
            if size < _CHUNK // 4:
                break
        return Frames.concat(batches).at(self._clock.now_ns()) if batches else Frames.empty()

    def flush(self) -> int:
        """Send what waits, as far as it fits; bytes that still wait."""
        while self._waiting and not self.ended:
            try:
                sent = self._socket.send(self._waiting)
            except BlockingIOError:
                break
            except ConnectionError:
                self.ended = True
                break
            del self._waiting[:sent]
        return 0 if self.ended else len(self._waiting)

    def fileno(self) -> int:
        """For select: readable when a frame waits, or the other side hung up."""
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()
        self.ended = True

    def _unpack(self) -> Frames:
        """The whole frames of the buffer; the rest of it is kept for the next time."""
        buffer, filled = self._buffer, self._filled
        starts: list[int] = []
        lengths: list[int] = []
        at = 0
        while at + 4 <= filled:
            length = _LENGTH.unpack_from(buffer, at)[0]
            if length > _MAX_FRAME:
                raise WireError(f"a frame of {length} bytes came in; this is no QEMU netdev")
            if at + 4 + length > filled:
                break
            starts.append(at + 4)
            lengths.append(length)
            at += 4 + length
        frames = _rows(np.frombuffer(buffer, np.uint8, filled), starts, lengths)
        rest = filled - at
        buffer[:rest] = buffer[at:filled]
        self._filled = rest
        return frames


def _rows(data: NDArray[np.uint8], starts: list[int], lengths: list[int]) -> Frames:
    """Copy frames out of the stream: a run of equal lengths is one copy."""
    count = len(starts)
    if not count:
        return Frames.empty()
    sizes = np.array(lengths, np.int64)
    rows = np.zeros((count, int(sizes.max())), np.uint8)
    edges = [0, *(np.flatnonzero(np.diff(sizes)) + 1).tolist(), count]
    for first, stop in pairwise(edges):
        length = lengths[first]
        run = data[starts[first] : starts[first] + (stop - first) * (length + 4)]
        if len(run) < (stop - first) * (length + 4):  # nothing lies behind the last frame
            stop -= 1
            rows[stop, :length] = data[starts[stop] : starts[stop] + length]
            run = run[: (stop - first) * (length + 4)]
        rows[first:stop, :length] = run.reshape(stop - first, length + 4)[:, :length]
    return Frames(rows, sizes, np.zeros(count, np.int64))


def _pack(frames: Frames) -> bytes:
    """Lengths and frames, as they go over the stream."""
    lengths = frames.lengths
    if (lengths == lengths[0]).all():
        length = int(lengths[0])
        out = np.empty((len(frames), 4 + length), np.uint8)
        out[:, :4] = np.frombuffer(_LENGTH.pack(length), np.uint8)
        out[:, 4:] = frames.data[:, :length]
        return out.tobytes()
    return b"".join(
        _LENGTH.pack(length) + frames.data[row, :length].tobytes()
        for row, length in enumerate(lengths.tolist())
    )
