"""Who is played in the shoot-out, and under what. Tables, no code.

A contestant is a client and its server, in the words of a scenario. A condition is a line between
them. Each contestant meets each condition once, with the same machine and seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Contestant:
    """A client and a server."""

    name: str
    says: str
    """Who it is, for the page."""
    case: str
    """Keys of its ``[[case]]``."""
    client: str
    """Keys of its ``[client]``."""
    server: str
    """Keys of its ``[server]``."""
    modules: tuple[str, ...]
    """What its client is made of besides ``SHARED``: modules of netdump/, or packages. ``REST``:
    and all that nobody else names."""


#: What each of the clients needs: the link, the driver's contract, and the dump itself.
SHARED: Final = (
    "arp",
    "checksum",
    "contracts",
    "dumper",
    "elfcore",
    "elfnotes",
    "errors",
    "inet",
    "kdh",
    "udplink",
)
#: Of netdump, stock or not.
_NETDUMP: Final = ("acks", "client", "link", "messages", "offer", "profiles", "window")
REST: Final = "*"
_TFTP: Final = ("tftp",)
#: No client's.
NOBODYS: Final = ("vmcoreinfo",)

STOCK: Final = Contestant(
    "netdump, stock",
    "profile `freebsd-14`, and a server that acknowledges as netdumpd does",
    'profile = "freebsd-14"',
    "",
    "rescue = false\nstrict_finish = false",
    _NETDUMP,
)
RESCUED: Final = Contestant(
    "netdump, our server",
    "the same client, and our server",
    'profile = "freebsd-14"',
    "",
    "",
    _NETDUMP,
)
NETDUMP2: Final = Contestant(
    "netdump2",
    "ours on both sides (`docs/netdump2.md`)",
    'profile = "netdump2"',
    "",
    "",
    (*_NETDUMP, REST),
)
TFTP: Final = Contestant(
    "TFTP",
    "blocks of 1428 bytes, one at a time (RFC 1350, 2348)",
    "",
    'kind = "tftp"',
    'kind = "tftp"',
    _TFTP,
)
WINDOWS: Final = Contestant(
    "TFTP, windows of 64",
    "the same in windows (RFC 7440)",
    "",
    'kind = "tftp"\nwindowsize = 64',
    'kind = "tftp"\nwindowsize = 64',
    _TFTP,
)
WIDEST: Final = Contestant(
    "TFTP, windows of 1024",
    "the same in the largest that our client is made for",
    "",
    'kind = "tftp"\nwindowsize = 1024',
    'kind = "tftp"\nwindowsize = 1024',
    _TFTP,
)
CONTESTANTS: Final = (STOCK, RESCUED, NETDUMP2, TFTP, WINDOWS, WIDEST)


@dataclass(frozen=True, slots=True)
class Condition:
    """A line."""

    loss: str = "0 %"
    """Of all frames, each way."""
    round_trip_us: int = 100
    restarts: bool = False
    """The server is killed in mid-dump, and another one comes up over its folder."""

    def __str__(self) -> str:
        after = ", the server restarts" if self.restarts else ""
        return f"{self.loss} lost, {self.round_trip_us / 1000:g} ms{after}"


LOSSES: Final = ("0 %", "0.1 %", "1 %", "5 %")
ROUND_TRIPS_US: Final = (100, 1_000, 10_000, 100_000)
BY_LOSS: Final = tuple(Condition(loss=loss) for loss in LOSSES)
BY_ROUND_TRIP: Final = tuple(Condition(round_trip_us=us) for us in ROUND_TRIPS_US)
CLEAN: Final = Condition()
ONE_PERCENT: Final = BY_LOSS[LOSSES.index("1 %")]
RESTART: Final = Condition(restarts=True)
CONDITIONS: Final = (*BY_LOSS, *BY_ROUND_TRIP[1:], RESTART)

#: Of the machine that is dumped.
MEMORY: Final = "16 MiB"
#: The server is gone when so many frames of data have come, for so long.
LOST_AFTER: Final = 4_000
BACK_MS: Final = 100
