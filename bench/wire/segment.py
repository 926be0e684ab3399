"""The host's end of a TAP: an interface of the kernel that carries the server.

Two layouts:

* on-link: the server's address is the interface's own;
* behind a gateway (``gateway_ip``): the interface has the router's address, the server's own is on
  the loopback, and the kernel answers ARP for the router only (arp_ignore), so that the one way to
  the server is the router's MAC, as on a routed network.

The functions act on the calling thread's namespace: call them through ``NetNamespace.run``.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from bench.wire.contracts import WireError
from bench.wire.namespace import sysctl

TUN_DEVICE: Final = "/dev/net/tun"
#: linux/if_tun.h
TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
TUN_F_CSUM, TUN_F_USO4, TUN_F_USO6 = 0x01, 0x20, 0x40

#: Frames that the kernel may queue for us: a burst of acks must not be lost by accident.
QUEUE_LENGTH: Final = 4096


class TapError(WireError):
    """The TAP failed."""


@dataclass(frozen=True, slots=True)
class Segment:
    """The Ethernet segment that the TAP and the machine share, and the server's place on it."""

    server_ip: str = "198.18.0.1"
    gateway_ip: str | None = None
    """The router's address; then ``server_ip`` is off-link, reached only through the router."""
    prefix: int = 24
    mac: str = "02:00:5e:00:10:01"
    mtu: int = 1500
    name: str = "tap0"


def open_tun() -> int:
    try:
        return os.open(TUN_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except PermissionError as error:
        raise TapError(
            f"{TUN_DEVICE}: {error.strerror}; be root, or as root: chmod 666 {TUN_DEVICE}"
        ) from error
    except OSError as error:
        raise TapError(
            f"{TUN_DEVICE}: {error.strerror}; load the tun module, and in a container give it the "
            f"device (docker: --device {TUN_DEVICE} --cap-add NET_ADMIN)"
        ) from error


def open_tap(name: str) -> int:
    fd = open_tun()
    try:
        request = struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)
        fcntl.ioctl(fd, TUNSETIFF, request)
        _set_offloads(fd, 0)
    except OSError as error:
        os.close(fd)
        raise TapError(
            f"making the TAP {name}: {error.strerror}; it needs CAP_NET_ADMIN"
        ) from error
    return fd


def _set_offloads(fd: int, offloads: int) -> bool:
    """Tell the kernel what it may leave to us; False if it does not know all of it."""
    try:
        fcntl.ioctl(fd, TUNSETOFFLOAD, offloads)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return True


def offer_super_frames(fd: int) -> bool:
    """Let the kernel leave checksums and UDP segmentation to us; False before Linux 6.2.

    The three offloads go together: the kernel takes USO for both versions of IP, or not at all.
    """
    return _set_offloads(fd, TUN_F_CSUM | TUN_F_USO4 | TUN_F_USO6)


def configure(segment: Segment) -> None:
    """Addresses and manners of the host's end; runs inside the namespace."""
    from pyroute2 import IPRoute

    own = segment.gateway_ip or segment.server_ip
    with IPRoute() as route:
        index = route.link_lookup(ifname=segment.name)[0]
        route.link("set", index=index, address=segment.mac, mtu=segment.mtu, txqlen=QUEUE_LENGTH)
        route.addr("add", index=index, address=str(IPv4Address(own)), prefixlen=segment.prefix)
        if segment.gateway_ip:
            route.addr("add", index=1, address=segment.server_ip, prefixlen=32)
            # Answer for this interface's own address only, and ask under it.
            sysctl(f"ipv4/conf/{segment.name}/arp_ignore", 1)
            sysctl(f"ipv4/conf/{segment.name}/arp_announce", 2)
        route.link("set", index=index, state="up")


def interface_up(segment: Segment, up: bool) -> None:
    """Unplug or plug the host's end."""
    from pyroute2 import IPRoute

    with IPRoute() as route:
        index = route.link_lookup(ifname=segment.name)[0]
        route.link("set", index=index, state="up" if up else "down")
