"""How our TFTP client behaves: numbers, no code. ``TftpRules`` is also a link's ``LinkRules``.

Times are microseconds of DELAY. They are what TFTP's own make reasonable: stock servers wait one
second (tftpd-hpa) or five (atftpd) before they say their last word again, and give a transfer up
after some half a minute of silence. So does this client: the waits between two sendings of the same
double from four round trips up to ``most_wait_us``.

The write request alone is patient from the start. A stock server that gets it twice starts two
transfers, each of which opens the file and cuts it to nothing: the second may do that when the
first has stored something.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from netdump.arp import HARDWARE_ETHERNET
from netdump.inet import Checks
from netdump.tftp.packets import DATA_HEADER_SIZE
from netdump.udplink import IP_UDP_SIZE

#: Of a packet, what is not payload: a block of the MTU less this is no fragment.
OVERHEAD: Final = IP_UDP_SIZE + DATA_HEADER_SIZE
#: The most blocks in flight that this client is made for.
MOST_WINDOW: Final = 1024


@dataclass(frozen=True, slots=True)
class TftpRules:
    """One client's."""

    name: str = "tftp"

    # -- the file ----------------------------------------------------------------------------
    file: str = "vmcore"
    blksize: int = 1428
    """The most octets of a block that are asked for; an MTU that is too small for it lowers it."""
    windowsize: int = 1
    timeout: int | None = None
    """Seconds that the server is asked to wait before it sends again; None: not asked."""
    options: bool = True
    """Asks for options at all. Without: 512 octets, one block in flight, as in 1992."""
    rollover: Literal[0, 1] = 0
    """What the block number after 65535 is. Asked for, too, where the dump may get there; a server
    that does not know that option does what it does."""
    source_port: int | None = None
    """Where the client speaks from; None: drawn, as RFC 1350 has it."""

    # -- waiting -----------------------------------------------------------------------------
    asking_wait_us: int = 1_000_000
    """After the write request, at first."""
    first_wait_us: int = 250_000
    """After a block, while no round trip has been measured."""
    least_wait_us: int = 20_000
    most_wait_us: int = 4_000_000
    retries: int = 15
    """How often the same is sent again without progress before the client gives up."""

    # -- the link ----------------------------------------------------------------------------
    checks: Checks = field(default_factory=Checks)
    arp_hardware_types: frozenset[int] = frozenset({HARDWARE_ETHERNET})
    arp_targets: Literal["server, then gateway", "gateway only"] = "server, then gateway"
    arp_retries: int = 15
    later_arp_replies_count: bool = False
    ttl: int = 255
    polls: int = 200
    poll_delay_us: int = 1000

    # -- what the kernel has to know ---------------------------------------------------------
    mbufs: Literal["ordinary", "pool"] = "pool"
    footer: bool = True
    """The kernel dump header follows the data (``stream.py``)."""
