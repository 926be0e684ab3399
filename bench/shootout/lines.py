"""Lines of a client's code, and bytes that it reserves.

A line is one with code on it: no blank one, no comment, no docstring. The code is Python on numpy
and not a kernel's C: lines say how much there is to understand, not how long a port would be.

What a client reserves it takes from the panic arena at boot (``Memory.reserve``). Buffers and rings
of the NIC are not in it: each client needs the same.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

import netdump
from bench.scenario import ResolvedCase
from bench.shootout.field import CONTESTANTS, NOBODYS, REST, SHARED
from netdump.dumper import DumpImage

NETDUMP: Final = Path(netdump.__file__).parent
_NO_CODE: Final = frozenset(
    {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
)


def lines_of(source: str) -> int:
    """Lines with code on them."""
    prose: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Expr(value=ast.Constant(value=str())):
                prose |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _NO_CODE:
            code |= set(range(token.start[0], token.end[0] + 1))
    return len(code - prose)


def files_of(modules: Sequence[str]) -> list[Path]:
    """Of modules and packages of netdump/; ``REST``: those that nobody names."""
    found: list[Path] = []
    for name in modules:
        if name != REST:
            found += _files(name)
    if REST in modules:
        named = {*SHARED, *NOBODYS, *(name for one in CONTESTANTS for name in one.modules)} - {REST}
        taken = {path for name in named for path in _files(name)}
        found += sorted(set(NETDUMP.rglob("*.py")) - taken)
    return [path for path in found if path.name != "__init__.py"]


def _files(name: str) -> list[Path]:
    folder = NETDUMP / name
    return sorted(folder.glob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]


def count(modules: Sequence[str]) -> int:
    """Lines of them."""
    return sum(lines_of(path.read_text(encoding="utf-8")) for path in files_of(modules))


class _Arena:
    """A ``Memory`` that is all arena."""

    def __init__(self, size: int) -> None:
        self.buffer: NDArray[np.uint8] = np.zeros(size, np.uint8)
        self.taken = 0

    def reserve(self, size: int, align: int) -> int:
        at = -(-self.taken // align) * align
        self.taken = at + size
        return at


def reserved(case: ResolvedCase) -> int:
    """Bytes that the case's client reserves when it is made, on a machine of one segment."""
    kind = case.client_part.kind
    assert kind.profile is not None, "it runs on the machine"
    arena = _Arena(case.machine.arena)
    image = DumpImage(arena, [(0, case.machine.memory)])
    before = arena.taken
    kind.make(kind.profile(case), arena, image)
    return arena.taken - before
