"""A serial line that does not hold its machine up.

QEMU sends each letter by itself. A socket's buffer is full after some 280 of them that nobody has
read yet, and then the UART stalls, and loses and doubles letters. A pipe packs them: it takes a
million. QEMU opens pipes by name only, so they have names (``PATH.in``, ``PATH.out``) until it has.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import Final

CAPACITY: Final = 1 << 20
_CHUNK: Final = 1 << 16


class SerialLine:
    """Our end of it."""

    def __init__(self, path: Path) -> None:
        """Make the pipes; QEMU's ``-chardev pipe`` gets ``path``, and ``hide`` follows."""
        self._names = [path.with_name(path.name + end) for end in (".in", ".out")]
        self._fds: list[int] = []
        for name in self._names:
            os.mkfifo(name)
            # Opened both ways, as QEMU does: neither waits for the other.
            self._fds.append(os.open(name, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
            with contextlib.suppress(OSError):  # a user may have as much in all pipes together
                fcntl.fcntl(self._fds[-1], fcntl.F_SETPIPE_SZ, CAPACITY)

    def hide(self) -> None:
        """Remove the names. Twice is harmless."""
        for name in self._names:
            name.unlink(missing_ok=True)

    def read(self) -> bytes:
        """What was printed since the last time; never waits."""
        data = b""
        with contextlib.suppress(BlockingIOError):
            while more := os.read(self._fds[1], _CHUNK):
                data += more
        return data

    def write(self, data: bytes) -> None:
        """Type: a few letters, which always fit."""
        os.write(self._fds[0], data)

    def close(self) -> None:
        """Twice is harmless; what is left to read is lost."""
        self.hide()
        while self._fds:
            os.close(self._fds.pop())
