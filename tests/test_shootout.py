"""The shoot-out's page: of one run, and still what the code does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench import pages
from bench.shootout import field, lines, plots
from bench.shootout.field import (
    CLEAN,
    CONDITIONS,
    CONTESTANTS,
    NETDUMP2,
    ONE_PERCENT,
    RESTART,
    STOCK,
    WINDOWS,
)
from bench.shootout.page import NAME, PLOTS, page, rate_of, show
from bench.shootout.play import Cell, Results, code_of, play, play_cell, scenario

pytestmark = pytest.mark.sim

DOCS = Path(__file__).parent.parent / "docs"
ANEW = "it is not what the code does any more: make shootout"


@pytest.fixture(scope="module")
def results() -> Results:
    """Those that are committed."""
    return Results.of_text((DOCS / f"{NAME}.json").read_text())


def test_the_page_is_made_of_the_results_that_lie_beside_it(results: Results) -> None:
    assert (DOCS / f"{NAME}.md").read_text() == page(results), (
        "python -m bench.shootout --page-only"
    )


@pytest.mark.parametrize("plot", PLOTS)
def test_a_plot_is_of_the_same_results(results: Results, plot: str) -> None:
    assert plots.made_of((DOCS / plot).read_text()) == plots.digest(results)
    assert f"]({plot})" in (DOCS / f"{NAME}.md").read_text()


def test_each_contestant_was_played_under_each_condition(results: Results) -> None:
    played = {name: list(row) for name, row in results.cells.items()}
    assert played == {one.name: [str(c) for c in CONDITIONS] for one in CONTESTANTS}
    assert list(results.code) == list(played)
    assert results.memory == field.MEMORY


@pytest.mark.parametrize(
    ("contestant", "condition"),
    [
        (STOCK, CLEAN),
        (NETDUMP2, ONE_PERCENT),
        (NETDUMP2, RESTART),
        (WINDOWS, RESTART),
    ],
    ids=str,
)
def test_a_run_comes_to_what_the_page_says(
    results: Results, contestant: field.Contestant, condition: field.Condition
) -> None:
    """A part of all, which is enough: whatever makes one of them another makes these others."""
    told = results.cells[contestant.name][str(condition)]
    assert play_cell(contestant, condition) == told, ANEW


def test_what_is_played_at_once_is_put_together_in_order(results: Results) -> None:
    heard: list[str] = []
    some = play((NETDUMP2, WINDOWS), (CLEAN,), heard.append)
    for name in (NETDUMP2.name, WINDOWS.name):
        assert some.cells[name] == {str(CLEAN): results.cells[name][str(CLEAN)]}, ANEW
    assert some.noticed == results.noticed, ANEW
    assert heard == [f"{one.name}: {CLEAN}" for one in (NETDUMP2, WINDOWS)]


def test_the_table_of_corruptions_is_that_of_its_own_page(results: Results) -> None:
    """Which is held against runs by tests/test_flips.py."""
    assert pages.table("the bit is in", results.noticed) in (DOCS / "who-notices.md").read_text()


@pytest.mark.parametrize("contestant", CONTESTANTS, ids=lambda one: one.name)
def test_code_and_state_are_about_what_the_page_says(
    results: Results, contestant: field.Contestant
) -> None:
    """Lines may come and go: a tenth more or less is no other answer."""
    told, found = results.code[contestant.name], code_of(contestant)
    assert found.own == pytest.approx(told.own, rel=0.1), ANEW
    assert found.reserved == pytest.approx(told.reserved, rel=0.1), ANEW
    assert lines.count(field.SHARED) == pytest.approx(results.shared_lines, rel=0.1), ANEW


def test_each_module_is_somebodys() -> None:
    """And none is counted twice for one client."""
    named = {*field.SHARED, *field.NOBODYS}
    for contestant in CONTESTANTS:
        own = lines.files_of(contestant.modules)
        assert len(own) == len(set(own))
        assert not set(own) & set(lines.files_of((*field.SHARED, *field.NOBODYS)))
        named |= set(contestant.modules)
    everything = {path for path in lines.NETDUMP.rglob("*.py") if path.name != "__init__.py"}
    assert set(lines.files_of(tuple(named))) == everything


def test_a_line_of_code_is_no_comment_and_no_prose() -> None:
    source = '''"""A docstring

of three lines."""

# a comment
X = (
    1,  # and one
)


def f() -> str:
    """Prose."""
    return """code
    in two lines"""
'''
    assert lines.lines_of(source) == 6


def test_of_a_run_that_broke_off_the_page_says_what_is_kept(results: Results) -> None:
    for row in results.cells.values():
        cell = row[str(RESTART)]
        assert cell.outcome == "complete" or 0 < cell.kept < cell.dump_bytes
        assert all(other.kept >= cell.dump_bytes for other in row.values() if other != cell)


def test_results_come_back_from_their_file(results: Results) -> None:
    assert Results.of_text(results.as_text()) == results


def test_a_page_is_not_written_of_results_that_do_not_bear_it_out(results: Results) -> None:
    """Whoever mends TFTP, or breaks netdump2, has to think of another answer."""
    clean = results.cells[NETDUMP2.name][str(CLEAN)]
    slow = dict.fromkeys(map(str, CONDITIONS), replace(clean, seconds=1e6))
    wrong = dict.fromkeys(map(str, CONDITIONS), replace(clean, outcome="silent-hole"))
    for name, row in ((NETDUMP2.name, slow), (WINDOWS.name, wrong), (STOCK.name, slow)):
        with pytest.raises(pages.NotBorneOut):
            page(replace(results, cells=results.cells | {name: row}))
    flipped = {place: dict.fromkeys(row, "a sum") for place, row in results.noticed.items()}
    with pytest.raises(pages.NotBorneOut):
        page(replace(results, noticed=flipped))


@pytest.mark.parametrize("contestant", CONTESTANTS, ids=lambda one: one.name)
@pytest.mark.parametrize("condition", CONDITIONS, ids=str)
def test_what_is_played_is_what_the_tables_say(
    contestant: field.Contestant, condition: field.Condition
) -> None:
    document = scenario(contestant, condition).document
    assert 2 * document.network.latency_us == condition.round_trip_us
    assert [fault.chance for fault in document.wire.fault] == [
        float(condition.loss.split()[0]) / 100
    ] * (condition.loss != CLEAN.loss)
    assert (document.server.lost_after is not None) == condition.restarts


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0123, "0.012"), (1.234, "1.23"), (12.34, "12.3"), (99.96, "100"), (1234.5, "1,234")],
)
def test_a_figure_has_three_digits(value: float, shown: str) -> None:
    assert show(value) == shown


def test_a_rate_says_what_it_is_worth() -> None:
    cell = Cell("complete", "", 2.0, 10_000_000, 1, 0, (), 1, "vmcore")
    assert rate_of(cell) == "5.00"
    assert rate_of(replace(cell, outcome="silent-hole")) == "5.00, **wrong**"
    assert rate_of(replace(cell, outcome="failed", error="ETIMEDOUT")) == "failed (ETIMEDOUT)"
