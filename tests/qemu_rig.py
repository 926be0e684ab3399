"""What the tests of QEMU share: a machine without software, and an account of what is left."""

from __future__ import annotations

import gc
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.servers.child import start_child
from guest.qemu.vm import Vm, halted

MIB = 1 << 20
RAM = "memfd:guest-ram"
MAC = bytes.fromhex("02005e000002")


def machine(folder: Path | None = None, memory: int = 16 * MIB) -> Vm:
    """A machine without software; a context manager."""
    return Vm(halted(memory, mac=MAC), folder, start_child)


def alive(pid: int) -> bool:
    """Whether it runs; a zombie that waits for its parent does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def children() -> set[int]:
    """Processes that run, and whose parent we are."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        if int(fields[1]) == os.getpid():
            found.add(int(stat.parent.name))
    return found


def interfaces() -> set[str]:
    """Names of the network interfaces of this machine, or of the namespace that we are in."""
    return {name for _, name in socket.if_nameindex()}


def _account() -> dict[str, list[str]]:
    gc.collect()
    links = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            continue  # the listing's own
    # A machine's RAM lives while anybody refers to it, and has a test of its own.
    links = [link for link in links if RAM not in link]
    return {
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "descriptors": sorted(links),
        "children": sorted(map(str, children())),
    }


@contextmanager
def leaves_nothing() -> Iterator[None]:
    """No thread, descriptor or child is left by what is done inside."""
    before = _account()
    yield
    after = _account()
    assert after == before


def rams() -> int:
    """How many machines' RAM we still hold."""
    gc.collect()
    return Path("/proc/self/maps").read_text().count(RAM)


def wait_until_gone(pid: int, seconds: float) -> bool:
    """Whether a process ends in that time."""
    deadline = time.monotonic() + seconds
    while alive(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
