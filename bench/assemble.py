"""From a resolved case to a run: which parts can be together on a tier, and the story they make.

Here, and only here, a case's parts and a tier's row meet. Each question is asked of what the part
says of itself, never of its name.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bench.kinds import Host, Kind
from bench.tiers import ROWS
from bench.wire.contracts import Capability

if TYPE_CHECKING:
    from bench.scenario.schema import ResolvedCase
    from bench.story.stage import Stage
    from bench.story.told import AnyStory, Tell


#: What was found out about kinds. A server's and a client's may have the same name.
Tried = dict[tuple[type[Kind], str], Capability]


def why_not(case: ResolvedCase, tier: str, host: Host | None = None) -> str:
    """Why this case can't be played on that tier; empty where it can. ``host``: what the wire ends
    at; None: any that the tier may have.
    """
    row = ROWS[tier]
    if case.forbidden:
        return case.forbidden
    machine, server, client = (
        case.machine_part.kind,
        case.server_part.kind,
        case.client_part.kind,
    )
    if machine.emulated and not row.emulated:
        return f"a {machine.name} machine needs {_with(emulated=True)}"
    if not client.drives and row.emulated:
        return f"a {client.name} client is on the wire by itself: it needs {_with(emulated=False)}"
    if row.emulated and client.drives and case.family.on_qemu is None:
        return f"QEMU has no {case.family.name}"
    there = row.hosts if host is None else (host,)
    ends = [end for end in there if end in client.hosts]
    where = f"tier {tier}" if host is None else f"tier {tier} with the {host} host"
    if not ends:
        return f"a {client.name} client can't be played on {where}"
    speaks = server.transport(case.server_part.options)
    if case.server.present and client.transport not in (None, speaks):
        return f"a {client.name} client speaks {client.transport}, a {server.name} server {speaks}"
    if case.server.present and not any(server.plays_at(end) for end in ends):
        return f"a {server.name} server can't be played on {where}"
    return ""


def lacks(case: ResolvedCase, tried: Tried) -> Capability | None:
    """What this machine lacks for a part of the case: a Docker engine, say; None: nothing.
    ``tried``: what was found out before, by kind.
    """
    kinds: list[Kind] = [case.client_part.kind]
    kinds += [case.server_part.kind] if case.server.present else []
    for kind in kinds:
        which = type(kind), kind.name
        if which not in tried:
            tried[which] = kind.probe()
        found = tried[which]
        if not found.ok:
            return replace(found, why=f"no {kind.name}: {found.why}")
    return None


def playable(case: ResolvedCase, tier: str) -> bool:
    return not why_not(case, tier)


def _with(*, emulated: bool) -> str:
    names = [tier for tier, row in ROWS.items() if row.emulated == emulated]
    return f"tier {' or '.join(names)}"


def make_story(case: ResolvedCase, stage: Stage, seed: int, tell: Tell) -> AnyStory:
    """The run of this case: its machine's, or its client's where that brings its own."""
    make = case.client_part.kind.story or case.machine_part.kind.story
    return make(case, stage, seed, tell)
