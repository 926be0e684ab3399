"""Processes as /proc shows them: who belongs to a child of ours, what they have open, who is left.

A program may leave the process group that it was started in (setsid), and its parent may end: then
nothing in its own numbers says where it came from. But it is still in the network namespace that it
was started in, where that is of its run's own; and in its environment there is still the mark that
it was started with. By either it is found, and ended.
"""

from __future__ import annotations

import os
import select
import signal
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.servers import CannotCount

_PROC: Final = Path("/proc")
#: The variable that has the mark.
MARK: Final = "NETDUMP_BENCH_CHILD"
#: Searches for what is left, while it forks; and the longest that one takes to end, seconds.
_SEARCHES: Final = 100
_END_S: Final = 10.0


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


def network_here() -> int:
    """A number of the network namespace of the thread that calls it."""
    return os.stat("/proc/thread-self/ns/net").st_ino


class Brood:
    """All that comes of one child, wherever it goes."""

    def __init__(self, network: int) -> None:
        """``network``: ``network_here`` where it is started."""
        self._mark = f"{os.getpid()}-{uuid.uuid4().hex}"
        # Of a namespace that it shares with us, nothing follows.
        self._network = "" if network == _PROC.joinpath("self/ns/net").stat().st_ino else network
        self._ours = os.getpid()

    @property
    def environment(self) -> dict[str, str]:
        """What the child is to have in its environment."""
        return {MARK: self._mark}

    def end(self) -> None:
        """SIGKILL for each that lives, until there is none."""
        spared: set[int] = set()
        for _ in range(_SEARCHES):
            found = [one.pid for one in living() if one.pid not in spared and self._has(one.pid)]
            if not found:
                return
            for pid in found:
                if not self._ended(pid):
                    spared.add(pid)

    def _has(self, pid: int) -> bool:
        if pid == self._ours:
            return False
        with suppress(OSError):
            if os.readlink(_PROC / str(pid) / "ns/net") == f"net:[{self._network}]":
                return True
        with suppress(OSError):
            environment = (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
            return f"{MARK}={self._mark}".encode() in environment
        return False

    def _ended(self, pid: int) -> bool:
        """End it; whether it has ended."""
        try:
            process = os.pidfd_open(pid)
        except ProcessLookupError:
            return True
        try:
            if not self._has(pid):  # the number is another's by now, or it is ending
                return True
            signal.pidfd_send_signal(process, signal.SIGKILL)
            answer = select.poll()
            answer.register(process, select.POLLIN)
            return bool(answer.poll(_END_S * 1000))
        except ProcessLookupError:
            return True
        except PermissionError:  # it has become a user that we may not end
            return False
        finally:
            os.close(process)
