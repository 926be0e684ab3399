"""The manifest of a dump: what is stored, how it came, and what of that was verified.

``manifest.HOST.N``, JSON, beside ``vmcore.HOST.N``. It is for programs, and for later: a copy of
the dump is checked against it (``verify.py``). It is written once, at the dump's end, when all in
it is known; of a dump whose server died there is none.

What was not verified is said as plainly as what was: a stock client sends neither checksum nor
digest, so nobody can tell whether what is stored is what it sent.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from netdump.digest import NAME, Digest, Hasher
from netdump.kdh import KernelDumpHeader
from netdump.offer import AUTHENTICATION, CRC32C, DIGEST
from netdump.opening import Facts as Announced

#: Seconds since the epoch, for people; None where there is no clock.
WallClock = Callable[[], float | None]

#: The version of the format.
VERSION: Final = 1
#: Holes and refusals that are named; a hostile client can make many.
_MOST: Final = 1024


def no_clock() -> None:
    """For a server in virtual time."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a manifest is made of. Times are seconds."""

    dump: str
    """The dump's file."""
    status: str
    """complete, incomplete, failed."""
    outcome: str
    """As the info file's last line."""
    length: int
    """Of the file, bytes."""
    digest: Digest | None
    """Of the file, as it was read back."""
    from_disk: bool
    """It was read back from the disk, and not from the kernel's cache."""
    client_digest: Digest | None
    """As FINISHED had it."""
    key: tuple[str, bytes] | None
    """Of one with a key block: its file, and what is read back of it; None: there is none, or it
    can't be read."""
    holes: list[tuple[int, int]]
    header: KernelDumpHeader | None
    client: tuple[str, int]
    taken: int
    """``offer.py``'s bits."""
    strict: bool
    """Completeness was looked at."""
    refused: Mapping[str, str]
    """Reason -> sentence."""
    announced: Announced | None
    """What an authenticated client said beforehand."""
    seconds: float
    """From the HERALD to the last message."""
    began: float | None
    ended: float | None
    """Since the epoch, where there is a clock."""


def render(facts: Facts) -> str:
    """The file's text."""
    header, digest = facts.header, facts.digest
    verified, unverified = _verified(facts)
    told: dict[str, Any] = {
        "manifest": VERSION,
        "dump": facts.dump,
        "status": facts.status,
        "outcome": facts.outcome,
        "length": facts.length,
        "promised": None if header is None else header.dumplength,
        "digest": None
        if digest is None
        else {"algorithm": NAME, "value": digest.value.hex(), "length": digest.length},
        "key": None if facts.key is None else _key(*facts.key),
        "holes": [list(hole) for hole in facts.holes[:_MOST]],
        "holes_in_all": len(facts.holes),
        "client": {
            "address": facts.client[0],
            "port": facts.client[1],
            "hostname": None if header is None else header.hostname,
            "architecture": None if header is None else header.architecture,
            "panic": None if header is None else header.panicstring,
        },
        "protocol": {
            "name": "netdump2" if facts.taken else "netdump",
            "crc32c": bool(facts.taken & CRC32C),
            "digest": bool(facts.taken & DIGEST),
            "authenticated": bool(facts.taken & AUTHENTICATION),
        },
        "announced": None
        if facts.announced is None
        else {
            "length": facts.announced.length,
            "hostname": facts.announced.hostname,
            "architecture": facts.announced.architecture,
            "panic": facts.announced.panicstring,
        },
        "times": {
            "began": _time(facts.began),
            "ended": _time(facts.ended),
            "seconds": round(facts.seconds, 6),
        },
        "refused": dict(list(facts.refused.items())[:_MOST]),
        "verified": verified,
        "not_verified": unverified,
    }
    return json.dumps(told, indent=2) + "\n"


def _key(file: str, octets: bytes) -> dict[str, Any]:
    hasher = Hasher()
    hasher.update(octets)
    value = hasher.digest().value.hex()
    return {"file": file, "algorithm": NAME, "value": value, "length": len(octets)}


def _verified(facts: Facts) -> tuple[list[str], list[str]]:
    """What was, and what was not, a phrase each."""
    good: list[str] = []
    bad: list[str] = []

    def say(held: bool, yes: str, no: str) -> None:
        (good if held else bad).append(yes if held else no)

    say(
        facts.strict and facts.status == "complete",
        "it has no hole and the length that its header promises",
        "it is not known to be whole",
    )
    if facts.taken & AUTHENTICATION:
        good.append("the tag of each message: all came from a client that has the key, undamaged")
    else:
        bad.append("the client has not proved who it is: anybody on its network may have sent this")
        say(
            bool(facts.taken & CRC32C),
            "the CRC32C of each message",
            "the client sent no CRC32C: damage on the way may have passed the UDP checksum",
        )
    if not facts.taken & DIGEST:
        bad.append("the client sent no digest: what is stored may not be what its memory held")
    elif facts.client_digest is None:
        bad.append("the client's digest did not come")
    else:
        say(
            facts.digest == facts.client_digest,
            "the digest of the file is the client's",
            "the digest of the file is not known to be the client's",
        )
    if facts.header is not None and facts.header.dumpkeysize:
        if facts.key is None:
            bad.append("there is no key file, or it can't be read")
        bad.append("the key block is in no digest of the client's")
    if facts.digest is None:
        bad.append("the file was not read back to its end")
    else:
        say(
            facts.from_disk,
            "the file was read back from the disk",
            "the file was read back, perhaps from the kernel's cache and not from the disk"
            " (--fsync none)",
        )
    return good, bad


def _time(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
