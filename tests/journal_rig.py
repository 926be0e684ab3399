"""A server over a folder that is killed, and comes up again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from server.config import ServerConfig
from server.core import ServerCore
from server.folder import DumpFolder
from server.store import FileStore, FsyncPolicy, Store
from tests.fakes import Told
from tests.server_rig import CLIENT, HEADER, HOST, IMAGE, block, finished, frames, herald, kdh

JOURNAL = f"journal.{HOST}.0"
OFFER = 0x4E443201
LOCAL = ("198.18.0.1", 40123)


class Lives:
    """The server's lives, one after the other."""

    def __init__(self, folder: Path, *, fsync: FsyncPolicy = "none", **config: object) -> None:
        self.path = folder
        self._fsync = fsync
        self.config = ServerConfig(**config)  # type: ignore[arg-type]
        self.told = Told()
        self.now = 0.0
        self._stores: list[FileStore] = []
        self.start()

    def start(self, boot: str | None = None) -> list[int]:
        """The sessions that were taken up."""
        self.folder = DumpFolder(str(self.path), self._fsync)
        self.core = ServerCore(self.config, self._store, self.told)
        boot = self.folder.machine.boot if boot is None else boot
        sessions = self.core.take_up(self._left(), boot, self.now)
        return [session.id for session in sessions]

    def _store(self, client: tuple[str, int], path: str) -> Store:
        self._stores.append(self.folder(client, path))
        return self._stores[-1]

    def _left(self) -> Iterator[tuple[FileStore, bytes]]:
        for store, octets in self.folder.left_behind(self.core.not_resumed):
            self._stores.append(store)
            yield store, octets

    def kill(self) -> None:
        """As kill -9 does, nothing is said or written any more; its descriptors are closed."""
        for store in self._stores:
            store.close()
        self._stores.clear()
        self.folder.close()

    def open(self, seqno: int, offer: int = 0) -> int:
        reply = self.core.herald(CLIENT, herald(seqno, offer=offer), self.now)
        assert reply is not None
        self.core.has_socket(reply.session_id, LOCAL)
        return reply.session_id

    def say(self, session: int, *datagrams: bytes) -> list[bytes]:
        acks = self.core.receive(session, *block(datagrams), self.now)
        return [row.tobytes() for row in acks]

    def info(self) -> list[str]:
        return (self.path / f"info.{HOST}.0").read_text().splitlines()


def messages(first: int) -> list[bytes]:
    parts = frames(IMAGE, first)
    last = first + len(parts)
    return [*parts, kdh(last, HEADER), finished(last + 1)]
