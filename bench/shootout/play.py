"""One run of each contestant under each condition, and all else that the page says.

``Results`` is what came of it: plain data, which ``docs/protocol-shootout.json`` holds. Page and
plots are made of that and of nothing else, so no figure of theirs is another run's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

from bench import pages, stations
from bench.scenario import Scenario, expand_cases, parse_scenario
from bench.servers.names import files_in
from bench.shootout.field import (
    BACK_MS,
    CLEAN,
    CONDITIONS,
    CONTESTANTS,
    LOST_AFTER,
    MEMORY,
    SHARED,
    Condition,
    Contestant,
)
from bench.shootout.lines import count, reserved
from bench.verdict import CaseResult

_STORY: Final = """\
title = "The shoot-out"
why = "Did you consider TFTP?"
tiers = ["sim"]
[machine]
memory = "{memory}"
load = "none"
[network]
latency_us = {latency_us}
[client]
{client}
[server]
{server}
[[case]]
{case}
expect = {{ outcome = "complete" }}
"""
_LOSS: Final = """\
[[wire.fault]]
does = "drop"
chance = "{chance}"
"""
_RESTART: Final = f"""
lost_after = {LOST_AFTER}
back_ms = {BACK_MS}"""


@dataclass(frozen=True, slots=True)
class Cell:
    """What one run came to."""

    outcome: str
    """One of the verdict's."""
    error: str
    seconds: float
    """Of virtual time, from the panic to the end of the dump."""
    dump_bytes: int
    frames: int
    """On the wire, both ways."""
    again: int
    """Frames of the client's that were sent more than once, and probes."""
    broken: tuple[str, ...]
    """Oracles."""
    kept: int
    """Bytes of the largest file on the server's disk."""
    kept_as: str
    """Its name."""

    @property
    def rate(self) -> float:
        """MB/s (10^6 bytes)."""
        return self.dump_bytes / self.seconds / 1e6

    @property
    def packets_per_mib(self) -> float:
        return self.frames / (self.dump_bytes / (1 << 20))


@dataclass(frozen=True, slots=True)
class Code:
    """Of a client."""

    own: int
    """Lines, besides the shared ones."""
    reserved: int
    """Bytes at boot."""


@dataclass(frozen=True, slots=True)
class Results:
    """Of one shoot-out."""

    memory: str
    cells: dict[str, dict[str, Cell]]
    """Contestant -> condition."""
    code: dict[str, Code]
    """Contestant."""
    shared_lines: int
    noticed: dict[str, dict[str, str]]
    """Station of a flipped bit -> client -> who noticed; docs/who-notices.md has the same."""

    def as_text(self) -> str:
        """JSON."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def of_text(cls, text: str) -> Results:
        """Of ``as_text``."""
        told: dict[str, Any] = json.loads(text)
        return cls(
            memory=told["memory"],
            cells={
                name: {
                    line: Cell(**(cell | {"broken": tuple(cell["broken"])}))
                    for line, cell in row.items()
                }
                for name, row in told["cells"].items()
            },
            code={name: Code(**code) for name, code in told["code"].items()},
            shared_lines=told["shared_lines"],
            noticed=told["noticed"],
        )


def scenario(contestant: Contestant, condition: Condition) -> Scenario:
    """What is played."""
    text = _STORY.format(
        memory=MEMORY,
        latency_us=condition.round_trip_us // 2,
        client=contestant.client,
        server=contestant.server + (_RESTART if condition.restarts else ""),
        case=contestant.case or 'name = "case"',
    )
    if condition.loss != CLEAN.loss:
        text += _LOSS.format(chance=condition.loss)
    return parse_scenario(text, "shootout", __file__)


def play_cell(contestant: Contestant, condition: Condition) -> Cell:
    """One run."""
    (cell,) = (_cell(*run) for run in pages.played(scenario(contestant, condition)))
    return cell


def _cell(case: CaseResult, folder: Path) -> Cell:
    """Of a run whose folder is there."""
    kept_as, kept = max(_files(folder / "dumps"), key=lambda file: file[1], default=("", 0))
    return Cell(
        outcome=case.outcome,
        error=case.error or "",
        seconds=round(case.seconds, 6),
        dump_bytes=case.dump_bytes,
        frames=case.frames,
        again=case.retransmissions + case.probes,
        broken=tuple(name for name, state in case.oracles.items() if state == "broken"),
        kept=kept,
        kept_as=kept_as,
    )


def _files(folder: Path) -> list[tuple[str, int]]:
    return [(path.name, path.stat().st_size) for path in files_in(folder) if not path.is_symlink()]


def code_of(contestant: Contestant) -> Code:
    """What its client is."""
    (case,) = expand_cases(scenario(contestant, CLEAN))
    return Code(count(contestant.modules), reserved(case))


def play(
    contestants: Sequence[Contestant] = CONTESTANTS,
    conditions: Sequence[Condition] = CONDITIONS,
    tell: Callable[[str], None] = lambda _line: None,
) -> Results:
    """All of it, a run on each CPU at once; ``tell`` is told what has been played."""
    todo = [(one, condition) for one in contestants for condition in conditions]
    cells: dict[str, dict[str, Cell]] = {one.name: {} for one in contestants}
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        noticed = pool.submit(stations.table)
        played = pool.map(play_cell, *zip(*todo, strict=True))
        for (one, condition), cell in zip(todo, played, strict=True):
            tell(f"{one.name}: {condition}")
            cells[one.name][str(condition)] = cell
        return Results(
            memory=MEMORY,
            cells=cells,
            code={one.name: code_of(one) for one in contestants},
            shared_lines=count(SHARED),
            noticed=noticed.result(),
        )
