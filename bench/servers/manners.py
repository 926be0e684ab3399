"""What a user says of a server that is not ours, and what of it can't be.

The same for a command and for an image: which of its arguments name what belongs to the run, what
it calls its dumps, what it speaks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Final

from pydantic import AfterValidator, StrictBool, StrictStr

from bench.kinds import Transport
from bench.scenario.written import OneOrMore
from bench.servers import ServerProtocol
from bench.servers.names import DumpNames
from bench.spelling import nearest
from bench.table import Table
from bench.wire.segment import Segment

#: What an argument may name, in braces. Other braces are the server's own.
PLACES: Final = ("address", "port", "dumpdir")
#: What a client has to speak.
_TRANSPORTS: Final[Mapping[ServerProtocol, Transport]] = {
    "stock": "netdump",
    "netdump2": "netdump",
    "tftp": "tftp",
}
_PLACE: Final = re.compile(r"\{([a-z_]+)\}")


def _known_places(word: str) -> str:
    for place in _PLACE.findall(word):
        if place not in PLACES:
            known = ", ".join(f"{{{p}}}" for p in PLACES)
            meant = nearest(place, PLACES)
            raise ValueError(f"{word!r}: no place is named {place}{meant} ({known})")
    return word


def _file_name(pattern: str) -> str:
    if not pattern or "/" in pattern:
        raise ValueError(f"{pattern!r} is no pattern for the name of a file, such as 'vmcore.*'")
    return pattern


def _any(patterns: tuple[str, ...]) -> tuple[str, ...]:
    if not patterns:
        raise ValueError("is empty: then no dump could ever be complete")
    return patterns


Argument = Annotated[StrictStr, AfterValidator(_known_places)]
Pattern = Annotated[StrictStr, AfterValidator(_file_name)]
Patterns = Annotated[tuple[Pattern, ...], OneOrMore()]


class Foreign(Table):
    """What is said of every server that is not ours."""

    finished: Annotated[Patterns, AfterValidator(_any)] = ("vmcore.*",)
    """Names of complete dumps, or of links that lead to them."""
    unfinished: Patterns = ()
    """Names of dumps that are under way, or broken off."""
    strict_finish: StrictBool = False
    """It does not acknowledge FINISHED while the dump has holes. A case that asks for a server that
    does, or does not, is played with one that is so."""
    protocol: ServerProtocol = "stock"
    environment: Mapping[StrictStr, StrictStr] = {}

    @property
    def names(self) -> DumpNames:
        return DumpNames.of_globs(self.finished, self.unfinished)


def filled(argv: Sequence[str], address: str, dumpdir: str, port: int) -> list[str]:
    """The arguments of a run."""
    values = {"address": address, "port": str(port), "dumpdir": dumpdir}
    return [_PLACE.sub(lambda match: values.get(match[1], match[0]), word) for word in argv]


def transport_of(wanted: Foreign) -> Transport:
    return _TRANSPORTS[wanted.protocol]


def names_the_folder(argv: Sequence[str]) -> bool:
    return any("{dumpdir}" in word for word in argv)


def hosts_of(segment: Segment) -> dict[str, str]:
    """The addresses of a run, by name: what a server that looks names up should find."""
    from bench.story.stage import CLIENT_IP

    hosts = {CLIENT_IP: "client", segment.server_ip: "server"}
    return hosts | ({segment.gateway_ip: "gateway"} if segment.gateway_ip else {})
