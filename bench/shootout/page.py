"""docs/protocol-shootout.md: made of ``Results``, and of nothing else.

Figures are those of the run. A sentence that draws a conclusion names what has to be so for it
(``pages.if_so``): where a run does not show it there is no page.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bench.pages import bullets, if_so, table
from bench.shootout.field import (
    BACK_MS,
    BY_LOSS,
    BY_ROUND_TRIP,
    CLEAN,
    CONTESTANTS,
    LOST_AFTER,
    NETDUMP2,
    ONE_PERCENT,
    RESCUED,
    RESTART,
    STOCK,
    TFTP,
    WIDEST,
    WINDOWS,
    Condition,
    Contestant,
)
from bench.shootout.play import Cell, Results
from bench.stations import NOBODY

#: Of its files in docs/.
NAME: Final = "protocol-shootout"
#: Plot -> what it shows.
PLOTS: Final = {
    "shootout-loss.svg": "rate by loss",
    "shootout-round-trip.svg": "rate by round trip",
    "shootout-cost.svg": "packets, lines of code, bytes of state",
}
#: Outcomes in which the client says that all went well, and it did not.
WRONG: Final = ("silent-hole", "false-success")


def show(value: float) -> str:
    """Three digits, or all of a larger number's."""
    rounded = float(f"{value:.3g}")
    for least, digits in ((100, 0), (10, 1), (1, 2)):
        if rounded >= least:
            return f"{value:,.{digits}f}"
    return f"{value:.3f}"


def rate_of(cell: Cell) -> str:
    """MB/s, and whether what arrived is right."""
    if cell.outcome == "complete":
        return show(cell.rate)
    if cell.outcome in WRONG:
        return f"{show(cell.rate)}, **wrong**"
    return f"{cell.outcome} ({cell.error})" if cell.error else cell.outcome


def page(results: Results) -> str:
    """The document."""
    loss, trip, cost = PLOTS
    return "\n".join(
        [
            _HEAD.format(memory=results.memory),
            table("contestant", {one.name: {"is": one.says} for one in CONTESTANTS}),
            _LOSS.format(plot=loss),
            _rates(results, {condition.loss: condition for condition in BY_LOSS}, "MB/s by loss"),
            _TRIP.format(plot=trip),
            _rates(
                results,
                {f"{c.round_trip_us / 1000:g} ms": c for c in BY_ROUND_TRIP},
                "MB/s by round trip",
            ),
            _NOTICED,
            table("the bit is in", results.noticed),
            _RESTARTS.format(lost=LOST_AFTER, back=BACK_MS),
            table(
                "contestant",
                {name: _restart(row[str(RESTART)]) for name, row in results.cells.items()},
            ),
            _COST.format(plot=cost, shared=results.shared_lines),
            table("contestant", {one.name: _costs(results, one) for one in CONTESTANTS}),
            _ANSWERS,
            "### Did you consider TFTP?\n",
            bullets(_of_tftp(results)),
            "### Have you thought of a checksum?\n",
            bullets(_of_a_checksum(results)),
        ]
    )


def _rates(results: Results, columns: dict[str, Condition], corner: str) -> str:
    rows = {
        name: {head: rate_of(row[str(condition)]) for head, condition in columns.items()}
        for name, row in results.cells.items()
    }
    return table(corner, rows)


def _restart(cell: Cell) -> dict[str, str]:
    name = Path(cell.kept_as)
    return {
        "it ends": f"{cell.outcome} ({cell.error})" if cell.error else cell.outcome,
        "after": f"{show(cell.seconds)} s",
        "on the disk": f"{show(cell.kept / (1 << 20))} MiB, `{name}`" if cell.kept else "nothing",
    }


def _costs(results: Results, one: Contestant) -> dict[str, str]:
    code = results.code[one.name]
    return {
        **{
            f"packets/MiB, {condition.loss} lost": show(
                results.cells[one.name][str(condition)].packets_per_mib
            )
            for condition in (CLEAN, ONE_PERCENT)
        },
        "lines of its own": f"{code.own:,}",
        "bytes reserved": f"{code.reserved:,}",
    }


# --- what one would now answer --------------------------------------------------------------------


def _of_tftp(results: Results) -> Iterator[str]:
    def cell(one: Contestant, condition: Condition = CLEAN) -> Cell:
        return results.cells[one.name][str(condition)]

    def rate(one: Contestant, condition: Condition = CLEAN) -> float:
        return cell(one, condition).rate

    def shown(one: Contestant, condition: Condition = CLEAN) -> str:
        return f"{show(rate(one, condition))} MB/s"

    lines = (*BY_LOSS, *BY_ROUND_TRIP[1:])
    lossy = BY_LOSS[1:]
    percent = ONE_PERCENT
    far = BY_ROUND_TRIP[-1]
    trip = f"{far.round_trip_us / 1000:g} ms"
    holes = sum(cell(STOCK, condition).outcome in WRONG for condition in lossy)

    yield if_so(
        all(
            cell(one, condition).outcome == "complete"
            for one in (TFTP, WINDOWS, WIDEST)
            for condition in lines
        ),
        "Yes: it was played, and it is right. Each dump by TFTP came whole, over each line.",
    )
    yield if_so(
        holes > 0 and all(cell(RESCUED, condition).outcome == "complete" for condition in lossy),
        f"Stock netdump is not: of {len(lossy)} dumps over a line that loses, {holes} had a hole,"
        " and both sides called them complete. TFTP would have been the safer choice. (Our server"
        " keeps the same client from it: `docs/server.md`.)",
    )
    yield if_so(
        rate(TFTP, far) * 10 < rate(TFTP),
        f"A block at a time is a block a round trip: {shown(TFTP)} on a near line,"
        f" {shown(TFTP, far)} at {trip}.",
    )
    yield if_so(
        rate(WINDOWS) > rate(TFTP) and rate(WINDOWS, percent) * 2 < rate(WINDOWS),
        f"Windows mend that, as long as nothing is lost: {shown(WINDOWS)} against"
        f" {shown(STOCK)} of stock netdump. Each loss costs a wait: at {percent.loss} it is"
        f" {shown(WINDOWS, percent)}.",
    )
    yield if_so(
        all(
            rate(NETDUMP2, condition) > rate(one, condition)
            for one in (TFTP, WINDOWS, WIDEST)
            for condition in lossy
        ),
        f"netdump2 does {shown(NETDUMP2, percent)} there, for it knows which frames are missing"
        f" and sends those. At {trip} it does {shown(NETDUMP2, far)}, TFTP in its largest windows"
        f" {shown(WIDEST, far)}.",
    )
    too = cell(NETDUMP2, RESTART).outcome == "complete"
    yield if_so(
        all(cell(one, RESTART).outcome != "complete" for one in (TFTP, WINDOWS, WIDEST)),
        "What it can't do at any speed: fill a hole, say who writes, say whether a file is whole"
        " (`docs/tftp.md`), or go on when a server has come back"
        + (", as netdump2 does." if too else ". (The last netdump2 can't do either.)"),
    )
    own = {one: results.code[one.name].own for one in (TFTP, STOCK, NETDUMP2)}
    yield if_so(
        2 * own[STOCK] / 3 < own[TFTP] < own[NETDUMP2],
        f"Its client is hardly simpler: {own[TFTP]:,} lines of its own, {own[STOCK]:,} for netdump,"
        f" whose modules serve netdump2's keys, too, {own[NETDUMP2]:,} for netdump2.",
    )
    yield (
        "So: where no server can be installed, TFTP, for its servers are there already; in windows,"
        " if they know them. Where one's own can be, netdump2. Stock netdump only into a server"
        " that keeps it from its holes."
    )


def _of_a_checksum(results: Results) -> Iterator[str]:
    stations = len(results.noticed)

    def missed(client: str) -> list[str]:
        return [place for place, row in results.noticed.items() if row[client] == NOBODY]

    stock, tftp, ours = missed("freebsd-14"), missed("TFTP"), missed("netdump2")
    yield if_so(
        len(stock) > stations // 2 and set(stock) <= set(tftp),
        f"UDP's alone does not do. Of {stations} places where a bit can flip between memory and"
        f" disk, a stock client before our server misses {len(stock)}, and TFTP {len(tftp)}.",
    )
    yield if_so(
        ours == ["memory, before any checksum"],
        "netdump2 has a CRC32C of each message and a digest of the dump, which the server holds"
        " against what it reads back from its disk. It misses one: memory that decays before any"
        " sum was made of it. No protocol can see that.",
    )
    yield (
        "It costs no packet: the CRC is in a word of each header that was spare, the digest in"
        " FINISHED, which was empty."
    )
    yield (
        "The footer, which was to be kept for want of a checksum, does not do in its place:"
        " `docs/footer.md`."
    )


_HEAD: Final = """\
# Netdump, netdump2 and TFTP

Generated by `make shootout`; do not edit. In October 2010 the reviewer of the netdump patch asked:
did you consider TFTP? and: have you thought of a checksum? Here all are played, and the answers at
the end are made of the figures above them.

Each dump is one of {memory}, on tier `sim`: a modelled line of 1 Gbit/s, and virtual time. So a
rate is the protocol's, with the waits of its client, and comes out the same on each machine. (How
fast the programs are on a real line, next to tftpd-hpa, `make bench` tells.) One seed, one run of
each; `protocol-shootout.json` has all that came of it.
"""
_LOSS: Final = """\
## Rate by loss

MB/s of dump, from the panic to the end; a round trip of 0.1 ms. Frames are lost by chance, so many
of all, each way. **wrong**: both sides call it complete, and it is not what memory held.

![rate by loss]({plot})
"""
_TRIP: Final = """\
## Rate by round trip

Nothing is lost.

![rate by round trip]({plot})
"""
_NOTICED: Final = """\
## Which corruptions are noticed, and by whom

One bit flips once, in one place; `docs/who-notices.md` says what the words mean.
"""
_RESTARTS: Final = """\
## The server restarts

It is killed when {lost:,} frames of data have come, and {back} ms later another one is there, over
the same folder. Our netdump server has written down what that one needs, and it goes on where the
first one was; a server that behaves as netdumpd does not. Of a dump that failed what had come is
kept, and our servers say by its name that it is not whole. (A stock TFTP server's file has the name
of a whole one: `docs/tftp.md`.)
"""
_COST: Final = """\
## Packets, code and state

Packets of all kinds, both ways. Lines of the client's own code, without comments; {shared:,} more,
of the link and the dump, are the same for all. Bytes are what the client reserves at boot, besides
the NIC's buffers.

![packets, lines of code, bytes of state]({plot})
"""
_ANSWERS: Final = """\
## What one would now answer
"""
