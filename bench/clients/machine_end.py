"""The machine's end of the wire as an interface of a kernel, for a client that is a program.

It is a TAP in a network namespace of its own: the client has the interface, and we have the
descriptor, as if we were the cable. What the client sends we read, and what we write it hears.

The kernel must not speak where the machine is dead. So the interface has no address, no ARP and no
IPv6, and the client sees every frame through a packet socket, as a NIC in promiscuous mode would
show it. With ``stack`` the kernel has the machine's address, and a route: then it answers ARP, and
the client may use ordinary sockets.

Where we may make no namespace (a container's root without SYS_ADMIN), the interface lies in the one
that the run has already, beside the server's. Silent it is there, too; but a kernel that had both
addresses would not use the wire at all, so there is no ``stack`` there.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final, ParamSpec, Protocol, TypeVar

from bench import cures
from bench.clock import Clock
from bench.errors import MachineLacks
from bench.wire.namespace import NamespaceRefused, NetNamespace
from bench.wire.segment import QUEUE_LENGTH, TapError, ipv6_says_nothing, open_tap
from bench.wire.tap import TapWire

P = ParamSpec("P")
T = TypeVar("T")

#: The interface's name, where it is free.
NAME: Final = "client0"
#: linux/if.h
_IFF_NOARP: Final = 0x80


class _Inside(Protocol):
    """What is used of a namespace."""

    def run(self, do: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...


class _Here:
    """The namespace that this process is in; the run has made sure of it."""

    def run(self, do: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return do(*args, **kwargs)


@dataclass(frozen=True, slots=True)
class Place:
    """The machine's place on the segment. Addresses are IPv4, in dots."""

    mac: bytes
    mtu: int
    address: str
    gateway: str | None = None
    prefix: int = 24
    stack: bool = False


@dataclass(frozen=True, slots=True)
class MachineEnd:
    """``wire``: ``receive`` is what the client sends, ``send`` what it will hear."""

    wire: TapWire
    interface: str
    inside: _Inside
    """Runs things in the namespace: the client is started there."""


def open_machine_end(place: Place, clock: Clock, closing: ExitStack) -> MachineEnd:
    """Make it; ``closing`` takes it down.

    Raises:
        MachineLacks: this machine does not give us one. What, and what to do.
        WireError: it gave one, and something in it failed.
    """
    inside = _inside(place.stack, closing)
    fd, name = inside.run(open_tap, NAME)
    try:
        inside.run(_configure, name, place)
    except BaseException:
        os.close(fd)
        raise
    # A packet socket would see a super-frame as it is: each frame is written by itself.
    wire = TapWire(fd, clock, superframes=False)
    closing.callback(wire.close)
    return MachineEnd(wire, name, inside)


def _inside(stack: bool, closing: ExitStack) -> _Inside:
    try:
        return closing.enter_context(NetNamespace())
    except NamespaceRefused as refused:
        if not stack:
            return _Here()
        why = str(refused).partition("; ")[0]
        cure = cures.CURES["client-stack"]
        raise MachineLacks(
            f"a client with a kernel's stack needs a network namespace of its own: {why}"
            f" (cure: {cure})"
        ) from None


def _configure(name: str, place: Place) -> None:
    """Runs inside the namespace."""
    from pyroute2 import IPRoute

    with IPRoute() as route:
        index = route.link_lookup(ifname=name)[0]
        mac = place.mac.hex(":")
        route.link("set", index=index, address=mac, mtu=place.mtu, txqlen=QUEUE_LENGTH)
        with contextlib.suppress(TapError):  # a kernel without IPv6 is as quiet
            ipv6_says_nothing(index)
        if not place.stack:
            route.link("set", index=index, flags=_IFF_NOARP, change=_IFF_NOARP)
        route.link("set", index=index, state="up")
        if place.stack:
            route.addr("add", index=index, address=place.address, prefixlen=place.prefix)
            if place.gateway:
                route.route("add", dst="0.0.0.0/0", gateway=place.gateway, family=socket.AF_INET)
