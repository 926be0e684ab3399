"""The watchdog of foreign code: what it finds of one hang strikes once."""

from __future__ import annotations

from bench.watchdog import Overrun, Watchdog


def test_what_is_found_again_before_the_first_strike_has_unwound_does_not_strike() -> None:
    """On a busy machine the thread may look once more while the exception is on its way out; a
    second one there would leave the watchdog in the midst of code that has ended."""
    dog = Watchdog()

    struck = 0

    def hangs() -> None:
        nonlocal struck
        found = dog._crossed, "no callback in 5 s"
        for _ in range(2):
            dog._verdict = found
            try:
                dog._strike(0, None)
            except Overrun:
                struck += 1

    dog.foreign(hangs)
    assert struck == 1
