"""Dump servers that the bench can start, hurt and question.

A scenario does the same things to a server in memory, a process and a container; whatever tells
them apart stays behind this contract.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class DumpServer(Protocol):
    """A server of netdumps, from the bench's side."""

    @property
    def address(self) -> tuple[str, int]:
        """Where it takes HERALDs: IPv4 address and UDP port."""
        ...

    @property
    def dumpdir(self) -> Path:
        """The folder that its dumps land in, readable by us."""
        ...

    @property
    def running(self) -> bool:
        """Whether it lives; a paused one does."""
        ...

    def start(self) -> None:
        """Bring it up; when this returns, it listens."""
        ...

    def stop(self) -> None:
        """Ask it to end in good order, and see to it that it does."""
        ...

    def kill(self) -> None:
        """End it at this instant: SIGKILL, power off. What it had only in memory is lost."""
        ...

    def pause(self) -> None:
        """Stop it where it stands; what arrives meanwhile waits in its socket buffers, or falls."""
        ...

    def resume(self) -> None:
        """Let a paused one go on."""
        ...

    def restart(self) -> None:
        """Bring up a new one over the same folder; one that still lives is killed first."""
        ...

    def fd_count(self) -> int:
        """Open descriptors, to see leaks; 0 when it doesn't live."""
        ...

    def trouble(self) -> list[str]:
        """What it did that no server may do, a sentence each: ended, or raised."""
        ...
