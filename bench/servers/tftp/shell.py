"""The same TFTP server on real sockets: for clients that nobody here wrote, and for a real network.

One thread and no wait without a bound. A request comes to the server's own socket; each upload has
one of its own, at a port of the kernel's choice and connected to its client, so that the kernel
drops everybody else's datagrams.
"""

from __future__ import annotations

import argparse
import contextlib
import selectors
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from bench.servers.tftp.config import TftpConfig
from bench.servers.tftp.core import TftpCore
from bench.servers.tftp.folder import Folder
from netdump.tftp.packets import SERVER_PORT

#: How long one turn waits for a datagram, seconds.
_TURN_S: Final = 0.25
#: Datagrams that one upload may have before the others get their turn.
_ROWS: Final = 256
#: The longest datagram that UDP has.
_LONGEST: Final = 65_535
#: What a socket may hold: a window of large blocks.
_BUFFER: Final = 4 << 20


class Shell:
    """A server that listens. A context manager; ``turn`` it as long as it is to serve."""

    def __init__(
        self, folder: Path, config: TftpConfig, address: str = "", port: int = SERVER_PORT
    ) -> None:
        """Raises ``OSError`` where the address or port is not to be had."""
        self._core = TftpCore(config, Folder(folder, config))
        self._selector = selectors.DefaultSelector()
        self._uploads: dict[int, socket.socket] = {}
        self._listener = _socket((address, port))
        self._selector.register(self._listener, selectors.EVENT_READ, None)
        self._rows = np.zeros((_ROWS, _LONGEST), np.uint8)  # pages are there when they are used

    @property
    def address(self) -> tuple[str, int]:
        """Where it takes requests."""
        host, port = self._listener.getsockname()[:2]
        return host, port

    def turn(self) -> None:
        """Serve what is there, or wait a quarter of a second for it."""
        for key, _ in self._selector.select(_TURN_S):
            if key.data is None:
                self._requests()
            else:
                self._serve(key.data)
        for session in self._core.tick(time.monotonic()):
            self._close(session)

    def _requests(self) -> None:
        for _ in range(_ROWS):
            try:
                datagram, client = self._listener.recvfrom(_LONGEST)
            except OSError:  # none is left, or an ICMP error that is for nobody
                return
            answer = self._core.herald(client, datagram, time.monotonic())
            if answer is None:
                continue
            if answer.session_id not in self._uploads:
                upload = _socket((self._listener.getsockname()[0], 0), client)
                self._uploads[answer.session_id] = upload
                self._selector.register(upload, selectors.EVENT_READ, answer.session_id)
            with contextlib.suppress(OSError):  # a client that is gone
                self._uploads[answer.session_id].send(answer.ack)

    def _serve(self, session: int) -> None:
        """All that waits in an upload's socket, up to a turn's worth."""
        upload = self._uploads[session]
        lengths: list[int] = []
        while len(lengths) < _ROWS:
            try:
                lengths.append(upload.recv_into(self._rows[len(lengths)]))
            except OSError:  # none is left; or its client is gone, and it will be forgotten
                break
        if not lengths:
            return
        rows = self._rows[: len(lengths), : max(lengths)]
        acks = self._core.receive(session, rows, np.array(lengths), time.monotonic())
        for ack in acks:
            with contextlib.suppress(OSError):
                upload.send(ack.tobytes())

    def _close(self, session: int) -> None:
        upload = self._uploads.pop(session, None)
        if upload is not None:
            self._selector.unregister(upload)
            upload.close()

    def __enter__(self) -> Shell:
        return self

    def __exit__(self, *_: object) -> None:
        self._core.stop()
        for session in list(self._uploads):
            self._close(session)
        self._listener.close()
        self._selector.close()


def _socket(address: tuple[str, int], peer: tuple[str, int] | None = None) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        made.setblocking(False)
        made.bind(address)
        if peer is not None:
            made.connect(peer)
    except OSError:
        made.close()
        raise
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.servers.tftp", description="A TFTP server that only takes files."
    )
    parser.add_argument("folder", type=Path, help="where the files go")
    parser.add_argument("--bind", default="127.0.0.1", help="IPv4 address (%(default)s)")
    parser.add_argument("--port", type=int, default=SERVER_PORT, help="UDP port (%(default)s)")
    parser.add_argument("--existing", choices=("overwrite", "refuse", "required"))
    wanted = parser.parse_args(arguments)
    config = TftpConfig(existing=wanted.existing or TftpConfig().existing)
    if not wanted.folder.is_dir():
        print(f"{wanted.folder}: there is no such folder; make it first", file=sys.stderr)
        return 2
    try:
        shell = Shell(wanted.folder, config, wanted.bind, wanted.port)
    except OSError as error:
        print(f"UDP port {wanted.port} of {wanted.bind}: {error.strerror}", file=sys.stderr)
        return 1
    with shell, contextlib.suppress(KeyboardInterrupt):
        print(f"takes files at {shell.address[0]}:{shell.address[1]}", flush=True)
        while True:
            shell.turn()
    return 0
