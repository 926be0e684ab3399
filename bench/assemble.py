"""From a resolved case to a run: which parts can be together on a tier, and the story they make.

Here, and only here, a case's parts and a tier's row meet. Each question is asked of what the part
says of itself, never of its name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.tiers import ROWS

if TYPE_CHECKING:
    from bench.scenario.schema import ResolvedCase
    from bench.story.stage import Stage
    from bench.story.told import AnyStory, Tell


def why_not(case: ResolvedCase, tier: str) -> str:
    """Why this case can't be played on that tier; empty where it can."""
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
    ends = [host for host in row.hosts if host in client.hosts]
    if not ends:
        return f"a {client.name} client can't be played there"
    if case.server.present and not any(server.plays_at(host) for host in ends):
        return f"a {server.name} server can't be played there"
    return ""


def playable(case: ResolvedCase, tier: str) -> bool:
    return not why_not(case, tier)


def _with(*, emulated: bool) -> str:
    names = [tier for tier, row in ROWS.items() if row.emulated == emulated]
    return f"tier {' or '.join(names)}"


def make_story(case: ResolvedCase, stage: Stage, seed: int, tell: Tell) -> AnyStory:
    """The run of this case: its machine's, or its client's where that brings its own."""
    make = case.client_part.kind.story or case.machine_part.kind.story
    return make(case, stage, seed, tell)
