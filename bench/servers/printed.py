"""What a server prints: kept, but not without bound, and searched for defects of its own.

A server that prints a line for each frame prints more than memory, or the disk, should hold. So the
first MiB is kept, as of a client, and the last 64 KiB, where an end is told; what lies between
is only searched, and counted.

A program that goes on after a defect of its own showed has printed that in a form that its
language's runtime gives: Python's traceback, a sanitizer's report, Rust's panic. Each begins a
line. A server may also quote what the dump's header says, and a kernel's last words may be such a
line; so what is part of those words is no defect of the server's.
"""

from __future__ import annotations

import os
import re
import select
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

#: Bytes that are kept of the beginning, and of the end.
HEAD_BYTES: Final = 1 << 20
TAIL_BYTES: Final = 1 << 16
#: Of a defect, as much as a verdict has room for.
SAID: Final = 500
#: Defects that are remembered of what is not kept.
_MOST: Final = 8
_READ: Final = 1 << 16
#: The longest line that is not cut where the end begins.
_LINE: Final = 1 << 12
#: Reads at once: more than a pipe holds.
_READS: Final = 64

_RAISED: Final = re.compile(
    r"^(?:"
    r"(?:  \+ Exception Group )?Traceback \(most recent call last\):"
    r"|=+\d+=+ ?(?:ERROR|WARNING): \w+Sanitizer\b"
    r"|WARNING: ThreadSanitizer\b"
    r"|\S[^\n:]*:\d+(?::\d+)?: runtime error: "  # UBSan: file, line, column
    r"|thread '[^'\n]*' (?:\(\d+\) )?panicked at "
    r")",
    re.MULTILINE,
)


def raised(output: str, said: Sequence[str] = ()) -> list[str]:
    """What a server printed of a defect of its own, a line; empty if nothing did. ``said``: texts
    that it may quote.
    """
    lines = [line.strip() for text in said for line in text.splitlines()]
    quoted = [line for line in lines if _RAISED.search(line)]
    for found in _RAISED.finditer(output):
        line = output[found.start() :].split("\n", 1)[0].strip()
        if not any(line in words or words in line for words in quoted):
            return [f"the server raised: {output[found.start() :].lstrip()[:SAID]}"]
    return []


class Printed:
    """What was printed so far: the first, the last, and how much in all."""

    def __init__(self) -> None:
        self.total = 0
        self._head = bytearray()
        self._tail = bytearray()
        self._defects: list[str] = []

    def add(self, octets: bytes) -> bytes:
        """What of it belongs to the beginning."""
        self.total += len(octets)
        room = HEAD_BYTES - len(self._head)
        first = octets[:room]
        self._head += first
        self._tail += octets[room:]
        if len(self._tail) > 2 * TAIL_BYTES:
            self._forget()
        return first

    def _forget(self) -> None:
        cut = len(self._tail) - TAIL_BYTES
        cut = self._tail.find(b"\n", cut, cut + _LINE) + 1 or cut
        text = self._tail.decode(errors="replace")
        gone = self._tail[:cut].decode(errors="replace")
        for found in _RAISED.finditer(gone):
            if len(self._defects) < _MOST:
                self._defects.append(text[found.start() :][:SAID])
        del self._tail[:cut]

    @property
    def end(self) -> str:
        """What follows the beginning: how much is left out, and the last of it."""
        left_out = self.total - len(self._head) - len(self._tail)
        last = self._tail.decode(errors="replace")
        if not left_out:
            return last
        words = [f"\n[{left_out:,} bytes are left out here]", *self._defects, last]
        return "\n".join(words)

    def text(self, start: int = 0) -> str:
        """All that is kept, from that byte of it on."""
        if start <= len(self._head):
            return self._head[start:].decode(errors="replace") + self.end
        return self._tail[max(start - self.total + len(self._tail), 0) :].decode(errors="replace")


class PrintedLog:
    """The same, read from a pipe into a file while the server lives. The file gets the beginning as
    it comes, and the end when that is known.

    A thread reads, for a server whose pipe is full stands still; and so does who asks, to know all
    that was printed by then.
    """

    def __init__(self, log: Path) -> None:
        self._path = log
        self._kept = Printed()
        self._lock = threading.Lock()
        self._pipe = self._wake = self._stop = -1
        self._reader: threading.Thread | None = None

    def open(self) -> int:
        """For one life: the descriptor that the server prints to. The caller closes it."""
        self.close()
        if not self._kept.total:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_bytes(b"")
        self._pipe, theirs = os.pipe()
        self._wake, self._stop = os.pipe()
        os.set_blocking(self._pipe, False)
        self._reader = threading.Thread(target=self._read, name="printed", daemon=True)
        self._reader.start()
        return theirs

    def close(self) -> None:
        """The server has ended: take what is left in the pipe. Twice is harmless."""
        if self._reader is None:
            return
        os.close(self._stop)
        self._reader.join()
        self._reader = None
        self._take()
        with self._lock:
            for fd in (self._pipe, self._wake):
                os.close(fd)
            self._pipe = -1
        with self._lock, self._path.open("r+b") as file:
            end = file.seek(min(self._kept.total, HEAD_BYTES))
            file.write(self._kept.end.encode(errors="replace"))
            file.truncate(max(end, file.tell()))

    @property
    def total(self) -> int:
        self._take()
        return self._kept.total

    def text(self, start: int = 0) -> str:
        self._take()
        with self._lock:
            return self._kept.text(start)

    def _read(self) -> None:
        answer = select.poll()  # select(2) knows no descriptor beyond 1023
        answer.register(self._pipe, select.POLLIN)
        answer.register(self._wake, 0)  # its other end is closed: POLLHUP
        while not any(fd == self._wake for fd, _ in answer.poll()):
            if self._take():
                return

    def _take(self) -> bool:
        """What is in the pipe; whether it has an end."""
        with self._lock:
            if self._pipe < 0:
                return True
            for _ in range(_READS):
                try:
                    octets = os.read(self._pipe, _READ)
                except BlockingIOError:
                    return False
                if not octets:
                    return True
                if first := self._kept.add(octets):
                    with self._path.open("ab") as file:
                        file.write(first)
            return False
