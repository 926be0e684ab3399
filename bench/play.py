"""From a scenario to a run folder, and from a run folder back to a run.

``play`` chooses the tier, makes the folder, lets the runner work in it, and leaves the papers: the
verdict, the story's text, the command that plays it again. ``replay`` does the same from the papers
and compares: outcomes on every tier, and in sim, which is a pure function of scenario and seed, the
bytes of event logs and captures.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench import put_in
from bench.assemble import Tried, lacks, playable, why_not
from bench.errors import BadInput, MachineLacks
from bench.footprint import largest
from bench.guests import another_kernel, as_played, booted, guests, sound_guest, tier_of_guests
from bench.headroom import address_room, lies_in_memory, memory_room, require_room
from bench.kinds import Host
from bench.part_files import digests
from bench.progress import Progress
from bench.runs import (
    REPLAY,
    SCENARIO,
    VERDICT,
    RunFolder,
    clear_scratch,
    is_output_trouble,
    output_trouble,
)
from bench.scenario import (
    Scenario,
    expand_cases,
    only_profile,
    parse_scenario,
)
from bench.tiers import PROBES, ROWS, Choice, choose_tier, first_choice, wants_tap
from bench.verdict import RunResult, to_text
from bench.wire.contracts import Capability

MAX_SEED: Final = (1 << 63) - 1

#: What a verdict must be like to be replayed; its scenario and seed become a folder's name.
_SOUND: Final[dict[str, Callable[[Any], bool]]] = {
    "scenario": lambda name: (
        isinstance(name, str) and name not in ("", ".", "..") and "/" not in name
    ),
    "tier": lambda tier: isinstance(tier, str),
    "seed": lambda seed: type(seed) is int and 0 <= seed <= MAX_SEED,
    "guest": sound_guest,
    "parts": lambda parts: parts is None or put_in.sound(parts),
    "base": lambda base: base is None or isinstance(base, str),
    "only_profile": lambda name: name is None or isinstance(name, str),
    "cases": lambda cases: isinstance(cases, list) and all(isinstance(c, dict) for c in cases),
}

_SCRIPT: Final = """\
#!/bin/sh
# Plays this run again and compares.
exec {program} replay "$(dirname "$0")"
"""


def play(
    scenario: Scenario,
    *,
    tier: str | None,
    seed: int,
    runs: Path,
    progress: Progress,
    before_tap: Callable[[], None],
) -> RunResult:
    """Play it; the run folder is kept. ``before_tap`` may replace this process."""
    if scenario.kernel is not None:
        tier = tier or tier_of_guests(scenario)  # no other would play that kernel
    _require_parts(scenario)
    probes = probes_for(scenario, first_choice(scenario, tier), runs)
    if wants_tap(first_choice(scenario, tier)):
        before_tap()
    choice = choose_tier(scenario, tier, probes, _cannot(scenario))
    require_room_for(scenario, choice.tier, runs)
    with _run_folder(runs, f"{scenario.name}-{choice.tier}-seed{seed}") as folder:
        result = _run(scenario, choice, seed, folder, progress)
        _keep(folder, scenario, result)
    return result


@dataclass(frozen=True, slots=True)
class Replay:
    """What came of playing a run again."""

    folder: Path
    result: RunResult
    outcome_same: bool
    files_same: dict[str, bool]
    """Sim only: the same bytes?"""
    another_kernel: str = ""
    """Where the Linux guests had another kernel than this time: a line that says so."""

    @property
    def same(self) -> bool:
        return self.outcome_same and all(self.files_same.values())

    def as_json(self) -> dict[str, Any]:
        return {
            "replayed": str(self.folder),
            "same": self.same,
            "outcome_same": self.outcome_same,
            "files_same": self.files_same,
            "another_kernel": self.another_kernel,
            "verdict": self.result.as_json(),
        }

    def __str__(self) -> str:
        said = "the same outcome" if self.outcome_same else "ANOTHER OUTCOME"
        differing = [name for name, equal in self.files_same.items() if not equal]
        if differing:
            said += f"; {len(differing)} of {len(self.files_same)} files differ: "
            said += ", ".join(differing[:3])
        elif self.files_same:
            said += f", and the same bytes in {len(self.files_same)} event logs and captures"
        said += f". {self.another_kernel}" if self.another_kernel else ""
        return f"Replay of {self.folder}: {said}."


def replay(
    folder: Path,
    *,
    runs: Path | None,
    progress: Progress,
    before_tap: Callable[[], None],
) -> Replay:
    """Play the run of a folder again. The new run's folder is kept if anything differs."""
    verdict = _read_verdict(folder)
    try:
        text = (folder / SCENARIO).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise BadInput(f"{folder} is no run folder: {folder / SCENARIO}: {why}") from None
    base = Path(verdict["base"]) if verdict.get("base") else None
    scenario = parse_scenario(text, verdict["scenario"], str(folder / SCENARIO), base)
    if verdict.get("only_profile"):
        scenario = only_profile(scenario, verdict["only_profile"])
    parts = verdict.get("parts") or {}
    scenario = put_in.as_played(scenario, parts)
    scenario = as_played(scenario, verdict.get("guest"), folder)
    tier, seed = verdict["tier"], verdict["seed"]
    runs = runs or folder.absolute().parent
    probes = probes_for(scenario, tier, runs)
    if wants_tap(tier):
        before_tap()
    for line in put_in.others_now(parts):
        print(f"netdump-bench: {line}", file=sys.stderr)
    choice = choose_tier(scenario, tier, probes, _cannot(scenario))
    require_room_for(scenario, tier, runs)
    with _run_folder(runs, f"{scenario.name}-{tier}-seed{seed}") as again:
        result = _run(scenario, choice, seed, again, progress)
        outcome_same = _outcomes(result.as_json()) == _outcomes(verdict)
        files = _same_files(folder, again.path) if ROWS[tier].virtual else {}
        if not (outcome_same and all(files.values())):
            _keep(again, scenario, result)
    return Replay(folder, result, outcome_same, files, another_kernel(verdict.get("guest"), result))


def probes_for(scenario: Scenario, tier: str, runs: Path) -> dict[str, Callable[[], Capability]]:
    """How to find out which tiers can play it. What its machines and servers need on that one, the
    first choice, is tried too: a guest's image is built here, once and for all.

    Called before ``before_tap``: in a network namespace of one's own nothing can be downloaded.
    Raises ``MachineLacks`` for a run that would not fit into memory, before anything is made.
    """
    if tier not in scenario.tiers:
        return PROBES  # whoever chooses the tier will say so
    cases = [case for case in expand_cases(scenario) if playable(case, tier)]
    wanted = {
        (case.machine_part.kind.name, case.nic.model): case
        for case in cases
        if case.machine_part.kind.prepare
    }
    if not wanted or not PROBES[tier]().ok:
        return PROBES
    require_room_for(scenario, tier, runs)
    for case in wanted.values():
        prepare = case.machine_part.kind.prepare
        if prepare is not None and not (found := prepare(case)).ok:
            return _lacks(tier, found)
    return PROBES


def _require_parts(scenario: Scenario) -> None:
    """Raises ``MachineLacks`` if each case has a part that can't be played on this machine."""
    cases = [case for case in expand_cases(scenario) if not case.forbidden]
    tried: Tried = {}
    found = [lacks(case, tried) for case in cases]
    first = found[0] if found and all(found) else None
    if first is not None:
        cure = f" (cure: {first.cure})" if first.cure else ""
        raise MachineLacks(f"{scenario.name} can't be played here: {first.why}{cure}")


def _cannot(scenario: Scenario) -> Callable[[str, Host], str]:
    """Of a tier and a host: why none of the cases can be played there; empty where one can."""
    cases = expand_cases(scenario)

    def ask(tier: str, host: Host) -> str:
        why = [why_not(case, tier, host) for case in cases]
        return why[0] if all(why) else ""

    return ask


def _lacks(tier: str, found: Capability) -> dict[str, Callable[[], Capability]]:
    return {**PROBES, tier: lambda: found}


def require_room_for(scenario: Scenario, tier: str, runs: Path, at_once: int = 1) -> None:
    """Raises ``MachineLacks`` if there is less memory than its largest run needs, or ``at_once`` of
    it, each with a folder in ``runs``.
    """
    cases = (case for case in expand_cases(scenario) if playable(case, tier))
    needed = largest(cases, tier, folder_in_memory=lies_in_memory(runs), at_once=at_once)
    if needed is not None:
        require_room(needed, memory_room(), address_room())


def _run_folder(runs: Path, stem: str) -> RunFolder:
    """A folder for this run; what was cleared away for it is said."""
    folder = RunFolder(runs, stem)
    for path in [*folder.cleared, *clear_scratch()]:
        print(f"netdump-bench: removed {path}, left by a run that was killed", file=sys.stderr)
    return folder


def _run(
    scenario: Scenario, choice: Choice, seed: int, folder: RunFolder, progress: Progress
) -> RunResult:
    from bench.runner import run_scenario
    from bench.servers.native import ServerLaunchFailure
    from bench.wire.contracts import WireError
    from guest.linux.image import GuestImageUnavailable

    files = digests(scenario)
    with (
        _disk_trouble_in(folder.path.parent),
        _lacking(
            choice.tier,
            *(WireError, GuestImageUnavailable, ServerLaunchFailure, MemoryError),
        ),
    ):
        result = run_scenario(
            scenario,
            tier=choice.tier,
            why_this_tier=choice.why,
            host=choice.host,
            seed=seed,
            run_folder=folder.path,
            progress=progress,
        )
    result.title, result.why, result.story = scenario.title, scenario.why, scenario.story
    result.guest = booted(scenario) if _boots(scenario, choice.tier) else None
    result.parts, result.part_files = put_in.as_json(scenario), files
    result.base = str(scenario.base)
    result.only_profile = scenario.profiles[0] if scenario.profiles else None
    result.run_folder = result.replay = ""
    return result


def _boots(scenario: Scenario, tier: str) -> bool:
    return any(playable(case, tier) for case in guests(scenario))


def _keep(folder: RunFolder, scenario: Scenario, result: RunResult) -> None:
    """Leave the papers and make the folder permanent."""
    result.run_folder = str(folder.final)
    result.replay = shlex.join([_program(), "replay", result.run_folder])
    with _disk_trouble_in(folder.path.parent):
        (folder.path / VERDICT).write_text(to_text(result.as_json()), encoding="utf-8")
        (folder.path / SCENARIO).write_text(scenario.text, encoding="utf-8")
        script = folder.path / REPLAY
        program = os.path.abspath(shutil.which(_program()) or _program())
        # A path is bytes: what no locale can read is written as it came.
        text = _SCRIPT.format(program=shlex.quote(program))
        script.write_text(text, encoding="utf-8", errors="surrogateescape")
        script.chmod(0o755)
        folder.keep()


def _program() -> str:
    """What a user types to run us from here: the name if it is on the PATH, else the path."""
    script = Path(sys.executable).parent / "netdump-bench"
    found = shutil.which("netdump-bench")
    if not script.exists() or (found and os.path.samefile(found, script)):
        return "netdump-bench"
    return os.path.relpath(script)


@contextlib.contextmanager
def _disk_trouble_in(folder: Path) -> Iterator[None]:
    """A full or unwritable output folder is the user's to mend, and no defect of ours."""
    try:
        yield
    except OSError as error:
        if is_output_trouble(error, folder):
            raise output_trouble(error, folder) from error
        raise


@contextlib.contextmanager
def _lacking(tier: str, *errors: type[Exception]) -> Iterator[None]:
    """What the machine did not give in mid-run is no defect of ours either. The last line tells."""
    try:
        yield
    except errors as error:
        lines = str(error).strip().splitlines() or ["out of memory; ask for less in the scenario"]
        raise MachineLacks(f"tier {tier} broke down: {lines[-1]}") from error


def _read_verdict(folder: Path) -> dict[str, Any]:
    path = folder / VERDICT
    try:
        verdict: dict[str, Any] = json.loads(path.read_bytes())
    except OSError as error:
        raise BadInput(f"{folder} is no run folder: {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: not the JSON that `run` wrote: {error}") from None
    for key, sound in _SOUND.items():
        if not isinstance(verdict, dict) or not sound(verdict.get(key)):
            raise BadInput(f"{path}: {key} is not as `run` writes it; play the scenario again")
    return verdict


def _outcomes(verdict: dict[str, Any]) -> list[tuple[Any, ...]]:
    keys = ("name", "profile", "outcome", "met")
    return [tuple(case.get(key) for key in keys) for case in verdict["cases"]]


def _same_files(old: Path, new: Path) -> dict[str, bool]:
    """Event logs and captures by name: the same bytes in both folders?"""
    names = sorted(
        str(path.relative_to(folder))
        for folder in (old, new)
        for pattern in ("**/events.jsonl", "**/*.pcapng")
        for path in folder.glob(pattern)
    )
    return {name: _bytes(old / name) == _bytes(new / name) for name in dict.fromkeys(names)}


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None
