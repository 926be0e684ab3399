"""Which files of a dump folder are dumps, and which of them their server calls complete.

A server says by a name that a dump is complete. There are two ways, and servers use either:

* the dump itself gets another name when it is whole (ours: ``.partial`` goes);
* the dump has its name from the first byte on, and a *link* appears beside it when it is whole
  (netdumpd: ``vmcore.HOST.last``).

So: a dump that a link with a finished name leads to is complete. Any other is what its own name
says, and a name that both patterns fit is unfinished.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_DIGITS: Final = re.compile(r"(\d+)")


@dataclass(frozen=True, slots=True)
class StoredDump:
    """A dump on a server's disk."""

    path: Path
    complete: bool
    """Its server calls it so."""


@dataclass(frozen=True, slots=True)
class DumpNames:
    """How a server names what it leaves. Patterns are held against a file's name, not its path."""

    finished: re.Pattern[str]
    unfinished: re.Pattern[str]
    others: re.Pattern[str] | None = None
    """Files beside the dumps; None: it may leave what it likes."""

    @classmethod
    def of_globs(cls, finished: Iterable[str], unfinished: Iterable[str]) -> DumpNames:
        """From shell patterns such as ``vmcore.*``."""
        return cls(_any_of(finished), _any_of(unfinished))

    def dumps_in(self, folder: Path) -> list[StoredDump]:
        """The dumps of a folder and of those below it, by when they were written, the latest last;
        of two that were written at the same time, by number.
        """
        marked: set[Path] = set()
        found: list[tuple[int, list[str | int], Path]] = []
        for path in files_in(folder):
            try:
                if path.is_symlink():
                    if self.finished.fullmatch(path.name):
                        marked.add(path.resolve())
                elif self._is_dump(path.name):
                    found.append((path.stat().st_mtime_ns, _by_number(path.name), path))
            except OSError:
                continue  # renamed or removed meanwhile
        return [
            StoredDump(path, path.resolve() in marked or self._says_finished(path.name))
            for _, _, path in sorted(found)
        ]

    def places_in(self, folder: Path) -> list[Path]:
        """Files where what was acknowledged may lie while a dump is under way. A server that may
        leave what it likes may call that file what it likes: then all of them."""
        if self.others is not None:
            return [dump.path for dump in self.dumps_in(folder)]
        return [path for path in files_in(folder) if not path.is_symlink()]

    def strangers(self, names: Iterable[str]) -> list[str]:
        """Those that the server has no business to leave."""
        others = self.others
        if others is None:
            return []
        return [n for n in names if not (self._is_dump(n) or others.fullmatch(n))]

    def _is_dump(self, name: str) -> bool:
        return bool(self.finished.fullmatch(name) or self.unfinished.fullmatch(name))

    def _says_finished(self, name: str) -> bool:
        return not self.unfinished.fullmatch(name)


_DUMP: Final = r"vmcore(_encrypted)?\.[\w.:-]+"
#: Our own server's (``server/store.py``).
OURS: Final = DumpNames(
    finished=re.compile(_DUMP),
    unfinished=re.compile(_DUMP + r"\.partial"),
    others=re.compile(r"(info|bounds|key|manifest|journal)\.[\w.:-]+"),
)


def files_in(folder: Path) -> Iterator[Path]:
    """Files and links of a folder and of those below it; no link is followed."""
    for root, folders, names in os.walk(folder):
        for name in (*names, *folders):
            path = Path(root, name)
            if path.is_symlink() or path.is_file():
                yield path


def _any_of(globs: Iterable[str]) -> re.Pattern[str]:
    """One pattern for several; of none, one that nothing fits."""
    return re.compile("|".join(map(fnmatch.translate, globs)) or r"(?!)")


def _by_number(name: str) -> list[str | int]:
    """Sorts ``vmcore.10`` behind ``vmcore.9``: text and numbers take turns."""
    parts = _DIGITS.split(name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)]
