"""The server of the sim tier: the real one's core and store, on a host in memory.

``Simulated`` is what any server there is.

Only sockets, clock and process are missing; the dumps land on the real disk. A kill drops the core
where it stands: what it had written stays, what it only remembered is lost, as by SIGKILL.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Final

from bench.servers import ServerProtocol
from bench.servers.names import OURS, DumpNames, StoredDump
from bench.servers.simhost.host import SimHost
from bench.servers.simhost.process import Core, Taken
from netdump.keys import KEY_SIZE
from netdump.messages import HERALD_PORT
from server.config import ServerConfig
from server.core import ServerCore
from server.folder import DumpFolder
from server.machine import Machine
from server.refusals import OnEvent
from server.store import FileStore, FsyncPolicy, Store

#: The same at each run: what is stored depends on the seed alone.
_IN_MEMORY: Final = Machine("in memory", lambda _fd: 0)


class Simulated(ABC):
    """A ``DumpServer`` on a ``SimHost``, whatever its core is."""

    protocol: ServerProtocol
    names: DumpNames
    notes = ()
    port: ClassVar[int]
    """Where its sessions are opened."""

    def __init__(self, host: SimHost, dumpdir: Path) -> None:
        self.address = (host.config.ip, self.port)
        self.dumpdir = dumpdir
        self._host = host

    @property
    @abstractmethod
    def running(self) -> bool: ...

    @abstractmethod
    def _bring_up(self) -> Core:
        """A new core over the folder, which is there."""

    def _taken_up(self) -> list[Taken]:
        """Sessions of an earlier life that it goes on with."""
        return []

    @abstractmethod
    def _finish(self) -> None:
        """The core ends what it does, in good order."""

    @abstractmethod
    def _drop(self) -> None:
        """There is no core any more, and it holds no descriptor."""

    def start(self) -> None:
        if self.running:
            return
        self.dumpdir.mkdir(parents=True, exist_ok=True)
        core = self._bring_up()
        self._host.listen(core, self.port, self._taken_up())

    def stop(self) -> None:
        if self.running:
            self._finish()
        self.kill()

    def kill(self) -> None:
        self._host.hang_up()
        self._drop()

    def pause(self) -> None:
        self._host.pause()

    def resume(self) -> None:
        self._host.resume()

    def restart(self) -> None:
        self.kill()
        self.start()

    def stored(self) -> list[StoredDump]:
        return self.names.dumps_in(self.dumpdir)

    def fd_count(self) -> int:
        """Descriptors of this process that refer to the dump folder or something in it."""
        if not self.running:
            return 0
        count = 0
        for fd in os.listdir("/proc/self/fd"):
            try:
                target = Path(os.readlink(f"/proc/self/fd/{fd}"))
            except OSError:  # the listing's own descriptor, gone by now
                continue
            count += target.is_relative_to(self.dumpdir.resolve())
        return count

    def at_rest(self) -> bool:
        """Always, between two turns of its host."""
        return True

    def trouble(self, _said: Sequence[str] = ()) -> list[str]:
        """None that is not seen where its host gets its turn: an exception of its core."""
        return []


class InProcessServer(Simulated):
    """Our netdump server."""

    protocol: ServerProtocol = "netdump2"
    names = OURS
    port = HERALD_PORT

    def __init__(
        self,
        host: SimHost,
        dumpdir: Path,
        *,
        config: ServerConfig | None = None,
        fsync: FsyncPolicy = "finish",
        on_event: OnEvent | None = None,
        disk: Callable[[Store], Store] = lambda store: store,
    ) -> None:
        """``disk`` wraps each dump's store: the place for a disk that is full or lies."""
        super().__init__(host, dumpdir)
        self.core: ServerCore | None = None
        """The living server; None between two lives."""
        self._config = config or ServerConfig()
        self._fsync: FsyncPolicy = fsync
        self._on_event = on_event
        self._disk = disk
        self._folder: DumpFolder | None = None
        self._stores: list[Store] = []
        self._lives = 0

    @property
    def running(self) -> bool:
        return self.core is not None

    def _bring_up(self) -> ServerCore:
        self._folder = DumpFolder(str(self.dumpdir), self._fsync, machine=_IN_MEMORY)
        # A secret that no other life has: what a real one draws.
        self._lives += 1
        secret = self._lives.to_bytes(KEY_SIZE, "big")
        self.core = ServerCore(self._config, self._open_store, self._on_event, secret=secret)
        return self.core

    def _taken_up(self) -> list[Taken]:
        if self.core is None or self._folder is None:
            return []
        left = self._left_behind(self._folder, self.core.not_resumed)
        sessions = self.core.take_up(left, self._folder.machine.boot, self._host.now_ns / 1e9)
        return [(one.id, one.herald.client, one.local[1]) for one in sessions]

    def _finish(self) -> None:
        if self.core is not None:
            self.core.stop()

    def _drop(self) -> None:
        self.core = None
        for store in self._stores:
            store.close()
        self._stores.clear()
        if self._folder is not None:
            self._folder.close()
            self._folder = None

    def _open_store(self, client: tuple[str, int], path: str) -> Store:
        if self._folder is None:
            raise RuntimeError(
                "a store was asked for after the server's end: a defect of the bench"
            )
        return self._owned(self._folder(client, path))

    def _owned(self, store: FileStore) -> Store:
        kept = self._disk(store)
        self._stores.append(kept)
        return kept

    def _left_behind(
        self, folder: DumpFolder, on_lost: Callable[[str, str], None]
    ) -> Iterator[tuple[FileStore, bytes]]:
        """What an earlier life has left is no story's to spoil: it has its faults behind it."""
        for store, octets in folder.left_behind(on_lost):
            self._stores.append(store)
            yield store, octets
