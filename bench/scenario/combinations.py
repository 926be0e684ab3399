"""Keys that are right by themselves and impossible together.

A rule names the key to blame, asks a question about a resolved case, and says what is wrong. They
are asked of each case with its overrides merged, so a mistake that only one case makes is found
where that case makes it. What a part can't do it says itself (``Kind.rules``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bench.assemble import why_not
from bench.scenario.positions import Path
from bench.scenario.schema import (
    Case,
    Document,
    ResolvedCase,
    Wire,
)
from bench.wire import actions
from bench.wire.actions import ACTIONS, ETHERNET_HEADER
from bench.wire.kinds import ONLY


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
        if fault.direction not in ("both", ONLY.get(fault.kind, fault.direction)):
            yield (*path, "direction"), f"no {fault.kind} frame ever travels {fault.direction}"
        row = ACTIONS[fault.does]
        for name in actions.SETTINGS:
            given = name in fault.model_fields_set
            if given and row.setting != name:
                users = ", ".join(does for does, other in ACTIONS.items() if other.setting == name)
                yield (*path, name), f"is for {users}: {fault.does} has no use for it"
            if not given and row.setting == name and row.needs_setting:
                yield path, f"{fault.does} needs {name}"


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


def _lost_frame(document: Document, path: Path) -> Iterator[tuple[Path, str]]:
    first = document.wire.fault[0] if document.wire.fault else None
    if first is None:
        yield path, "there is no frame to lose: it sets the index of the first [[wire.fault]]"
    elif first.does != "drop" or first.index is None:
        yield path, "it sets the index of the first [[wire.fault]]: that must drop by index"


def tiers(document: Document, cases: Sequence[ResolvedCase]) -> Iterator[tuple[Path, str]]:
    """Tiers on which there is nothing to play."""
    for number, tier in enumerate(document.tiers):
        why = [why_not(case, tier) for case in cases]
        if all(why):
            yield ("tiers", number), f"no case can be played on {tier}: {why[0]}"


def settings(case: ResolvedCase) -> Iterator[tuple[Path, str]]:
    """What is wrong with the rest, once merged: what the parts themselves can't do."""
    for part in (case.machine_part, case.server_part, case.client_part):
        for path, impossible, says in part.kind.rules:
            if impossible(case):
                yield path, says
    if case.sweep_over == "panic-step" and case.machine_part.kind.count_steps is None:
        yield ("sweep",), f"a {case.machine.kind} machine has no steps of ours to strike at"
    longest = case.nic.mtu + ETHERNET_HEADER
    for i, fault in enumerate(case.wire.fault):
        if fault.length is not None and fault.length >= longest:
            says = f"cuts nothing: at this nic.mtu no frame is longer than {longest} bytes"
            yield ("wire", "fault", i, "length"), says
    if case.server.lost_after is not None and not case.server.present:
        yield ("server", "lost_after"), "there is no server"
    if case.server.lost_times > 1 and case.server.back_ms is None:
        yield ("server", "lost_times"), "none comes up again: give back_ms"
    if case.server.back_ms is not None and case.server.lost_after is None:
        yield ("server", "back_ms"), "it never goes: give lost_after"
    if not case.server.present and case.expect.outcome in ("complete", "silent-hole"):
        yield ("expect", "outcome"), "there is no server, so no dump is claimed"
