"""The most memory that a run holds at one time: bench, server and QEMU together.

The run is played by a process of its own, so that nothing of ours is counted, and looked at while
it lasts. A process's share is its *proportional set size* (proc(5), smaps_rollup): a page that n
mappings have counts an n-th for each, so the sum over a family of processes is what they hold,
memfds and shared memory included. Page cache of files that are written is not in it: the kernel
takes that back.

A child that was made by vfork(2), and has not executed its program yet, runs in its parent's
memory, which would count as that of both: it is left out (kcmp(2)).

To look costs the one who is looked at some time, more of it the more memory he has; so it is done
no more often than costs a tenth of the time. What is held for less than that may be missed.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench.again import module
from bench.servers.child import start_child

_EVERY_S: Final = 0.02
#: Of the time, what looking may cost.
_COST: Final = 0.1
_PROC: Final = Path("/proc")
#: kcmp(2) has no wrapper in the C library: its number, by machine.
_KCMP: Final = {"x86_64": 312, "aarch64": 272}.get(platform.machine())
_KCMP_VM: Final = 1


class ChildFailed(Exception):
    """It did not exit with 0; the message ends with what it said."""


def peak_of(command: Sequence[str], timeout_s: float) -> tuple[str, int]:
    """What a command prints, and the most memory that it and its children held, in bytes.

    Raises:
        ChildFailed: it fails, or takes longer.
    """
    with tempfile.TemporaryFile() as output:
        child = start_child(command, output.fileno())
        deadline = time.monotonic() + timeout_s
        most = 0
        try:
            while child.poll() is None and time.monotonic() < deadline:
                began = time.monotonic()
                most = max(most, sum(map(_held, _family(child.pid))))
                time.sleep(max(_EVERY_S, (time.monotonic() - began) / _COST))
        finally:
            child.kill()
            status = child.wait(10)
        output.seek(0)
        said = output.read().decode(errors="replace")
    if status:
        lines = said.strip().splitlines() or [f"it ended with status {status}"]
        raise ChildFailed(lines[-1])
    return said, most


def python(*arguments: str) -> list[str]:
    return module(*arguments)


def _family(pid: int) -> list[int]:
    """A process and all that descend from it, those that have memory of their own."""
    found = [pid]
    for one in found:
        for task in _listed(_PROC / str(one) / "task"):
            children = map(int, _text(task / "children").split())
            found += [child for child in children if not _share_memory(one, child)]
    return found


def _share_memory(one: int, other: int) -> bool:
    """One address space; False where the kernel does not say. Who has his own keeps it."""
    if _KCMP is None:
        return False
    return bool(ctypes.CDLL(None).syscall(_KCMP, one, other, _KCMP_VM, 0, 0) == 0)


def _held(pid: int) -> int:
    said = re.search(r"^Pss:\s+(\d+) kB$", _text(_PROC / str(pid) / "smaps_rollup"), re.MULTILINE)
    return int(said[1]) << 10 if said else 0  # it has ended meanwhile


def _listed(folder: Path) -> list[Path]:
    try:
        return [folder / name for name in os.listdir(folder)]
    except OSError:
        return []


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
