"""The grammar as JSON Schema (draft 2020-12), for editors that complete and check TOML files.

pydantic makes it of ``schema.py``; here it gets what TOML and a reader need:

* TOML has no null: a key without a default is left out.
* Defaults are spelled as a file would: ``"16 MiB"``. A table's default is the plain story, and is
  not written down again.
* A size that has bounds has them in words, too: ``"1 KiB"`` of memory is refused as 1024 is.
* The text under a key is its description. It is read from the source here, and not when the tables
  are made (pydantic's ``use_attribute_docstrings``), which would cost each start 50 ms.
* A table that names a part takes the options of its kind: those of every registered kind are here.

What ``combinations.py`` refuses is not said here: keys that are right by themselves.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, get_args

from annotated_types import Ge, Le, MultipleOf
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from bench.parts import NICS
from bench.scenario.resolve import SECTIONS
from bench.scenario.schema import Document
from bench.scenario.written import Bounds, Json, Written
from bench.table import Table

TITLE: Final = "netdump-bench scenario"
#: A part of the user's: an object that a file makes.
_FILE: Final[Json] = {"type": "string", "pattern": r"\.py:"}
#: Where neither the file nor the case names another client, the case names a profile of ours.
_OTHER_CLIENT: Final[Json] = {
    "properties": {"client": {"required": ["kind"]}},
    "required": ["client"],
}
_OURS_HAVE_PROFILES: Final[Json] = {
    "if": {"not": _OTHER_CLIENT},
    "then": {
        "properties": {
            "case": {"items": {"if": {"not": _OTHER_CLIENT}, "then": {"required": ["profile"]}}}
        }
    },
}


def json_schema() -> Json:
    """The whole document, as ``netdump-bench schema`` prints it."""
    made = table_schema(Document)
    for section, (common, shelf) in SECTIONS.items():
        table = made["$defs"][common.__name__]
        kinds = {name: shelf.find(name, Path()).options for name in shelf.names()}
        table |= _of_kinds(table, kinds)
        for options in kinds.values():
            made["$defs"] |= table_schema(options).get("$defs", {})
        made["properties"][section] |= _without_kind(
            kinds[common.model_fields["kind"].default], list(common.model_fields)
        )
    model = made["$defs"]["Nic"]["properties"]["model"]
    made["$defs"]["Nic"]["properties"]["model"] = {
        **model,
        "anyOf": [{"enum": NICS.names()}, _FILE],
    }
    return {
        "$schema": GenerateJsonSchema.schema_dialect,
        **made,
        **_OURS_HAVE_PROFILES,
        "title": TITLE,
    }


def table_schema(model: type[Table]) -> Json:
    """A table of the grammar, or of a part's options, with what it holds in ``$defs``."""
    made = model.model_json_schema(schema_generator=_ForToml)
    tables = {inner.__name__: inner for inner in tables_in(model)}
    for name, found in {model.__name__: made, **made.get("$defs", {})}.items():
        if "description" in found:
            found["description"] = _prose(found["description"])
        texts = _texts(tables[name])
        for key, field in tables[name].model_fields.items():
            found["properties"][key] = _key(field, found["properties"][key], texts.get(key))
    return made


def _texts(table: type[Table]) -> dict[str, str]:
    """The text under each key of a table, and of those it is made from."""
    made_from = reversed([one for one in table.__mro__ if issubclass(one, Table)])
    return {k: v for one in made_from for k, v in _texts_of(one.__module__, one.__name__).items()}


@cache
def _texts_of(module: str, table: str) -> dict[str, str]:
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    keys: dict[str, str] = {}
    for found in ast.walk(tree):
        if not (isinstance(found, ast.ClassDef) and found.name == table):
            continue
        for key, text in pairwise(found.body):
            match key, text:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(said))),
                ):
                    keys[name] = said
    return keys


def _of_kinds(table: Json, kinds: dict[str, type[Table]]) -> Json:
    """A table that names a part, with the options of every registered kind. What a kind of a file
    of the user's takes is not known here.
    """
    common = list(table["properties"])
    keys: dict[str, list[Json]] = {}
    rules: list[Json] = []
    for name, options in kinds.items():
        own = table_schema(options).get("properties", {})
        for key, said in own.items():
            keys.setdefault(key, []).append(said)
        rules.append(_if_kind({"const": name}, {"propertyNames": {"enum": [*common, *own]}}))
    properties = {
        key: ways[0] if all(way == ways[0] for way in ways) else {"anyOf": ways}
        for key, ways in keys.items()
    }
    known = {"enum": [*common, *properties]}
    unknown = {
        "if": {"properties": {"kind": _FILE}, "required": ["kind"]},
        "else": {
            "propertyNames": known,
            "properties": {"kind": {"enum": list(kinds)}, **properties},
        },
    }
    return {"additionalProperties": True, "allOf": [*rules, unknown]}


def _if_kind(kind: Json, then: Json) -> Json:
    return {"if": {"properties": {"kind": kind}, "required": ["kind"]}, "then": then}


def _without_kind(options: type[Table], common: list[str]) -> Json:
    """In a file's own table no kind is the default one. (A case's may take that of the file.)"""
    known = {"enum": [*common, *options.model_fields]}
    return {"if": {"not": {"required": ["kind"]}}, "then": {"propertyNames": known}}


def tables_in(model: type[Table]) -> Iterator[type[Table]]:
    """A table of the grammar and all those below it, each once."""
    found = {model: None}
    for below in (b for field in model.model_fields.values() for b in _types(field.annotation)):
        found |= dict.fromkeys(tables_in(below))
    yield from found


def _types(annotation: Any) -> Iterator[type[Table]]:
    if isinstance(annotation, type) and issubclass(annotation, Table):
        yield annotation
    for inner in get_args(annotation):
        yield from _types(inner)


class _ForToml(GenerateJsonSchema):
    def nullable_schema(self, schema: core_schema.NullableSchema) -> Json:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> Json:
        default = schema.get("default")
        if default in (None, ()) or isinstance(default, BaseModel):
            return self.generate_inner(schema["schema"])
        return super().default_schema(schema)

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def _key(field: FieldInfo, made: Json, text: str | None) -> Json:
    """What pydantic made of a key, with its text, and its spellings and default as a file has."""
    marks = list(_marks(field))
    written = next((mark for mark in marks if isinstance(mark, Written)), None)
    said: Json = {"description": _prose(text)} if text else {}
    if written is None:
        return said | made
    if "default" in made:
        said["default"] = written.show(field.default) if written.show else made["default"]
    return said | written.as_json(_bounds(marks))


def _marks(field: FieldInfo) -> Iterator[object]:
    """All annotations of a key, also those inside an optional."""
    yield from field.metadata
    waiting = [field.annotation]
    while waiting:
        arguments = get_args(waiting.pop())
        waiting += arguments
        yield from (mark for mark in arguments if not isinstance(mark, type))


def _bounds(marks: list[object]) -> Bounds:
    least: Any = next((mark.ge for mark in marks if isinstance(mark, Ge)), 0)
    most: Any = next((mark.le for mark in marks if isinstance(mark, Le)), None)
    multiple: Any = next((m.multiple_of for m in marks if isinstance(m, MultipleOf)), None)
    return Bounds(least, most, multiple)


def _prose(docstring: str) -> str:
    return " ".join(docstring.replace("``", "`").split())
