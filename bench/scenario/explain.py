"""One of pydantic's complaints, in this project's words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final, get_args

from pydantic import BaseModel

from bench.scenario.positions import Path
from bench.spelling import nearest

_WANTED: Final = {
    "int_type": "a whole number",
    "string_type": "a string in quotes",
    "bool_type": "true or false",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "tuple_type": "a list",
    "dict_type": "a table",
}


def explain(error: Any, root: type[BaseModel], more: Iterable[str] = ()) -> tuple[Path, str]:
    """(key, what is wrong). ``root``: the table that was read; ``more``: other keys that may stand
    beside its own.
    """
    path: Path = tuple(error["loc"])
    kind, value = error["type"], error["input"]
    if kind == "extra_forbidden":
        known = [*more, *_model_at(path[:-1], root).model_fields]
        return path, f"unknown key{nearest(str(path[-1]), known)} (known: {', '.join(known)})"
    if kind == "missing":
        return path, "is missing, and has no default"
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", error["ctx"]["expected"])
        return path, f"{value!r} is none of {', '.join(choices)}{nearest(str(value), choices)}"
    if kind == "value_error":
        return path, str(error["ctx"]["error"])
    if kind == "too_short":
        return path, "is empty, and needs at least one"
    if kind.endswith("_type"):
        return path, f"wants {_WANTED.get(kind, kind)}, not {value!r}"
    return path, f"{error['msg'][0].lower()}{error['msg'][1:]} (it is {value!r})"


def _model_at(path: Path, root: type[BaseModel]) -> type[BaseModel]:
    """The grammar's table at a path; indices of lists lead to their element."""
    model = root
    for part in path:
        if isinstance(part, str) and part in model.model_fields:
            model = next(_models_in(model.model_fields[part].annotation), model)
    return model


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)
