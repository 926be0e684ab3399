"""UDP sockets of a simulated host, and its ports.

Each socket holds so many datagrams, and what comes while it is full is lost, counted. The default
of Linux, 212,992 bytes, holds 92 frames of 1500 bytes.

    socket         of                     holds                            outlives the server
    ServerSocket   the dump server        what it is not done with yet     no
    PlainSocket    other programs         what they have not read yet      yes
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

#: Ports that Linux gives to sockets that ask for none (net.ipv4.ip_local_port_range).
FIRST_PORT, LAST_PORT = 32768, 60999
_PORTS: Final = LAST_PORT - FIRST_PORT + 1


@dataclass(frozen=True, slots=True)
class Datagrams:
    """UDP payloads of one sender to one port, in order."""

    client: tuple[bytes, int]
    data: NDArray[np.uint8]
    lengths: NDArray[np.int64]
    arrivals: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.lengths)

    def take(self, which: slice | NDArray[np.intp]) -> Datagrams:
        return Datagrams(self.client, self.data[which], self.lengths[which], self.arrivals[which])


@dataclass(slots=True)
class ServerSocket:
    """A socket of the dump server's."""

    session: int | None
    """None: the herald socket."""
    peer: tuple[bytes, int] | None
    """Whom it is connected to."""
    busy: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """When the server will be done with each datagram that is still in the socket, ascending."""
    waiting: list[Datagrams] = field(default_factory=list)
    """What a server that stands still does not read."""

    def hears(self, client: tuple[bytes, int]) -> bool:
        return self.peer is None or self.peer == client

    def queue(self, datagrams: Datagrams, room: int) -> int:
        """Keep as many as there is room for, of ``room`` in all; how many were lost."""
        left = room - sum(map(len, self.waiting))
        if left > 0:
            self.waiting.append(datagrams.take(slice(0, left)))
        return max(0, len(datagrams) - left)


class PlainSocket:
    """A UDP socket of a program of the host's, which never blocks. A context manager."""

    def __init__(self, room: int, on_close: Callable[[], object]) -> None:
        self._room = room
        self._on_close = on_close
        self._datagrams: deque[bytes] = deque()

    def recv(self, size: int, /) -> bytes:
        """The next datagram, cut to ``size``; ``BlockingIOError`` where there is none."""
        if not self._datagrams:
            raise BlockingIOError("no datagram is waiting")
        return self._datagrams.popleft()[:size]

    def queue(self, datagrams: Datagrams) -> int:
        """Keep as many as there is room for; how many were lost."""
        lengths = datagrams.lengths.tolist()
        kept = max(0, self._room - len(self._datagrams))
        for row, length in zip(datagrams.data[:kept], lengths[:kept], strict=True):
            self._datagrams.append(row[:length].tobytes())
        return max(0, len(lengths) - kept)

    def close(self) -> None:
        self._on_close()

    def __enter__(self) -> PlainSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Ports:
    """Which socket has which port. No two have the same."""

    def __init__(self) -> None:
        self.server: dict[int, ServerSocket] = {}
        self.plain: dict[int, PlainSocket] = {}
        self._next = FIRST_PORT

    def taken(self, port: int) -> bool:
        return port in self.server or port in self.plain

    def open(self) -> list[int]:
        return [*self.server, *self.plain]

    def ephemeral(self) -> int:
        """The next free one. Sessions are bounded by the server, far below the number of ports."""
        while self.taken(self._next):
            self._advance()
        port = self._next
        self._advance()
        return port

    def _advance(self) -> None:
        self._next = FIRST_PORT + (self._next + 1 - FIRST_PORT) % _PORTS
