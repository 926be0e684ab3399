"""Dump servers that the bench can start, hurt and question.

A scenario does the same things to a server in memory, a process, somebody else's command and a
container; whatever tells them apart stays behind this contract.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, Protocol

from bench.servers.names import DumpNames, StoredDump
from bench.wire.kinds import TFTP_PORT
from netdump.messages import HERALD_PORT

#: What a server speaks: FreeBSD's protocol and no more; or that, with our additions and promises
#: (a message that comes again changes nothing, the HERALD included); or TFTP.
ServerProtocol = Literal["stock", "netdump2", "tftp"]

#: The UDP port where such a server is first spoken to.
PORTS: Final[Mapping[ServerProtocol, int]] = {
    "stock": HERALD_PORT,
    "netdump2": HERALD_PORT,
    "tftp": TFTP_PORT,
}


class CannotCount(Exception):
    """A server's descriptors can't be counted from here; the message says why."""


class DumpServer(Protocol):
    """A server of dumps, from the bench's side."""

    @property
    def address(self) -> tuple[str, int]:
        """Where it is first spoken to: IPv4 address and UDP port."""
        ...

    @property
    def dumpdir(self) -> Path:
        """The folder that its dumps land in, readable by us."""
        ...

    @property
    def names(self) -> DumpNames:
        """What it calls its files."""
        ...

    @property
    def protocol(self) -> ServerProtocol:
        """What it speaks, and so what may be held against it."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What a reader of the verdict should know of how it was played, a sentence each."""
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
        """Open descriptors, to see leaks; 0 when it doesn't live. Raises ``CannotCount``."""
        ...

    def at_rest(self) -> bool:
        """Whether it has done with all that has reached it: it sleeps, and has nothing to read.
        True where that can't be seen from here.
        """
        ...

    def stored(self) -> list[StoredDump]:
        """The dumps on its disk, the latest last, and whether it calls each complete."""
        ...

    def trouble(self, said: Sequence[str] = ()) -> list[str]:
        """What it did that no server may do, a sentence each: ended unasked, or raised. ``said``:
        texts of the dump's header, which it may quote in what it prints.
        """
        ...
