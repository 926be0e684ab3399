"""Pages of docs/ that are made of runs: what they play, and their tables.

A page is a pure function of the code: all is played on ``sim``, with one seed. So a test plays it
again and compares, and no figure of it can go stale.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from bench.progress import Silent
from bench.runner import run_scenario
from bench.runs import scratch
from bench.scenario import Scenario
from bench.verdict import CaseResult


class NotBorneOut(Exception):
    """What was played does not show what a page says."""


#: Of all that a page plays.
TIER: Final = "sim"
SEED: Final = 1
#: Of a page's prose.
WIDTH: Final = 100


def played(scenario: Scenario) -> Iterator[tuple[CaseResult, Path]]:
    """Each case, and the folder of its run, which is there until the next one is asked for."""
    with scratch("page") as folder:
        result = run_scenario(
            scenario,
            tier=TIER,
            why_this_tier="",
            seed=SEED,
            run_folder=folder.path,
            progress=Silent(),
        )
        for case in result.cases:
            alone = len(result.cases) == 1
            yield case, folder.path if alone else folder.path / "cases" / case.name


def table(corner: str, rows: Mapping[str, Mapping[str, str]]) -> str:
    """Markdown of row -> column -> cell; a column that a row does not have is empty there."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    lines = [f"| {' | '.join([corner, *columns])} |", "|---" * (1 + len(columns)) + "|"]
    for name, row in rows.items():
        lines.append(f"| {' | '.join([name, *(row.get(column, '') for column in columns)])} |")
    return "\n".join(lines) + "\n"


def if_so(shown: bool, sentence: str) -> str:
    """A sentence of a page, if what was played shows it. Raises ``NotBorneOut``."""
    if not shown:
        raise NotBorneOut(f"what was played does not show it: {sentence}")
    return sentence


def bullets(sentences: Iterable[str]) -> str:
    """Markdown of a list."""
    return "".join(
        textwrap.fill(
            sentence,
            WIDTH,
            initial_indent="* ",
            subsequent_indent="  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        + "\n"
        for sentence in sentences
    )


def main(module: str, says: str | None, document: Callable[[], str], words: Sequence[str]) -> int:
    """``python -m MODULE --document`` prints the page."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=says)
    parser.add_argument("--document", action="store_true", help="print the page")
    if not parser.parse_args(words).document:
        parser.error("say --document")
    sys.stdout.write(document())
    return 0
