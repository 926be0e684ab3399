"""The server's process on a simulated host: its sockets, and how long it takes for what is in them.

    state      a core    datagrams            time passes for the core
    gone       no        have no socket       -
    running    yes       are served in turn   once in ``TICK_NS``
    paused     yes       wait in the socket   no

It is one process: it serves datagrams of all sockets one after the other, each in ``service_ns``,
some ``ROWS`` of them a turn, and its acks leave when it is done with what they acknowledge. A
HERALD's ack comes from a new socket, connected to that client; an answer without a session, from
the HERALDs' own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from bench.servers.simhost.config import HostConfig, HostCounts
from bench.servers.simhost.sockets import Datagrams, Ports, ServerSocket
from bench.wire.memory import serve_in_turn
from netdump.messages import HERALD_PORT
from server.core import NO_SESSION
from server.readers import ROWS

TICK_NS: Final = 1_000_000_000


class HeraldReply(Protocol):
    """The server's answer to what opens a session: a HERALD, a write request."""

    @property
    def session_id(self) -> int: ...

    @property
    def fresh(self) -> bool: ...

    @property
    def ack(self) -> bytes: ...


class Core(Protocol):
    """The server, without sockets and clock: ``server.core.ServerCore``, or TFTP's. Times in
    seconds. ``receive`` gives its answers, uint8 (n, octets).
    """

    def herald(
        self, client: tuple[str, int], datagram: bytes, now: float
    ) -> HeraldReply | None: ...

    def receive(
        self, session_id: int, data: NDArray[np.uint8], lengths: NDArray[np.int64], now: float
    ) -> NDArray[np.uint8]: ...

    def has_socket(self, session_id: int, local: tuple[str, int]) -> None: ...

    def tick(self, now: float) -> list[int]: ...


#: A session that a server has taken up: its number, its client, its port.
Taken = tuple[int, tuple[str, int], int]

#: ``Stack.send``: from a port, to a client, payloads, and when each leaves.
Send = Callable[[int, tuple[bytes, int], NDArray[np.uint8], NDArray[np.int64]], None]


class SimProcess:
    """The place of a server: it may have several lives here, one after the other."""

    def __init__(self, config: HostConfig, counts: HostCounts, ports: Ports, send: Send) -> None:
        self._config = config
        self._counts = counts
        self._ports = ports
        self._send = send
        self._core: Core | None = None
        self._paused = False
        self._session_ports: dict[int, int] = {}
        self._free_at = 0
        self._next_tick = 0

    # --- its life ---------------------------------------------------------------------------------

    def listen(self, core: Core, port: int = HERALD_PORT, taken: Sequence[Taken] = ()) -> None:
        """A server starts: it owns the port where sessions are opened, and those of sessions that
        it has taken up.
        """
        self.hang_up()
        self._core = core
        self._ports.server[port] = ServerSocket(None, None)
        for session, (ip, client_port), its_port in taken:
            self._session_ports[session] = its_port
            client = IPv4Address(ip).packed, client_port
            self._ports.server[its_port] = ServerSocket(session, client)

    def hang_up(self) -> None:
        """The server is gone, and its sockets with all that was in them."""
        self._core = None
        self._paused = False
        self._ports.server.clear()
        self._session_ports.clear()

    def pause(self) -> None:
        """It stands still; its sockets fill up."""
        self._paused = self._core is not None

    def resume(self) -> None:
        """It goes on, at the next ``catch_up`` with what waits in its sockets."""
        self._paused = False

    # --- its turns --------------------------------------------------------------------------------

    def catch_up(self, now_ns: int) -> None:
        """Serve what waited while it was paused."""
        if self._paused:
            return
        for port, socket in list(self._ports.server.items()):
            waiting, socket.waiting = socket.waiting, []
            for some in waiting:
                some.arrivals[:] = now_ns
                self._serve(port, socket, some)

    def deliver(self, port: int, datagrams: Datagrams) -> bool:
        """Datagrams for one of its sockets. False if none there hears that client."""
        socket = self._ports.server.get(port)
        if socket is None or not socket.hears(datagrams.client):
            return False
        if self._paused:
            self._counts.socket_drops += socket.queue(datagrams, self._config.socket_frames)
            return True
        for first in range(0, len(datagrams), ROWS):
            self._serve(port, socket, datagrams.take(slice(first, first + ROWS)))
        return True

    def tick(self, now_ns: int) -> None:
        """Let time pass for the core, if it is due, and close the sockets that it forgets."""
        if self._core is None or self._paused or now_ns < self._next_tick:
            return
        self._next_tick = now_ns + TICK_NS
        for session in self._core.tick(now_ns / 1e9):
            self._ports.server.pop(self._session_ports.pop(session, 0), None)

    def _serve(self, port: int, socket: ServerSocket, datagrams: Datagrams) -> None:
        """Give datagrams to the server, those that find room in the socket, and send its acks."""
        taken, done = self._queue_up(socket, datagrams.arrivals)
        if not len(done) or self._core is None:
            return
        self._counts.served += len(done)
        datagrams = datagrams.take(taken)
        if socket.session is None:
            self._serve_heralds(self._core, datagrams, done)
            self._next_tick = 0  # a new client may have cost a quiet one its session
            return
        now = int(done[-1]) / 1e9
        acks = self._core.receive(socket.session, datagrams.data, datagrams.lengths, now)
        if len(acks):
            self._send(port, datagrams.client, acks, _ack_times(done, len(acks)))

    def _queue_up(
        self, socket: ServerSocket, arrivals: NDArray[np.int64]
    ) -> tuple[NDArray[np.intp] | slice, NDArray[np.int64]]:
        """Which datagrams find room in the socket, and when the server will be done with each."""
        room, count = self._config.socket_frames, len(arrivals)
        still = socket.busy[np.searchsorted(socket.busy, arrivals[0], side="right") :]
        # All find room if even the busiest moment does not fill the socket.
        if len(still) + count <= room:
            service = np.full(count, self._config.service_ns, np.int64)
            when = serve_in_turn(arrivals, service, self._free_at)
            self._free_at = int(when[-1])
            socket.busy = np.concatenate((still, when))
            return slice(None), when
        busy = deque(still.tolist())
        taken: list[int] = []
        done: list[int] = []
        for i, arrival in enumerate(arrivals.tolist()):
            while busy and busy[0] <= arrival:
                busy.popleft()
            if len(busy) >= room:
                self._counts.socket_drops += 1
                continue
            self._free_at = max(self._free_at, arrival) + self._config.service_ns
            busy.append(self._free_at)
            taken.append(i)
            done.append(self._free_at)
        socket.busy = np.array(busy, np.int64)
        return np.array(taken, np.intp), np.array(done, np.int64)

    def _serve_heralds(self, core: Core, datagrams: Datagrams, done: NDArray[np.int64]) -> None:
        ip, client_port = datagrams.client
        for row, length, time_ns in zip(
            datagrams.data, datagrams.lengths.tolist(), done.tolist(), strict=True
        ):
            client = (str(IPv4Address(ip)), client_port)
            answer = core.herald(client, row[:length].tobytes(), time_ns / 1e9)
            if answer is None:
                continue
            ack = np.frombuffer(answer.ack, np.uint8)[None, :]
            when = np.array([time_ns], np.int64)
            if answer.session_id == NO_SESSION:
                self._send(HERALD_PORT, datagrams.client, ack, when)
                continue
            if answer.session_id not in self._session_ports:
                new = self._ports.ephemeral()
                self._session_ports[answer.session_id] = new
                self._ports.server[new] = ServerSocket(answer.session_id, datagrams.client)
                core.has_socket(answer.session_id, (self._config.ip, new))
            port = self._session_ports[answer.session_id]
            self._send(port, datagrams.client, ack, when)


def _ack_times(done: NDArray[np.int64], acks: int) -> NDArray[np.int64]:
    """When each ack leaves: never before the server was done with what it acknowledges.

    With no more acks than datagrams, the k-th ack from the end answers the k-th datagram from the
    end, or one before it. More acks than datagrams: acks that were held back, released at the end.
    """
    if acks > len(done):
        return np.full(acks, done[-1], np.int64)
    return done[len(done) - acks :].copy()
