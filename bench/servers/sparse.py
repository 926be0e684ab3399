"""Copies of dumps: a hole stays a hole; a file's time stays, for it tells which dump is the last.

A dump of a few bytes at the far end of a large memory is a large file that takes no room.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from bench.servers.names import files_in


def copy_folder(source: Path, target: Path) -> None:
    """All files and links below ``source``; what is in ``target`` by that name is replaced."""
    for path in files_in(source):
        there = target / path.relative_to(source)
        there.parent.mkdir(parents=True, exist_ok=True)
        there.unlink(missing_ok=True)
        if path.is_symlink():
            there.symlink_to(os.readlink(path))
        else:
            copy_file(path, there)


def copy_file(source: Path, target: Path) -> None:
    """Its data, its size, and when it was written."""
    with source.open("rb") as old, target.open("wb") as new:
        status = os.fstat(old.fileno())
        start = 0
        while start < status.st_size:
            try:
                start = os.lseek(old.fileno(), start, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:  # no data beyond: the rest is a hole
                    raise
                break
            end = os.lseek(old.fileno(), start, os.SEEK_HOLE)
            os.lseek(new.fileno(), start, os.SEEK_SET)
            os.lseek(old.fileno(), start, os.SEEK_SET)
            while start < end:
                start += os.sendfile(new.fileno(), old.fileno(), None, end - start)
        new.truncate(status.st_size)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
