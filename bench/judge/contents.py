"""What is in a file, as one short value: a file that was written again with the same bytes has the
same.

It is read a window at a time. A window of zeros and a hole are the same to a reader, so neither
counts, and of a large file with little in it only that is read.
"""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path
from typing import Final

_WINDOW: Final = 1 << 20
_ZEROS: Final = bytes(_WINDOW)


def digest(path: Path) -> bytes:
    """Of its size and its contents. ``OSError`` where it can't be read."""
    found = hashlib.blake2b()
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        found.update(size.to_bytes(8, "little"))
        at = 0
        while (at := _next_data(file.fileno(), at)) < size:
            window = os.pread(file.fileno(), _WINDOW, at)
            if not window:
                break
            if window != _ZEROS[: len(window)]:
                found.update(at.to_bytes(8, "little"))
                found.update(window)
            at += _WINDOW
    return found.digest()


def _next_data(fd: int, at: int) -> int:
    """The first window, from ``at`` on, that is no hole; the end of all files if there is none."""
    try:
        return os.lseek(fd, at, os.SEEK_DATA) // _WINDOW * _WINDOW
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return 1 << 63
