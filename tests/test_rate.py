"""The window by what is delivered: each rule, against a way that is a formula."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netdump.rate import FLOOR, QUEUE, Rate

MOST = 32_768
#: Of a window: how many of its frames are lost, and its round trip in ticks.
Way = Callable[[int], tuple[float, int]]


def rounds(rate: Rate, way: Way, count: int, waits: bool = True) -> list[int]:
    """The window after each of so many round trips."""
    sent, windows = 0, []
    for _ in range(count):
        window = rate.window
        loss, ticks = way(window)
        lost = round(window * loss)
        if waits:
            rate.waits()
        sent += window
        rate.measure(window - lost, lost, ticks, sent - 1, sent)
        windows.append(rate.window)
    return windows


def overflowing(room: int, own: float = 0.0) -> Way:
    """So many frames get through, less what the wire loses."""
    return lambda window: (1 - (1 - own) * min(1, room / window), 1)


@pytest.mark.parametrize("loss", [0.0, 0.01, 0.05, 0.2, 0.4])
def test_loss_that_does_not_come_with_the_window_does_not_keep_it_small(loss: float) -> None:
    assert max(rounds(Rate(MOST), lambda _window: (loss, 10), 60)) == MOST


@pytest.mark.parametrize("own", [0.0, 0.05, 0.2])
@pytest.mark.parametrize("room", [100, 1000, 8000])
def test_the_window_becomes_what_gets_through(room: int, own: float) -> None:
    """And stays there, a fifth above it at the worst, though it tries for more all the time."""
    windows = rounds(Rate(MOST), overflowing(room, own), 300)[60:]
    assert room * 0.85 < sum(windows) / len(windows) < room * 1.2


def test_who_begins_while_a_queue_overflows_finds_out_that_it_is_not_the_wire() -> None:
    """Half of the first window is lost, and so it seems to be the wire that loses so much."""
    assert FLOOR < rounds(Rate(MOST), overflowing(100), 100)[-1] < 125


def test_the_window_is_a_round_trip_and_some_frames_in_queues() -> None:
    """100 frames a tick, 10 ticks; what is more stands in a queue and makes the round longer."""
    windows = rounds(Rate(MOST), lambda window: (0.0, max(10, window // 100)), 200)
    assert 1000 + QUEUE / 2 < windows[-1] < 1000 + 2.5 * QUEUE


def test_who_does_not_wait_does_not_grow() -> None:
    assert rounds(Rate(MOST), lambda _window: (0.0, 1), 50, waits=False) == [FLOOR] * 50


def test_after_a_long_silence_it_begins_anew() -> None:
    rate = Rate(MOST)
    rounds(rate, lambda _window: (0.0, 1), 20)
    rate.restart()
    assert (rate.window, rate.growing) == (FLOOR, True)


@given(
    most=st.sampled_from([1, 63, 64, 1000, MOST]),
    polls=st.lists(
        st.tuples(
            st.integers(0, 2000),
            st.integers(0, 2000),
            st.none() | st.integers(0, 500),
            st.integers(0, 5000),
            st.booleans(),
        ),
        max_size=80,
    ),
)
def test_whatever_is_measured_the_window_is_from_the_least_to_the_most(
    most: int, polls: list[tuple[int, int, int | None, int, bool]]
) -> None:
    rate, sent = Rate(most), 0
    for news, lost, ticks, ahead, waits in polls:
        if waits:
            rate.waits()
        sent += news + lost
        rate.measure(news, lost, ticks, sent - ahead, sent)
        assert min(FLOOR, most) <= rate.window <= most


@pytest.mark.parametrize(
    ("ticks", "first"), [(0, 64), (7, 64), (8, 64), (16, 128), (63, 448), (100, 512), (900, 512)]
)
def test_a_long_way_begins_with_more_and_never_faster(ticks: int, first: int) -> None:
    rate = Rate(MOST)
    rate.knows(ticks)
    assert rate.window == first
    assert first <= max(FLOOR, FLOOR * ticks / 8), "64 frames in 8 ms fill a line of 100 Mbit/s"
    small = Rate(100)
    small.knows(ticks)
    assert small.window == min(first, 100)
