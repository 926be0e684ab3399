"""The holder: a container that does nothing, and owns what outlives a server's death.

A container's network namespace goes with its last process, and a TAP goes with its namespace. So
the server does not own the namespace: the holder does, and the server is in the holder's network.
It may be killed and started again; meanwhile the kernel answers for it with ICMP port unreachable,
as on a real network. The same is true of a small disk: a tmpfs lives while some container has it.

Our own way in is the holder's process: a thread of ours enters its network namespace, and
/proc/PID/root shows its files.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from bench.servers.engine import EngineError, engine_errors, labels
from bench.servers.inside import enter_namespace
from bench.wire.namespace import Namespace
from bench.wire.segment import Segment, configure

#: Where a server finds its disk.
DUMPS: Final = "/dumps"
#: The short form of a container's id, which is also its host's name.
_SHORT: Final = 12
_HOLD: Final = "import signal; signal.sigwait({signal.SIGTERM, signal.SIGINT})"
#: For every container of ours: nothing that a dump server needs.
BARE: Final[dict[str, Any]] = {
    "read_only": True,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
}


class Holder:
    """Up from the beginning to ``close``."""

    def __init__(
        self,
        client: Any,
        image: str,
        disk: int | None = None,
        hosts: Mapping[str, str] | None = None,
    ) -> None:
        """``image`` has a Python; ``disk``: bytes of a tmpfs in ``DUMPS``, where one is wanted;
        ``hosts``: address -> name, for servers that look names up.
        """
        self.client = client
        self.name = f"netdump-bench-{uuid.uuid4().hex[:_SHORT]}"
        self.network = ""
        """What a container that is to be in this network has as its ``network_mode``."""
        self._container: Any = None
        self._volume: Any = None
        self._namespace: Namespace | None = None
        self._pid = 0
        try:
            with engine_errors("starting the container that holds the network"):
                self._start(image, disk, hosts or {})
            self._check_that_we_see_it()
            self._namespace = enter_namespace(self._pid)
        except BaseException:
            self.close()
            raise

    @property
    def namespace(self) -> Namespace:
        """Its network, entered."""
        assert self._namespace is not None, "it is open"
        return self._namespace

    @property
    def volumes(self) -> dict[str, dict[str, str]]:
        """The small disk, as a container is given one; empty where there is none."""
        return {self._volume.name: {"bind": DUMPS, "mode": "rw"}} if self._volume else {}

    @property
    def disk(self) -> Path | None:
        """The small disk, as we see it; None where there is none."""
        return Path(f"/proc/{self._pid}/root{DUMPS}") if self._volume else None

    def take(self, owner: Namespace, segment: Segment) -> None:
        """Move the TAP of a segment from its namespace into this network, and set it up there."""
        owner.run(_move, segment.name, self.namespace.fd)
        self.namespace.run(configure, segment)

    def close(self) -> None:
        """Remove the container and its disk."""
        if self._namespace is not None:
            self._namespace.close()
            self._namespace = None
        with engine_errors("removing the container that holds the network"):
            remove(self._container)
            self._container = None
            if self._volume is not None:
                self._volume.remove(force=True)
                self._volume = None

    def _start(self, image: str, disk: int | None, hosts: Mapping[str, str]) -> None:
        if disk is not None:
            options = f"size={disk},mode=0755,uid={os.getuid()},gid={os.getgid()}"
            self._volume = self.client.volumes.create(
                self.name,
                driver="local",
                driver_opts={"type": "tmpfs", "device": "tmpfs", "o": options},
                labels=labels(),
            )
        self._container = self.client.containers.create(
            image,
            name=self.name,
            entrypoint=["python3", "-c", _HOLD],
            command=[],
            network_mode="none",
            # Who is in this network has these files, too. No resolver: nobody listens there.
            extra_hosts={name: address for address, name in hosts.items()},
            dns=["127.0.0.1"],
            volumes=self.volumes,
            labels=labels(),
            **BARE,
        )
        self._container.start()
        self._container.reload()
        self._pid = self._container.attrs["State"]["Pid"]
        self.network = f"container:{self._container.id}"

    def _check_that_we_see_it(self) -> None:
        """Its number must mean the same process to us as to the engine."""
        try:
            name = Path(f"/proc/{self._pid}/root/etc/hostname").read_text().strip()
        except PermissionError:
            raise EngineError("a container's processes are root's alone; play as root") from None
        except OSError:
            name = ""
        if name != self._container.id[:_SHORT]:
            raise EngineError(
                "the Docker engine's containers can't be seen from here; use an engine of this very"
                " machine, such as scripts/docker-engine starts"
            )


def remove(container: Any) -> None:
    """Whatever it does; one that is gone is none."""
    from docker.errors import NotFound

    if container is not None:
        with suppress(NotFound):
            container.remove(force=True, v=True)


def _move(name: str, to: int) -> None:
    """Give an interface to another network namespace; runs in its present one."""
    from pyroute2 import IPRoute

    with IPRoute() as route:
        route.link("set", index=route.link_lookup(ifname=name)[0], net_ns_fd=to)
