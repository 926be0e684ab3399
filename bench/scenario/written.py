"""How a key may be written, said twice: to the loader, and to an editor that knows JSON Schema.

``OneOf`` is a choice from a table that stands elsewhere: a row that is added there adds a word to
the grammar. ``Written`` is a value with several spellings, ``16777216`` or ``"16 MiB"``: a parser
of ``values.py`` for the loader, types and patterns for an editor. Both are annotations, as in
``Annotated[int, written.SIZE]``.

A pattern says less than a parser. What it lets through and the loader refuses: a range that runs
backwards or stands for too much; of a size in words, that it is no whole number of bytes or of
pages; of a path, that it has more bytes than characters. It never refuses what the loader takes.

Patterns are of the dialect that ECMA-262, Python and Rust have in common: no look-around, and
``[0-9]`` for a digit, because ``\\d`` is more than that in some of them, as ``\\s`` is of spaces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor
from typing import Any, Final

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from bench.scenario import values
from bench.scenario.values import RATE_UNITS, SIZE_UNITS, SPACE

Json = dict[str, Any]


class OneOf:
    """One of these words. A wrong one is pydantic's ``literal_error``."""

    def __init__(self, choices: Iterable[str]) -> None:
        self.choices = tuple(choices)

    def __get_pydantic_core_schema__(self, _of: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.literal_schema(list(self.choices))


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of a number: from ``least`` to ``most``, both included."""

    least: int = 0
    most: int | None = None
    multiple_of: int | None = None

    def as_json(self) -> Json:
        found = {"minimum": self.least, "maximum": self.most, "multipleOf": self.multiple_of}
        return {key: value for key, value in found.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Written:
    """A value with several spellings."""

    parse: Callable[[object], object]
    """What TOML gave -> the value; ``ValueError`` says what is wrong."""
    spellings: Callable[[Bounds], list[Json]]
    """A JSON Schema of each spelling, within bounds if they are given for the key."""
    show: Callable[[Any], object] | None = None
    """A value -> how a file says it; None where it is the value itself."""

    def __get_pydantic_core_schema__(self, of: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.parse, handler(of))

    def __get_pydantic_json_schema__(
        self, _core: CoreSchema, _handler: GetJsonSchemaHandler
    ) -> Json:
        return self.as_json(Bounds())

    def as_json(self, bounds: Bounds) -> Json:
        spellings = self.spellings(bounds)
        return spellings[0] if len(spellings) == 1 else {"anyOf": spellings}


class OneOrMore:
    """A list, or what could stand in it."""

    def __get_pydantic_core_schema__(self, of: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(_listed, handler(of))

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> Json:
        array = dict(handler(core))
        return {"anyOf": [array["items"], array]}


def _listed(value: object) -> object:
    return (value,) if isinstance(value, str) else value


# --- patterns -------------------------------------------------------------------------------------


def between(least: int, most: int | None = None) -> str:
    """A pattern of the whole numbers from ``least`` to ``most``; leading zeros are allowed.

    ``between(7, 123)`` is ``0*(?:[7-9]|1[0-1][0-9]|12[0-3]|[1-9][0-9]{1,1})``.
    """
    ways: list[str] = []
    whole: list[int] = []  # lengths of which every number is meant
    digits = len(str(least))
    while most is None or digits <= len(str(most)):
        first = max(least, 10 ** (digits - 1) if digits > 1 else 0)
        last = 10**digits - 1 if most is None else min(most, 10**digits - 1)
        if most is None and whole:
            break
        if (first, last) == (10 ** (digits - 1), 10**digits - 1):
            whole.append(digits)
        else:
            ways += _alike(first, last, digits)
        digits += 1
    if whole:
        end = "" if most is None else whole[-1] - 1
        ways.append(f"[1-9][0-9]{{{whole[0] - 1},{end}}}")
    return f"0*(?:{'|'.join(ways)})"


def _alike(least: int, most: int, digits: int) -> Iterator[str]:
    """Patterns of numbers that have so many digits each: first digits, a range, any digits."""
    while least <= most:
        free = 0
        while (
            free + 1 < digits
            and least % 10 ** (free + 1) == 0
            and least + 10 ** (free + 1) - 1 <= most
        ):
            free += 1
        head, low = divmod(least // 10**free, 10)
        high = min(9, low + (most - least + 1) // 10**free - 1)
        span = str(low) if high == low else f"[{low}-{high}]"
        any_digits = f"[0-9]{{{free}}}" if free > 1 else "[0-9]" * free
        yield f"{head or ''}{span}{any_digits}"
        least += (high - low + 1) * 10**free


def _quantities(units: dict[str, int], bounds: Bounds) -> str:
    """A number and a unit, between the bounds."""
    ways = [_in_unit(unit, factor, bounds) for unit, factor in units.items()]
    return f"^{SPACE}(?:{'|'.join(filter(None, ways))}){SPACE}$"


def _in_unit(unit: str, factor: int, bounds: Bounds) -> str:
    least = Fraction(bounds.least, factor)
    most = None if bounds.most is None else Fraction(bounds.most, factor)
    ways: list[str] = []
    if most is None or ceil(least) <= floor(most):
        whole = between(ceil(least), None if most is None else floor(most))
        ways.append(f"{whole}(?:\\.0+)?")
    if factor > 1:
        above = None if most is None else ceil(most) - 1
        if above is None or floor(least) <= above:
            ways.append(f"{between(floor(least), above)}\\.[0-9]*[1-9][0-9]*")
    return f"(?:{'|'.join(ways)}){SPACE}{unit}" if ways else ""


def _text(pattern: str, *examples: str) -> Json:
    return {"type": "string", "pattern": pattern, "examples": list(examples)}


_WHOLE: Final[Json] = {"type": "integer", "minimum": 0}
_MORE: Final = rf"^{SPACE}>?{SPACE}[0-9]+{SPACE}$"
_SPAN: Final = rf"{SPACE}[0-9]+{SPACE}(?:\.\.{SPACE}[0-9]+{SPACE})?"
_SPANS: Final = _text(f"^{_SPAN}(?:,{_SPAN})*$", "5", "0..13, 32..45")
_LIST: Final[Json] = {
    "type": "array",
    "items": {"anyOf": [_WHOLE, {"type": "string", "pattern": f"^{_SPAN}$"}]},
    "minItems": 1,
}
#: Parts of a path: anything but "..", and without a slash.
_PART: Final = r"(?:[^./\x00][^/\x00]*|\.(?:[^./\x00][^/\x00]*)?|\.\.[^/\x00]+)"
_PATH: Final = rf"^(?:{_PART}(?:/{_PART}?)*)?$"
_PERCENT: Final = (
    rf"^{SPACE}(?:0*[1-9][0-9]?(?:\.[0-9]+)?|0+\.[0-9]*[1-9][0-9]*|0*100(?:\.0+)?)"
    rf"{SPACE}%{SPACE}$"
)

SIZE: Final = Written(
    values.parse_size,
    lambda bounds: [
        {"type": "integer", **bounds.as_json()},
        _text(_quantities(SIZE_UNITS, bounds), "16 MiB"),
    ],
    values.show_size,
)
RATE: Final = Written(
    values.parse_rate,
    lambda _: [_text(_quantities(RATE_UNITS, Bounds(least=1)), "1 Gbit/s", "100 Mbit/s")],
    values.show_rate,
)
CHANCE: Final = Written(
    values.parse_chance,
    lambda _: [
        {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
        _text(_PERCENT, "1 %", "0.5 %"),
    ],
)
EVERY: Final = Written(
    values.parse_every,
    lambda _: [_text(rf"^{SPACE}{between(1)}[ \t\r\n]+frames?{SPACE}$", "3 frames")],
    values.show_every,
)
RANGES: Final = Written(values.parse_ranges, lambda _: [_WHOLE, _LIST, _SPANS])
SWEEP: Final = Written(values.parse_sweep, lambda _: [{"const": "every"}, _WHOLE, _LIST, _SPANS])
COUNT: Final = Written(values.parse_count, lambda _: [_WHOLE, _text(_MORE, ">0")])
STEP: Final = Written(values.parse_step, lambda _: [{"type": "string", "minLength": 1}, _WHOLE])
#: A key of 32 octets.
KEY: Final = "^[0-9a-f]{64}$"
PATH: Final = Written(
    values.parse_path, lambda _: [{**_text(_PATH, "lab/victim"), "maxLength": values.MAX_PATH}]
)
