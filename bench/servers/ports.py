"""Whether a UDP port is bound, as the kernel itself says it (proc(5), /proc/net/udp).

That is the one sign of readiness that every server gives, in whatever language it is written. The
kernel tells of no bind as an event, so who waits for one looks again and again.

A line has the local and the remote address as hex: of IPv4 one 32-bit word, of IPv6 four, each in
the machine's byte order. A listening socket has no remote address; one bound to IPv6's "any" also
hears IPv4.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

#: How long who waits for a port waits between two looks, seconds.
LOOK_S: Final = 0.005


def is_bound(net: Path, address: str, port: int) -> bool:
    """Whether a socket that is connected to no peer is bound to the port, at the address or all.

    ``net``: the folder of a process's or thread's network tables, ``/proc/PID/net``.
    """
    return bool(bound(net, address, port))


def bound(net: Path, address: str, port: int) -> list[int]:
    """The inodes of all such sockets."""
    own = f"{int.from_bytes(IPv4Address(address).packed, sys.byteorder):08X}"
    mapped = f"{int.from_bytes(bytes.fromhex('0000ffff'), sys.byteorder):08X}"
    wanted = {own, "0" * 8, "0" * 32, "0" * 16 + mapped + own}
    end = f":{port:04X}"
    return [
        inode
        for table in ("udp", "udp6")
        for local, remote, inode in _sockets(net / table)
        if local.endswith(end) and local[: -len(end)] in wanted and not remote.strip("0:")
    ]


def _sockets(table: Path) -> Iterator[tuple[str, str, int]]:
    """(local, remote, inode) of each line."""
    try:
        lines = table.read_text().splitlines()[1:]
    except FileNotFoundError:  # a kernel without IPv6
        return
    for line in lines:
        words = line.split()
        yield words[1], words[2], int(words[9])
