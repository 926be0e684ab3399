"""Each family's model beside QEMU's device: what its table says is so, and says all that there is.

The traces are played on a QEMU without software, with the devices' memories side by side
(bench/truth). Every family that can be compared is, by its name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from bench.truth.__main__ import LENGTH, explain, main
from bench.truth.families import comparable, comparables
from bench.truth.page import document
from bench.truth.rig import Rig
from bench.truth.theirs import Theirs
from bench.truth.traces import trace
from nic_models.differential.contract import Differential
from nic_models.differential.steps import listing
from tests.truth_rig import qemus

DOCS = Path(__file__).parent.parent / "docs"
NAMES = comparables()
TABLES: dict[str, Differential] = {name: comparable(name)[0] for name in NAMES}
#: Steps of random traces that one test run plays, and in how many examples.
STEPS, EXAMPLES = 20_000, 160


@dataclass(frozen=True)
class Pair:
    """A family, and QEMU's device of it."""

    name: str
    of: Differential
    theirs: Theirs


@pytest.fixture(scope="module")
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    with qemus(request.param, tmp_path_factory.mktemp("qemu")) as theirs:
        yield Pair(request.param, TABLES[request.param], theirs)


each_family = pytest.mark.parametrize("name", NAMES)
each_pair = pytest.mark.parametrize("pair", NAMES, indirect=True)
each_row = pytest.mark.parametrize(
    ("pair", "number"),
    [
        pytest.param(name, number, id=f"{name}-{row.name}")
        for name, of in TABLES.items()
        for number, row in enumerate(of.rows)
    ],
    indirect=["pair"],
)


# --- the table ---------------------------------------------------------------------------------


@pytest.mark.qemu
@each_row
def test_a_row_is_needed_and_is_enough(pair: Pair, number: int) -> None:
    rows = pair.of.rows
    row = rows[number]
    others = [other for other in rows if other is not row]
    without = Rig(pair.of, pair.theirs, others).play(row.story)
    assert without is not None, "the difference is gone: so should the row be"
    assert without.where == row.shows
    rig = Rig(pair.of, pair.theirs)
    assert rig.play(row.story) is None
    assert rig.tally.rows[row.name], "the story plays without the row"


def test_there_is_a_family_that_can_be_compared() -> None:
    assert NAMES


@each_family
def test_every_row_has_a_name_of_its_own(name: str) -> None:
    rows = TABLES[name].rows
    assert len({row.name for row in rows}) == len(rows)
    for row in rows:
        hooks = (row.reads, row.imitate, row.translate, row.leave_out)
        assert any(hooks), f"{row.name} explains nothing"


@each_family
def test_the_page_is_what_the_table_makes(name: str) -> None:
    page = DOCS / f"{name}-differences.md"
    assert page.read_text(encoding="utf-8") == document(name, TABLES[name]), (
        f"run: python -m bench.truth --nic {name} --document > docs/{page.name}"
    )


# --- both on the same traces -------------------------------------------------------------------


@pytest.mark.qemu
@each_pair
def test_no_trace_shows_a_difference_that_the_table_has_not(pair: Pair) -> None:
    rig = Rig(pair.of, pair.theirs)

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,  # the same traces in every run; `python -m bench.truth` has others
        database=None,
        phases=[Phase.generate],  # ``explain`` shortens: it takes out whole steps
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(st.randoms(use_true_random=False))
    def play(rng: Random) -> None:
        played = trace(pair.of, rng, LENGTH)
        found = rig.play(played)
        if found is not None:
            short, difference = explain(rig, played, found)
            pytest.fail(f"{difference}\ntrace = {listing(short)}")

    play()
    assert rig.tally.total >= STEPS
    assert rig.tally.frames_in > 100
    assert rig.tally.frames_out > 100


@pytest.mark.qemu
@each_pair
def test_the_soak_says_what_it_played(pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--nic", pair.name, "--steps", "400", "--seed", "7"]) == 0
    told = capsys.readouterr().out
    assert "seed 7" in told
    assert all(row.name in told for row in pair.of.rows)


@each_family
def test_a_trace_is_a_function_of_its_seed(name: str) -> None:
    def drawn(seed: int) -> list[Any]:
        return trace(TABLES[name], Random(seed), 100)

    assert drawn(5) == drawn(5)
    assert drawn(5) != drawn(6)
