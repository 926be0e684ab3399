"""Datagrams in: many by one call, where the kernel has such a call.

A dump is hundreds of thousands of datagrams a second, and a system call from Python costs as much
as the datagram's whole way through the kernel. ``recvmmsg(2)`` fills a block of preallocated rows;
it costs about half of ``recv_into`` a row.

A sandbox may refuse it, and a kernel may lack it. ``packets.probe`` finds that out at the start. If
it is refused later, and the plain call for the same socket is not, the plain call takes over for
good. Nothing is lost by that: what was refused has not happened.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

#: Datagrams that one call may bring.
ROWS: Final = 256
#: A jumbo frame's payload and room to spare; what is longer is refused as cut.
MAX_DATAGRAM: Final = 9216

_CUT: Final = getattr(socket, "MSG_TRUNC", 0)
_DONTWAIT: Final = getattr(socket, "MSG_DONTWAIT", 0)

#: What only a mistake of ours brings about. Whatever else a socket says is about datagrams that
#: were sent earlier, or can't be sent now: an ICMP message, which anybody can forge, makes it say
#: any of a dozen things (Linux: icmp_err_convert). UDP promises nothing, so none is an error.
OUR_ERRORS: Final = frozenset({errno.EBADF, errno.ENOTSOCK, errno.EFAULT, errno.EINVAL})
#: How a call is refused as such: by a filter (seccomp), by a kernel without it, or for a device
#: below that can't do it (UDP_SEGMENT: udp_send_skb). ICMP messages can't bring these about.
REFUSALS: Final = frozenset({errno.ENOSYS, errno.EPERM, errno.EACCES, errno.EINVAL, errno.EIO})


@dataclass(frozen=True, slots=True)
class Lack:
    """A fast call that does not work here."""

    call: str
    """``recvmmsg`` or ``UDP_SEGMENT``."""
    code: int
    """The errno; 0 if the call succeeds and does not do what it should."""
    why: str

    @property
    def name(self) -> str:
        """The errno's: ``ENOSYS``."""
        return errno.errorcode.get(self.code, str(self.code)) if self.code else "none"


OnLack = Callable[[Lack], None]


def ignore(lack: Lack) -> None:
    """For those who need not know."""


def refused(call: str, error: OSError, how: str = "") -> Lack:
    """The lack that an error shows."""
    return Lack(call, error.errno or 0, how + os.strerror(error.errno or 0))


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


class SureReader:
    """By recvmmsg until that is refused, then a datagram a call."""

    def __init__(
        self, stride: int = MAX_DATAGRAM, batches: bool = True, on_lack: OnLack = ignore
    ) -> None:
        """``batches``: begin with recvmmsg."""
        self._stride = stride
        self._on_lack = on_lack
        self._fast = BatchReader(stride=stride) if batches else None
        self._plain = None if batches else LoopReader(stride=stride)

    def read(self, sock: socket.socket) -> Rows:
        if self._fast is None:
            assert self._plain is not None
            return self._plain.read(sock)
        try:
            return self._fast.read(sock)
        except OSError as error:
            if error.errno not in REFUSALS:
                raise
            self._plain = self._plain or LoopReader(stride=self._stride)
            rows = self._plain.read(sock)  # raises if the fault is the socket's
            self._fast = None
            self._on_lack(refused("recvmmsg", error))
            return rows
