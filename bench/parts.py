"""Parts by their names: found by their entry points, or in a file, ours like anybody else's.

group                     what an entry is
netdump_bench.nics        a ``nic_models.family.NicFamily``
netdump_bench.machines    a ``bench.kinds.MachineKind``
netdump_bench.servers     a ``bench.kinds.ServerKind``
netdump_bench.clients     a ``bench.kinds.ClientKind``

``FILE.py:NAME`` is the object called NAME that the file makes when it is run. What it imports, then
or later, is looked for in its own folder first (``neighbours``).

A driver is registered by its family alone; one that is not ours is a class in such a file, or a
shared library.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Generic, TypeVar

from bench.errors import BadInput
from bench.kinds import ClientKind, MachineKind, ServerKind
from bench.neighbours import run_file
from bench.spelling import nearest
from nic_models.family import NicFamily

#: What a scenario has that names none.
DEFAULT_NIC: Final = "e1000"
DEFAULT_MACHINE: Final = "synthetic"
DEFAULT_SERVER: Final = "netdump-bench"
DEFAULT_CLIENT: Final = "profile"

P = TypeVar("P")


@dataclass(frozen=True, slots=True)
class Shelf(Generic[P]):
    """All parts of one sort."""

    what: str
    """In a sentence: "no ... is called so"."""
    group: str
    type: type[P]

    def names(self) -> list[str]:
        """Of the registered ones, sorted."""
        return sorted(_registered(self.group))

    def find(self, name: str, base: Path) -> P:
        """The part of that name, or of ``FILE.py:NAME``, whose path starts at ``base``.

        Raises:
            BadInput: there is none, or it can't be loaded, or it is something else.
        """
        if names_a_file(name):
            path, _, attribute = name.rpartition(":")
            if not path:
                raise BadInput(f"{name}: which object of that file? Write FILE.py:NAME")
            return self._checked(_from_file(Path(base, path).absolute(), attribute), name)
        entries = _registered(self.group).get(name, ())
        if len(entries) > 1:
            where = " and ".join(entry.value for entry in entries)
            raise BadInput(f"{len(entries)} parts are named {name}: {where}; uninstall all but one")
        if not entries:
            names = self.names()
            raise BadInput(
                f'no {self.what} is named "{name}"{nearest(name, names)}'
                f" ({', '.join(names)}, or FILE.py:NAME)"
            )
        return self._checked(_loaded(entries[0]), name)

    def _checked(self, found: Any, name: str) -> P:
        if not isinstance(found, self.type):
            raise BadInput(
                f"it is a {type(found).__name__}, where a {self.what} has to be a"
                f" {self.type.__name__} ({name})"
            )
        return found


NICS: Final = Shelf("family of NICs", "netdump_bench.nics", NicFamily)
MACHINES: Final = Shelf("kind of machine", "netdump_bench.machines", MachineKind)
SERVERS: Final = Shelf("kind of server", "netdump_bench.servers", ServerKind)
CLIENTS: Final = Shelf("kind of client", "netdump_bench.clients", ClientKind)


def nic_family(name: str, base: Path = Path()) -> NicFamily:
    """The family of that name."""
    return NICS.find(name, base)


def nic_names() -> list[str]:
    """The registered families."""
    return NICS.names()


def load_object(text: str, base: Path) -> Any:
    """What ``FILE.py:NAME`` stands for. Raises ``BadInput``."""
    path, _, attribute = text.rpartition(":")
    return _from_file(Path(base, path).absolute(), attribute)


def absolute_name(name: str, base: Path) -> str:
    """The same part's name wherever the reader stands: a file's path is made absolute."""
    if not names_a_file(name):
        return name
    path, _, attribute = name.rpartition(":")
    return f"{Path(base, path).absolute()}:{attribute}"


def names_a_file(name: str) -> bool:
    """Whether it is ``FILE.py:NAME``, and not the name of a registered part."""
    return ".py:" in name or "/" in name


def load_part(text: str, base: Path, kind: str) -> Any:
    """The part ``FILE.py:NAME`` of a kind: nic, machine, server, client, or driver, which is a
    class or function that makes a ``nic_models.contracts.Driver``.

    Raises:
        BadInput: in one line, there is none, it can't be loaded, or it is something else.
    """
    shelves: dict[str, Shelf[Any]] = {
        "nic": NICS,
        "machine": MACHINES,
        "server": SERVERS,
        "client": CLIENTS,
    }
    if kind in shelves:
        return shelves[kind].find(text, base)
    assert kind == "driver", kind
    if not text.rpartition(":")[2].isidentifier() or ".py:" not in text:
        raise BadInput(f'"{text}" is no driver: write FILE.py:CLASS, or a shared library FILE.so')
    found = load_object(text, base)
    if not callable(found):
        raise BadInput(
            f"{text} is no driver: it is a {type(found).__name__}, not a class or function that"
            " makes one"
        )
    return found


def is_library(driver: str) -> bool:
    """Whether a driver is one of C."""
    return driver.endswith(".so")


def check_driver(driver: str, base: Path) -> None:
    """Whether there is such a driver. Raises ``BadInput``."""
    if not is_library(driver):
        load_part(driver, base, "driver")
    elif not Path(base, driver).is_file():
        raise BadInput(f"{Path(base, driver)}: no such file; build it first: cc -shared -fPIC")


@cache
def _registered(group: str) -> dict[str, list[EntryPoint]]:
    """Name -> its entries; more than one is a mistake."""
    found: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(group=group):
        found.setdefault(entry.name, []).append(entry)
    return found


@cache
def _loaded(entry: EntryPoint) -> Any:
    try:
        return entry.load()
    except (Exception, SystemExit) as error:  # somebody else's code, which may do anything
        raise BadInput(f"{entry.name} ({entry.value}) can't be loaded: {_last(error)}") from error


@cache
def _module(path: Path) -> ModuleType:
    """A file of the user's, run once."""
    if not path.is_file():
        raise BadInput(f"{path}: no such file")
    if path.suffix != ".py":
        raise BadInput(f"{path}: no Python file: its name must end in .py")
    try:
        return run_file(path)
    except (Exception, SystemExit) as error:  # the same
        raise BadInput(f"{path}: {_last(error, path)}") from error


def _from_file(path: Path, name: str) -> Any:
    module = _module(path)
    if not hasattr(module, name):
        names = [known for known in vars(module) if not known.startswith("_")]
        raise BadInput(f"{path} has no {name}{nearest(name, names)}")
    return getattr(module, name)


def _last(error: BaseException, path: Path | None = None) -> str:
    """An exception in one line, and where it rose in the file."""
    where = ""
    if isinstance(error, SyntaxError):
        where = f"line {error.lineno}: "
    else:
        for frame in traceback.extract_tb(error.__traceback__):
            if path is not None and frame.filename == str(path):
                where = f"line {frame.lineno}: "
    text = traceback.format_exception_only(error)[-1].strip()
    return f"{where}{text}"
