"""What every table of a scenario file is: strict, immutable, and sure of where its files are.

Its own module, so that a part of somebody else's can say which keys it takes (``kinds.py``) without
the whole grammar.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Strict, ValidationInfo


class Table(BaseModel):
    """Strict and immutable: unknown keys and wrong types are refused.

    The text under a key is what `netdump-bench schema` says of it (``scenario/editor.py``).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class PartTable(Table):
    """A table whose ``kind`` names a part. Keys that are not here are that part's options: they are
    kept as they came, and read by its own table once the case's part is known.
    """

    model_config = ConfigDict(extra="allow")

    kind: str


def _from_here(value: str, info: ValidationInfo) -> str:
    base = (info.context or {}).get("base")
    return value if base is None else str(Path(base, value))


#: A path as the user wrote it, in a file or on the command line: absolute, or from there.
UsersPath = Annotated[str, Strict(), AfterValidator(_from_here)]
