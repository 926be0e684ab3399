"""Scenarios that a test makes up, and plays."""

from __future__ import annotations

from pathlib import Path

from bench.play import play
from bench.progress import Silent
from bench.scenario import Scenario, parse_scenario
from bench.verdict import RunResult
from tests.fakes import nothing


def made(text: str, tier: str = "sim") -> Scenario:
    """A scenario of one tier, from all but its head."""
    head = f'title = "a test"\nwhy = "a test"\ntiers = ["{tier}"]\n'
    return parse_scenario(head + text, "made", "made.toml")


def played(scenario: Scenario, tier: str, runs: Path, seed: int = 1) -> RunResult:
    """Play it as the command does, but for a restart in a user namespace: a test can't do that."""
    return play(scenario, tier=tier, seed=seed, runs=runs, progress=Silent(), before_tap=nothing)
