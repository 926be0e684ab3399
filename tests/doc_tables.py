"""The tables of docs/scenarios.md, as the grammar has them: a row a key.

    | key | default | values | meaning |

The meaning is free; all else follows from the grammar, and is worked out here from its JSON Schema.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

from bench.scenario.editor import json_schema, table_schema
from bench.scenario.resolve import SECTIONS
from bench.scenario.values import show_size
from bench.scenario.written import CHANCE, COUNT, EVERY, PATH, RANGES, RATE, STEP, SWEEP, Bounds

SCHEMA: Final = json_schema()
Row = tuple[str, str, str]

#: Heading in the document -> table of the grammar.
TABLES: Final[dict[str, dict[str, Any]]] = {
    "The file": SCHEMA,
    "`[machine]`": SCHEMA["$defs"]["Machine"],
    "`[nic]`": SCHEMA["$defs"]["Nic"],
    **{
        f"`[{section}]` of kind `{name}`": table_schema(shelf.find(name, Path()).options)
        for section, (_, shelf) in SECTIONS.items()
        for name in shelf.names()
    },
    "`[[machine.say]]`": SCHEMA["$defs"]["Say"],
    "`[network]`": SCHEMA["$defs"]["Network"],
    "`[server]`": SCHEMA["$defs"]["Server"],
    "`[client]`": SCHEMA["$defs"]["Client"],
    "`[wire]`": SCHEMA["$defs"]["Wire"],
    "`[[wire.fault]]`": SCHEMA["$defs"]["Fault"],
    "`[[wire.bystander]]`": SCHEMA["$defs"]["Bystander"],
    "`[[case]]`": SCHEMA["$defs"]["Case"],
    "`sweep`": SCHEMA["$defs"]["Sweep"],
    "`expect`": SCHEMA["$defs"]["Expect"],
}

#: Values with units: what the document calls them.
_CALLED: Final = [
    (RATE, "a rate"),
    (CHANCE, "a chance"),
    (EVERY, "a pace"),
    (RANGES, "numbers"),
    (SWEEP, "`every`, or numbers"),
    (COUNT, "a count"),
    (STEP, "a step"),
    (PATH, "a path"),
]


def rows_of(table: dict[str, Any]) -> list[Row]:
    """Key, default and values of each key of a table, as the document has to have them."""
    required = table.get("required", [])
    return [
        (f"`{key}`", _default(said, key in required), values_of(said))
        for key, said in table["properties"].items()
    ]


def _default(said: dict[str, Any], required: bool) -> str:
    if required:
        return "required"
    return f"`{json.dumps(said['default'])}`" if said.get("default", "") != "" else ""


def values_of(said: dict[str, Any]) -> str:
    """What may stand there, in the document's words."""
    if "$ref" in said:
        return "a table"
    if "enum" in said or "const" in said:
        return ", ".join(f"`{word}`" for word in said.get("enum", [said.get("const")]))
    for written, called in _CALLED:
        plain = written.as_json(Bounds())
        if all(said.get(key) == value for key, value in plain.items()):
            return called
    if said.get("type") == "string" and "maxLength" not in said:
        return "a text"
    if "anyOf" in said:
        first, second = said["anyOf"]
        if first["type"] == "integer":
            return f"a size, {_span(first, show_size)}"
        assert second == {"type": "array", "items": first}, said
        return f"{values_of(first)}, or a list"
    if said["type"] == "array":
        inside = values_of(said["items"])
        if inside in ("a table", "a text"):
            return "tables" if inside == "a table" else "a list of texts"
        return f"a list of {inside}"
    if said["type"] == "object":
        assert said["additionalProperties"] == {"type": "string"}, said
        return "a table of texts"
    if said["type"] == "integer":
        return _span(said, str)
    if said["type"] == "string" and "maxLength" in said:
        return f"a text, {said['minLength']} to {said['maxLength']} characters"
    rest = {"boolean": "`true`, `false`", "string": "a text", "object": "a table of texts"}
    return rest[said["type"]]


def _span(said: dict[str, Any], show: Any) -> str:
    least, most = said["minimum"], said.get("maximum")
    text = f"{show(least)} or more" if most is None else f"{show(least)} to {show(most)}"
    multiple = said.get("multipleOf")
    return f"{text}, by {show(multiple)}" if multiple else text


def tables_in(text: str) -> dict[str, list[list[str]]]:
    """Heading -> the cells of each row of the first table below it, without head and ruler."""
    found: dict[str, list[list[str]]] = {}
    for section in re.split(r"^#+ ", text, flags=re.MULTILINE)[1:]:
        heading, _, body = section.partition("\n")
        _, ruler, after = body.partition("|---|")
        rows = (ruler + after).split("\n\n")[0].splitlines()[1:]
        if ruler:
            found[heading.strip()] = [
                [cell.strip() for cell in row.split("|")[1:-1]] for row in rows
            ]
    return found
