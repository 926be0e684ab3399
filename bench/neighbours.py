"""A file of the user's is run with the files beside it, and with no other part's.

Python keeps modules by their bare names: of two parts in two folders, each with a ``common.py``,
the second would get the first's. So each folder is a package of its own here, under a name that is
made from its path. What a file of it imports is looked for in the folder first, as Python does for
a script, whenever it is imported: while the file is run, or later in a function. All that is not
there is imported as ever, and so is what has the name of a package of ours.

An import statement asks the ``__builtins__`` of its own module for ``__import__``: that is how a
module of such a folder gets its own.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from hashlib import sha256
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Final

#: Packages of this project.
OURS: Final = frozenset({"bench", "guest", "netdump", "nic_models", "server"})
_PREFIX: Final = "netdump_bench_part_"

Import = Callable[..., ModuleType]


def run_file(path: Path) -> ModuleType:
    """The module of a file whose name ends in .py. Raises what it raises; then it is no module."""
    package = _package(path.parent)
    name = f"{package}.{path.stem.replace('.', '_')}"
    spec = ModuleSpec(name, _Loader(name, str(path)), origin=str(path))
    spec.has_location = True
    module = module_from_spec(spec)
    assert spec.loader is not None
    sys.modules[name] = module  # where dataclasses look for their annotations
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def is_ours(made_by: object) -> bool:
    """Whether a class or function is of this project."""
    module = getattr(made_by, "__module__", None)
    return isinstance(module, str) and module.partition(".")[0] in OURS


@cache
def _package(folder: Path) -> str:
    """The folder as a package; its name."""
    name = _PREFIX + sha256(str(folder).encode()).hexdigest()[:16]
    package = ModuleType(name, f"The parts in {folder}.")
    package.__path__ = [str(folder)]
    sys.modules[name] = package
    if _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)
    return name


class _Finder(MetaPathFinder):
    """Finds the modules of such packages."""

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not name.startswith(_PREFIX):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(name, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    """Gives a module an ``__import__`` that looks in its folder first."""

    def exec_module(self, module: ModuleType) -> None:
        package = self.name.partition(".")[0]
        own = {**vars(builtins), "__import__": _importer(package)}
        vars(module)["__builtins__"] = own
        super().exec_module(module)


@cache
def _importer(package: str) -> Import:
    (folder,) = sys.modules[package].__path__

    def importer(
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        top = name.partition(".")[0]
        if level or not _beside(Path(folder), top):
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        found = import_module(f"{package}.{name}")
        if not fromlist:
            return sys.modules[f"{package}.{top}"]
        for wanted in fromlist:  # it may be a module of that package that is not imported yet
            if hasattr(found, "__path__") and wanted != "*" and not hasattr(found, wanted):
                _submodule(f"{found.__name__}.{wanted}")
        return found

    return importer


def _submodule(name: str) -> None:
    try:
        import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise  # it is there, and lacks something itself


@cache
def _beside(folder: Path, name: str) -> bool:
    """Whether that top-level name is a module or package in the folder."""
    if name in OURS or name.startswith(_PREFIX):
        return False
    if (folder / f"{name}.py").is_file() or (folder / name / "__init__.py").is_file():
        return True
    # A folder without an __init__.py counts where there is nothing else of that name.
    return (folder / name).is_dir() and find_spec(name) is None
