"""The log's rate limiter: few lines, bounded memory, and nothing that isn't counted."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from server.limiter import OTHERS, RateLimiter

PROPERTY = settings(max_examples=150)


def test_the_same_thing_is_told_at_once_and_its_repetitions_as_one_number() -> None:
    limiter: RateLimiter[str] = RateLimiter(every=60.0)
    assert limiter.admit("a", "first", 0.0)
    assert not any(limiter.admit("a", f"again {n}", 1.0 + n) for n in range(11))
    assert list(limiter.due(59.9)) == []
    assert list(limiter.due(60.0)) == [("a", "again 10", 11)]
    assert list(limiter.due(300.0)) == []  # silence is not told
    assert limiter.admit("a", "much later", 300.0)


def test_of_many_at_once_the_first_is_told_and_the_others_are_counted() -> None:
    limiter: RateLimiter[str] = RateLimiter(every=60.0)
    assert limiter.admit("a", "ten of a batch", 0.0, 10)
    assert list(limiter.due(60.0)) == [("a", "ten of a batch", 9)]


def test_different_things_do_not_wait_for_each_other() -> None:
    limiter: RateLimiter[str] = RateLimiter()
    assert all(limiter.admit(key, key, 0.0) for key in "abc")


def test_beyond_the_burst_nothing_is_told_until_there_is_room_again() -> None:
    limiter: RateLimiter[int] = RateLimiter(every=60.0, burst=3)
    told = [limiter.admit(key, key, 0.0) for key in range(5)]
    assert told == [True, True, True, False, False]
    assert not limiter.admit(5, 5, 19.9)
    assert limiter.admit(6, 6, 20.0)  # three a minute
    assert list(limiter.due(80.0)) == [(3, 3, 1), (4, 4, 1), (5, 5, 1)]


def test_a_flood_of_new_keys_is_counted_under_one() -> None:
    limiter: RateLimiter[int] = RateLimiter(every=60.0, burst=2, keys=2)
    for key in range(1000):
        limiter.admit(key, key, 0.0)
    assert list(limiter.due(60.0)) == [(OTHERS, 999, 998)]


@given(
    steps=st.lists(
        st.tuples(st.integers(0, 12), st.sampled_from([0.0, 0.1, 7.0, 61.0]), st.integers(1, 9)),
        max_size=80,
    ),
    stopped=st.booleans(),
)
@PROPERTY
def test_whatever_comes_lines_are_few_and_nothing_is_lost(
    steps: list[tuple[int, float, int]], stopped: bool
) -> None:
    every, burst, keys = 60.0, 4, 6
    limiter: RateLimiter[int] = RateLimiter(every, burst, keys)
    now, came, told = 0.0, 0, 0
    lines: list[float] = []
    for key, wait, count in steps:
        now += wait
        for _, _, left_out in limiter.due(now):
            told += left_out
            lines.append(now)
        came += count
        if limiter.admit(key, key, now, count):
            told += 1
            lines.append(now)
        assert len(limiter._entries) <= keys + 1
    for at in lines:
        assert sum(at <= line < at + every for line in lines) <= 2 * burst
    if stopped:
        told += sum(left_out for _, _, left_out in limiter.rest())
        assert list(limiter.rest()) == []
    for _ in range(40):  # in the end everything has been told
        now += every
        told += sum(left_out for _, _, left_out in limiter.due(now))
    assert told == came
