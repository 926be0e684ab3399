"""Datagrams in: many by one call, where the kernel has such a call.

A dump is hundreds of thousands of datagrams a second, and a system call from Python costs as much
as the datagram's whole way through the kernel. ``recvmmsg(2)`` brings many messages by one call,
and a message may be many datagrams (``merged.py``).

A sandbox may refuse it, and a kernel may lack it. ``packets.probe`` finds that out at the start. If
it is refused later, and the plain call for the same socket is not, the plain call takes over for
good. Nothing is lost by that: what was refused has not happened.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from server.merged import CONTROL, CONTROL_LENGTH, LONGEST, SOL_UDP, UDP_GRO, Cutter, Rows

#: Datagrams that one call may bring.
ROWS: Final = 256
#: A jumbo frame's payload and room to spare; what is longer is refused as cut.
MAX_DATAGRAM: Final = 9216
#: Messages of one call, and those that are asked for at first. A message may be many datagrams.
_MESSAGES: Final = 64
_FEW: Final = 8

_FLAGS: Final = getattr(socket, "MSG_TRUNC", 0) | getattr(socket, "MSG_DONTWAIT", 0)

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
    """``recvmmsg``, ``UDP_SEGMENT`` or ``UDP_GRO``."""
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


class Reader(Protocol):
    """Something that empties a socket's queue a batch at a time."""

    def read(self, sock: socket.socket) -> Rows:
        """What is there: uint8 (n, stride) and lengths int64 (n,); the rows live until the next
        call. A length beyond the stride is that of a datagram which was cut. OSError as ``recv``'s,
        but an empty queue is n = 0.
        """
        ...


class _Messages:
    """Room for the messages of one call, and how many to ask for: as many as should be ``rows``
    datagrams, by what the last ones held.
    """

    def __init__(self, rows: int = ROWS, stride: int = MAX_DATAGRAM) -> None:
        """``stride``: octets of the longest datagram that is not cut."""
        self._wanted = rows
        self._slots = np.zeros((min(rows, _MESSAGES), LONGEST), np.uint8)
        self._ask = min(_FEW, len(self._slots))
        self._cutter = Cutter(rows, stride)
        self._nothing = np.empty((0, stride), np.uint8), np.empty(0, np.int64)

    def _cut(self, lengths: NDArray[np.int64], each: NDArray[np.int64]) -> Rows:
        count = len(lengths)
        if not count:
            return self._nothing
        data, sizes = self._cutter.cut(self._slots[:count], lengths, each)
        self._ask = min(max(self._wanted * count // len(sizes), 1), len(self._slots))
        return data, sizes


class BatchReader(_Messages):
    """By recvmmsg. Raises AttributeError or OSError when made where there is none."""

    def __init__(self, rows: int = ROWS, stride: int = MAX_DATAGRAM) -> None:
        super().__init__(rows, stride)
        self._recvmmsg = ctypes.CDLL(None, use_errno=True).recvmmsg
        self._recvmmsg.argtypes = [
            ctypes.c_int,
            ctypes.c_void_p,
            ctypes.c_uint,
            ctypes.c_int,
            ctypes.c_void_p,
        ]
        count = len(self._slots)
        self._control = np.zeros(count, CONTROL)
        slots, control = self._slots.ctypes.data, self._control.ctypes.data
        self._iovecs = (_Iovec * count)(
            *[_Iovec(slots + at * LONGEST, LONGEST) for at in range(count)]
        )
        self._headers = (_Mmsghdr * count)()
        for at, header in enumerate(self._headers):
            header.msg_hdr.msg_iov = ctypes.pointer(self._iovecs[at])
            header.msg_hdr.msg_iovlen = 1
            header.msg_hdr.msg_control = control + at * CONTROL.itemsize
        self._at = ctypes.addressof(self._headers)
        self._lengths = _column(self._headers, _Mmsghdr.msg_len.offset, "=u4")
        self._said = _column(self._headers, _Msghdr.msg_controllen.offset, "=u8")

    def read(self, sock: socket.socket) -> Rows:
        self._said[: self._ask] = CONTROL.itemsize
        count = self._recvmmsg(sock.fileno(), self._at, self._ask, _FLAGS, None)
        if count < 0:
            code = ctypes.get_errno()
            if code not in (errno.EAGAIN, errno.EWOULDBLOCK, errno.EINTR):
                raise OSError(code, "recvmmsg failed")
            count = 0
        control = self._control[:count]
        merged = self._said[:count] >= CONTROL_LENGTH
        merged &= (control["level"] == SOL_UDP) & (control["type"] == UDP_GRO)
        return self._cut(self._lengths[:count].astype(np.int64), control["size"] * merged)


def _column(headers: ctypes.Array[_Mmsghdr], where: int, kind: str) -> NDArray[Any]:
    """The number of dtype ``kind`` at that place in every header: a strided view, not a copy."""
    width = ctypes.sizeof(_Mmsghdr)
    flat = (ctypes.c_uint8 * (len(headers) * width)).from_buffer(headers)
    octets = np.ctypeslib.as_array(flat).reshape(len(headers), width)
    return octets[:, where : where + np.dtype(kind).itemsize].view(kind)[:, 0]


class LoopReader(_Messages):
    """By recvmsg_into, a message a call: everywhere."""

    def __init__(self, rows: int = ROWS, stride: int = MAX_DATAGRAM) -> None:
        super().__init__(rows, stride)
        self._views = [[slot.data] for slot in self._slots]

    def read(self, sock: socket.socket) -> Rows:
        lengths: list[int] = []
        each: list[int] = []
        for view in self._views[: self._ask]:
            try:
                length, control, *_ = sock.recvmsg_into(view, CONTROL.itemsize, _FLAGS)
            except BlockingIOError:
                break
            except OSError:
                if lengths:
                    break
                raise
            lengths.append(length)
            each.append(_merged(control))
        return self._cut(np.array(lengths, np.int64), np.array(each, np.int64))


def _merged(control: list[tuple[int, int, bytes]]) -> int:
    """Octets of each datagram in the message; 0: it is one datagram."""
    for level, kind, data in control:
        if (level, kind) == (SOL_UDP, UDP_GRO) and len(data) >= 4:
            return int.from_bytes(data[:4], sys.byteorder)
    return 0


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
