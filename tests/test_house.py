"""The house's rule for NIC families: all that is known of one is known inside its own package.

The rest of the project knows a family by what it offers (``nic_models/family.py``), so that another
family is its own package and nothing else. The rule is held on syntax trees: what prose says in
comments and docstrings is free.
"""

from __future__ import annotations

import ast
import enum
import importlib
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Final

import pytest

from bench.parts import NICS, nic_family

ROOT: Final = Path(__file__).parent.parent
ROOMS: Final = ("bench", "guest", "netdump", "nic_models", "server", "scripts", "tests")

#: Tests that know a family, besides those that have its name (test_e1000_..., e1000_...): why.
ALLOWED: Final = {
    ("e1000", "tests/test_qemu_nic.py"): "drives QEMU's NIC by hand, without a driver",
    ("e1000", "tests/test_mutations.py"): "plants a defect in its driver's takeover",
    ("e1000", "tests/test_linux_mutations.py"): "plants the same",
    ("e1000", "tests/test_check_nic.py"): "plants defects in its driver",
    ("e1000", "tests/parts/mine.py"): "stands for a user's file that begins from our silicon",
    ("e1000", "tests/test_foreign_parts.py"): "the same, for parts that fail",
}

#: Ours: name -> package, where its entry point leads.
FAMILIES: Final = {
    entry.name: entry.module.rpartition(".")[0]
    for entry in entry_points(group=NICS.group)
    if entry.module.startswith("nic_models.")
}
each_family = pytest.mark.parametrize("family", FAMILIES)


def modules() -> list[str]:
    """All of the project's, by path."""
    found = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


def lives_in(path: str, package: str) -> bool:
    return path.startswith(package.replace(".", "/") + "/")


def registers_of(family: str) -> Path:
    return ROOT / FAMILIES[family].replace(".", "/") / "registers.py"


def outsiders(family: str) -> list[str]:
    """Modules that may know nothing of the family."""
    return [
        path
        for path in modules()
        if not lives_in(path, FAMILIES[family])
        and not path.startswith((f"tests/test_{family}", f"tests/{family}_"))
        and (family, path) not in ALLOWED
    ]


def tree(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"), path)


# --- what a module knows -----------------------------------------------------------------------


def imports(module: ast.Module, package: str) -> Iterator[int]:
    """Lines that import the package, or something of it, or name it in a string (``setattr``)."""
    prose = {id(node.value) for node in ast.walk(module) if isinstance(node, ast.Expr)}
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            named = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            named = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            named = [] if id(node) in prose else [node.value]
        else:
            continue
        if any(f"{name}.".startswith(f"{package}.") for name in named):
            yield node.lineno


def names(module: ast.Module, known: frozenset[str]) -> Iterator[tuple[int, str]]:
    """Lines that name one of ``known``: as a name, as an attribute, in an import."""
    for node in ast.walk(module):
        if isinstance(node, ast.Name):
            name = node.id
        elif isinstance(node, ast.Attribute):
            name = node.attr
        elif isinstance(node, ast.alias):
            name = node.name
        else:
            continue
        if name in known:
            yield node.lineno, name


def numbers(module: ast.Module, value: int) -> Iterator[int]:
    """Lines that have the number."""
    for node in ast.walk(module):
        if isinstance(node, ast.Constant) and type(node.value) is int and node.value == value:
            yield node.lineno


def tables(registers: ModuleType) -> frozenset[str]:
    """What a module of registers defines: its classes, functions and constants, and each register.

    The bits of a register are not among them: who names one names its class, too.
    """
    found = set()
    for node in ast.parse(Path(registers.__file__ or "").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    for value in vars(registers).values():
        if isinstance(value, type) and issubclass(value, enum.IntEnum):
            found |= set(value.__members__)
    return frozenset(name for name in found if not name.startswith("_"))


# --- the rule ----------------------------------------------------------------------------------


@each_family
def test_only_the_family_itself_imports_it(family: str) -> None:
    package = FAMILIES[family]
    found = [
        f"{path}:{line}" for path in outsiders(family) for line in imports(tree(path), package)
    ]
    assert not found, f"{package} is known outside: ask bench.parts.nic_family instead"


@pytest.mark.parametrize("family", [name for name in FAMILIES if registers_of(name).exists()])
def test_only_the_family_itself_names_its_registers(family: str) -> None:
    known = tables(importlib.import_module(f"{FAMILIES[family]}.registers"))
    others = [package for name, package in FAMILIES.items() if name != family]
    found = [
        f"{path}:{line}: {name}"
        for path in outsiders(family)
        # Another family may have registers of the same name.
        if not any(lives_in(path, package) for package in others)
        and not any(
            path.startswith((f"tests/test_{name}", f"tests/{name}_")) or (name, path) in ALLOWED
            for name in FAMILIES
        )
        for line, name in names(tree(path), known)
    ]
    assert not found


@pytest.mark.parametrize("family", [name for name in FAMILIES if nic_family(name).on_qemu])
def test_only_the_family_itself_has_its_pci_ids(family: str) -> None:
    on_qemu = nic_family(family).on_qemu
    assert on_qemu is not None
    packages = FAMILIES.values()
    found = [
        f"{path}:{line}"
        for path in outsiders(family)
        if path.startswith(("bench/", "guest/")) or lives_in(path, "nic_models")
        if not any(lives_in(path, package) for package in packages)
        for line in numbers(tree(path), on_qemu.vendor)
    ]
    assert not found


@pytest.mark.parametrize(("family", "path"), ALLOWED)
def test_what_is_allowed_is_needed(family: str, path: str) -> None:
    assert list(imports(tree(path), FAMILIES[family])), f"{path} need not be on the list any more"


# --- the rule can be broken --------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        "import cards.x1",
        "import cards.x1.rx as rx",
        "from cards import x1",
        "from cards import y2, x1 as card",
        "from cards.x1 import rx",
        "from cards.x1.registers import Reg",
        "def late():\n    from cards.x1 import rx",
        "patch('cards.x1.rx.FEWEST', 1)",
    ],
)
def test_each_way_to_import_a_family_is_seen(source: str) -> None:
    assert list(imports(ast.parse(source), "cards.x1"))


@pytest.mark.parametrize(
    "source",
    [
        "from cards.x1e import rx",
        "from cards import y2",
        '"""cards.x1 is an example."""',
        'def f():\n    """cards.x1 is an example."""',
        "# cards.x1",
    ],
)
def test_what_is_none_is_not(source: str) -> None:
    assert not list(imports(ast.parse(source), "cards.x1"))


@pytest.mark.parametrize(
    "source",
    ["Reg.TDH", "x = TDH", "x.TDH = 1", "from some import TDH", "def f(a=TDH): ..."],
)
def test_each_way_to_name_a_register_is_seen(source: str) -> None:
    assert list(names(ast.parse(source), frozenset({"TDH"})))


def test_the_tables_are_read_from_the_module_itself() -> None:
    known = tables(importlib.import_module(f"{FAMILIES['e1000']}.registers"))
    assert {"Reg", "RCTL", "TDT", "RAL0", "mta_hash", "WRITE_MASK"} <= known
    assert not known & {"Final", "IntEnum", "EN", "DONE"}


def test_a_number_is_seen_however_it_is_written() -> None:
    assert list(numbers(ast.parse("f(0x8086)\ng(32902)\nh(True)"), 0x8086)) == [1, 2]
