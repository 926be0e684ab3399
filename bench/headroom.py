"""How much memory there is for a run, and what limits it.

Three things may: the machine (MemAvailable of /proc/meminfo), each control group that we are in,
our own and all above it, and the address space that a process may have (setrlimit(2), RLIMIT_AS).
A group has a limit and a usage, and of the usage the kernel gives page cache back when it is asked
for memory, so that does not count. Swap does not count either: a run in real time that is swapped
out measures the disk.

Groups come in two versions, and a machine may have both (cgroups(7)). /proc/self/cgroup names our
group by controller, /proc/self/mountinfo says where the groups are to be seen and, in a container,
from which of them on.
"""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from bench.errors import MachineLacks
from bench.footprint import Footprint

#: Version -> files of limit and usage, and what memory.stat calls memory that is given back.
_FILES: Final = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", r"total_(?:in)?active_file"),
    2: ("memory.max", "memory.current", r"(?:in)?active_file|slab_reclaimable"),
}
#: Version 1 has no word for "no limit": it is the largest number of pages.
_NO_LIMIT: Final = 1 << 62
_PAGE: Final = resource.getpagesize()


@dataclass(frozen=True, slots=True)
class Room:
    """So many bytes, and what there are no more of."""

    free: int
    limited_by: str


def memory_room(root: Path = Path("/")) -> list[Room]:
    """What memory is left by each thing that limits it. ``root``: where proc and sys are looked
    for; what is not there limits nothing.
    """
    found: list[Room] = []
    free = available(_text(root / "proc/meminfo"))
    if free is not None:
        found.append(Room(free, "that is what the machine has free"))
    groups = memory_groups(_text(root / "proc/self/cgroup"), _text(root / "proc/self/mountinfo"))
    for folder, version in groups:
        here = root / folder.relative_to("/")
        limit, usage, given_back = _FILES[version]
        room = group_room(
            _text(here / limit), _text(here / usage), _text(here / "memory.stat"), given_back
        )
        if room is not None:
            found.append(Room(room, f"the control group {folder} is limited ({limit})"))
    return found


def address_room() -> list[Room]:
    """What addresses are left to this process."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    used = re.match(r"\d+", _text(Path("/proc/self/statm")))
    if limit == resource.RLIM_INFINITY or used is None:
        return []
    free = max(limit - int(used[0]) * _PAGE, 0)
    return [Room(free, "the address space of a process is limited (ulimit -v)")]


def lies_in_memory(folder: Path, root: Path = Path("/")) -> bool:
    """Whether what is written below a folder, which need not exist yet, takes memory (tmpfs)."""
    path = PurePosixPath(os.path.realpath(folder))
    at, kind = PurePosixPath("/"), ""
    for line in _text(root / "proc/self/mountinfo").splitlines():
        mount, _, system = line.partition(" - ")
        fields = mount.split(" ")
        point = PurePosixPath(_unescaped(fields[4])) if len(fields) > 4 else at
        if path.is_relative_to(point) and point.is_relative_to(at):  # the last one lies on top
            at, kind = point, system.split(" ")[0]
    return kind in ("tmpfs", "ramfs")


def require_room(needed: Footprint, memory: Sequence[Room], addresses: Sequence[Room]) -> None:
    """Raises ``MachineLacks`` where there is less than a run needs."""
    at_once = f", {needed.runs} at a time," if needed.runs > 1 else ""
    cure = "lower -j, raise that," if needed.runs > 1 else "raise that,"
    for kind, wanted, rooms in (
        ("memory", needed.memory, memory),
        ("addresses", needed.addresses, addresses),
    ):
        least = min(rooms, key=lambda room: room.free, default=None)
        if least is not None and least.free < wanted:
            raise MachineLacks(
                f"tier {needed.tier}: case {needed.case}{at_once} needs {_mib(wanted, up=True)}"
                f" MiB of {kind}, and there are {_mib(least.free)} MiB: {least.limited_by}; {cure}"
                f" or lower [machine] memory in the scenario"
            )


# --- the pure part --------------------------------------------------------------------------------


def available(meminfo: str) -> int | None:
    """Bytes that /proc/meminfo calls available."""
    found = re.search(r"^MemAvailable:\s*(\d+) kB$", meminfo, re.MULTILINE)
    return None if found is None else int(found[1]) << 10


def memory_groups(cgroup: str, mountinfo: str) -> list[tuple[PurePosixPath, int]]:
    """(folder, version) of the groups that may limit our memory, our own first, then those above
    it, as far as they can be seen from here.
    """
    found: list[tuple[PurePosixPath, int]] = []
    for line in cgroup.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, own = rest.partition(":")
        if "memory" in controllers.split(","):
            version = 1
        elif number == "0" and not controllers:
            version = 2
        else:
            continue
        for top, point in _mounts(mountinfo, version):
            below = _below(own, top)
            folder = PurePosixPath(point, below)
            depth = len(PurePosixPath(below).parts)
            found += [(f, version) for f in [folder, *folder.parents][: depth + 1]]
            break
    return found


def group_room(limit: str, usage: str, stat: str, given_back: str) -> int | None:
    """Bytes that a group has left, from the text of its files; None where it has no limit."""
    if not re.fullmatch(r"\d+\s*", limit) or not re.fullmatch(r"\d+\s*", usage):
        return None  # "max", or no such file
    if int(limit) >= _NO_LIMIT:
        return None
    back = re.findall(rf"^(?:{given_back}) (\d+)$", stat, re.MULTILINE)
    held = max(int(usage) - sum(map(int, back)), 0)
    return max(int(limit) - held, 0)


def _mounts(mountinfo: str, version: int) -> list[tuple[str, str]]:
    """(group at the top, mount point) where the memory groups of a version can be seen."""
    found: list[tuple[str, str]] = []
    for line in mountinfo.splitlines():
        mount, _, system = line.partition(" - ")
        fields, kind = mount.split(" "), system.split(" ")
        if len(fields) < 5 or len(kind) < 3 or not fields[4].startswith("/"):
            continue
        v1 = kind[0] == "cgroup" and "memory" in kind[2].split(",")
        if (version == 1 and v1) or (version == 2 and kind[0] == "cgroup2"):
            found.append((_unescaped(fields[3]), _unescaped(fields[4])))
    return found


def _below(own: str, top: str) -> str:
    """The way from the group at the top down to our own; "" where ours can't be seen."""
    base = top.rstrip("/")
    if ".." in own.split("/") or not (own + "/").startswith(base + "/"):
        return ""
    return own[len(base) :].strip("/")


def _unescaped(path: str) -> str:
    """As the kernel writes a blank in a path: backslash, three octal digits."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _mib(count: int, up: bool = False) -> str:
    return f"{-(-count >> 20) if up else count >> 20:,}"
