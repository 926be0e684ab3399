"""A part of the user's in the place of a scenario's own: --nic, --server, --client.

One word says which:

    container                 a registered part
    FILE.py:NAME              an object that the file makes
    FILE.toml                 its table, with the options, as it would stand in a scenario
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, get_args

from bench.errors import BadInput
from bench.kinds import Replaced
from bench.part_files import FILES, changed
from bench.scenario import Scenario, expand_cases
from bench.scenario.schema import Replaceable

SECTIONS: Final[tuple[Replaceable, ...]] = get_args(Replaceable)
#: The key that names the part.
_NAMING: Final = {"nic": "model", "server": "kind", "client": "kind"}
_MAX_FILE: Final = 1 << 20


def with_parts(scenario: Scenario, words: Mapping[Replaceable, str | None]) -> Scenario:
    """The same story with these parts in it, each by the user's word; None leaves the story's own.

    Raises:
        BadInput: there is no such part, its table is wrong, or no case can be played with it.
    """
    parts = {name: _replaced(name, word) for name, word in words.items() if word is not None}
    return having(scenario, parts)


def having(scenario: Scenario, parts: Mapping[Replaceable, Replaced]) -> Scenario:
    """The same for parts that are known already."""
    if not parts:
        return scenario
    made = replace(scenario, replaced=dict(parts))
    cases = expand_cases(made)
    if all(case.forbidden for case in cases):
        asked = " ".join(f"--{name} {part.words}" for name, part in parts.items())
        raise BadInput(
            f"no case of {scenario.name} can be played with {asked}:"
            f" '{cases[0].group}': {cases[0].forbidden}"
        )
    return made


def _replaced(section: Replaceable, word: str) -> Replaced:
    if not word.endswith(".toml"):
        return Replaced({_NAMING[section]: word}, Path.cwd(), word)
    path = Path(word).absolute()
    return Replaced(_table(section, path, word), path.parent, word)


def _table(section: str, path: Path, word: str) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE + 1)
        if len(content) > _MAX_FILE:
            raise BadInput(f"--{section} {word}: more than {_MAX_FILE} bytes: this is no table")
        table = tomllib.loads(content.decode())
    except OSError as error:
        raise BadInput(f"--{section} {word}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"--{section} {word}: not TOML: {error}") from None
    inner = table.get(section, table)
    if not isinstance(inner, dict) or (inner is not table and len(table) > 1):
        raise BadInput(
            f"--{section} {word}: holds more than one table; it is to hold [{section}] alone"
        )
    if "present" in inner:
        raise BadInput(f"--{section} {word}: present: a part that is put in is there; leave it out")
    if _NAMING[section] not in inner:
        raise BadInput(f"--{section} {word}: {_NAMING[section]} is missing: which part is it?")
    return inner


# --- in a verdict ---------------------------------------------------------------------------------


def as_json(scenario: Scenario) -> dict[str, Any]:
    """What a replay has to know of the parts that were put in."""
    return {
        name: {"table": dict(part.table), "base": str(part.base), "words": part.words}
        for name, part in scenario.replaced.items()
    }


def sound(parts: Any) -> bool:
    """Whether a verdict has them as ``run`` writes them."""
    if not isinstance(parts, dict):
        return False
    files = parts.get(FILES, {})
    if not isinstance(files, dict) or not all(isinstance(one, str) for one in files.values()):
        return False
    return all(
        name in SECTIONS
        and isinstance(part, dict)
        and isinstance(part.get("table"), dict)
        and isinstance(part.get("base"), str)
        and isinstance(part.get("words"), str)
        for name, part in parts.items()
        if name != FILES
    )


def as_played(scenario: Scenario, parts: Mapping[str, Any]) -> Scenario:
    """The scenario of a run folder with the parts that were put in then."""
    return having(
        scenario,
        {
            name: Replaced(part["table"], Path(part["base"]), part["words"])
            for name, part in parts.items()
            if name in SECTIONS
        },
    )


def others_now(parts: Mapping[str, Any]) -> list[str]:
    """Which files of a run's parts are others now; a line each."""
    return [
        f"{path} has changed since that run: this is not the same run any more"
        for path in changed(parts.get(FILES, {}))
    ]
