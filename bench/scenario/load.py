"""Reading scenario files, and saying plainly what is wrong with one.

Every complaint names the file, the line, the key, what is wrong, and the nearest thing that would
have been right. All problems of a file are reported at once, in the order of its lines.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path as FilePath
from typing import Final

from pydantic import ValidationError

from bench.errors import BadInput
from bench.kinds import Replaced
from bench.scenario import combinations
from bench.scenario.explain import explain as _explain
from bench.scenario.positions import Path, index_positions
from bench.scenario.resolve import Wrong, merged_part, options_problems, resolve_case
from bench.scenario.schema import Case, Document, Replaceable, ResolvedCase, Scenario, Wire
from bench.scenario.values import MAX_RANGE
from bench.spelling import nearest

#: Where the scenarios that come with the bench live.
HOME: Final = FilePath(__file__).resolve().parents[2] / "scenarios"
#: A scenario is a page of text; a file this large is something else.
MAX_FILE: Final = 1 << 20


class ScenarioError(BadInput):
    """A scenario can't be used. ``problems``: one clear line each."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


def list_scenarios(home: FilePath = HOME) -> list[str]:
    """The names of the scenarios that come with the bench, sorted."""
    return sorted(path.stem for path in home.glob("*.toml"))


def load_scenario(name_or_path: str | FilePath, home: FilePath = HOME) -> Scenario:
    """A scenario by name, or by the path of a TOML file. Raises ``ScenarioError``."""
    wanted = str(name_or_path)
    path = FilePath(wanted)
    if "/" not in wanted and path.suffix != ".toml":
        names = list_scenarios(home)
        if wanted not in names:
            raise ScenarioError(
                [
                    f'no scenario is named "{wanted}"{nearest(wanted, names)}'
                    " (`netdump-bench list` names them all)"
                ]
            )
        path = home / f"{wanted}.toml"
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE + 1)
    except OSError as error:
        raise ScenarioError([f"{path}: {error.strerror or error}"]) from None
    if len(content) > MAX_FILE:
        raise ScenarioError([f"{path}: more than {MAX_FILE} bytes: this is no scenario"])
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ScenarioError([f"{path}:{line}: not UTF-8, which TOML is always in"]) from None
    return parse_scenario(text, path.stem, str(path))


def parse_scenario(text: str, name: str, file: str, base: FilePath | None = None) -> Scenario:
    """A scenario from its text; ``file`` is what complaints call it, ``base`` where its relative
    paths start, which is the file's folder if nothing else is said.
    """
    base = FilePath(file).absolute().parent if base is None else base
    text = text.replace("\r\n", "\n")
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        where = re.search(r"\(at (?:line (\d+), column (\d+)|end of document)\)", str(error))
        says = re.sub(r" \(at .*\)$", "", str(error))
        if where and where[1]:
            spot = f"{where[1]}:{where[2]}"
        else:
            spot = f"{len(text.splitlines())}: at its end"
        raise ScenarioError([f"{file}:{spot}: not TOML: {says}"]) from None
    except RecursionError:
        raise ScenarioError([f"{file}: not TOML: nested too deeply"]) from None
    positions = index_positions(text)
    found: list[tuple[Path, str]]
    try:
        document = Document.model_validate(raw)
    except ValidationError as error:
        details = error.errors(include_url=False)
        broken = {d["loc"][:n] for d in details for n in range(len(d["loc"]))}
        # A list whose elements are all bad counts as empty: the elements' own faults say more.
        found = [
            _explain(d, Document)
            for d in details
            if d["type"] != "too_short" or d["loc"] not in broken
        ]
        found += options_problems(raw, base)
    else:
        found = options_problems(raw, base) or list(_impossible(document, base))
        if not found:
            return Scenario(name, file, text, document, base=base)
    lines = sorted({(positions.line(path), f"{_dotted(path)}: {says}") for path, says in found})
    raise ScenarioError(f"{file}:{line}: {says}" for line, says in lines)


def only_profile(scenario: Scenario, profile: str) -> Scenario:
    """The same story with one profile's cases. Raises ``ScenarioError`` where there are none."""
    known = dict.fromkeys(case.profile for case in scenario.document.case if case.profile)
    if profile not in known:
        raise ScenarioError(
            [
                f'{scenario.name} has no case for the profile "{profile}"'
                f"{nearest(profile, known)} (it has {', '.join(known)})"
            ]
        )
    return replace(scenario, profiles=(profile,))


# --- from cases to runs ---------------------------------------------------------------------------


def expand_cases(scenario: Scenario) -> list[ResolvedCase]:
    """Every run of the story, in its order: overrides merged, sweeps expanded.

    A sweep over every value stays one case with ``sweep_value`` None; ``with_values`` expands it.
    """
    runs: list[ResolvedCase] = []
    for case, plain in _resolve(scenario.document, scenario.base, scenario.replaced):
        resolved = replace(plain, kernel=scenario.kernel)
        if scenario.profiles is not None and case.profile not in scenario.profiles:
            continue
        if case.sweep is None or case.sweep.values is None:
            runs.append(resolved)
        else:
            runs += with_values(resolved, case.sweep.values)
    return runs


def with_values(case: ResolvedCase, values: Iterable[int]) -> list[ResolvedCase]:
    """The runs of a sweep: ``case`` once for each value of what it sweeps over."""
    runs = []
    for value in list(values)[:MAX_RANGE]:
        part, wire = case.machine_part, case.wire
        if case.sweep_over == "panic-step":
            assert part.kind.step is not None, "the rules refuse it"
            part = replace(part, options=part.options.model_copy(update={part.kind.step: value}))
        else:
            lost = wire.fault[0].model_copy(update={"index": (value,)})
            wire = Wire(fault=(lost, *wire.fault[1:]), bystander=wire.bystander)
        runs.append(
            replace(
                case,
                name=f"{_slug(case.group)}-{case.sweep_over}-{value:03d}",
                machine_part=part,
                wire=wire,
                expect=case.expect.here(value),
                sweep_value=value,
            )
        )
    return runs


def _resolve(
    document: Document, base: FilePath, replaced: Mapping[Replaceable, Replaced]
) -> Iterator[tuple[Case, ResolvedCase]]:
    """Each case of the file with its overrides merged; groups get names of their own.

    Raises ``Wrong`` for a part that is none, or whose options are wrong.
    """
    taken: set[str] = set()
    for number, case in enumerate(document.case):
        calls = case.name or case.profile or merged_part(document.client, case.client).kind
        group = calls
        for again in range(2, len(document.case) + 2):
            if _slug(group) not in taken:
                break
            group = f"{calls} ({again})"
        taken.add(_slug(group))
        yield case, resolve_case(document, case, number, _slug(group), group, base, replaced)


def _slug(name: str) -> str:
    """A name that is fit for a folder's."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.") or "case"


# --- explaining mistakes --------------------------------------------------------------------------


def _impossible(document: Document, base: FilePath) -> Iterator[tuple[Path, str]]:
    """What is impossible together, blamed on the case's key where the case sets it."""
    yield from combinations.faults(document)
    try:
        cases = list(_resolve(document, base, {}))
    except Wrong as wrong:
        yield from wrong.problems
        return
    yield from combinations.tiers(document, [resolved for _, resolved in cases])
    for number, (case, resolved) in enumerate(cases):
        yield from combinations.expectations(document, case, number)
        for path, says in combinations.settings(resolved):
            section = getattr(case, str(path[0]))
            in_case = len(path) == 1 or path[0] == "expect" or path[1] in section.model_fields_set
            yield (("case", number, *path) if in_case else path), says


def _dotted(path: Path) -> str:
    """``("case", 1, "expect")`` -> ``case[2].expect``: people count from 1."""
    text = ""
    for part in path:
        text += f"[{part + 1}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "file"
