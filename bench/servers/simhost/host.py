"""A host on a wire in memory: a network stack, a dump server, and other programs with sockets.

It does what a Linux host does with frames, and nothing that a Linux host would not:

    part            what of it is modelled                              module
    neighbours      ARP, and frames that wait for a MAC                 ``neighbours.py``
    stack           IPv4 and UDP: what is believed, what is refused     ``stack.py``
    ICMP            port unreachable with its rate limit, echo          ``icmp.py``
    sockets         how many datagrams one holds, who has which port    ``sockets.py``
    the server      one process, whose work takes time                  ``process.py``

Time is what ``pump`` is told. Frames are worked on at the moment they arrived, so it does not
matter how often it is called, only that it is called before anybody looks for an answer; but for
how many of them a selective ack stands, as with a real server that finds more or fewer waiting.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.servers.simhost.config import HostConfig, HostCounts
from bench.servers.simhost.process import Core, SimProcess, Taken
from bench.servers.simhost.sockets import Datagrams, PlainSocket, Ports
from bench.servers.simhost.stack import Stack
from bench.wire.contracts import Wire
from netdump.messages import HERALD_PORT


class SimHost:
    """A host on the ``host_end`` of a ``MemoryLink``."""

    def __init__(self, wire: Wire, config: HostConfig | None = None) -> None:
        self.config = config or HostConfig()
        self.counts = HostCounts()
        self.now_ns = 0
        """When it had its latest turn."""
        self._wire = wire
        self._ports = Ports()
        self._stack = Stack(wire, self.config, self.counts, self._ports.open, self._deliver)
        self._server = SimProcess(self.config, self.counts, self._ports, self._stack.send)

    def pump(self, now_ns: int) -> None:
        """Work on all that has arrived, and put the answers on the wire."""
        self.now_ns = now_ns
        self._server.catch_up(now_ns)
        frames = self._wire.receive()
        if len(frames):
            self._stack.hear(frames)
        self._server.tick(now_ns)

    def _deliver(self, port: int, datagrams: Datagrams) -> bool:
        plain = self._ports.plain.get(port)
        if plain is None:
            return self._server.deliver(port, datagrams)
        self.counts.socket_drops += plain.queue(datagrams)
        return True

    # --- the server's life ------------------------------------------------------------------------

    def listen(self, core: Core, port: int = HERALD_PORT, taken: Sequence[Taken] = ()) -> None:
        """A server starts: it owns the port where sessions are opened, and those of sessions that
        it has taken up.
        """
        self._server.listen(core, port, taken)

    def hang_up(self) -> None:
        """The server is gone, and its sockets with all that was in them."""
        self._server.hang_up()

    def pin(self, ip: bytes, mac: bytes) -> None:
        """A permanent entry of its ARP table: no ARP changes it."""
        self._stack.pin(ip, mac)

    def pause(self) -> None:
        """The server stands still; its sockets fill up."""
        self._server.pause()

    def resume(self) -> None:
        """The server goes on, at the next ``pump`` with what waits in its sockets."""
        self._server.resume()

    @property
    def ports(self) -> list[int]:
        """UDP ports of the server."""
        return sorted(self._ports.server)

    # --- other programs ---------------------------------------------------------------------------

    def open_socket(self, port: int) -> PlainSocket:
        """A socket of another program on that port. ``ValueError`` where it is taken."""
        if self._ports.taken(port):
            raise ValueError(f"UDP port {port} of the simulated host is taken")
        plain = self._ports.plain
        plain[port] = PlainSocket(self.config.socket_frames, lambda: plain.pop(port, None))
        return plain[port]
