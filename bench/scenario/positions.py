"""Where each key of a TOML file stands: the line numbers that ``tomllib`` does not keep.

A scanner for text that ``tomllib`` has already accepted, so it needs no error handling of its own:
it only has to know where strings, arrays, inline tables and comments end. A key's path is made of
names and, inside arrays, of indices: ``("case", 1, "expect", "at")``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

Path = tuple[str | int, ...]

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_BLANK = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_STRINGS = (
    re.compile(r'"""(?:\\.|[^\\])*?"""+', re.DOTALL),
    re.compile(r"'''.*?'''+", re.DOTALL),
    re.compile(r'"(?:\\.|[^"\\])*"'),
    re.compile(r"'[^']*'"),
)
_SCALAR = re.compile(r"[^,\]}#\n]*")


@dataclass
class Positions:
    """Path of a key -> its line, counted from 1."""

    lines: dict[Path, int] = field(default_factory=dict)

    def line(self, path: Path) -> int:
        """The line of the key, or of the nearest enclosing one that is in the file."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.lines:
                return self.lines[path[:end]]
        return 1


def index_positions(text: str) -> Positions:
    """Scan a valid TOML document."""
    return _Scanner(text).document()


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._found = Positions()
        self._tables: dict[Path, int] = {}  # arrays of tables, and how many elements they have

    def document(self) -> Positions:
        table: Path = ()
        while self._skip(_BLANK) < len(self._text):
            if self._text.startswith("[", self._at):
                table = self._header()
            else:
                self._pair(table)
        return self._found

    def _skip(self, what: re.Pattern[str]) -> int:
        match = what.match(self._text, self._at)
        if match:
            self._at = match.end()
        return self._at

    def _note(self, path: Path, at: int) -> None:
        self._found.lines.setdefault(path, self._text.count("\n", 0, at) + 1)

    def _header(self) -> Path:
        start = self._at
        double = self._text.startswith("[[", start)
        self._at += 2 if double else 1
        *parents, name = self._key()
        self._at += 2 if double else 1
        path: Path = ()
        for part in parents:
            path = (*path, part)
            if path in self._tables:
                path = (*path, self._tables[path] - 1)
        path = (*path, name)
        self._note(path, start)
        if double:
            self._tables[path] = self._tables.get(path, 0) + 1
        if path in self._tables:
            path = (*path, self._tables[path] - 1)
            self._note(path, start)
        return path

    def _key(self) -> list[str]:
        parts = []
        while True:
            self._skip(_SPACE)
            start = self._at
            if self._text[start] in "\"'":
                self._string()
                parts.append(self._text[start + 1 : self._at - 1])
            else:
                parts.append(self._text[start : self._skip(_BARE_KEY)])
            self._skip(_SPACE)
            if not self._text.startswith(".", self._at):
                return parts
            self._at += 1

    def _string(self) -> None:
        for kind in _STRINGS:
            if kind.match(self._text, self._at):
                self._skip(kind)
                return

    def _pair(self, table: Path) -> None:
        start = self._at
        path = table
        for part in self._key():
            path = (*path, part)
            self._note(path, start)
        self._at += 1  # the equals sign
        self._skip(_SPACE)
        self._value(path)

    def _value(self, path: Path) -> None:
        opening = self._text[self._at]
        if opening in "\"'":
            self._string()
        elif opening in "[{":
            self._at += 1
            index = 0
            while self._text[self._skip(_BLANK)] not in "]}":
                if opening == "{":
                    self._pair(path)
                else:
                    self._note((*path, index), self._at)
                    self._value((*path, index))
                    index += 1
                self._skip(_BLANK)
                if self._text[self._at] == ",":
                    self._at += 1
            self._at += 1
        else:
            self._skip(_SCALAR)
