"""Kind ``tftp``: our TFTP client, through a driver. It writes the dump into any TFTP server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import Field, StrictBool, StrictInt, StrictStr

from bench.kinds import ClientKind
from bench.table import Table
from netdump.tftp.client import TftpClient
from netdump.tftp.rules import MOST_WINDOW, TftpRules

if TYPE_CHECKING:
    from bench.scenario.schema import ResolvedCase

_ROLLOVER: Final[tuple[Literal[0], Literal[1]]] = (0, 1)
_DEFAULT: Final = TftpRules()
#: It may give a server up that says nothing for so long, after its shortest waits.
_PATIENCE_S: Final = 10.0


class TftpOptions(Table):
    """What it asks of a server, and what it does where TFTP says nothing."""

    blksize: Annotated[StrictInt, Field(ge=8, le=65464)] = _DEFAULT.blksize
    """The longest block that is asked for (RFC 2348); the MTU less 32 is the most that is."""
    windowsize: Annotated[StrictInt, Field(ge=1, le=MOST_WINDOW)] = _DEFAULT.windowsize
    """Blocks in flight (RFC 7440)."""
    timeout: Annotated[StrictInt | None, Field(ge=1, le=255)] = None
    """Seconds that the server is asked to wait before it sends again (RFC 2349)."""
    file: Annotated[
        StrictStr, Field(min_length=1, max_length=255, pattern=r"^[A-Za-z0-9_./:-]+$")
    ] = _DEFAULT.file
    """The name to write."""
    options: StrictBool = True
    """Asks for options at all; without, a block has 512 bytes."""
    rollover: Annotated[StrictInt, Field(ge=0, le=1)] = _DEFAULT.rollover
    """The block number after 65535."""
    source_port: Annotated[StrictInt | None, Field(ge=1, le=65535)] = None
    """Where it speaks from, as a firewall may want it; not given: drawn."""
    retries: Annotated[StrictInt, Field(ge=0, le=10_000)] = _DEFAULT.retries
    """How often it sends the same again without an answer before it gives up."""


def rules_of(case: ResolvedCase) -> TftpRules:
    """The case's client."""
    wanted: TftpOptions = case.client_part.options
    return TftpRules(
        file=wanted.file,
        blksize=wanted.blksize,
        windowsize=wanted.windowsize,
        timeout=wanted.timeout,
        options=wanted.options,
        rollover=_ROLLOVER[wanted.rollover],
        source_port=wanted.source_port,
        retries=wanted.retries,
    )


TFTP: Final = ClientKind(
    name="tftp",
    says="our client for any TFTP server: writes the dump as one file",
    options=TftpOptions,
    profile=rules_of,
    make=TftpClient,
    transport="tftp",
    kernel_header="last",
    tunes=frozenset({"retries", "timeout"}),
    patience_s=_PATIENCE_S,
)
