"""The documents name what there is: each scenario, key and profile, and no file that is not."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from bench.judge.oracles import ORACLES
from bench.machines.vm import VmOptions
from bench.scenario import list_scenarios, parse_scenario, values
from bench.wire.actions import ACTIONS
from netdump.profiles import PROFILES
from tests.doc_tables import SCHEMA, TABLES, rows_of, tables_in

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
SCENARIOS = (ROOT / "docs" / "scenarios.md").read_text()

#: What the document calls a value -> what reads it.
PARSERS: dict[str, Callable[[object], object]] = {
    "a size": values.parse_size,
    "a rate": values.parse_rate,
    "a chance": values.parse_chance,
    "a pace": values.parse_every,
    "numbers": values.parse_ranges,
    "a count": values.parse_count,
    "a step": values.parse_step,
    "a path": values.parse_path,
}


@pytest.mark.parametrize("name", list_scenarios())
def test_the_readme_names_every_scenario(name: str) -> None:
    assert f"| `{name}` |" in README


@pytest.mark.parametrize("name", PROFILES)
def test_the_readme_names_every_profile(name: str) -> None:
    assert f"| `{name}` |" in README


@pytest.mark.parametrize("name", ORACLES)
def test_the_architecture_says_what_every_oracle_holds(name: str) -> None:
    assert f"| {name} |" in ARCHITECTURE


# --- docs/scenarios.md against the grammar --------------------------------------------------------


@pytest.mark.parametrize("heading", TABLES)
def test_a_table_of_the_grammar_has_each_key_default_and_choice_and_no_other(heading: str) -> None:
    found = tables_in(SCENARIOS)[heading]
    assert [tuple(cells[:3]) for cells in found] == rows_of(TABLES[heading])
    assert all(len(cells) == 4 and cells[3] for cells in found), "and says what it means"


def test_every_table_of_the_grammar_is_in_the_document_and_no_other() -> None:
    known = {"How values are written", *TABLES}
    assert set(tables_in(SCENARIOS)) == known
    assert all(table in TABLES.values() for table in SCHEMA["$defs"].values())


def test_the_document_says_what_every_action_does() -> None:
    told = re.findall(r"^\| `([\w-]+)` \| [^|]+ \|$", SCENARIOS, re.M)
    assert told == ["does", *ACTIONS]


def test_values_are_written_as_the_document_says() -> None:
    rows = tables_in(SCENARIOS)["How values are written"]
    assert [row[0] for row in rows] == list(PARSERS)
    for called, examples, *_ in rows:
        for example in re.findall(r"`([^`]+)`", examples):
            PARSERS[called](tomllib.loads(f"x = {example}")["x"])


def test_the_example_is_a_scenario_in_which_an_editor_knows_the_schema() -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", SCENARIOS, re.S)
    scenario = parse_scenario(text, "example", "scenarios.md")
    assert Draft202012Validator(SCHEMA).is_valid(tomllib.loads(text))
    first, command = text.splitlines()[0], "netdump-bench schema > scenario.schema.json"
    assert first == f"#:schema ./{command.split()[-1]}"
    assert command in SCENARIOS
    assert {fault.does for fault in scenario.document.wire.fault} == {"drop", "delay"}


def test_what_is_said_of_a_machine_of_ones_own_names_every_key() -> None:
    text = (ROOT / "docs" / "vm.md").read_text()
    assert not {key for key in VmOptions.model_fields if f"`{key}`" not in text}


def test_every_file_that_the_architecture_names_exists() -> None:
    files = {path.name for path in ROOT.rglob("*.py") if ".venv" not in path.parts}
    named = set(re.findall(r"`([\w/]+\.py)`", ARCHITECTURE))
    assert len(named) > 30
    assert not {name for name in named if Path(name).name not in files}
    assert not {name for name in named if "/" in name and not _there(name)}


def _there(name: str) -> bool:
    return any((ROOT / home / name).exists() for home in ("", "bench", "bench/wire"))


def test_each_make_command_of_the_readme_is_a_target() -> None:
    rules = re.findall(r"^([a-z ]+):", (ROOT / "Makefile").read_text(), re.M)
    targets = {target for rule in rules for target in rule.split()}
    named = set(re.findall(r"(?:^    |`)make ([a-z]+)", README, re.M))
    assert {"list", "scenario", "serve", "bench", "doctor"} <= named <= targets
