"""Which tier a scenario is played on: the most real one of its list that this machine offers.

A tier is a row of parts (``ROWS``). It is found out by trying it, never by looking at a version or
a user id; and so is the host that its wire ends at, where the row has more than one.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bench.errors import BadInput, MachineLacks
from bench.kinds import Host
from bench.spelling import nearest
from bench.wire.contracts import Capability

if TYPE_CHECKING:
    from bench.scenario.schema import Scenario


def _tap() -> Capability:
    from bench.wire.tap import can_tap

    return can_tap()


def _sim() -> Capability:
    return Capability(True, "plays in memory and needs nothing")


def _qemu() -> Capability:
    from bench.qemu_nic import can_qemu

    return can_qemu()


MIB: Final = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """What a tier is made of, besides its machine."""

    says: str
    probe: Callable[[], Capability]
    """Tries whether this machine can play it."""
    emulated: bool
    """The machine's memory and the silicon are QEMU's; else they are ours."""
    hosts: tuple[Host, ...]
    """Those that its wire can end at, the most real one first."""
    virtual: bool
    """Time moves when somebody waits, and at no other moment: a run is a pure function of scenario
    and seed, and a line rate is what the scenario says."""
    budget_ns: int
    """How long a run may take on the run's own clock before it counts as hung."""
    settle_us: int
    """The longest that a server may take for a few dozen messages, besides the way there and back.
    A real one may have to wait for its turn on a busy machine; FreeBSD's client gives it 12 s.
    """
    copies: int
    """Of the machine's memory that a run holds; twice as many are mapped at the most."""
    programs: int
    """Bytes of the bench, the server and QEMU themselves."""
    mark: tuple[float, int]
    """What a run may take at the most: so many times the dump, and so many MiB."""


ROWS: Final[dict[str, Row]] = {
    "tap": Row(
        says="our silicon, a TAP into a network namespace, real time",
        probe=_tap,
        emulated=False,
        hosts=("namespace",),
        virtual=False,
        budget_ns=300 * 10**9,
        settle_us=30_000_000,
        copies=1,
        programs=130 * MIB,
        mark=(1.5, 150),
    ),
    "qemu": Row(
        says="QEMU's silicon, a TAP where there can be one, real time",
        probe=_qemu,
        emulated=True,
        hosts=("namespace", "simulated"),
        virtual=False,
        budget_ns=300 * 10**9,
        settle_us=30_000_000,
        copies=2,
        programs=260 * MIB,
        mark=(2.5, 300),
    ),
    "sim": Row(
        says="our silicon, a wire and a host in memory, virtual time",
        probe=_sim,
        emulated=False,
        hosts=("simulated",),
        virtual=True,
        budget_ns=3600 * 10**9,
        settle_us=400_000,
        copies=1,
        programs=100 * MIB,
        mark=(1.5, 150),
    ),
}

PROBES: Final[dict[str, Callable[[], Capability]]] = {name: row.probe for name, row in ROWS.items()}


@dataclass(frozen=True, slots=True)
class Choice:
    """A tier and the host at its far end, and why they are not the first choice; empty where they
    are.
    """

    tier: str
    why: str = ""
    host: Host = "namespace"


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
        return _with_host(
            demanded, ["asked for by --tier"] * (demanded != scenario.tiers[0]), probes
        )
    lacks: list[str] = []
    for tier in scenario.tiers:
        found = probes[tier]()
        if found.ok:
            return _with_host(tier, lacks, probes)
        lacks.append(f"not {tier}: {_missing(found)}")
    raise MachineLacks(f"{scenario.name} can't be played here: {'; '.join(lacks)}")


def _with_host(tier: str, why: list[str], probes: dict[str, Callable[[], Capability]]) -> Choice:
    """The most real host of the tier's row. A row of one needs no question: its tier was tried."""
    first, *others = ROWS[tier].hosts
    found = probes["tap"]() if others else None
    if found is None or found.ok:
        return Choice(tier, "; ".join(why), first)
    lacks = _missing(found)
    said = any(lacks in line for line in why)
    why = [*why, WITHOUT_TAP if said else f"{WITHOUT_TAP} ({lacks})"]
    return Choice(tier, "; ".join(why), others[0])


#: What a verdict says of a run whose tier could have had a TAP.
WITHOUT_TAP: Final = "no TAP: the wire ends at the simulated host, with the server in process"


def wants_tap(tier: str) -> bool:
    """Whether a TAP would be used if this machine let us. A name that is none is told later."""
    return tier in ROWS and "namespace" in ROWS[tier].hosts


def first_choice(scenario: Scenario, demanded: str | None) -> str:
    """The tier that is tried first."""
    return scenario.tiers[0] if demanded is None else demanded


def missing_packages(scenario: Scenario, demanded: str | None) -> list[str]:
    """Groups of scripts/debian-packages without which the first choice is out of reach."""
    from guest.qemu.vm import PROGRAM

    row = ROWS.get(first_choice(scenario, demanded))
    return ["qemu"] if row is not None and row.emulated and shutil.which(PROGRAM) is None else []


def _check_name(scenario: Scenario, demanded: str) -> None:
    if demanded not in ROWS:
        raise BadInput(
            f'no tier is named "{demanded}"{nearest(demanded, ROWS)} ({", ".join(ROWS)})'
        )
    if demanded not in scenario.tiers:
        raise BadInput(
            f"{scenario.name} is not played on tier {demanded}: its tiers are "
            f"{', '.join(scenario.tiers)} ({scenario.file})"
        )


def _missing(found: Capability) -> str:
    return f"{found.why} (cure: {found.cure})" if found.cure else found.why
