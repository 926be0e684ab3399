"""What a journal has of the machine that its dump's file is on: what tells, in a later life of the
server, whether the machine crashed between them, and whether a file is the one that it was.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final


def _inode(fd: int) -> int:
    return os.fstat(fd).st_ino


@dataclass(frozen=True)
class Machine:
    """One that has no boots and no inodes gives the same journal at each run of a story."""

    boot: str
    """An id of its boot; "" if it does not tell."""
    inode: Callable[[int], int] = _inode
    """Of an open file: no other one has it. May raise OSError."""


#: One that does not tell its boots.
SILENT: Final = Machine("")


def this_machine() -> Machine:
    """Linux draws an id for each boot (random(4)); elsewhere there is none."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return Machine(file.read().strip())
    except OSError:
        return SILENT
