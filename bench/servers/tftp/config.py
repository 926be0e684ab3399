"""What a TFTP server is told: and so, which of the servers that people have it is like.

TFTP leaves much open, and stock servers fill it differently. Each of these knobs is one such place,
so that a client can be tried against all of them without the server that does it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: The most uploads at once.
MOST_SESSIONS = 64


@dataclass(frozen=True, slots=True)
class TftpConfig:
    """As told here: RFC 1350, 2347, 2348, 2349 and 7440."""

    options: bool = True
    """Answers options; without, every upload has blocks of 512 octets, one at a time."""
    refuses_options: bool = False
    """Answers a request with options by ERROR 8 (RFC 2347 lets it)."""
    blksize: int = 65464
    """The most octets of a block: what is more is lowered."""
    windowsize: int = 64
    """The most blocks in flight: what is more is lowered."""
    rollover: Literal[0, 1] | None = 0
    """What the block number after 65535 is; None: an upload ends there, with an ERROR."""
    knows_rollover: bool = True
    """Takes tftp-hpa's option for that."""
    existing: Literal["overwrite", "refuse", "required"] = "overwrite"
    """A file that is there already: written over, refused (ERROR 6), or the only one that may be
    written, as by tftpd-hpa without --create (else ERROR 1)."""
    room: int | None = None
    """Octets that its disk has room for; None: what the disk has."""
    idle_s: float = 30.0
    """An upload that is silent for so long is given up."""
    dally_s: float = 5.0
    """How long the last ACK can be had again (RFC 1350 section 6)."""
