"""The interval map against the obvious model: a set of numbers."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from server.coverage import Coverage

stretch = st.tuples(st.integers(0, 60), st.integers(0, 60)).map(lambda pair: tuple(sorted(pair)))


@settings(max_examples=200)
@given(st.lists(stretch, max_size=25), stretch, st.integers(0, 70))
def test_coverage_is_a_set_of_offsets(
    stretches: list[tuple[int, int]], asked: tuple[int, int], length: int
) -> None:
    coverage, model = Coverage(), set[int]()
    for start, end in stretches:
        coverage.add(start, end)
        model |= set(range(start, end))
        flat = [edge for interval in coverage.intervals() for edge in interval]
        assert flat == sorted(set(flat)), "intervals must be disjoint, ascending and apart"
    wanted = set(range(*asked))
    assert {n for start, end in coverage.intervals() for n in range(start, end)} == model
    assert coverage.covers(*asked) == (wanted <= model)
    assert coverage.overlaps(*asked) == bool(wanted & model)
    assert coverage.total == len(model)
    assert coverage.end == max(model, default=-1) + 1
    holes = {n for start, end in coverage.holes(length) for n in range(start, end)}
    assert holes == set(range(length)) - model


@settings(max_examples=200)
@given(st.lists(stretch, max_size=40))
def test_the_number_of_intervals_is_bounded(stretches: list[tuple[int, int]]) -> None:
    coverage = Coverage(max_intervals=3)
    for start, end in stretches:
        if coverage.has_room_for(start, end):
            coverage.add(start, end)
        else:
            before = len(coverage)
            coverage.add(start, end)
            assert len(coverage) > before, "only what needs an interval more may be refused"
            return
        assert len(coverage) <= 3


def test_holes_are_half_open_and_ascending() -> None:
    coverage = Coverage()
    coverage.add(10, 20)
    coverage.add(30, 40)
    assert coverage.holes(50) == [(0, 10), (20, 30), (40, 50)]
    assert coverage.holes(35) == [(0, 10), (20, 30)]
    assert coverage.holes(5) == [(0, 5)]
    assert coverage.holes(0) == []
