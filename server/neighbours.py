"""The kernel's ARP table, where a client's MAC can be kept (rtnetlink(7), Linux).

ARP proves nothing: whoever says to this host that the client's address is his gets its acks, and
the client hears none. So a MAC that the file of keys names for a client is *pinned*: made a
permanent entry, which no ARP changes, from its first HERALD on until the server ends. Rules:

1. Never on an interface without ARP, as the loopback is, and never a MAC that can't be a host's.
2. What the operator has made permanent is left as it is.
3. It needs CAP_NET_ADMIN. That it can't be done changes nothing else, and is told.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from dataclasses import dataclass
from typing import Final

from netdump.inet import is_host

#: linux/rtnetlink.h, neighbour.h, netlink.h, if.h and sockios.h.
_NEW, _DELETE, _GET = 28, 29, 30
_REQUEST, _ACK, _REPLACE, _CREATE = 0x1, 0x4, 0x100, 0x400
_ERROR: Final = 2
_DESTINATION, _LINK_ADDRESS = 1, 2
_PERMANENT: Final = 0x80
_LOOPBACK, _NO_ARP = 0x8, 0x80
_SIOCGIFFLAGS: Final = 0x8913
_HEADER: Final = struct.Struct("@IHHII")
_NEIGHBOUR: Final = struct.Struct("@BBHiHBB")
_MOST: Final = 4096
_WAIT_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Pin:
    """An entry of ours."""

    ip: str
    interface: int


def pin(ip: str, mac: bytes, interface: int) -> Pin | None:
    """Make the entry; None if there is nothing to be done. Raises OSError."""
    if not is_host(mac) or not _has_arp(interface):
        return None
    found = _state(ip, interface)
    if found is not None and found & _PERMANENT:
        return None
    attributes = _attribute(_DESTINATION, socket.inet_aton(ip)) + _attribute(_LINK_ADDRESS, mac)
    _ask(_NEW, _REPLACE | _CREATE | _ACK, interface, _PERMANENT, attributes)
    return Pin(ip, interface)


def unpin(entry: Pin) -> None:
    """Forget it: the next frame to that address brings a question. Raises OSError."""
    attributes = _attribute(_DESTINATION, socket.inet_aton(entry.ip))
    _ask(_DELETE, _ACK, entry.interface, 0, attributes)


def _has_arp(interface: int) -> bool:
    """Raises OSError."""
    name = socket.if_indextoname(interface).encode()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        asked = struct.pack("16sH22x", name, 0)
        told = fcntl.ioctl(any_socket, _SIOCGIFFLAGS, asked)
    (flags,) = struct.unpack_from("@H", told, 16)
    return not flags & (_LOOPBACK | _NO_ARP)


def _state(ip: str, interface: int) -> int | None:
    """That of the entry that there is; None if there is none. Raises OSError."""
    try:
        told = _ask(_GET, 0, interface, 0, _attribute(_DESTINATION, socket.inet_aton(ip)))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    _, _, _, _, state, _, _ = _NEIGHBOUR.unpack_from(told, _HEADER.size)
    return int(state)


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("@HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _ask(kind: int, flags: int, interface: int, state: int, attributes: bytes) -> bytes:
    """One question to the kernel, and its answer. Raises OSError."""
    body = _NEIGHBOUR.pack(socket.AF_INET, 0, 0, interface, state, 0, 0) + attributes
    head = _HEADER.pack(_HEADER.size + len(body), kind, flags | _REQUEST, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as route:
        route.settimeout(_WAIT_S)
        route.send(head + body)
        told = route.recv(_MOST)
    _, answer, _, _, _ = _HEADER.unpack_from(told)
    if answer == _ERROR:
        (code,) = struct.unpack_from("@i", told, _HEADER.size)
        if code:
            raise OSError(-code, os.strerror(-code))
    return told
