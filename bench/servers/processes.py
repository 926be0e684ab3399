"""Processes as /proc shows them: who belongs to a server, and what they have open."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.servers import CannotCount

_PROC: Final = Path("/proc")


@dataclass(frozen=True, slots=True)
class Process:
    """One that lives."""

    pid: int
    parent: int
    group: int


def living() -> list[Process]:
    """All that can be seen from here; zombies are none."""
    found: list[Process] = []
    for entry in os.listdir(_PROC):
        if not entry.isdecimal():
            continue
        try:
            stat = (_PROC / entry / "stat").read_text(errors="replace")
        except OSError:  # it has ended meanwhile
            continue
        state, parent, group, *_ = stat.rpartition(")")[2].split()
        if state not in "ZX":
            found.append(Process(int(entry), int(parent), int(group)))
    return found


def family(leader: int) -> set[int]:
    """A process, its group if it leads one, and all that descends from these and still hangs on to
    one of them by its parents. (A container's orphans do: its first process adopts them.)
    """
    everyone = living()
    found = {leader} | {one.pid for one in everyone if one.group == leader}
    while more := {one.pid for one in everyone if one.parent in found} - found:
        found |= more
    return found


def open_descriptors(leader: int) -> int:
    """Of a process and its family. Raises ``CannotCount`` where one's can't be seen, or the leader
    has ended."""
    return sum(_descriptors(pid, leader) for pid in family(leader))


def _descriptors(pid: int, leader: int) -> int:
    try:
        return len(os.listdir(_PROC / str(pid) / "fd"))
    except OSError as error:
        if pid != leader and isinstance(error, (FileNotFoundError, ProcessLookupError)):
            return 0  # it has ended since it was listed, and closed them
        raise CannotCount(
            f"the descriptors of process {pid} can't be counted: {error.strerror}"
        ) from None


def open_in(pids: Iterable[int], target: str) -> bool:
    """Whether one of them has that open, as ``readlink`` shows it. ``PermissionError`` where that
    can't be seen."""
    for pid in pids:
        folder = _PROC / str(pid) / "fd"
        try:
            for name in os.listdir(folder):
                try:
                    if os.readlink(folder / name) == target:
                        return True
                except FileNotFoundError:
                    continue
        except (FileNotFoundError, ProcessLookupError):
            continue
    return False
