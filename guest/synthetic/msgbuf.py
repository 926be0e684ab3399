"""The kernel's message buffer: the first place that a reader of a dump looks at.

A ring of text in ordinary memory, without wrap markers, as FreeBSD's msgbuf(9): new text goes over
the oldest. The dying kernel's last words are written here before memory is frozen, so a dump that
is right holds them.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

#: What a boot says. ``{...}`` are filled in by the machine.
BOOT_LINES: Final = (
    "---<<BOOT>>---",
    "Copyright (c) 1992-2024 The FreeBSD Project.",
    "netdump-bench synthetic machine, host {hostname}, seed {seed}",
    "real memory  = {memory} ({mib} MB)",
    "panic arena  = {arena} bytes at {arena_start:#x}",
    "FreeBSD/SMP: Multiprocessor System Detected: {cpus} CPUs",
)


class MessageBuffer:
    """``append`` text; ``text`` reads back what is still there, oldest first."""

    def __init__(self, window: NDArray[np.uint8]) -> None:
        """``window``: the buffer's own bytes, a view of memory; cleared here."""
        self._window = window
        self._written = 0
        window[:] = 0

    def append(self, line: str) -> None:
        """Write a line, its newline added."""
        data = np.frombuffer(f"{line}\n".encode()[-self._window.size :], np.uint8)
        where = self._written % self._window.size
        head = min(data.size, self._window.size - where)
        self._window[where : where + head] = data[:head]
        self._window[: data.size - head] = data[head:]
        self._written += data.size

    def text(self) -> str:
        """What a reader of the dump would find."""
        where = self._written % self._window.size
        content = self._window.tobytes()
        if self._written > self._window.size:
            content = content[where:] + content[:where]
        return content.rstrip(b"\0").decode(errors="replace")
