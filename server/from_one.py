"""A session's socket: it hears its client alone, and nothing that ICMP says of it.

connect(2) would do the first. But a connected UDP socket reports each ICMP error, which anybody can
forge, and reports it before the data that wait (Linux: udp_recvmsg): who sends enough of them keeps
the data from being read. So it is not connected. A filter (socket(7), SO_ATTACH_FILTER; Linux's
Documentation/networking/filter.rst) drops what others send, before it takes room in the socket.

Where there is no such filter the socket is connected after all, and its errors are counted
(``shell.py``).
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final

#: linux/filter.h and asm-generic/socket.h; the socket module has no names for them.
_SO_ATTACH_FILTER: Final = 26
_LOAD_WORD, _LOAD_HALF, _IF_EQUAL, _RETURN = 0x20, 0x28, 0x15, 0x06
#: From the IPv4 header on; without it, from the UDP header on (SKF_NET_OFF).
_IN_IP: Final = 0xFFF0_0000
_IP_SOURCE, _UDP_SOURCE = 12, 0
_ALL: Final = 0xFFFF_FFFF
#: Datagrams of strangers that may lie in a socket that was not connected at once.
_STRANGERS: Final = 64


class FromOne(socket.socket):
    """A UDP socket of one client's; it does not block."""

    def __init__(self, local: str, client: tuple[str, int], port: int = 0) -> None:
        """``port`` 0: the kernel chooses. Raises OSError."""
        super().__init__(socket.AF_INET, socket.SOCK_DGRAM)
        self._client = client
        try:
            self.setblocking(False)
            self.filters = self._filter()
            """Else it is connected."""
            self.bind((local, port))
            if not self.filters:
                self._connect()
        except OSError:
            self.close()
            raise

    def send(self, data: Any, flags: int = 0, /) -> int:
        return self.sendto(data, flags, self._client) if self.filters else super().send(data, flags)

    def sendmsg(
        self,
        buffers: Iterable[Any],
        ancdata: Iterable[tuple[int, int, Any]] = (),
        flags: int = 0,
        address: Any = None,
        /,
    ) -> int:
        to = self._client if self.filters and address is None else address
        return super().sendmsg(buffers, ancdata, flags, to)

    def _filter(self) -> bool:
        """Hear the client alone, from before there is a port to send to; False: it can't be."""
        ip, port = self._client
        (source,) = struct.unpack(">I", socket.inet_aton(ip))
        steps = [
            (_LOAD_WORD, 0, 0, _IN_IP + _IP_SOURCE),
            (_IF_EQUAL, 0, 3, source),
            (_LOAD_HALF, 0, 0, _UDP_SOURCE),
            (_IF_EQUAL, 0, 1, port),
            (_RETURN, 0, 0, _ALL),
            (_RETURN, 0, 0, 0),
        ]
        octets = b"".join(struct.pack("@HBBI", *step) for step in steps)
        program = ctypes.create_string_buffer(octets, len(octets))
        wanted = struct.pack("@HP", len(steps), ctypes.addressof(program))
        try:
            self.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, wanted)
        except OSError:
            return False
        return True

    def _connect(self) -> None:
        self.connect(self._client)
        # Between bind and connect anybody could have sent something here. The client could not: it
        # does not know the port yet.
        with suppress(BlockingIOError):
            for _ in range(_STRANGERS):
                self.recv(1)
            raise OSError(errno.EBUSY, "strangers fill the new socket")
