"""Where the kernel dump header goes, and what each arrangement catches: docs/footer.md.

    python -m bench.arrangements --document > docs/footer.md

The patch of 2010 sent the header first, and once more as a footer; FreeBSD sends it last, and no
footer. Each of the four arrangements meets each mishap of ``MISHAPS``, before two servers; then it
is asked who knows:

    client    it reports failure
    server    the dump has no final name
    length    who compares the file with the length in the info file sees it
    footer    who looks for a footer at the file's end sees it: there is none, or it is damaged, or
              it is not what the info file says
    verify    ``netdump-bench verify`` sees it

The last three are what a reader of the file can do, later; ``readers`` does it.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import pages
from bench.scenario import parse_scenario
from bench.servers.names import OURS, StoredDump
from bench.verdict import CaseResult
from netdump.errors import PeerError
from netdump.kdh import KDH_SIZE, KernelDumpHeader, parse_kdh
from server.infofile import render
from server.verify import WRONG, verify

#: Mishap -> arrangement -> who knows.
Table = dict[str, dict[str, str]]

NOBODY: Final = "**nobody**"
MENDED: Final = "mended"
RIGHT: Final = "all is right"


@dataclass(frozen=True, slots=True)
class Arrangement:
    """Of the header, in the words of a scenario's case."""

    profile: str
    client: str
    footer: bool
    frames: int
    """Of data, the footer's not counted."""


#: 256 KiB of dump: four chunks of 46 frames each.
_FRAMES: Final = 184
ARRANGEMENTS: Final = {
    f"header {header}{', footer' * footer}": Arrangement(
        "freebsd-14", f'header = "{header}", footer = {str(footer).lower()}', footer, _FRAMES
    )
    for header in ("first", "last")
    for footer in (False, True)
}
#: With a checksum of each message, and a digest: what the reviewer had asked for.
#: 3 frames of ELF headers, which lie elsewhere, and 179 of memory.
NETDUMP2: Final = {"netdump2": Arrangement("netdump2", 'header = "last"', False, 182)}


@dataclass(frozen=True, slots=True)
class Far:
    """A server."""

    says: str
    server: str
    arrangements: dict[str, Arrangement]
    verifies: bool


STOCK: Final = Far(
    "a server that acknowledges as netdumpd does: `--stock-acks --no-rescue`",
    "strict_finish = false, rescue = false",
    ARRANGEMENTS,
    verifies=False,
)
OUR_OWN: Final = Far("our server", "", ARRANGEMENTS | NETDUMP2, verifies=True)
SERVERS: Final = (STOCK, OUR_OWN)

#: What is cut off, or miscounted.
_PAGE: Final = 4096


@dataclass(frozen=True, slots=True)
class Mishap:
    """In the words of a scenario; ``{frames}`` stands for how many frames of data there are, with
    the footer's, ``{last}`` for the number of the last one without it.
    """

    client: str = ""
    machine: str = ""
    wire: str = ""
    cut: int = 0
    """So many bytes are lost of the file, later."""


HOLE: Final = "a hole: a frame is lost, and its twin's ack is taken for its own"
TAIL: Final = "a lost tail: the same with the last frame"
TRUNCATED: Final = "a truncated file: its last 4 KiB are lost, later"
LEFT_BEHIND: Final = "behind it lie data of an earlier dump, which was longer"
BIT: Final = "a flipped bit of the data, the UDP checksum mended"
DIES: Final = "the client dies in the middle of its data"
DIES_LAST: Final = "it dies when all data are sent, before FINISHED"

MISHAPS: Final = {
    "nothing": Mishap(),
    HOLE: Mishap(wire='does = "drop", kind = "vmcore", index = 86'),
    TAIL: Mishap(wire='does = "drop", kind = "vmcore", index = {last}'),
    TRUNCATED: Mishap(cut=_PAGE),
    "a wrong length: the header promises 4 KiB more than there are": Mishap(
        client=f"miscounts = {_PAGE}"
    ),
    "a wrong length: it promises 4 KiB less": Mishap(client=f"miscounts = {-_PAGE}"),
    LEFT_BEHIND: Mishap(client='leftover = "64 KiB"'),
    BIT: Mishap(wire='does = "mended", kind = "vmcore", index = 40, bit = 5_000'),
    "a flipped bit of the header, the UDP checksum mended": Mishap(
        wire='does = "mended", kind = "kdh", index = 0, bit = 1_000'
    ),
    DIES: Mishap(machine='lost = "power", lost_after = 100'),
    DIES_LAST: Mishap(machine='lost = "power", lost_after = {frames}'),
}

_STORY: Final = """\
title = "What a footer catches"
why = "The reviewer wanted the footer kept, because there was no checksum."
tiers = ["sim"]
[machine]
memory = "252 KiB"
load = "none"
zero_pages = false
[nic]
rx_ring = 64
tx_ring = 256
[client]
kind = {kind}
polls = 200
retries = 5
[server]
{server}
"""
_CASE: Final = """\
[[case]]
name = "{name}"
profile = "{profile}"
client = {{ {client} }}
machine = {{ {machine} }}
wire = {{ fault = [{wire}] }}
expect = {{ outcome = "complete" }}
"""
CLUMSY: Final = f"{Path(__file__).parent / 'clients' / 'clumsy.py'}:CLUMSY"


def _scenario(far: Far) -> str:
    own = "\n".join(far.server.split(", "))
    text = _STORY.format(kind=json.dumps(CLUMSY), server=own)
    for arranged in far.arrangements.values():
        for mishap in MISHAPS.values():
            text += _CASE.format(
                name=text.count("[[case]]"),
                profile=arranged.profile,
                client=", ".join(filter(None, (arranged.client, mishap.client))),
                machine=mishap.machine.format(frames=arranged.frames + arranged.footer),
                wire=f"{{ {mishap.wire.format(last=arranged.frames - 1)} }}" if mishap.wire else "",
            )
    return text


# --- who knows ------------------------------------------------------------------------------------


def readers(dump: Path, info: str, *, footer: bool) -> tuple[list[str], list[str]]:
    """What a reader of the file finds wrong, and what right: ``length``, ``footer``.

    ``footer``: the client sends one.
    """
    octets = dump.read_bytes()
    found = _header_in(octets[-KDH_SIZE:])
    length = len(octets) - KDH_SIZE * (found is not None)
    right: list[str] = []
    wrong: list[str] = []
    if promised := re.search(r"^Dump Length: (\d+)B", info, re.MULTILINE):
        (right if length == int(promised[1]) else wrong).append("length")
    if "Footer Check: Pass" in info:  # our server has looked, and cut it off
        right.append("footer")
    elif found is not None:
        agrees = not promised or _lines(render(("", 0), found)) <= _lines(info)
        (right if agrees and found.dumplength == length else wrong).append("footer")
    elif footer:
        wrong.append("footer")
    return wrong, right


def _header_in(octets: bytes) -> KernelDumpHeader | None:
    try:
        return parse_kdh(octets)
    except PeerError:
        return None


def _lines(info: str) -> set[str]:
    """What an info file says of the header."""
    return set(info.splitlines()[1:])


def who_knows(case: CaseResult, dumps: Path, far: Far, *, footer: bool) -> str:
    """A cell of the page."""
    stored: StoredDump = OURS.dumps_in(dumps)[-1]
    info = "".join(path.read_text() for path in sorted(dumps.glob("info.*.0")))
    knows = ["client"] * (case.outcome == "failed") + ["server"] * (not stored.complete)
    wrong, right = readers(stored.path, info, footer=footer)
    if stored.complete and far.verifies and verify(str(stored.path))[0] == WRONG:
        knows.append("`verify`")
    knows += wrong
    if knows == ["server"] and right:
        return f"server; it is whole by the {' and the '.join(right)}"
    if knows:
        return ", ".join(knows)
    if not (case.outcome == "complete" or _keeps_footer(case, far)):
        return NOBODY
    return MENDED if case.retransmissions + case.probes else RIGHT


def _keeps_footer(case: CaseResult, far: Far) -> bool:
    """Is all that is wrong a footer that a stock server leaves where it is?"""
    says = case.oracle_reasons.get("bytes-equal")
    return far is STOCK and says == f"{KDH_SIZE} bytes too long"


def table(far: Far) -> Table:
    """All of it."""
    cells: Iterator[tuple[str, str]] = (
        (mishap, arrangement) for arrangement in far.arrangements for mishap in MISHAPS
    )
    found: Table = {mishap: {} for mishap in MISHAPS}
    scenario = parse_scenario(_scenario(far), "arrangements", __file__)
    for (mishap, name), (case, folder) in zip(cells, pages.played(scenario), strict=True):
        dumps = folder / "dumps"
        if cut := MISHAPS[mishap].cut:
            path = OURS.dumps_in(dumps)[-1].path
            os.truncate(path, path.stat().st_size - cut)
        footer = far.arrangements[name].footer
        found[mishap][name] = who_knows(case, dumps, far, footer=footer)
    return found


def document(table_of: Callable[[Far], Table] = table) -> str:
    """The page."""
    tables = {far.says: table_of(far) for far in SERVERS}
    parts = [
        f"## Before {says}\n\n{pages.table('what happens', rows)}" for says, rows in tables.items()
    ]
    lessons = pages.bullets(_lessons(*tables.values()))
    return "\n".join([_HEAD, pages.table("who knows", _LEGEND), *parts, _SAYS, lessons])


def _lessons(stock: Table, ours: Table) -> Iterator[str]:
    """What the tables show, if they do."""
    both = (stock, ours)
    ends = (*(name for name in MISHAPS if "length" in name), LEFT_BEHIND)
    yield pages.if_so(
        all(
            "length" in row[f"header {header}"] and "footer" in row[f"header {header}, footer"]
            for table in both
            for row in (table[name] for name in ends)
            for header in ("first", "last")
        )
        and "length" in stock[TRUNCATED]["header last"]
        and "footer" in stock[TRUNCATED]["header last, footer"],
        "A footer sees that a file's end is cut off, is not where the header says, or is another "
        "dump's. So does the length, with no footer.",
    )
    yield pages.if_so(
        all(
            table[DIES_LAST]["header last"] == "server"
            and table[DIES_LAST]["header last, footer"].endswith("whole by the footer")
            and table[DIES_LAST]["header first"].endswith("whole by the length")
            for table in both
        ),
        "One thing a footer alone tells: that all data came, if the client died before its header, "
        "which goes last. With the header first the length tells it.",
    )
    yield pages.if_so(
        set(stock[HOLE].values()) == set(stock[BIT].values()) == {NOBODY},
        "It sees no hole and no flipped bit.",
    )
    yield pages.if_so(
        all(
            (stock[TAIL][f"header {h}"], stock[TAIL][f"header {h}, footer"]) == ("length", NOBODY)
            for h in ("first", "last")
        ),
        "It hides a lost tail: it stands in its place behind the hole, and the file is as long as "
        "it should be.",
    )
    yield pages.if_so(
        all(
            "length" in table[DIES][f"header first{f}"]
            and "length" not in table[DIES][f"header last{f}"]
            for table in both
            for f in ("", ", footer")
        ),
        "The header first says how much is missing of a dump that broke off; the header last does "
        "not.",
    )
    yield pages.if_so(
        not any(NOBODY in cell for cell in (row["netdump2"] for row in ours.values()))
        and NOBODY in ours[BIT]["header last, footer"],
        "The checksums of netdump2 (docs/netdump2.md) see all of this, and need no footer. A "
        "footer in their place leaves the flipped bit.",
    )
    yield pages.if_so(
        ours[DIES_LAST]["netdump2"] == "server",
        "What netdump2 does without: of a dump that broke off, nothing says whether all had come. "
        "It is kept as `.partial`.",
    )


_HEAD: Final = """\
# What a footer catches

Generated by `python -m bench.arrangements --document`; do not edit. The patch of 2010 sent the
kernel dump header first, and once more behind the data: the footer. The reviewer wanted it kept,
because there was no checksum. FreeBSD sends the header last, and no footer. Here each arrangement
meets each mishap, on tier `sim`; the client is `freebsd-14` but for its header.
"""
#: What a cell says -> what that means.
_LEGEND: Final = {
    says: {"": means}
    for says, means in {
        "client": "it reports failure",
        "server": "it does not give the dump its final name",
        "length": "who compares the file with the length in the info file",
        "footer": "who looks for one at the file's end: there is none, or it does not fit the file"
        " or the info file. (Our server looks itself, and cuts it off.)",
        "`verify`": "`netdump-bench verify`, by the manifest that our server leaves",
        NOBODY: "both call it complete, and who looks at it later finds nothing wrong",
        MENDED: "what was lost or damaged came again, and the dump is right",
    }.items()
}
_SAYS: Final = """\
## What that says
"""


if __name__ == "__main__":
    sys.exit(pages.main("bench.arrangements", __doc__, document, sys.argv[1:]))
