"""The host's end of a TAP: an interface of the kernel that carries the server.

Two layouts:

* on-link: the server's address is the interface's own;
* behind a gateway (``gateway_ip``): the interface has the router's address and, in a network of its
  own, the server's. The kernel answers ARP for the router only (arp_ignore 2: not to who is in
  another network than the address), so that the one way to the server is the router's MAC, as on a
  routed network.

All of it is the interface's own, and goes when the TAP's descriptor is closed. Settings are made by
netlink: a container's /proc/sys can only be read.

The functions act on the calling thread's namespace: call them through its ``run``.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from bench import cures
from bench.wire.contracts import WireError

TUN_DEVICE: Final = "/dev/net/tun"
#: linux/if_tun.h
TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR, IFF_TUN_EXCL = 0x0002, 0x1000, 0x4000, 0x8000
TUN_F_CSUM, TUN_F_USO4, TUN_F_USO6 = 0x01, 0x20, 0x40

#: Frames that the kernel may queue for us: a burst of acks must not be lost by accident.
QUEUE_LENGTH: Final = 4096
_NETLINK_TIMEOUT_S: Final = 10.0


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
        cure = cures.as_root_or_user("tun-forbidden", "tun-closed")
        raise TapError(f"{TUN_DEVICE}: {error.strerror}; {cure}") from error
    except OSError as error:
        raise TapError(f"{TUN_DEVICE}: {error.strerror}; {cures.CURES['tun-absent']}") from error


def open_tap(name: str) -> tuple[int, str]:
    """A new TAP: its descriptor and its name, which is another if an interface has this one."""
    fd = open_tun()
    flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR
    try:
        try:
            name = _make(fd, name, flags | IFF_TUN_EXCL)
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.EINVAL):
                raise
            name = _make(fd, "tap%d", flags)
        _set_offloads(fd, 0)
    except OSError as error:
        os.close(fd)
        cure = cures.as_root_or_user("net-admin")
        raise TapError(f"making the TAP {name}: {error.strerror}; {cure}") from error
    return fd, name


def _make(fd: int, name: str, flags: int) -> str:
    """The kernel fills in the number for %d."""
    request = struct.pack("16sH22x", name.encode(), flags)
    return fcntl.ioctl(fd, TUNSETIFF, request)[:16].rstrip(b"\0").decode()


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
            route.addr("add", index=index, address=segment.server_ip, prefixlen=32)
            _set(index, socket.AF_INET, _attribute(_INET_CONF, _ARP_OF_A_ROUTER))
        with contextlib.suppress(TapError):  # a kernel without IPv6 is as quiet
            ipv6_says_nothing(index)
        route.link("set", index=index, state="up")


def ipv6_says_nothing(index: int) -> None:
    """No link-local address of the kernel's, and so no word of IPv6. ``TapError`` without IPv6."""
    _set(index, socket.AF_INET6, _attribute(_INET6_ADDR_GEN_MODE, b"\1"))


def _attribute(kind: int, value: bytes) -> bytes:
    """netlink(7): length, kind, value, padded to four octets."""
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


#: linux/if_link.h and linux/ip.h (the IPV4_DEVCONF of arp_announce is 18, of arp_ignore 19).
_SPEC, _NESTED, _INET_CONF, _INET6_ADDR_GEN_MODE = 26, 0x8000, 1 | 0x8000, 8
_ARP_OF_A_ROUTER: Final = b"".join(_attribute(k, struct.pack("=I", 2)) for k in (18, 19))
_RTM_NEWLINK, _REQUEST_ACK, _NLMSG_ERROR = 16, 1 | 4, 2


def _set(index: int, family: int, attribute: bytes) -> None:
    """Set something of an interface that belongs to an address family (rtnetlink(7))."""
    body = struct.pack("=BxHiII", 0, 0, index, 0, 0)
    body += _attribute(_SPEC | _NESTED, _attribute(family | _NESTED, attribute))
    message = struct.pack("=IHHII", 16 + len(body), _RTM_NEWLINK, _REQUEST_ACK, 1, 0) + body
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.settimeout(_NETLINK_TIMEOUT_S)
        netlink.send(message)
        answer = netlink.recv(4096)
    kind, code = struct.unpack_from("=4xH10xi", answer)
    if kind != _NLMSG_ERROR or code:
        raise TapError(f"a setting of interface {index}: {os.strerror(-code)}")


def interface_up(segment: Segment, up: bool) -> None:
    """Unplug or plug the host's end."""
    from pyroute2 import IPRoute

    with IPRoute() as route:
        index = route.link_lookup(ifname=segment.name)[0]
        route.link("set", index=index, state="up" if up else "down")
