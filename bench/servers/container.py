"""A server in a container, on the host's end of a TAP: ours, or any image that has one.

It is in the network of a *holder* (``holder.py``), which has the TAP, and which survives it.

* It listens when the kernel says that its UDP port is bound in that network. If the container ends
  before that, it is known at once.
* What it prints, its exit status, and whether the kernel killed it for lack of memory are evidence.
* Its dumps land in the run's folder, by a bind mount; it runs as our own user, so we can read them.
* With ``disk`` they land on a tmpfs of that size, and that is full when it is full. There they are
  read through the holder; when the run ends they are copied to its folder, holes and all.
* Its processes' descriptors are counted in /proc, from the number on that the engine says its first
  process has.

Nothing else of this machine is its own: the root is read-only, it has no capability, and no network
but the run's.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from bench.servers import PORTS, ServerProtocol
from bench.servers.engine import engine_errors, labels
from bench.servers.holder import BARE, DUMPS, Holder, remove
from bench.servers.names import DumpNames, StoredDump
from bench.servers.native import (
    START_TIMEOUT_S,
    STOP_TIMEOUT_S,
    ServerLaunchFailure,
    how_it_ended,
)
from bench.servers.ports import LOOK_S, is_bound
from bench.servers.printed import SAID, Printed, raised
from bench.servers.processes import open_descriptors
from bench.servers.rest import at_rest
from bench.servers.sparse import copy_folder

_NET: Final = Path("/proc/thread-self/net")
#: How much of what it prints the engine keeps: all but the latest goes when that is more.
_ENGINES_LOG: Final = {"type": "json-file", "config": {"max-size": "8m", "max-file": "2"}}
#: A shell's way to say that a signal ended a program, and a container's.
_SIGNALLED: Final = 128


@dataclass(frozen=True, kw_only=True, slots=True)
class Contained:
    """What a container is to be like."""

    image: str
    command: Sequence[str]
    """For the image's entry point."""
    names: DumpNames
    protocol: ServerProtocol
    memory: int | None = None
    """Bytes that it may have; the kernel kills it if it takes more."""
    environment: Mapping[str, str] = field(default_factory=dict)


class ContainerServer:
    """A ``DumpServer`` and a context manager."""

    notes = ()

    def __init__(
        self,
        holder: Holder,
        dumpdir: Path,
        log: Path,
        wanted: Contained,
        *,
        bind: str = "198.18.0.1",
    ) -> None:
        """``log`` gets what it printed, when it is closed."""
        self.address = (bind, PORTS[wanted.protocol])
        self.holder = holder
        self.log = log
        self.names = wanted.names
        self.protocol = wanted.protocol
        self._wanted = wanted
        self._folder = dumpdir.absolute()
        self._container: Any = None
        self._end = -1  # a pidfd of its first process: readable when that has ended
        self._pid = 0
        self._ended_by_us = False
        self._closed = False

    @property
    def dumpdir(self) -> Path:
        """The run's folder; of a small disk, while the run lasts, the disk itself."""
        return self._folder if self._closed else self.holder.disk or self._folder

    @property
    def running(self) -> bool:
        return self._end >= 0 and not _ended(self._end, 0)

    def start(self) -> None:
        if self.running:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        self._forget_process()
        self._ended_by_us = False
        with engine_errors(f"starting a container of {self._wanted.image}"):
            if self._container is None:
                self._container = self._created()
            self._container.start()
            state = self._state()
        self._pid = state["Pid"]
        with suppress(ProcessLookupError):
            if self._pid:  # else it has ended already
                self._end = os.pidfd_open(self._pid)
        try:
            listens = self._listens()
        except BaseException:
            self.kill()
            raise
        if not listens:
            status = self.status
            self.kill()
            command = [self._wanted.image, *self._wanted.command]
            raise ServerLaunchFailure(command, status, self._why_it_ended())

    def stop(self) -> None:
        """SIGTERM; SIGKILL if it doesn't end within ``STOP_TIMEOUT_S``."""
        if not self.running:
            return
        self.resume()
        self._ended_by_us = True
        with engine_errors("stopping the server's container"):
            self._container.kill(signal="SIGTERM")
        if not _ended(self._end, STOP_TIMEOUT_S):
            self.kill()

    def kill(self) -> None:
        if not self.running:
            return
        self._ended_by_us = True
        with engine_errors("killing the server's container"):
            self._container.kill()
        _ended(self._end, STOP_TIMEOUT_S)

    def pause(self) -> None:
        if self.running and not self._state()["Paused"]:
            with engine_errors("pausing the server's container"):
                self._container.pause()

    def resume(self) -> None:
        if self.running and self._state()["Paused"]:
            with engine_errors("resuming the server's container"):
                self._container.unpause()

    def restart(self) -> None:
        self.kill()
        self.start()

    def close(self) -> None:
        """Kill it, keep what it printed and what is on a disk of its own, and remove it."""
        if self._closed:
            return
        self.kill()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.log.write_text(self.output())
        if self.holder.disk is not None:
            copy_folder(self.holder.disk, self._folder)
        self._closed = True
        self._forget_process()
        with engine_errors("removing the server's container"):
            remove(self._container)
        self._container = None

    def fd_count(self) -> int:
        if not self.running:
            return 0
        return open_descriptors(self._pid)

    def at_rest(self) -> bool:
        return not self.running or at_rest(self._pid)

    def stored(self) -> list[StoredDump]:
        return self.names.dumps_in(self.dumpdir)

    def trouble(self, said: Sequence[str] = ()) -> list[str]:
        found = raised(self.output(), said)
        if self._container is not None and not self.running and not self._ended_by_us:
            found.append(f"the server {self._why_it_ended()}")
        return found

    @property
    def status(self) -> int | None:
        """Exit status of its last life; negative: the signal that ended it; None: it lives."""
        if self._container is None or self.running:
            return None
        code = int(self._settled_state()["ExitCode"])
        return _SIGNALLED - code if code > _SIGNALLED else code

    def output(self) -> str:
        """What it printed so far, over all its lives."""
        if self._container is None:
            return self.log.read_text() if self.log.exists() else ""
        printed = Printed()
        with engine_errors("reading what the server printed"):
            for octets in self._container.logs(stream=True, follow=False):
                printed.add(octets)
        return printed.text()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _created(self) -> Any:
        from docker.types import LogConfig

        wanted = self._wanted
        folder = {str(self._folder): {"bind": DUMPS, "mode": "rw"}}
        memory: dict[str, Any] = {}
        if wanted.memory is not None:
            memory = {"mem_limit": wanted.memory, "memswap_limit": wanted.memory}
        return self.holder.client.containers.create(
            self._wanted.image,
            command=list(self._wanted.command),
            name=f"{self.holder.name}-server",
            user=f"{os.getuid()}:{os.getgid()}",
            network_mode=self.holder.network,
            volumes=self.holder.volumes or folder,
            environment=dict(wanted.environment),
            labels=labels(),
            log_config=LogConfig(**_ENGINES_LOG),
            **memory,
            **BARE,
        )

    def _listens(self) -> bool:
        deadline = time.monotonic() + START_TIMEOUT_S
        while self.running and time.monotonic() < deadline:
            if self.holder.namespace.run(is_bound, _NET, *self.address):
                return self.running
            _ended(self._end, LOOK_S)
        return False

    def _why_it_ended(self) -> str:
        state = self._settled_state()
        how = how_it_ended(self.status or 0)
        if state["OOMKilled"]:
            limit = self._wanted.memory
            of = f" of {limit >> 20} MiB" if limit else ""
            how = f"was killed by the kernel for lack of memory{of}"
        said = " ".join(filter(None, (state["Error"], self.output()[-SAID:].strip())))
        return f"{how}: {said or '(it printed nothing)'}"

    def _state(self) -> Any:
        with engine_errors("asking for the server's container"):
            self._container.reload()
        return self._container.attrs["State"]

    def _settled_state(self) -> Any:
        """Of one whose process has ended: the engine knows that a moment later."""
        with engine_errors("waiting for the end of the server's container"):
            self._container.wait(timeout=STOP_TIMEOUT_S)
        return self._state()

    def _forget_process(self) -> None:
        if self._end >= 0:
            os.close(self._end)
            self._end = -1


def _ended(end: int, timeout_s: float) -> bool:
    """Whether the process of a pidfd has ended, after that time at the latest."""
    answer = select.poll()  # select(2) knows no descriptor beyond 1023
    answer.register(end, select.POLLIN)
    return bool(answer.poll(timeout_s * 1000))
