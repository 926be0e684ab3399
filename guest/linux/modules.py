"""A kernel's modules, and the order in which they have to be loaded.

A module says itself which others it needs: in the string ``depends=a,b`` of its ELF section
.modinfo. That is where depmod(8) has it from, too; the file modules.dep that it makes is not in
Debian's packages, so it is not used here.

The kernel takes "-" and "_" in a name for the same; here names have "_", as in /proc/modules. What
modules.builtin lists is part of the kernel: it needs nothing, and can't be loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from guest.linux.compressed import BadData, unpack
from guest.linux.elf import BadElf, Elf

_BUILTIN: Final = "modules.builtin"
_SUFFIXES: Final = (".ko", ".ko.gz", ".ko.xz", ".ko.zst")
#: The largest that a distribution has is a tenth of this.
_MODULE_MAX: Final = 128 << 20


class BadModules(Exception):
    """A module is missing or damaged, or modules need each other in a circle."""


@dataclass(frozen=True, slots=True)
class Module:
    """A module as the kernel takes it: not compressed."""

    name: str
    data: bytes
    needs: tuple[str, ...]
    """The modules that it names as its dependencies."""


class ModuleTree:
    """The modules below one folder, ``/lib/modules/RELEASE``."""

    def __init__(self, folder: Path) -> None:
        """Raises ``BadModules``: there is no such folder."""
        self.folder: Final = folder
        if not folder.is_dir():
            raise BadModules(f"{folder}: there is no such folder of modules")
        self._paths = {_name(path): path for path in sorted(folder.rglob("*.ko*"))}
        listed = folder / _BUILTIN
        lines = listed.read_text().split() if listed.is_file() else []
        self.builtin: Final = frozenset(_name(Path(line)) for line in lines)

    def has(self, name: str) -> bool:
        """It is there, or built in."""
        return (name := _underscored(name)) in self._paths or name in self.builtin

    def read(self, name: str) -> Module:
        """One module. Raises ``BadModules``: it is not there, damaged, or can't be unpacked."""
        path = self._paths.get(_underscored(name))
        if path is None:
            raise BadModules(f"{self.folder}: there is no module {name}, and it is not built in")
        suffix = path.name[path.name.index(".ko") :]
        if suffix not in _SUFFIXES:
            known = ", ".join(_SUFFIXES)
            raise BadModules(f"{path}: modules named *{suffix} can't be read here ({known})")
        try:
            data = path.read_bytes()
            data = data if suffix == ".ko" else _unpacked(data)
            info = Elf(data).section(b".modinfo")
        except (OSError, BadData, BadElf) as error:
            raise BadModules(f"{path}: {error}") from error
        if info is None:
            raise BadModules(f"{path}: this is no module: it has no section .modinfo")
        return Module(_name(path), data, _needs(info))

    def closure(
        self, wanted: Sequence[str], also: dict[str, tuple[str, ...]] | None = None
    ) -> list[Module]:
        """These modules and all that they need, in the order in which they can be loaded.

        ``also`` names what else a module needs that does not say so itself. Modules that are built
        in are left out.

        Raises:
            BadModules: one is missing or damaged.
        """
        read: dict[str, Module] = {}

        def needs(name: str) -> Iterable[str]:
            read[name] = module = self.read(name)
            more = (also or {}).get(name, ())
            return (need for need in (*module.needs, *more) if need not in self.builtin)

        names = [_underscored(name) for name in wanted]
        order = load_order((name for name in names if name not in self.builtin), needs)
        return [read[name] for name in order]


def _unpacked(packed: bytes) -> bytes:
    found = unpack(packed, _MODULE_MAX)
    if not found.whole or found.rest:
        raise BadData(f"damaged: its {found.format} data does not end where the file ends")
    return found.data


def load_order(wanted: Iterable[str], needs: Callable[[str], Iterable[str]]) -> list[str]:
    """Each of the wanted, and of what they need, once, after all that it needs.

    Raises:
        BadModules: modules need each other in a circle.
    """
    order: list[str] = []
    above: list[str] = []

    def visit(name: str) -> None:
        if name in order:
            return
        if name in above:
            circle = " needs ".join([*above[above.index(name) :], name])
            raise BadModules(f"modules need each other in a circle: {circle}")
        above.append(name)
        for need in needs(name):
            visit(need)
        order.append(above.pop())

    for name in wanted:
        visit(name)
    return order


def _needs(info: bytes) -> tuple[str, ...]:
    for string in info.split(b"\0"):
        key, _, value = string.partition(b"=")
        if key == b"depends":
            return tuple(
                _underscored(name) for name in value.decode("ascii", "replace").split(",") if name
            )
    return ()


def _name(path: Path) -> str:
    return _underscored(path.name.partition(".ko")[0])


def _underscored(name: str) -> str:
    return name.replace("-", "_")
