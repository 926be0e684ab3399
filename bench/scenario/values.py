"""The units that scenario files are written in: sizes, rates, chances, counts, ranges and more.

Each parser takes what TOML gave (a string, mostly) and returns a plain number or tuple; a bad value
is a ``ValueError`` that says what is wanted, with an example. Nothing is guessed: "16 MB" is not
"16 MiB", and a bare ``true`` is not 1. ``written.py`` says the same to an editor.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

SIZE_UNITS: Final = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
RATE_UNITS: Final = {"bit/s": 1, "kbit/s": 10**3, "Mbit/s": 10**6, "Gbit/s": 10**9}

#: The longest list that a range may stand for: a sweep is a set of runs, and each costs time.
MAX_RANGE: Final = 10_000

#: The longest path that a server takes, in bytes.
MAX_PATH: Final = 1023

#: What may stand between the parts of a value.
SPACE: Final = r"[ \t\r\n]*"

_QUANTITY = re.compile(rf"{SPACE}([0-9]+(?:\.[0-9]+)?){SPACE}([A-Za-z/%]*){SPACE}")
_PACE = re.compile(rf"{SPACE}([0-9]+)[ \t\r\n]+frames?{SPACE}")
_RANGE = re.compile(rf"{SPACE}([0-9]+){SPACE}(?:\.\.{SPACE}([0-9]+){SPACE})?")
_COUNT = re.compile(rf"{SPACE}(>?){SPACE}([0-9]+){SPACE}")


def _quantity(value: object, units: dict[str, int], what: str, example: str) -> int:
    if isinstance(value, str) and (match := _QUANTITY.fullmatch(value)) and match[2] in units:
        number = Fraction(match[1]) * units[match[2]]
        if number.denominator == 1:
            return int(number)
    raise ValueError(
        f"{value!r} is not a {what}: write a number and one of {', '.join(units)}, as {example!r}"
    )


def parse_size(value: object) -> int:
    """``"16 MiB"`` or a number of bytes -> bytes."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    return _quantity(value, SIZE_UNITS, "size", "16 MiB")


def parse_rate(value: object) -> int:
    """``"1 Gbit/s"`` -> bits a second."""
    rate = _quantity(value, RATE_UNITS, "line rate", "1 Gbit/s")
    if rate < 1:
        raise ValueError("a line rate is more than 0 bit/s")
    return rate


def parse_chance(value: object) -> float:
    """``"1 %"`` or ``0.01`` -> a probability in (0, 1]."""
    number: float | Fraction = 0
    if isinstance(value, int | float) and not isinstance(value, bool):
        number = value
    elif isinstance(value, str) and (match := _QUANTITY.fullmatch(value)) and match[2] == "%":
        number = Fraction(match[1]) / 100
    if not 0 < number <= 1 or not float(number):
        raise ValueError(f"{value!r} is not a chance: write a part of 1, as 0.01, or '1 %'")
    return float(number)


def parse_every(value: object) -> int:
    """``"3 frames"`` -> 3."""
    if isinstance(value, str) and (match := _PACE.fullmatch(value)) and int(match[1]) > 0:
        return int(match[1])
    raise ValueError(f"{value!r} is not a pace: write how many frames lie between, as '3 frames'")


def parse_ranges(value: object) -> tuple[int, ...]:
    """``5``, ``[5, 40]`` or ``"0..13, 32..45"`` (both ends included) -> sorted, each once."""
    numbers: set[int] = set()
    parts: Iterable[object] = (
        value.split(",")
        if isinstance(value, str)
        else value
        if isinstance(value, list)
        else [value]
    )
    for part in parts:
        match = _RANGE.fullmatch(str(part))
        if not match or isinstance(part, bool | float):
            raise ValueError(
                f"{value!r} is not a list of numbers: write 5, [5, 40] or '0..13, 32..45'"
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(f"the range {first}..{last} runs backwards")
        if last - first + 1 + len(numbers) > MAX_RANGE:
            raise ValueError(f"{value!r} stands for more than {MAX_RANGE} numbers")
        numbers.update(range(first, last + 1))
    if not numbers:
        raise ValueError("an empty list of numbers stands for nothing")
    return tuple(sorted(numbers))


def show_ranges(numbers: Iterable[int]) -> str:
    """The inverse of ``parse_ranges``: ``(0, 1, 2, 5)`` -> ``"0..2, 5"``."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}..{b}" for a, b in runs)


def show_size(count: int) -> str:
    """Bytes for a reader: ``16777216`` -> ``"16 MiB"``, never rounded beyond one decimal."""
    for unit in ("GiB", "MiB", "KiB"):
        if count >= SIZE_UNITS[unit]:
            return f"{count / SIZE_UNITS[unit]:.1f}".removesuffix(".0") + f" {unit}"
    return f"{count} B"


@dataclass(frozen=True, slots=True)
class Count:
    """What a counter should show: exactly ``number``, or more than it."""

    number: int
    more: bool = False

    def holds(self, count: int) -> bool:
        return count > self.number if self.more else count == self.number

    def __str__(self) -> str:
        return f"more than {self.number}" if self.more else str(self.number)


def parse_count(value: object) -> Count:
    """``0``, ``"0"`` or ``">0"`` -> ``Count``."""
    if isinstance(value, Count):
        return value
    match = _COUNT.fullmatch(str(value))
    if not match or isinstance(value, bool | float):
        raise ValueError(f"{value!r} is not an expected count: write 0 or '>0'")
    return Count(int(match[2]), bool(match[1]))


def parse_step(value: object) -> str | int:
    """A step of a driver's work, by its name or its number."""
    if isinstance(value, str) and value:
        return value
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise ValueError(f"{value!r} is not a step: write its name or its number, counted from 0")


def parse_sweep(value: object) -> tuple[int, ...] | None:
    """``"every"`` -> None; else numbers, as ``parse_ranges`` takes them."""
    if value == "every":
        return None
    if isinstance(value, str) and not any(sign.isdigit() for sign in value):
        raise ValueError(f"{value!r} is not a sweep: write 'every', or numbers, as '0..45'")
    return parse_ranges(value)


def parse_path(value: object) -> str:
    """A path below the server's folder, of at most ``MAX_PATH`` bytes."""
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a path: write a string in quotes")
    parts = value.split("/")
    if value.startswith("/") or ".." in parts or "\0" in value or len(value.encode()) > MAX_PATH:
        raise ValueError(
            f"the server takes a relative path of at most {MAX_PATH} bytes, without '..'"
        )
    return value


def show_rate(rate: int) -> str:
    """Bits a second, as a file would say it: ``10**9`` -> ``"1 Gbit/s"``."""
    unit, factor = next(
        (u, factor) for u, factor in reversed(RATE_UNITS.items()) if rate % factor == 0
    )
    return f"{rate // factor} {unit}"


def show_every(count: int) -> str:
    """The inverse of ``parse_every``."""
    return "1 frame" if count == 1 else f"{count} frames"
