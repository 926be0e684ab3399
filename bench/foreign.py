"""Code that is not ours, and what it raises: told in one line, with the place that is to be mended.

Whose code it is, its module says, not how the user named it: a part of an installed package is no
more ours than one of a file.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from bench.board import MachineLost, OutOfTime
from bench.drivers.errors import DriverCrashed
from bench.errors import BadInput, BenchError
from bench.neighbours import OURS, is_ours
from bench.wire.contracts import WireError
from guest.kernel.guard import place
from guest.kernel.locks import Deadlock
from guest.kernel.memory import OutOfMemory
from guest.qemu.errors import QemuError
from netdump.client import DumpClient, DumpRequest, Report
from nic_models.family import NicFamily

T = TypeVar("T")

#: What code that is not ours may raise. A ``sys.exit`` in it ends its run, not the bench; Ctrl-C
#: does end the bench.
ENDS: Final = (Exception, SystemExit)
#: What passes through such code and is not its doing.
NOT_ITS_OWN: Final = (
    BenchError,
    Deadlock,
    DriverCrashed,
    MachineLost,
    OutOfMemory,
    OutOfTime,
    QemuError,
    WireError,
)
_ROOT: Final = Path(__file__).resolve().parents[1]


class ClientCrashed(Exception):
    """A client that is not ours raised in its dump, or gave no report."""


def family_is_ours(family: NicFamily) -> bool:
    """Both its silicon and its driver."""
    return is_ours(family.silicon) and is_ours(family.driver)


def made(what: str, make: Callable[..., T], *arguments: object, has: tuple[str, ...] = ()) -> T:
    """What a part's factory makes; ``has``: attributes that it needs.

    Raises:
        BadInput: the factory is not ours, and raises or makes something else.
    """
    if is_ours(make):
        return make(*arguments)
    try:
        found = make(*arguments)
    except NOT_ITS_OWN:
        raise
    except ENDS as error:
        raise BadInput(f"{what} can't be made: {told(error)}") from None
    lacks = [name for name in has if not hasattr(found, name)]
    if lacks:
        says = f"a {type(found).__name__}, which has no {', '.join(lacks)}"
        raise BadInput(f"{what} can't be made: {_name(make)} gives {says}")
    return found


def dump_of(client: DumpClient, request: DumpRequest, *rest: object) -> Report:
    """``client.dump``. Raises ``ClientCrashed`` where the client is not ours."""
    dump: Callable[..., Any] = client.dump
    if is_ours(type(client)):
        ours: Report = dump(request, *rest)
        return ours
    try:
        report: object = dump(request, *rest)
    except NOT_ITS_OWN:
        raise
    except ENDS as error:
        raise ClientCrashed(f"in its dump: {told(error)}") from None
    if not isinstance(report, Report):
        says = f"its dump gives {type(report).__name__}, and should give a Report"
        raise ClientCrashed(f"{_name(type(client))}: {says}")
    return report


def told(error: BaseException, text: str = "") -> str:
    """``KeyError: 7 (FILE:LINE NAME)``: the innermost line of the part's own file, if ``text``
    names one; else of code that is not ours.
    """
    says = traceback.format_exception_only(error)[-1].strip()
    frames = traceback.extract_tb(error.__traceback__)
    file = Path(text.rpartition(":")[0]).name
    own = [frame for frame in frames if file and Path(frame.filename).name == file]
    own = own or [frame for frame in frames if not _in_our_code(frame.filename)]
    frame = (own or list(frames))[-1]
    return f"{says} ({place(frame.filename, frame.lineno or 0, frame.name)})"


def _in_our_code(file: str) -> bool:
    path = Path(file)
    return path.is_relative_to(_ROOT) and path.relative_to(_ROOT).parts[0] in OURS


def _name(made_by: object) -> str:
    return getattr(made_by, "__qualname__", repr(made_by))
