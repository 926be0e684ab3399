"""Acks out: many by one call, where the kernel has such a call; and which of the fast calls it has.

``UDP_SEGMENT`` (udp(7), generic segmentation offload) makes one send of up to 64 acks, each still a
datagram of its own on the wire: stock clients take nothing else. The other fast calls are for what
comes in: recvmmsg (``readers.py``) and UDP_GRO (``merged.py``).

A sandbox may refuse any, a kernel may lack it, and one that takes UDP_SEGMENT and ignores it
would send 64 acks as one datagram that no client understands. So none is believed:

1. ``probe`` does all, on sockets of its own, before the first client comes.
2. Later, where a call is refused and the plain one for the same socket is not, the plain ones
   take over, for good.
3. Each is told once, as a ``Lack``.
"""

from __future__ import annotations

import errno
import select
import socket
import struct
from collections.abc import Callable, Collection
from contextlib import ExitStack
from typing import Final

import numpy as np
from numpy.typing import NDArray

from netdump.messages import ACK_SIZE
from server.merged import SOL_UDP, keep_merged
from server.readers import REFUSALS, BatchReader, Lack, LoopReader, OnLack, ignore, refused

#: linux/udp.h; the socket module has no name for it.
_UDP_SEGMENT: Final = 103
#: UDP_MAX_SEGMENTS of the oldest kernels that know UDP_SEGMENT.
_MAX_SEGMENTS: Final = 64
#: For sendmsg: cut this into acks.
_IN_ACKS: Final = [(SOL_UDP, _UDP_SEGMENT, struct.pack("@H", ACK_SIZE))]
#: The longest that a datagram of ``probe``'s may be on its way through the loopback, seconds.
_PROBE_WAIT: Final = 1.0


class AckSender:
    """Sends acks, each a datagram, through connected sockets: stock ones segmented."""

    def __init__(self, segments: bool = True, on_lack: OnLack = ignore) -> None:
        """``segments``: begin with UDP_SEGMENT."""
        self.segments = segments
        self.lost = 0
        """Acks that the socket would not take; the client will ask again."""
        self._on_lack = on_lack

    def send(self, sock: socket.socket, acks: NDArray[np.uint8]) -> None:
        """``acks``: uint8 (m, octets), in order."""
        width = acks.shape[1]
        octets = np.ascontiguousarray(acks).tobytes()
        at = complaints = 0
        while at < len(octets):
            many = self.segments and width == ACK_SIZE and len(octets) - at > width
            part = octets[at : at + (_MAX_SEGMENTS * width if many else width)]
            try:
                if many:
                    sock.sendmsg([part], _IN_ACKS)
                else:
                    sock.send(part)
                at += len(part)
            except BlockingIOError:
                break
            except OSError as error:
                # A complaint about an earlier datagram: it is told once, then the way is free.
                complaints += 1
                if complaints <= 1:
                    continue
                if not many or error.errno not in REFUSALS:
                    break
                try:
                    sock.send(part[:width])
                except OSError:
                    break  # the fault is the socket's
                at += width
                complaints = 0
                self.segments = False
                self._on_lack(refused("UDP_SEGMENT", error))
        self.lost += (len(octets) - at) // width


def probe(make: Callable[[int, int], socket.socket] = socket.socket) -> list[Lack]:
    """Which of the fast calls don't work here, and why, found out by doing them; [] is best.

    Takes a millisecond, two seconds at most. ``make`` makes sockets, of a family and a type.
    """
    lacks = [_try_recvmmsg(), _try_segments(make)]
    lacks.append(_try_merged(make, [lack.call for lack in lacks if lack is not None]))
    return [lack for lack in lacks if lack is not None]


def _try_recvmmsg() -> Lack | None:
    """On a pair of Unix sockets: they need no network."""
    sent = [b"one", b"another"]
    try:
        one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with one, two:
            for datagram in sent:
                one.send(datagram)
            data, lengths = BatchReader(rows=4, stride=16).read(two)
    except OSError as error:
        return refused("recvmmsg", error)
    except AttributeError:
        return Lack("recvmmsg", errno.ENOSYS, "the C library has no such call")
    came = [row[:length].tobytes() for row, length in zip(data, lengths, strict=True)]
    return None if came == sent else Lack("recvmmsg", 0, f"it brings {came}, not {sent}")


def _try_segments(make: Callable[[int, int], socket.socket]) -> Lack | None:
    """Over the loopback: what leaves as one must arrive as two."""
    sent = [b"ack1", b"ack2"]
    with ExitStack() as sockets:
        try:
            one, two = _connected(make, sockets)
        except OSError as error:
            return refused("UDP_SEGMENT", error, "can't be tried over the loopback: ")
        one.settimeout(_PROBE_WAIT)
        two.settimeout(_PROBE_WAIT)
        try:
            one.sendmsg([b"".join(sent)], _IN_ACKS)
            came = [two.recv(64)]
            if came == sent[:1]:
                came.append(two.recv(64))
        except TimeoutError:
            what = "what was sent over the loopback to try it did not come"
            return Lack("UDP_SEGMENT", errno.ETIMEDOUT, what)
        except OSError as error:
            return refused("UDP_SEGMENT", error)
    if came == sent:
        return None
    return Lack("UDP_SEGMENT", 0, "the kernel takes it and ignores it: two acks came as one")


def _try_merged(make: Callable[[int, int], socket.socket], lacks: Collection[str]) -> Lack | None:
    """Over the loopback: what left as one, if that works, must be read as what it stands for."""
    sent = [b"data1", b"data2"]
    with ExitStack() as sockets:
        try:
            one, two = _connected(make, sockets)
        except OSError as error:
            return refused("UDP_GRO", error, "can't be tried over the loopback: ")
        reader = LoopReader(rows=4, stride=16) if "recvmmsg" in lacks else BatchReader(4, 16)
        came: list[bytes] = []
        try:
            keep_merged(two)
            if "UDP_SEGMENT" in lacks:
                for datagram in sent:
                    one.send(datagram)
            else:
                one.sendmsg([b"".join(sent)], [(SOL_UDP, _UDP_SEGMENT, struct.pack("@H", 5))])
            while len(came) < len(sent) and select.select([two], [], [], _PROBE_WAIT)[0]:
                data, lengths = reader.read(two)
                came += [row[:n].tobytes() for row, n in zip(data, lengths, strict=True)]
        except OSError as error:
            return refused("UDP_GRO", error)
    return None if came == sent else Lack("UDP_GRO", 0, f"it brings {came}, not {sent}")


def _connected(
    make: Callable[[int, int], socket.socket], sockets: ExitStack
) -> tuple[socket.socket, socket.socket]:
    """Two sockets on the loopback that send to each other."""
    one, two = [sockets.enter_context(make(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(2)]
    two.bind(("127.0.0.1", 0))
    one.connect(two.getsockname())
    two.connect(one.getsockname())
    return one, two
