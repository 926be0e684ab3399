"""The examples, in the place of a part of the scenarios that come with the bench.

Each as docs/bring-your-own.md says: the right one passes, and of the wrong one the verdict says
what is wrong.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.cli import main
from bench.scenario import load_scenario
from tests.command_rig import SOURCE, compiled

pytestmark = pytest.mark.tap

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
Play = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def play(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Play:
    """``play(scenario, *options)`` -> exit status, verdict."""

    def run(scenario: str, *options: str) -> tuple[int, dict[str, Any]]:
        words = ["run", "--json", "--quiet", "--tier", "tap", "--runs", str(tmp_path / "runs")]
        status = main([*words, *options, scenario])
        verdict: dict[str, Any] = json.loads(capsys.readouterr().out)
        return status, verdict

    return run


@pytest.mark.parametrize("scenario", ["clean-dump", "lossy-wire"])
def test_a_server_of_a_page_that_stores_rightly_passes(scenario: str, play: Play) -> None:
    status, verdict = play(scenario, "--server", str(EXAMPLES / "servers/write-then-ack.toml"))
    assert (status, verdict["passed"]) == (0, True)
    assert len(verdict["cases"]) >= 2


def test_a_server_that_acknowledges_before_it_writes_is_caught(play: Play) -> None:
    """What it had only in its memory is gone when it is killed."""
    status, verdict = play("clean-dump", "--server", str(EXAMPLES / "servers/ack-then-write.toml"))
    assert status == 1
    states = {case["oracles"]["ack-means-kept"] for case in verdict["cases"]}
    assert states == {"broken"}


@pytest.mark.parametrize("scenario", ["clean-dump", "lossy-wire", "promisc-panic"])
def test_a_client_in_c_passes(scenario: str, play: Play, tmp_path: Path) -> None:
    status, verdict = play(scenario, "--client", client(tmp_path))
    assert (status, verdict["passed"]) == (0, True)
    assert {case["outcome"] for case in verdict["cases"]} == {"complete"}


def test_a_client_in_c_with_the_32_bit_bitmap_leaves_the_silent_hole(
    play: Play, tmp_path: Path
) -> None:
    """One frame is lost in each run: some of them have another whose ack counts for theirs. Six of
    the 46 will do, on either side of each edge.
    """
    table = client(tmp_path, "-DACK_BITMAP_32")
    story = tmp_path / "edges.toml"
    whole = load_scenario("ack-alias-hole").text
    edges = whole.replace("46..91", "46, 59, 60, 77, 78, 91")
    story.write_text(edges.replace("46..59, 78..91", "46, 59, 78, 91"))
    status, verdict = play(str(story), "--client", table)
    assert status == 1, verdict
    outcomes = Counter(case["outcome"] for case in verdict["cases"])
    assert outcomes == {"silent-hole": 4, "complete": 2}


def client(folder: Path, *options: str) -> str:
    """The table of the C client, beside the program that is compiled with these options."""
    Path(compiled(folder, *options)).rename(folder / "netdump")
    return str(shutil.copy(SOURCE.parent / "client.toml", folder))
