"""A cpio archive in the "newc" form, which Linux unpacks as its first root file system.

An entry is a header of 110 ASCII characters, "070701" and thirteen fields of eight hexadecimal
digits, then the name with its NUL, then the data; name and data are each padded to 4 octets. The
archive ends with an entry named TRAILER!!! (Linux' Documentation/driver-api/early-userspace/
buffer-format.rst).

Two rules. The same entries make the same octets: they are sorted by name, times are 0, and inode
numbers count up. And the kernel makes no missing directory: those above an entry are added.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_TRAILER: Final = "TRAILER!!!"
_SIZE_MAX: Final = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class Entry:
    """A name below the root, without a leading slash; type and permissions as in ``st_mode``."""

    name: str
    mode: int
    data: bytes = b""
    """The contents of a file, the target of a symbolic link."""
    device: tuple[int, int] = (0, 0)
    """Major and minor number of a device node."""


def directory(name: str, permissions: int = 0o755) -> Entry:
    return Entry(name, stat.S_IFDIR | permissions)


def file(name: str, data: bytes, permissions: int = 0o644) -> Entry:
    return Entry(name, stat.S_IFREG | permissions, data)


def symlink(name: str, target: str) -> Entry:
    return Entry(name, stat.S_IFLNK | 0o777, target.encode())


def character_device(name: str, major: int, minor: int, permissions: int = 0o600) -> Entry:
    return Entry(name, stat.S_IFCHR | permissions, device=(major, minor))


def archive(entries: Iterable[Entry]) -> bytes:
    """The archive of these entries, all owned by root.

    Raises:
        ValueError: a name is given twice, or does not lie below the root.
    """
    wanted: dict[str, Entry] = {}
    for entry in entries:
        parts = entry.name.split("/")
        if {"", ".", ".."} & set(parts) or "\0" in entry.name or entry.name == _TRAILER:
            raise ValueError(f"{entry.name!r} can't be a name in a cpio archive: give a/b/c")
        if entry.name in wanted:
            raise ValueError(f"{entry.name} is in the archive twice")
        if len(entry.data) > _SIZE_MAX:
            raise ValueError(f"{entry.name} is too large for a cpio archive: 4 GiB and more")
        wanted[entry.name] = entry
    for name in list(wanted):
        parts = name.split("/")
        for depth in range(1, len(parts)):
            above = "/".join(parts[:depth])
            if not stat.S_ISDIR(wanted.setdefault(above, directory(above)).mode):
                raise ValueError(f"{name} lies below {above}, which is no directory")
    # A directory's name is the beginning of all names below it, so it sorts before them.
    ordered = [wanted[name] for name in sorted(wanted)]
    return b"".join(
        _encoded(number, entry) for number, entry in enumerate([*ordered, Entry(_TRAILER, 0)], 1)
    )


def _encoded(inode: int, entry: Entry) -> bytes:
    name = entry.name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (
        *(inode, entry.mode, 0, 0, links, 0, len(entry.data)),  # uid, gid and mtime are 0
        *(0, 0, *entry.device, len(name), 0),
    )
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _padded(header + name) + _padded(entry.data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
