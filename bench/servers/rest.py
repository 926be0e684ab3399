"""Whether a server has done with all that has reached it, as /proc shows it (proc(5)).

Nothing that it says tells that: an ack may be lost, or somebody else's, and between a dump's final
name and its manifest it may wait for its disk, or for a CPU. But a process that waits for nothing
except a message sleeps, and its sockets are empty. All threads of a family slept at one instant if
each was asleep at two looks and was not given a CPU between them: the instant is the one when the
first look ended. What is in their sockets is seen at that instant.

    state in /proc              at rest
    S  sleeps, may be woken     yes, if no datagram waits
    T  stopped by somebody      yes: it does nothing
    Z  X  has ended             is none of them
    R  runs, or waits for a CPU no
    D  waits for a disk         no

Of a process that wakes by a clock this says nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from bench.servers.processes import family

_PROC: Final = Path("/proc")
_RESTS: Final = "STt"
_ENDED: Final = "ZX"
_SOCKET: Final = "socket:["

#: Thread -> how often it has given up a CPU, or lost it.
Turns = dict[tuple[int, int], tuple[str, ...]]


def at_rest(leader: int) -> bool:
    """Whether a process and all that descends from it sleep, and have nothing to read.

    True where that can't be seen.
    """
    try:
        before = _turns(family(leader))
        if before is None or _spoken_to({pid for pid, _ in before}):
            return False
        return before == _turns(family(leader))
    except PermissionError:
        return True


def _turns(pids: Iterable[int]) -> Turns | None:
    """Of all their threads; None if one is not at rest."""
    found: Turns = {}
    for pid in pids:
        for thread in _listed(_PROC / str(pid) / "task"):
            try:
                text = (_PROC / str(pid) / "task" / thread / "status").read_text(errors="replace")
            except (FileNotFoundError, ProcessLookupError):
                continue
            says = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
            if says["State"][0] in _ENDED:
                continue
            if says["State"][0] not in _RESTS:
                return None
            found[pid, int(thread)] = (
                says["voluntary_ctxt_switches"],
                says["nonvoluntary_ctxt_switches"],
            )
    return found


def _spoken_to(pids: set[int]) -> bool:
    """Whether a datagram waits in a UDP socket of theirs."""
    for pid in pids:
        waiting = {
            f"{_SOCKET}{row[9]}]"
            for table in ("udp", "udp6")
            for row in _rows(_PROC / str(pid) / "net" / table)
            if int(row[4].partition(":")[2], 16)
        }
        if waiting and not waiting.isdisjoint(_open(pid)):
            return True
    return False


def _rows(table: Path) -> Iterator[list[str]]:
    """Of one of the kernel's tables of sockets; it may lack IPv6."""
    try:
        lines = table.read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError, NotADirectoryError):
        return
    yield from (line.split() for line in lines[1:])


def _open(pid: int) -> Iterator[str]:
    folder = _PROC / str(pid) / "fd"
    for name in _listed(folder):
        try:
            yield os.readlink(folder / name)
        except FileNotFoundError:
            continue


def _listed(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, ProcessLookupError):
        return []
