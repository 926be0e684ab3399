"""The file of a journal (``journal.py``).

Whoever has it open holds a lock on it (flock(2)), from before it has its name: so no two servers go
on with one dump, and a server that is killed lets go of it. It is written anew beside itself, and
takes its name's place: at any time all of the one or of the other is there.
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from typing import Final

_FLAGS: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
#: Octets of a journal that are read. One is written anew long before it has so many.
_MOST: Final = 64 << 20
#: Octets of a journal that says nothing any more. Not 0: that is what a crash of the machine leaves
#: of one that was not forced to the disk, and its dump is to be named.
VOID_SIZE: Final = 1


class JournalFile:
    """Of one dump. Every method but ``close`` may raise OSError."""

    def __init__(self) -> None:
        self.fd = -1
        self._end = 0

    def begin(self, folder: int, name: str, octets: bytes, synced: bool) -> None:
        """These are all of it from now on. ``synced``: they are to be on the disk."""
        new = f"{name}.new"
        with suppress(FileNotFoundError):
            os.unlink(new, dir_fd=folder)  # a server that died has left it
        fd = os.open(new, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _write(fd, octets, 0)
            if synced:
                os.fsync(fd)
            os.rename(new, name, src_dir_fd=folder, dst_dir_fd=folder)
        except OSError:
            os.close(fd)
            with suppress(OSError):
                os.unlink(new, dir_fd=folder)
            raise
        self.close()
        self.fd, self._end = fd, len(octets)
        if synced:
            os.fsync(folder)

    def append(self, octets: bytes, synced: bool) -> None:
        _write(self.fd, octets, self._end)
        self._end += len(octets)
        if synced:
            os.fdatasync(self.fd)

    def resume(self, folder: int, name: str) -> bytes | None:
        """What another life of the server has written; None: somebody has it."""
        self.fd = os.open(name, _FLAGS, dir_fd=folder)
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # One that lives may have written it anew meanwhile: then this is the old one.
            now = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if os.path.samestat(now, os.fstat(self.fd)):
                return os.pread(self.fd, _MOST, 0)
        except (BlockingIOError, FileNotFoundError):
            pass
        self.close()
        return None

    def void(self, synced: bool) -> None:
        """It says nothing any more, under whichever name, and, if ``synced``, after a crash of the
        machine.
        """
        if self.fd >= 0:
            os.ftruncate(self.fd, VOID_SIZE)
            if synced:
                os.fsync(self.fd)

    def close(self) -> None:
        """Let go of it."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            with suppress(OSError):
                os.close(fd)


def remove_unfinished(folder: int, name: str) -> None:
    """One that never got its name, for its server died; a living one's is left alone."""
    with suppress(OSError):
        fd = os.open(name, _FLAGS, dir_fd=folder)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(name, dir_fd=folder)
        finally:
            os.close(fd)


def _write(fd: int, octets: bytes, at: int) -> None:
    while octets:
        wrote = os.pwrite(fd, octets, at)
        if wrote <= 0:
            raise OSError(errno.EIO, "nothing was written")
        octets, at = octets[wrote:], at + wrote
