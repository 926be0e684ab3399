"""What a dump server believes, and how much it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from server.coverage import MAX_INTERVALS


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Times in seconds, sizes in bytes."""

    rescue: bool = True
    """Hold the acks of stock clients' chunks (``rescue.py``)."""
    strict_finish: bool = True
    """Acknowledge FINISHED only for a complete dump; off: always, as netdumpd does, and like it
    understand no datagram of more than 4120 bytes, and no offer of selective acks."""
    max_dump: int = 64 << 30
    """No byte at or beyond this offset, no header that promises more."""
    max_clients: int = 64
    """Sessions, and with them sockets, of all states."""
    max_offers: int = 4
    """Acknowledged HERALDs of one address that have not been followed by data; at least 1."""
    idle: float = 600.0
    """A session that hears nothing for so long is ended (netdumpd's 600 s)."""
    hold: float = 60.0
    """An ended session still answers late copies for so long after the last one."""
    quiet: float = 15.0
    """After this nobody waits for a session's answers: past a stock client's 12 s."""
    max_intervals: int = MAX_INTERVALS
    keys: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    """Keys of 32 octets, by the client's address; ``*`` is for all others (``gate.py``)."""
    require_key: bool = False
    """Who does not prove that it has a key is not served."""
