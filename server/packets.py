"""Datagrams in batches: many in by one ``recvmmsg``, many acks out by one segmented send.

A dump is hundreds of thousands of datagrams a second, and a system call from Python costs as much
as the datagram's whole way through the kernel. Two Linux calls save most of it:

* ``recvmmsg(2)`` fills a block of preallocated rows; about half the cost of ``recv_into`` a row.
* ``UDP_SEGMENT`` (udp(7), generic segmentation offload) makes one send of up to 64 acks, each still
  a datagram of its own on the wire: stock clients take nothing else.

Both are tried, not asked for: where the kernel has no such thing the plain loop does the same work.
"""

from __future__ import annotations

import ctypes
import errno
import socket
from contextlib import suppress
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from netdump.messages import ACK_SIZE

#: Datagrams that one call may bring.
ROWS: Final = 256
#: A jumbo frame's payload and room to spare; what is longer is refused as cut.
MAX_DATAGRAM: Final = 9216

#: linux/udp.h; the socket module has no names for them.
_SOL_UDP: Final = socket.IPPROTO_UDP
_UDP_SEGMENT: Final = 103
#: UDP_MAX_SEGMENTS of the oldest kernels that know UDP_SEGMENT.
_MAX_SEGMENTS: Final = 64
_CUT: Final = getattr(socket, "MSG_TRUNC", 0)
_DONTWAIT: Final = getattr(socket, "MSG_DONTWAIT", 0)

#: What only a mistake of ours brings about. Whatever else a socket says is about datagrams that
#: were sent earlier, or can't be sent now: an ICMP message, which anybody can forge, makes it say
#: any of a dozen things (Linux: icmp_err_convert). UDP promises nothing, so none is an error.
OUR_ERRORS: Final = frozenset({errno.EBADF, errno.ENOTSOCK, errno.EFAULT, errno.EINVAL})
#: How Linux refuses to segment (udp_send_skb): no checksum offload, or larger than the path's MTU.
_SEGMENT_REFUSALS: Final = frozenset({errno.EIO, errno.EINVAL})


class _Iovec(ctypes.Structure):
    _fields_ = [("iov_base", ctypes.c_void_p), ("iov_len", ctypes.c_size_t)]


class _Msghdr(ctypes.Structure):
    _fields_ = [
        ("msg_name", ctypes.c_void_p),
        ("msg_namelen", ctypes.c_uint),
        ("msg_iov", ctypes.POINTER(_Iovec)),
        ("msg_iovlen", ctypes.c_size_t),
        ("msg_control", ctypes.c_void_p),
        ("msg_controllen", ctypes.c_size_t),
        ("msg_flags", ctypes.c_int),
    ]


class _Mmsghdr(ctypes.Structure):
    _fields_ = [("msg_hdr", _Msghdr), ("msg_len", ctypes.c_uint)]


Rows = tuple[NDArray[np.uint8], NDArray[np.int64]]


class Reader(Protocol):
    """Something that empties a socket's queue a batch at a time."""

    def read(self, sock: socket.socket) -> Rows:
        """What is there: uint8 (n, stride) and lengths int64 (n,); the rows live until the next
        call. A length beyond the stride is that of a datagram which was cut. OSError as ``recv``'s,
        but an empty queue is n = 0.
        """
        ...


class BatchReader:
    """By recvmmsg. Raises AttributeError or OSError when made where there is none."""

    def __init__(self, rows: int = ROWS, stride: int = MAX_DATAGRAM) -> None:
        self._recvmmsg = ctypes.CDLL(None, use_errno=True).recvmmsg
        self._recvmmsg.argtypes = [
            ctypes.c_int,
            ctypes.c_void_p,
            ctypes.c_uint,
            ctypes.c_int,
            ctypes.c_void_p,
        ]
        self._data = np.zeros((rows, stride), np.uint8)
        base = self._data.ctypes.data
        self._iovecs = (_Iovec * rows)(
            *[_Iovec(base + row * stride, stride) for row in range(rows)]
        )
        self._headers = (_Mmsghdr * rows)()
        for header, iovec in zip(self._headers, self._iovecs, strict=True):
            header.msg_hdr.msg_iov = ctypes.pointer(iovec)
            header.msg_hdr.msg_iovlen = 1
        self._at = ctypes.addressof(self._headers)
        # Every msg_len at once, as a strided view of the same memory.
        width = ctypes.sizeof(_Mmsghdr)
        flat = (ctypes.c_uint8 * (rows * width)).from_buffer(self._headers)
        octets = np.ctypeslib.as_array(flat).reshape(rows, width)
        where = _Mmsghdr.msg_len.offset
        self._lengths = octets[:, where : where + 4].view(np.uint32)[:, 0]

    def read(self, sock: socket.socket) -> Rows:
        count = self._recvmmsg(sock.fileno(), self._at, len(self._data), _DONTWAIT | _CUT, None)
        if count < 0:
            code = ctypes.get_errno()
            if code not in (errno.EAGAIN, errno.EWOULDBLOCK, errno.EINTR):
                raise OSError(code, "recvmmsg failed")
            count = 0
        return self._data[:count], self._lengths[:count].astype(np.int64)


class LoopReader:
    """By recv_into, a datagram a call: everywhere."""

    def __init__(self, rows: int = ROWS, stride: int = MAX_DATAGRAM) -> None:
        self._data = np.zeros((rows, stride), np.uint8)
        self._views = [row.data for row in self._data]

    def read(self, sock: socket.socket) -> Rows:
        lengths = []
        for view in self._views:
            try:
                lengths.append(sock.recv_into(view, 0, _CUT))
            except BlockingIOError:
                break
            except OSError:
                if lengths:
                    break
                raise
        return self._data[: len(lengths)], np.array(lengths, np.int64)


def make_reader(stride: int = MAX_DATAGRAM) -> Reader:
    """The best that this machine has."""
    try:
        return BatchReader(stride=stride)
    except (AttributeError, OSError):
        return LoopReader(stride=stride)


class AckSender:
    """Sends acks, each a datagram, through connected sockets: stock ones segmented."""

    def __init__(self, segments: bool = True) -> None:
        """``segments``: try UDP_SEGMENT."""
        self.segments = segments
        self.lost = 0
        """Acks that the socket would not take; the client will ask again."""

    def prepare(self, sock: socket.socket) -> None:
        """Make a new socket ready for stock acks."""
        if self.segments:
            try:
                sock.setsockopt(_SOL_UDP, _UDP_SEGMENT, ACK_SIZE)
            except OSError:
                self.segments = False

    def send(self, sock: socket.socket, acks: NDArray[np.uint8]) -> None:
        """``acks``: uint8 (m, octets), in order. Through a socket that was prepared, stock acks
        alone.
        """
        width = acks.shape[1]
        octets = np.ascontiguousarray(acks).tobytes()
        at = 0
        complaints = 0
        while at < len(octets):
            step = _MAX_SEGMENTS * width if self.segments and width == ACK_SIZE else width
            try:
                sock.send(octets[at : at + step])
                at += min(step, len(octets) - at)
            except BlockingIOError:
                break
            except OSError as error:
                # A complaint about an earlier datagram: it is told once, then the way is free.
                complaints += 1
                if complaints <= 1:
                    continue
                if step == width or error.errno not in _SEGMENT_REFUSALS:
                    break
                self._give_up_segments(sock)
        self.lost += (len(octets) - at) // width

    def _give_up_segments(self, sock: socket.socket) -> None:
        """This kernel, or the device below, won't segment: a datagram a call from now on."""
        self.segments = False
        # Where it never had it, sends of one ack need nothing.
        with suppress(OSError):
            sock.setsockopt(_SOL_UDP, _UDP_SEGMENT, 0)
