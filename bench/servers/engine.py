"""The Docker engine: found, asked, and rid of what killed benches left in it.

What the bench makes in an engine (containers, volumes) carries ``LABEL``, which names the process
that made it: its PID namespace, its number, and when it started. A container belongs to the engine,
not to us, so it outlives a bench that is killed; the next one that uses the engine removes what has
no living owner. Of another PID namespace nothing can be known from here: what is of there stays.

The engine must be one of this machine: the bench goes into its containers' network namespace.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from bench.cures import CURES
from bench.wire.contracts import Capability, WireError
from bench.wire.namespace import ROOTLESS

LABEL: Final = "netdump-bench.owner"
#: Where an engine's socket is, if nothing is said: of a service, or of ``scripts/docker-engine``.
_SERVICE: Final = Path("/var/run/docker.sock")
_BY_HAND: Final = Path("/var/lib/netdump-bench-docker/docker.sock")
_SBIN: Final = "/usr/sbin:/sbin"
#: An engine that takes longer for an answer hangs, seconds.
ENGINE_TIMEOUT_S: Final = 120
#: A field of /proc/PID/stat behind the name: when the process started, in ticks since boot.
_STARTED: Final = 19


class EngineError(WireError):
    """The engine would not do what it was asked. What; after a semicolon, what to do."""


@contextmanager
def engine_errors(doing: str) -> Iterator[None]:
    """Turns whatever the SDK raises into an ``EngineError`` of one line."""
    from docker.errors import APIError, DockerException
    from requests.exceptions import RequestException

    try:
        yield
    except APIError as error:
        why = " ".join(str(error.explanation or error).split())
        raise EngineError(f"{doing}: the Docker engine says: {why}") from error
    except (DockerException, RequestException) as error:
        why = " ".join(str(error).split())
        raise EngineError(f"{doing}: {why}; {CURES['docker-daemon']}") from error


def connect() -> Any:
    """A client of the engine that DOCKER_HOST names, or else of one that is here. Raises
    ``EngineError``.
    """
    import docker

    environment = dict(os.environ)
    if not environment.get("DOCKER_HOST") and not _SERVICE.exists() and _BY_HAND.exists():
        environment["DOCKER_HOST"] = f"unix://{_BY_HAND}"
    with engine_errors("asking the Docker engine"):
        client = docker.from_env(timeout=ENGINE_TIMEOUT_S, environment=environment)
        try:
            client.ping()
        except BaseException:
            client.close()
            raise
    return client


def can_docker() -> Capability:
    """Ask it; and whether we may go where its containers are."""
    try:
        client = connect()
    except EngineError as error:
        why, _, cure = str(error).partition("; ")
        return Capability(False, why, CURES["docker"] if _no_dockerd() else cure)
    try:
        with engine_errors("asking the Docker engine"):
            version = client.version()["Version"]
    except EngineError as error:
        return Capability(False, str(error), CURES["docker-daemon"])
    finally:
        client.close()
    if os.geteuid() != 0 or os.environ.get(ROOTLESS):
        why = f"engine {version} answers, and we are not root"
        return Capability(False, why, CURES["docker-root"])
    return Capability(True, f"engine {version}")


def _no_dockerd() -> bool:
    return shutil.which("dockerd", path=f"{os.environ.get('PATH', os.defpath)}:{_SBIN}") is None


def owner() -> str:
    """This process, as a label says it."""
    return _described("self")


def labels() -> dict[str, str]:
    """For all that we make."""
    return {LABEL: owner()}


def remove_leftovers(client: Any) -> list[str]:
    """Remove what benches that have died left in the engine; what that was."""
    from docker.errors import APIError

    removed: list[str] = []
    with engine_errors("looking for what killed benches left"):
        wanted = {"label": LABEL}
        # Servers go before the holder whose network they use.
        containers = client.containers.list(all=True, filters=wanted)
        for container in sorted(containers, key=_has_own_network):
            if _is_dead(container.labels[LABEL]):
                with suppress(APIError):  # another bench is at it
                    container.remove(force=True, v=True)
                    removed.append(f"container {container.name}")
        for volume in client.volumes.list(filters=wanted):
            if _is_dead(volume.attrs["Labels"][LABEL]):
                with suppress(APIError):
                    volume.remove(force=True)
                    removed.append(f"volume {volume.name}")
    return removed


def _has_own_network(container: Any) -> bool:
    return not container.attrs["HostConfig"]["NetworkMode"].startswith("container:")


def _described(pid: int | str) -> str:
    """ "NAMESPACE PID START". Raises ``OSError`` for a process that is not there."""
    proc = Path("/proc", str(pid))
    text = (proc / "stat").read_text()
    number = text.split()[0]
    started = text.rpartition(")")[2].split()[_STARTED]
    return f"{os.readlink('/proc/self/ns/pid')} {number} {started}"


def _is_dead(described: str) -> bool:
    """Whether the owner that a label names has lived in our PID namespace, and ended."""
    namespace, _, rest = described.partition(" ")
    if namespace != os.readlink("/proc/self/ns/pid"):
        return False
    try:
        return _described(rest.split()[0]) != described
    except (OSError, IndexError):
        return True
