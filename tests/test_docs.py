"""The documents name what there is: each scenario, key and profile, and no file that is not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.judge.oracles import ORACLES
from bench.scenario import list_scenarios, schema
from netdump.profiles import PROFILES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
SCENARIOS = (ROOT / "docs" / "scenarios.md").read_text()

TABLES = (
    schema.Document,
    schema.Machine,
    schema.Nic,
    schema.Network,
    schema.Server,
    schema.Client,
    schema.Fault,
    schema.Bystander,
    schema.Case,
    schema.Expect,
)


@pytest.mark.parametrize("name", list_scenarios())
def test_the_readme_names_every_scenario(name: str) -> None:
    assert f"| `{name}` |" in README


@pytest.mark.parametrize("name", PROFILES)
def test_the_readme_names_every_profile(name: str) -> None:
    assert f"| `{name}` |" in README


@pytest.mark.parametrize("name", ORACLES)
def test_the_architecture_says_what_every_oracle_holds(name: str) -> None:
    assert f"| {name} |" in ARCHITECTURE


def test_the_grammar_names_every_key() -> None:
    keys = {key for table in TABLES for key in table.model_fields} - {"wire", "case", "model"}
    assert not {key for key in keys if f"`{key}`" not in SCENARIOS}


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
