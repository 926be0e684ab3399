"""What is asked of a server, and what may come back (RFC 2347).

    option      asks                       may come back                 left out means
    blksize     the most per block         8 to what was asked           512
    windowsize  the most in flight         1 to what was asked           1
    timeout     the server's patience, s   that number, or nothing       its own
    tsize       how long the dump is       any number; it changes        nothing
                                           nothing of ours
    rollover    the number after 65535     0 or 1                        what was asked; see below

An OACK with anything else in it, also an option that was not asked for, is answered by ERROR 8, and
that is the end: RFC 2347 leaves no second word. So is one that leaves 512 where the MTU holds less:
a dying kernel makes no fragments.

A server that says nothing of ``rollover`` does what it does. Nothing on the wire tells which: a
client that guessed, and sent a block under its other number when it heard no ACK for the first,
would have it stored twice by a server whose ACK was only lost. So the number is the operator's word
(``TftpRules.rollover``), unless the server gives its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from netdump.tftp.packets import (
    BLKSIZES,
    DEFAULT_BLKSIZE,
    ROLLOVERS,
    WINDOWSIZES,
    decimal,
)
from netdump.tftp.rules import OVERHEAD, TftpRules


class Refused(Exception):
    """What came back can't be agreed to; the message says why."""


@dataclass(frozen=True, slots=True)
class Agreed:
    """How a transfer is made."""

    blksize: int = DEFAULT_BLKSIZE
    windowsize: int = 1
    rollover: Literal[0, 1] = 0


def asked(rules: TftpRules, length: int, mtu: int) -> dict[str, str]:
    """The options of a write request for ``length`` octets."""
    if not rules.options:
        return {}
    options = {
        "blksize": str(most_blksize(rules, mtu)),
        "tsize": str(length),
    }
    if rules.windowsize > 1:
        options["windowsize"] = str(rules.windowsize)
    if rules.timeout is not None:
        options["timeout"] = str(rules.timeout)
    # With the smallest block that it is likely to come to.
    smallest = min(most_blksize(rules, mtu), DEFAULT_BLKSIZE)
    if length // smallest >= WINDOWSIZES.stop - 1:
        options["rollover"] = str(rules.rollover)
    return options


def most_blksize(rules: TftpRules, mtu: int) -> int:
    """The largest block that is no fragment."""
    return min(rules.blksize, mtu - OVERHEAD)


def agree(
    rules: TftpRules, wanted: Mapping[str, str], given: Mapping[str, str], mtu: int
) -> Agreed:
    """What an OACK comes to; of none, ``given`` is empty. Raises ``Refused``."""
    for name, value in given.items():
        if name not in wanted:
            raise Refused(f"option {name}, which was not asked for")
        number = decimal(value)
        if number is None or not _MAY[name](number, int(wanted[name])):
            raise Refused(f"{name} {value}, where {wanted[name]} was asked for")
    blksize = int(given.get("blksize", DEFAULT_BLKSIZE))
    if blksize + OVERHEAD > mtu:
        raise Refused(f"blocks of {blksize}: an MTU of {mtu} holds {mtu - OVERHEAD}")
    return Agreed(
        blksize,
        int(given.get("windowsize", 1)),
        _ROLLOVER[int(given.get("rollover", rules.rollover))],
    )


#: Whether a number may come back where another was asked for.
_MAY: Final[Mapping[str, Callable[[int, int], bool]]] = {
    "blksize": lambda number, most: number in BLKSIZES and number <= most,
    "windowsize": lambda number, most: number in WINDOWSIZES and number <= most,
    "timeout": lambda number, wanted: number == wanted,
    "tsize": lambda _number, _wanted: True,
    "rollover": lambda number, _wanted: number in ROLLOVERS,
}
_ROLLOVER: Final[tuple[Literal[0], Literal[1]]] = (0, 1)
