"""The sockets of a dump server, and its event loop.

One socket hears HERALDs. Each session gets another: bound to the address that the HERALD came to,
at a port of the kernel's choice, and the kernel itself drops everybody's datagrams there but the
client's (``from_one.py``). The first ack leaves from there; that is how the client learns the port.

All thinking is the core's. The loop waits for at most half a second, reads in batches, sends the
acks the core hands out, and closes what the core forgets.
"""

from __future__ import annotations

import errno
import selectors
import socket
import struct
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Final

import numpy as np

from netdump.errors import NetdumpError
from server.core import NO_SESSION, HeraldReply, ServerCore, rank
from server.from_one import FromOne
from server.merged import keep_merged
from server.neighbours import Pin, pin, unpin
from server.packets import AckSender, probe
from server.readers import MAX_DATAGRAM, OUR_ERRORS, Lack, Reader, SureReader
from server.refusals import OnEvent
from server.session import Session

#: Receive buffer of a client's socket, bytes. Default sizes hold 92 full frames: a window and a
#: half, at which a busy disk costs a retransmission round.
RECEIVE_BUFFER: Final = 8 << 20
_TICK: Final = 0.5
#: Batches that one session may have before the others get their turn.
_TURN: Final = 4
_HERALDS_A_TURN: Final = 64
#: Octets that a UDP datagram can't exceed.
LONGEST: Final = 65_535
#: Errors of one session's socket, without data in between, after which it is given up.
MAX_COMPLAINTS: Final = 1000
#: What ICMP makes of a connected socket: nothing in it shows that it comes from the client's host.
_FORGEABLE: Final = (
    *(errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN),
    *(errno.EPROTO, errno.ENOPROTOOPT, errno.EOPNOTSUPP, errno.EMSGSIZE),
)
#: linux/in.h, asm-generic/socket.h; the socket module has no names for them.
_IP_PKTINFO: Final = 8
_SO_RCVBUFFORCE: Final = 33
_IP_MTU_DISCOVER: Final = 10
_IP_PMTUDISC_INTERFACE: Final = 4


class CannotListen(NetdumpError):
    """The address or port for HERALDs is not to be had. ``errno`` is the kernel's reason."""

    reason = "cannot-listen"

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.errno = code


class Shell:
    """A running dump server."""

    def __init__(
        self,
        core: ServerCore,
        address: str,
        port: int,
        reader: Reader | None = None,
        sender: AckSender | None = None,
        max_datagram: int = MAX_DATAGRAM,
        on_event: OnEvent | None = None,
        macs: Mapping[str, bytes] = MappingProxyType({}),
    ) -> None:
        """Listens from here on. ``address``: numeric IPv4; ``port`` 0: the kernel chooses.
        ``macs``: those of clients by their address, which are to be pinned (``neighbours.py``).
        """
        self._core = core
        self._on_event = on_event
        self._lacks = probe()
        slow = {lack.call for lack in self._lacks}
        self._reader = reader or SureReader(max_datagram, "recvmmsg" not in slow, self._tell)
        self._merged = "UDP_GRO" not in slow
        self._sender = sender or AckSender("UDP_SEGMENT" not in slow, self._tell)
        self._sockets: dict[int, socket.socket] = {}
        self._complaints: dict[int, int] = {}
        self._macs = macs
        self._pinned: set[tuple[str, int]] = set()
        self._pins: list[Pin] = []
        self._stopping = False
        self._herald = _listen(address, port)
        self._wake_out, self._wake_in = socket.socketpair()
        self._wake_out.setblocking(False)
        self._wake_in.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._herald, selectors.EVENT_READ, None)
        self._selector.register(self._wake_out, selectors.EVENT_READ, None)

    @property
    def address(self) -> tuple[str, int]:
        """Where HERALDs are heard."""
        host, port = self._herald.getsockname()
        return str(host), int(port)

    def take_up(self, sessions: Iterable[Session]) -> None:
        """Hear the clients of these again, where they send to."""
        for session in list(sessions):
            local, port = session.local
            try:
                sock = _connect(local, session.herald.client, self._merged, port)
            except OSError as error:
                name = errno.errorcode.get(error.errno or 0, str(error.errno))
                why = f"the server was killed, and can't have its port again: {name}"
                self._core.abandon(session.id, why)
                continue
            self._sockets[session.id] = sock
            self._selector.register(sock, selectors.EVENT_READ, session.id)

    @property
    def wakeup_fd(self) -> int:
        """For ``signal.set_wakeup_fd``: a signal ends the wait."""
        return self._wake_in.fileno()

    def stop(self) -> None:
        """Make ``run`` return soon. May be called from a signal handler or another thread."""
        self._stopping = True
        try:
            self._wake_in.send(b"\0")
        except BlockingIOError:
            # The pipe is full of reasons to wake up already.
            return

    def run(self) -> None:
        """Serve until ``stop``; then finish the info files and close everything."""
        for lack in self._lacks:
            self._tell(lack)
        due = time.monotonic() + _TICK
        try:
            while not self._stopping:
                for key, _ in self._selector.select(max(0.0, due - time.monotonic())):
                    if key.fileobj is self._herald:
                        self._hear_heralds()
                    elif key.fileobj is self._wake_out:
                        self._drain_wakeups()
                    else:
                        self._hear(key.data)
                now = time.monotonic()
                if now >= due:
                    self._forget(now)
                    due = now + _TICK
        finally:
            for session_id, farewell in self._core.farewells():
                with suppress(OSError, KeyError):
                    self._sockets[session_id].send(farewell)
            self._core.stop()
            self._close()

    # -- HERALDs -----------------------------------------------------------------------------

    def _hear_heralds(self) -> None:
        """Those that wait, proofs first: strangers send as many others as the line takes."""
        heard: list[tuple[bytes, tuple[str, int], int, str]] = []
        for _ in range(_HERALDS_A_TURN):
            try:
                # Nothing is cut, so that what is refused is refused for what it is.
                datagram, ancillary, _, client = self._herald.recvmsg(
                    LONGEST, socket.CMSG_SPACE(12)
                )
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno in OUR_ERRORS:
                    raise
                continue
            heard.append((datagram, client, *_asked(ancillary)))
        for datagram, client, interface, local in sorted(heard, key=lambda one: rank(one[0])):
            if interface:
                self._pin(client[0], interface)
            reply = self._core.herald(client, datagram, time.monotonic())
            if reply is not None:
                self._answer(reply, client, local)
        self._forget(time.monotonic())

    def _answer(self, reply: HeraldReply, client: tuple[str, int], local: str) -> None:
        if reply.session_id == NO_SESSION:
            self._say(reply.ack, client, local)
            return
        if reply.fresh:
            try:
                sock = _connect(local or self.address[0], client, self._merged)
            except OSError:
                nak = self._core.no_socket(reply.session_id)
                if nak is not None:
                    self._say(nak, client, local)
                return
            self._core.has_socket(reply.session_id, sock.getsockname())
            self._sockets[reply.session_id] = sock
            self._selector.register(sock, selectors.EVENT_READ, reply.session_id)
        acks = np.frombuffer(reply.ack, np.uint8).reshape(1, -1)
        self._sender.send(self._sockets[reply.session_id], acks)

    def _say(self, datagram: bytes, client: tuple[str, int], local: str) -> None:
        """From where it was asked: this machine may have several addresses."""
        control = [(socket.IPPROTO_IP, _IP_PKTINFO, _from(local))] if local else []
        with suppress(OSError):  # the client will ask again
            self._herald.sendmsg([datagram], control, 0, client)

    def _pin(self, ip: str, interface: int) -> None:
        """Once on each interface that a HERALD comes by: of a forged one that may be another."""
        mac = self._macs.get(ip)
        if mac is None or (ip, interface) in self._pinned:
            return
        self._pinned.add((ip, interface))
        try:
            entry = pin(ip, mac, interface)
        except OSError as error:
            name = errno.errorcode.get(error.errno or 0, str(error.errno))
            message = (
                "its MAC can't be kept against forged ARP: this needs CAP_NET_ADMIN, and Linux"
            )
            if self._on_event is not None:
                self._on_event("not-pinned", {"client": ip, "errno": name, "message": message})
            return
        if entry is not None:
            self._pins.append(entry)

    # -- sessions ----------------------------------------------------------------------------

    def _hear(self, session_id: int) -> None:
        # A HERALD in the same turn may have cost this session its socket.
        sock = self._sockets.get(session_id)
        if sock is None:
            return
        for _ in range(_TURN):
            try:
                data, lengths = self._reader.read(sock)
            except OSError as error:
                if error.errno in OUR_ERRORS:
                    raise
                self._complain(session_id, error)
                return
            if not len(lengths):
                return
            self._complaints.pop(session_id, None)
            acks = self._core.receive(session_id, data, lengths, time.monotonic())
            self._sender.send(sock, acks)

    def _complain(self, session_id: int, error: OSError) -> None:
        """Its socket erred. Once means nothing; for ever it would keep the loop from the others."""
        session = self._core.sessions.get(session_id)
        if session is not None and session.authenticated and error.errno in _FORGEABLE:
            return  # each is a frame that somebody sent: it costs what the line takes
        count = self._complaints[session_id] = self._complaints.get(session_id, 0) + 1
        if count >= MAX_COMPLAINTS:
            name = errno.errorcode.get(error.errno or 0, str(error.errno))
            self._core.abandon(session_id, f"{count} socket errors and no data, the last {name}")
            self._drop(session_id)

    def _tell(self, lack: Lack) -> None:
        """A fast call does not work: say so once. It changes the speed alone."""
        if self._on_event is not None:
            message = f"{lack.why}: from now on a datagram at a time, which is slower and as exact"
            fields = {"call": lack.call, "errno": lack.name, "message": message}
            self._on_event("plain-calls", fields)

    def _forget(self, now: float) -> None:
        for session_id in self._core.tick(now):
            self._drop(session_id)

    def _drop(self, session_id: int) -> None:
        self._complaints.pop(session_id, None)
        sock = self._sockets.pop(session_id, None)
        if sock is not None:
            self._selector.unregister(sock)
            sock.close()

    def _drain_wakeups(self) -> None:
        try:
            self._wake_out.recv(4096)
        except BlockingIOError:
            return

    def _close(self) -> None:
        self._selector.close()
        for entry in self._pins:
            with suppress(OSError):
                unpin(entry)
        self._pins.clear()
        for sock in (self._herald, self._wake_in, self._wake_out, *self._sockets.values()):
            sock.close()
        self._sockets.clear()


def _listen(address: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        _enlarge(sock)
        sock.bind((address, port))
        if hasattr(socket, "SO_DOMAIN"):  # Linux: a HERALD then tells which address it was sent to
            sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
    except (OSError, OverflowError) as error:
        sock.close()
        code = error.errno or errno.EINVAL if isinstance(error, OSError) else errno.EINVAL
        hint = {
            errno.EADDRINUSE: "another server has it; choose another --port",
            errno.EADDRNOTAVAIL: "no interface of this machine has that address; see --bind",
            errno.EACCES: "this port needs privileges",
        }.get(code, "see --bind and --port")
        raise CannotListen(
            f"can't listen on {address}:{port}: {errno.errorcode.get(code, code)}: {hint}", code
        ) from error
    return sock


def _connect(local: str, client: tuple[str, int], merged: bool, port: int = 0) -> socket.socket:
    sock = FromOne(local, client, port)
    _enlarge(sock)
    if merged:
        try:
            keep_merged(sock)
        except OSError:
            sock.close()
            raise
    with suppress(OSError):
        # Who forges ICMP's "fragmentation needed" can't have our acks cut: no client takes
        # fragments, and none gets an ack longer than what has come through from it.
        sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_INTERFACE)
    return sock


def _enlarge(sock: socket.socket) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER)
    except OSError:
        # Not privileged, or not Linux: as much as the system's limit allows, and it may be none.
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)


def _from(local: str) -> bytes:
    """struct in_pktinfo that gives a datagram its source address."""
    return struct.pack("@i4s4s", 0, socket.inet_aton(local), bytes(4))


def _asked(ancillary: list[tuple[int, int, bytes]]) -> tuple[int, str]:
    """The interface that a datagram came by, and the local address that it was sent to (struct
    in_pktinfo); 0 and "" if unknown.
    """
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_IP and kind == _IP_PKTINFO and len(data) >= 12:
            interface, local, _destination = struct.unpack_from("@i4s4s", data)
            return interface, socket.inet_ntoa(local)
    return 0, ""
