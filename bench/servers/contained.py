"""Kinds ``container`` and ``image``: our server, or any, in a Docker container.

    [server]                             [server]
    kind   = "container"                 kind     = "image"
    memory = "64 MiB"                    image    = "registry.example/netdumpd:1"
    disk   = "1 MiB"                     argv     = ["-a", "{address}", "-d", "{dumpdir}"]
                                         finished = "vmcore.*.last"

Both are in the network of a holder, which has the run's TAP (``holder.py``). What makes an image a
server is its entry point; ``argv`` is what that is given.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any, Final

from pydantic import Field, StrictStr

from bench.heartbeat import GIVEN_UP_S
from bench.kinds import NamespacePlace, ServerKind
from bench.scenario.schema import Size
from bench.servers import PORTS
from bench.servers.container import Contained, ContainerServer
from bench.servers.engine import can_docker, connect, remove_leftovers
from bench.servers.holder import DUMPS, Holder
from bench.servers.image import server_image
from bench.servers.manners import Argument, Foreign, filled, hosts_of, transport_of
from bench.servers.names import OURS
from bench.servers.ours import OurOptions

#: Engines give no container less.
_LEAST_MEMORY: Final = 6 << 20

Memory = Annotated[Size | None, Field(ge=_LEAST_MEMORY)]
Disk = Annotated[Size | None, Field(ge=4096)]


class ContainerOptions(OurOptions):
    """What our server can be told, and what its container is like."""

    memory: Memory = None
    disk: Disk = None
    """A tmpfs of that size; by default it has as much as the run's folder."""


class ImageOptions(Foreign):
    """How to play a server that is in an image."""

    image: Annotated[StrictStr, Field(min_length=1)]
    argv: tuple[Argument, ...] = ()
    memory: Memory = None
    disk: Disk = None


def _ours(place: NamespacePlace, options: ContainerOptions) -> ContainerServer:
    client, image = _engine(place)
    words = ["--bind", place.address, "--port", str(PORTS["netdump2"]), "--dumpdir", DUMPS]
    wanted = Contained(
        image=image,
        command=[*words, *options.words(place.mtu)],
        names=OURS,
        protocol="netdump2",
        memory=options.memory,
    )
    return _in_container(place, client, image, options.disk, wanted)


def _any(place: NamespacePlace, options: ImageOptions) -> ContainerServer:
    client, ours = _engine(place)
    wanted = Contained(
        image=options.image,
        command=filled(options.argv, place.address, DUMPS, PORTS[options.protocol]),
        names=options.names,
        protocol=options.protocol,
        memory=options.memory,
        environment=options.environment,
    )
    return _in_container(place, client, ours, options.disk, wanted)


def _engine(place: NamespacePlace) -> tuple[Any, str]:
    """A client of it, and the image that our holders have; what killed benches left is gone."""
    client = connect()
    place.closing.callback(client.close)
    for left in remove_leftovers(client):
        print(f"netdump-bench: removed {left}, left by a run that was killed", file=sys.stderr)
    return client, server_image(client).tag


def _in_container(
    place: NamespacePlace, client: Any, holds: str, disk: int | None, wanted: Contained
) -> ContainerServer:
    holder = Holder(client, holds, disk, hosts_of(place.segment))
    place.closing.callback(holder.close)
    holder.take(place.namespace, place.segment)
    place.namespace = holder.namespace
    server = ContainerServer(
        holder, place.dumpdir, place.folder / "server.log", wanted, bind=place.address
    )
    place.closing.callback(server.close)
    return server


CONTAINER: Final = ServerKind(
    name="container",
    ours=True,
    says="our own server in a Docker container, with little memory or a small disk if you like",
    options=ContainerOptions,
    probe=can_docker,
    in_namespace=_ours,
    asks=frozenset(OurOptions.model_fields),
    patience_s=GIVEN_UP_S,
)
IMAGE: Final = ServerKind(
    name="image",
    says="any server that is in a Docker image",
    options=ImageOptions,
    probe=can_docker,
    in_namespace=_any,
    transport=transport_of,
    by_nature={"rescue": False, "strict_finish": False},
)
