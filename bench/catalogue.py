"""Every part that there is, one line each, and whether this machine can play it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from bench.errors import BadInput
from bench.parts import CLIENTS, MACHINES, NICS, SERVERS, Shelf
from bench.tiers import ROWS
from bench.wire.contracts import Capability

_SHELVES: Final[tuple[tuple[str, Shelf[Any]], ...]] = (
    ("nic", NICS),
    ("machine", MACHINES),
    ("server", SERVERS),
    ("client", CLIENTS),
)


@dataclass(frozen=True, slots=True)
class Entry:
    """A part, or a tier."""

    sort: str
    name: str
    says: str
    ok: bool
    why: str
    """What was tried and what came of it."""
    cure: str = ""


def catalogue() -> list[Entry]:
    """All of them; each is tried."""
    return [*_parts(), *_tiers()]


def as_json(entries: list[Entry]) -> dict[str, Any]:
    return {"parts": [asdict(entry) for entry in entries]}


def _parts() -> Iterator[Entry]:
    for sort, shelf in _SHELVES:
        for name in shelf.names():
            try:
                part = shelf.find(name, Path())
            except BadInput as error:
                yield Entry(sort, name, "can't be loaded", False, str(error))
                continue
            # A family of NICs needs nothing by itself: our model of it plays everywhere.
            found = part.probe() if hasattr(part, "probe") else Capability(True, "")
            yield Entry(sort, name, part.says, found.ok, found.why, found.cure)


def _tiers() -> Iterator[Entry]:
    for name, row in ROWS.items():
        found = row.probe()
        yield Entry("tier", name, row.says, found.ok, found.why, found.cure)
