"""Keys that are right by themselves and impossible together.

A rule names the key to blame, asks a question about a resolved case, and says what is wrong. They
are asked of each case with its overrides merged, so a mistake that only one case makes is found
where that case makes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from bench.scenario.positions import Path
from bench.scenario.schema import (
    CLIENT_KINDS,
    SERVER_KINDS,
    Case,
    Document,
    ResolvedCase,
    Sweep,
    Wire,
)
from netdump.profiles import PROFILES

#: IPv4, UDP and netdump headers.
_HEADERS: Final = 52

#: (key to blame, when, what is wrong). Of machine, nic, network, server and client.
SETTINGS: Final[tuple[tuple[Path, Callable[[ResolvedCase], bool], str], ...]] = (
    (
        ("machine", "panic_cpu"),
        lambda c: c.machine.panic_cpu >= c.machine.cpus,
        "no such CPU: they are numbered from 0 and machine.cpus counts them",
    ),
    (
        ("machine", "panic_at"),
        lambda c: c.machine.panic_at is not None and c.machine.panic_during == "idle",
        "a machine at idle has no steps: set machine.panic_during to transmit or interrupt",
    ),
    (
        ("client", "path"),
        lambda c: len((c.client.path or "").encode()) + 1 > c.nic.mtu - _HEADERS,
        "with its NUL it does not fit one HERALD at this nic.mtu",
    ),
    (
        ("client", "selective_acks"),
        lambda c: bool(c.client.selective_acks) and PROFILES[c.profile].window != "sliding",
        "the stock clients' bitmap can't take them: they are for netdump2",
    ),
    (
        ("machine", "panic_during"),
        lambda c: c.machine.panic_during != "idle" and c.machine.load == "none",
        "there is no such work to panic in: machine.load is 'none'",
    ),
    (
        ("machine", "panic_during"),
        lambda c: c.sweep_over == "panic-step" and c.machine.panic_during == "idle",
        "a sweep over panic steps needs work: set it to transmit or interrupt",
    ),
    (
        ("machine", "memory"),
        lambda c: c.machine.kind == "linux" and not _whole_mib(c.machine.memory, 96, 3072),
        "a Linux guest boots in whole MiB of memory, from 96 MiB to 3 GiB",
    ),
    (
        ("machine", "arena"),
        lambda c: c.machine.kind == "linux" and not _whole_mib(c.machine.arena, 1, 256),
        "on top of a Linux guest's memory the arena is whole MiB, at most 256",
    ),
    (
        ("machine", "panic_during"),
        lambda c: c.machine.kind == "linux" and c.machine.panic_during != "idle",
        "the steps of a Linux guest's own driver are not ours to stop at: leave it idle",
    ),
    (
        ("machine", "lost"),
        lambda c: c.machine.kind != "linux" and c.machine.lost == "reset",
        "only a Linux guest boots again after a reset: write power",
    ),
    (
        ("machine", "cpus"),
        lambda c: c.machine.kind == "linux" and c.machine.cpus > 64,
        "a Linux guest has 64 CPUs at most",
    ),
    (
        ("nic", "mode"),
        lambda c: c.machine.kind == "linux" and c.nic.mode == "locked",
        "nobody in a Linux guest ever holds our driver's locks: it can only be polled",
    ),
    (
        ("machine", "starve_mbufs"),
        lambda c: c.machine.kind == "linux" and c.machine.starve_mbufs,
        "a Linux guest's allocator is its own: crash it with 'oom' to starve it",
    ),
    (
        ("machine", "netconsole"),
        lambda c: (
            c.machine.netconsole and (c.machine.kind != "linux" or c.machine.notice != "console")
        ),
        "only a Linux guest has it, and only one that prints to its end: set notice to 'console'",
    ),
    (
        ("network", "gateway"),
        lambda c: c.machine.kind == "linux" and c.network.gateway and c.machine.load == "heavy",
        "a Linux guest has no route to a peer behind a gateway: its load can't be heavy",
    ),
)


def _whole_mib(size: int, least: int, most: int) -> bool:
    return size % (1 << 20) == 0 and least <= size >> 20 <= most


def faults(document: Document) -> Iterator[tuple[Path, str]]:
    """What is wrong with the wire, the document's and a case's own."""
    wires: list[tuple[Path, Wire]] = [(("wire",), document.wire)]
    wires += [(("case", i, "wire"), case.wire) for i, case in enumerate(document.case)]
    for whose, wire in wires:
        yield from _faults(whose, wire)


def _faults(whose: Path, wire: Wire) -> Iterator[tuple[Path, str]]:
    for i, fault in enumerate(wire.fault):
        path: Path = (*whose, "fault", i)
        if (fault.chance is None) == (fault.index is None):
            yield path, "give exactly one of chance and index"
        for kinds, direction in ((CLIENT_KINDS, "to-client"), (SERVER_KINDS, "to-server")):
            if fault.kind in kinds and fault.direction == direction:
                yield (*path, "direction"), f"no {fault.kind} frame ever travels {direction}"


def expectations(document: Document, case: Case, number: int) -> Iterator[tuple[Path, str]]:
    """What is wrong with a case's sweep and with what it expects."""
    path: Path = ("case", number)
    expect, sweep = case.expect, case.sweep
    if not expect.outcome and not expect.oracle_broken:
        yield (*path, "expect"), "expects nothing: give outcome or oracle_broken"
    if (expect.at is None) != (expect.otherwise is None):
        yield (*path, "expect"), "at and otherwise come together"
    if expect.at is not None:
        if sweep is None:
            yield (*path, "expect", "at"), "at needs a sweep"
        elif sweep.values is not None and (strange := set(expect.at) - set(sweep.values)):
            yield (*path, "expect", "at"), f"the sweep never gets to {min(strange)}"
        if expect.outcome is None:
            yield (*path, "expect", "at"), "at says where an outcome is expected: give outcome"
    if expect.error and expect.outcome not in (None, "failed"):
        yield (*path, "expect", "error"), f"a dump that ends {expect.outcome!r} reports no error"
    if expect.error and expect.at is not None:
        yield (*path, "expect", "error"), "at and otherwise know no error"
    if sweep is not None and sweep.over == "lost-frame":
        yield from _lost_frame(document, (*path, "sweep"))
    if sweep is not None and sweep.over == "panic-step":
        yield from _panic_step(document, case, sweep, path)


def _lost_frame(document: Document, path: Path) -> Iterator[tuple[Path, str]]:
    first = document.wire.fault[0] if document.wire.fault else None
    if first is None:
        yield path, "there is no frame to lose: it sets the index of the first [[wire.fault]]"
    elif first.does != "drop" or first.index is None:
        yield path, "it sets the index of the first [[wire.fault]]: that must drop by index"


def _panic_step(
    document: Document, case: Case, sweep: Sweep, path: Path
) -> Iterator[tuple[Path, str]]:
    if document.machine.panic_at is not None or case.machine.panic_at is not None:
        yield (*path, "sweep"), f"{sweep.over} sets machine.panic_at, which is given already"


def tiers(document: Document, cases: Sequence[ResolvedCase]) -> Iterator[tuple[Path, str]]:
    """Tiers on which there is nothing to play."""
    for number, tier in enumerate(document.tiers):
        if not any(playable(case, tier) for case in cases):
            yield ("tiers", number), f"no case can be played on {tier}: a Linux guest needs qemu"


def playable(case: ResolvedCase, tier: str) -> bool:
    """A Linux guest needs a tier that has one; everything else plays everywhere."""
    return case.machine.kind != "linux" or tier == "qemu"


def settings(case: ResolvedCase) -> Iterator[tuple[Path, str]]:
    """What is wrong with the rest, once merged."""
    for path, impossible, says in SETTINGS:
        if impossible(case):
            yield path, says
    if not case.server.present and case.expect.outcome in ("complete", "silent-hole"):
        yield ("expect", "outcome"), "nobody claims success where there is no server"
