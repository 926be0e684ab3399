"""Which tier a scenario is played on: the most real one of its list that this machine offers.

A tier is found out by trying it, never by looking at a version or a user id.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from bench.errors import BadInput, MachineLacks
from bench.scenario import TIERS, Scenario, nearest
from bench.wire.contracts import Capability


def _tap() -> Capability:
    from bench.wire.tap import can_tap

    return can_tap()


def _sim() -> Capability:
    return Capability(True, "plays in memory and needs nothing")


def _qemu() -> Capability:
    from bench.qemu_nic import can_qemu

    found = can_qemu()
    return found if not found.ok else _tap()  # its frames go to a TAP


PROBES: Final[dict[str, Callable[[], Capability]]] = {"tap": _tap, "qemu": _qemu, "sim": _sim}


@dataclass(frozen=True, slots=True)
class Choice:
    """A tier, and why it is not the scenario's first choice; empty where it is."""

    tier: str
    why: str = ""


def choose_tier(
    scenario: Scenario,
    demanded: str | None,
    probes: dict[str, Callable[[], Capability]] = PROBES,
) -> Choice:
    """The tier to play on. ``BadInput`` for a wrong name, ``MachineLacks`` where none will do."""
    if demanded is not None:
        _check_name(scenario, demanded)
        found = probes[demanded]()
        if not found.ok:
            raise MachineLacks(f"tier {demanded}: {_missing(found)}")
        return Choice(demanded, "asked for by --tier" if demanded != scenario.tiers[0] else "")
    lacks: list[str] = []
    for tier in scenario.tiers:
        found = probes[tier]()
        if found.ok:
            return Choice(tier, "; ".join(lacks))
        lacks.append(f"not {tier}: {_missing(found)}")
    raise MachineLacks(f"{scenario.name} can't be played here: {'; '.join(lacks)}")


#: Tiers whose frames go through a TAP.
ON_A_TAP: Final = ("tap", "qemu")


def wants_tap(scenario: Scenario, demanded: str | None) -> bool:
    """Whether a TAP would be used if this machine let us."""
    return first_choice(scenario, demanded) in ON_A_TAP


def first_choice(scenario: Scenario, demanded: str | None) -> str:
    """The tier that is tried first."""
    return scenario.tiers[0] if demanded is None else demanded


def missing_packages(scenario: Scenario, demanded: str | None) -> list[str]:
    """Groups of scripts/debian-packages without which the first choice is out of reach."""
    from guest.qemu.vm import PROGRAM

    wants_qemu = first_choice(scenario, demanded) == "qemu"
    return ["qemu"] if wants_qemu and shutil.which(PROGRAM) is None else []


def _check_name(scenario: Scenario, demanded: str) -> None:
    if demanded not in TIERS:
        raise BadInput(
            f'no tier is named "{demanded}"{nearest(demanded, TIERS)} ({", ".join(TIERS)})'
        )
    if demanded not in scenario.tiers:
        raise BadInput(
            f"{scenario.name} is not played on tier {demanded}: its tiers are "
            f"{', '.join(scenario.tiers)} ({scenario.file})"
        )


def _missing(found: Capability) -> str:
    return f"{found.why} (cure: {found.cure})" if found.cure else found.why
