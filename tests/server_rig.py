"""For the server's tests: datagrams, stores that fail, and a server without sockets."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from netdump.kdh import KernelDumpHeader
from netdump.messages import Message, MessageType
from server.config import ServerConfig
from server.core import ServerCore
from server.folder import DumpFolder
from server.store import FileStore, StoreError
from tests.fakes import Told

CLIENT = ("198.18.0.2", 20024)
HOST = CLIENT[0]
#: The HERALD seqnos of FreeBSD's kernel, of its userland test client, and one that was drawn.
KERNEL, USERLAND, DRAWN = 1, 0, 0x5EED


def herald(seqno: int = KERNEL, path: str = "", offer: int = 0) -> bytes:
    payload = path.encode() + b"\0" if path else b""
    return Message(MessageType.HERALD, seqno, 0, payload, offer).pack()


def vmcore(seqno: int, offset: int, payload: bytes) -> bytes:
    return Message(MessageType.VMCORE, seqno, offset, payload).pack()


def kdh(seqno: int, header: KernelDumpHeader | bytes) -> bytes:
    octets = header if isinstance(header, bytes) else header.pack()
    return Message(MessageType.KDH, seqno, 0, octets).pack()


def key(seqno: int, offset: int, payload: bytes) -> bytes:
    return Message(MessageType.EKCD_KEY, seqno, offset, payload).pack()


def finished(seqno: int) -> bytes:
    return Message(MessageType.FINISHED, seqno, 0).pack()


def frames(image: bytes, first: int, payload: int = 1448, chunk: int = 1 << 16) -> list[bytes]:
    """``image`` as VMCORE messages the way FreeBSD cuts it, seqnos from ``first``."""
    messages: list[bytes] = []
    for start in range(0, len(image), chunk):
        end = min(start + chunk, len(image))
        for at in range(start, end, payload):
            octets = image[at : min(at + payload, end)]
            messages.append(vmcore(first + len(messages), at, octets))
    return messages


def block(
    datagrams: Sequence[bytes], stride: int = 9216
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Datagrams as rows, poisoned where they end."""
    data = np.full((len(datagrams), stride), 0xFF, np.uint8)
    for row, datagram in zip(data, datagrams, strict=True):
        row[: min(len(datagram), stride)] = np.frombuffer(datagram[:stride], np.uint8)
    return data, np.fromiter(map(len, datagrams), np.int64, len(datagrams))


def image_of(size: int, seed: int = 1) -> bytes:
    return np.random.default_rng(seed).bytes(size)


#: A dump: its image, the header that says so, and its names while it is sent and when it is whole.
IMAGE = image_of(3 * 65536 + 4096 * 3)
HEADER = KernelDumpHeader(dumplength=len(IMAGE), panicstring="page fault", hostname="lab1")
PARTIAL = f"vmcore.{HOST}.0.partial"
FINAL = f"vmcore.{HOST}.0"


class FaultyStore(FileStore):
    """A FileStore on a disk with ``room`` bytes, which takes at most ``bite`` a call."""

    def __init__(self, folder_fd: int, host: str, disk: Disk) -> None:
        super().__init__(folder_fd, host, "none")
        self._disk = disk

    def _pwritev(self, fd: int, views: list[memoryview], offset: int) -> int:
        disk = self._disk
        if disk.fails:
            raise OSError(disk.fails, "injected")
        octets = b"".join(views)[: disk.bite]
        if fd == self._core:
            if disk.room <= 0:
                raise OSError(errno.ENOSPC, "injected")
            octets = octets[: disk.room]
            disk.room -= len(octets)
        return super()._pwritev(fd, [memoryview(octets)], offset)


class Disk:
    """The faults of a ``FaultyStore``; also its factory."""

    def __init__(self, folder: Path, room: int = 1 << 40, bite: int = 1 << 30) -> None:
        self.room = room
        self.bite = bite
        self.fails = 0
        self._folder = DumpFolder(str(folder), "none")

    def __call__(self, client: tuple[str, int], path: str) -> FaultyStore:
        return FaultyStore(self._folder._open(path), client[0], self)


class NoDisk:
    """A factory that never makes a store."""

    def __call__(self, client: tuple[str, int], path: str) -> FileStore:
        raise StoreError("no folder today", errno.EACCES)


class Rig:
    """A server on a folder, and what the tests do with it most."""

    def __init__(self, folder: Path, disk: Disk | None = None, **config: object) -> None:
        self.folder = folder
        self.told = Told()
        self.core = ServerCore(
            ServerConfig(**config),  # type: ignore[arg-type]
            disk or DumpFolder(str(folder), "none"),
            self.told,
        )
        self.now = 0.0

    @property
    def events(self) -> list[str]:
        """Kinds of what was told."""
        return self.told.kinds()

    def open(self, seqno: int = DRAWN, client: tuple[str, int] = CLIENT, path: str = "") -> int:
        reply = self.core.herald(client, herald(seqno, path), self.now)
        assert reply is not None
        assert reply.ack == seqno.to_bytes(4, "big")
        return reply.session_id

    def say(self, session: int, *datagrams: bytes) -> list[int]:
        """Send one batch; the seqnos that were acknowledged."""
        acks = self.core.receive(session, *block(datagrams), self.now)
        assert acks.dtype == np.uint8
        assert acks.shape == (len(acks), 4)
        return [int(n) for n in np.ascontiguousarray(acks).view(">u4").ravel()]

    def say_in_batches(self, session: int, datagrams: Sequence[bytes], size: int) -> list[int]:
        acks: list[int] = []
        for at in range(0, len(datagrams), size):
            acks += self.say(session, *datagrams[at : at + size])
        return acks

    def dump(self, session: int, image: bytes, header: KernelDumpHeader, first: int = 2) -> bool:
        """A whole dump in FreeBSD's order; was FINISHED acknowledged?"""
        parts = frames(image, first)
        self.say_in_batches(session, parts, 46)
        last = first + len(parts)
        self.say(session, kdh(last, header))
        return self.say(session, finished(last + 1)) == [last + 1]

    def files(self, below: str = "") -> list[str]:
        return sorted(path.name for path in (self.folder / below).iterdir())

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def info(self, number: int = 0, host: str = HOST) -> list[str]:
        return self.read(f"info.{host}.{number}").decode().splitlines()


def seqnos(datagrams: Iterable[bytes]) -> list[int]:
    """The seqnos in messages, read by hand."""
    return [int.from_bytes(datagram[4:8], "big") for datagram in datagrams]
