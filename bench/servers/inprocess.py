"""The server of the sim tier: the real one's core and store, on a host in memory.

Only sockets, clock and process are missing; the dumps land on the real disk. A kill drops the core
where it stands: what it had written stays, what it only remembered is lost, as by SIGKILL.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.servers import ServerProtocol
from bench.servers.names import OURS, StoredDump
from bench.servers.simhost.host import SimHost
from netdump.messages import HERALD_PORT
from server.config import ServerConfig
from server.core import ServerCore
from server.folder import DumpFolder
from server.refusals import OnEvent
from server.store import FsyncPolicy, Store


class InProcessServer:
    """A ``DumpServer`` on a ``SimHost``."""

    protocol: ServerProtocol = "netdump2"
    names = OURS
    notes = ()

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
        self.address = (host.config.ip, HERALD_PORT)
        self.dumpdir = dumpdir
        self.core: ServerCore | None = None
        """The living server; None between two lives."""
        self._host = host
        self._config = config or ServerConfig()
        self._fsync: FsyncPolicy = fsync
        self._on_event = on_event
        self._disk = disk
        self._folder: DumpFolder | None = None
        self._stores: list[Store] = []

    @property
    def running(self) -> bool:
        return self.core is not None

    def start(self) -> None:
        if self.core is not None:
            return
        self.dumpdir.mkdir(parents=True, exist_ok=True)
        self._folder = DumpFolder(str(self.dumpdir), self._fsync)
        self.core = ServerCore(self._config, self._open_store, self._on_event)
        self._host.listen(self.core)

    def stop(self) -> None:
        if self.core is not None:
            self.core.stop()
        self.kill()

    def kill(self) -> None:
        self._host.hang_up()
        self.core = None
        for store in self._stores:
            store.close()
        self._stores.clear()
        if self._folder is not None:
            self._folder.close()
            self._folder = None

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
        if self.core is None:
            return 0
        count = 0
        for fd in os.listdir("/proc/self/fd"):
            try:
                target = Path(os.readlink(f"/proc/self/fd/{fd}"))
            except OSError:  # the listing's own descriptor, gone by now
                continue
            count += target.is_relative_to(self.dumpdir.resolve())
        return count

    def trouble(self, _said: Sequence[str] = ()) -> list[str]:
        """None that is not seen where its host gets its turn: an exception of its core."""
        return []

    def _open_store(self, client: tuple[str, int], path: str) -> Store:
        if self._folder is None:
            raise RuntimeError(
                "a store was asked for after the server's end: a defect of the bench"
            )
        store = self._disk(self._folder(client, path))
        self._stores.append(store)
        return store
