"""The event log: what happened in a run, a JSON object a line.

    {"kind": "step", "poll": 12, "step": "send memory", "time_ns": 250000}

Two rules. It reads no clock: times are given, in ns of the run's clock, so that in the sim tier
the file is a pure function of scenario and seed. And it is bounded: each kind of event has a limit,
after which events of that kind are only counted; the last lines of the file say how many.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

DEFAULT_LIMIT: Final = 10_000
_FLUSH_AT: Final = 1000  # lines


def _plain(value: Any) -> Any:
    """What json can't write by itself: bytes as hex, numpy's numbers and arrays as Python's."""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, set | frozenset):
        return sorted(value)
    return str(value)


_encode = json.JSONEncoder(sort_keys=True, default=_plain, separators=(", ", ": ")).encode


class EventLog:
    """Writes ``events.jsonl``; a context manager. ``OSError``: the folder or disk is at fault."""

    def __init__(self, path: Path, limit: int = DEFAULT_LIMIT) -> None:
        """``limit``: events of one kind that are written; more are counted."""
        self._file = path.open("w", encoding="utf-8", newline="\n")
        self._limit = limit
        self._lines: list[str] = []
        self._last_ns = 0
        self.counts: Counter[str] = Counter()
        """Events emitted, by kind, the suppressed ones included."""

    def emit(self, kind: str, time_ns: int, **fields: object) -> None:
        """One event. ``kind`` and ``time_ns`` are not to be used as names of fields."""
        self._last_ns = int(time_ns)
        self.counts[kind] += 1
        if self.counts[kind] > self._limit:
            return
        self._lines.append(_encode({**fields, "kind": kind, "time_ns": self._last_ns}))
        if len(self._lines) >= _FLUSH_AT:
            self.flush()

    def emit_batch(self, kind: str, time_ns: int, rows: Iterable[Mapping[str, object]]) -> None:
        """Many events of one moment: the same as ``emit`` for each row."""
        for row in rows:
            self.emit(kind, time_ns, **row)

    def flush(self) -> None:
        if self._lines:
            self._file.write("\n".join(self._lines) + "\n")
            self._lines.clear()

    def close(self) -> None:
        """Say what was left out, and close. Twice is harmless."""
        if self._file.closed:
            return
        try:
            for kind, count in sorted(self.counts.items()):
                if count > self._limit:
                    left_out = {"of": kind, "suppressed": count - self._limit}
                    self._lines.append(
                        _encode({**left_out, "kind": "suppressed", "time_ns": self._last_ns})
                    )
            self.flush()
        finally:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
