"""The dump server as a process of its own, and a client with a real socket, over the loopback."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.patience import HANG_S
from tests.server_rig import herald

ROOT: Final = Path(__file__).parent.parent
HOST: Final = "127.0.0.1"
SERVER: Final = [sys.executable, "-m", "server"]

Pair = tuple[socket.socket, socket.socket]


class Process:
    """A server that has said that it is ready."""

    def __init__(
        self, folder: Path, *options: str, command: Sequence[str] = SERVER, as_json: bool = True
    ) -> None:
        where = ["--bind", HOST, "--port", "0", "--dumpdir", str(folder)]
        # Unbuffered: what it says at once after "ready" must not be lost between two ways to read.
        self.popen = subprocess.Popen(
            [*command, *where, *(["--json"] if as_json else []), *options],
            bufsize=0,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        ready = self.line()
        assert "ready" in ready
        *_, address, port = re.findall("[0-9.]+", ready)
        self.address = (address, int(port))

    def line(self) -> str:
        """The next line that it says."""
        assert self.popen.stdout is not None
        return self.popen.stdout.readline().decode()

    def sockets(self) -> int:
        folder = Path(f"/proc/{self.popen.pid}/fd")
        return sum(os.readlink(fd).startswith("socket:") for fd in folder.iterdir())

    def end(self, number: int = signal.SIGTERM) -> str:
        """End it by a signal, with exit status 0; the rest of what it said."""
        self.popen.send_signal(number)
        out, err = self.popen.communicate(timeout=HANG_S)
        assert (self.popen.returncode, err) == (0, b"")
        return out.decode()

    def events(self, number: int = signal.SIGTERM) -> list[dict[str, Any]]:
        """End it; its events since it was ready."""
        return [json.loads(line) for line in self.end(number).splitlines()]

    def stop(self, number: int = signal.SIGTERM) -> list[str]:
        """End it; the names of its events."""
        return [event["event"] for event in self.events(number)]


@contextmanager
def serving(
    folder: Path, *options: str, command: Sequence[str] = SERVER, as_json: bool = True
) -> Iterator[Process]:
    process = Process(folder, *options, command=command, as_json=as_json)
    try:
        yield process
    finally:
        process.popen.kill()
        process.popen.communicate()


class Client:
    """A socket that speaks netdump; every wait is bounded."""

    def __init__(self, server: tuple[str, int]) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind((HOST, 0))
        self.sock.settimeout(HANG_S)
        self.server = server

    def herald(self, seqno: int = 0x5EED) -> tuple[str, int]:
        self.sock.sendto(herald(seqno), self.server)
        ack, peer = self.sock.recvfrom(100)
        assert ack == seqno.to_bytes(4, "big")
        assert peer != self.server
        self.peer = peer
        return str(peer[0]), int(peer[1])

    def send(self, *datagrams: bytes) -> None:
        for datagram in datagrams:
            self.sock.sendto(datagram, self.peer)

    def acks(self, count: int) -> list[int]:
        received = [self.sock.recv(100) for _ in range(count)]
        assert {len(ack) for ack in received} <= {4}  # one datagram an ack: stock clients' rule
        return [int.from_bytes(ack, "big") for ack in received]

    def silence(self, seconds: float = 0.2) -> bool:
        self.sock.settimeout(seconds)
        try:
            self.sock.recv(100)
        except TimeoutError:
            return True
        finally:
            self.sock.settimeout(HANG_S)
        return False

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.sock.close()


@contextmanager
def connected() -> Iterator[Pair]:
    """Two UDP sockets that are connected to each other and never block."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as two,
    ):
        for sock in (one, two):
            sock.bind((HOST, 0))
            sock.setblocking(False)
        one.connect(two.getsockname())
        two.connect(one.getsockname())
        yield one, two
