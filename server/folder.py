"""The dump folder, and the folders below it that clients may ask for.

A HERALD can name a folder. It is taken relative to the dump folder and opened component by
component from there, without symbolic links or "..", so no name leads out; and it is never created.
What a client asks for costs a handful of system calls, whatever it is.
"""

from __future__ import annotations

import errno
import os
from typing import Final

from server.beside import Later, at_once
from server.store import FileStore, FsyncPolicy, StoreError, error_code

_MAX_PATH_PARTS: Final = 64
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class DumpFolder:
    """The dump folder; calling it makes a FileStore (a ``StoreFactory``)."""

    def __init__(self, path: str, fsync: FsyncPolicy = "finish", later: Later = at_once) -> None:
        """``later``: see ``FileStore``."""
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise StoreError(f"can't open the dump folder {path!r}", error_code(error)) from error
        self._fsync: FsyncPolicy = fsync
        self._later = later
        try:
            _check_writable(self._fd, path)
        except StoreError:
            self.close()
            raise

    def __call__(self, client: tuple[str, int], path: str) -> FileStore:
        return FileStore(self._open(path), client[0], self._fsync, self._later)

    def close(self) -> None:
        os.close(self._fd)

    def _open(self, path: str) -> int:
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if path.startswith("/") or ".." in parts or len(parts) > _MAX_PATH_PARTS:
            raise StoreError(f"the client's path {path!r} leaves the dump folder", errno.EPERM)
        try:
            fd = os.open(".", _FOLDER, dir_fd=self._fd)
        except OSError as error:
            raise StoreError("can't open the dump folder again", error_code(error)) from error
        try:
            for part in parts:
                below = os.open(part, _FOLDER, dir_fd=fd)
                os.close(fd)
                fd = below
            _check_writable(fd, path)
        except (OSError, ValueError) as error:
            os.close(fd)
            code = error_code(error) if isinstance(error, OSError) else errno.EINVAL
            raise StoreError(f"can't use the client's path {path!r}", code) from error
        except StoreError:
            os.close(fd)
            raise
        return fd


def _check_writable(fd: int, path: str) -> None:
    if not os.access(".", os.W_OK | os.X_OK, dir_fd=fd):
        raise StoreError(f"can't write in the folder {path or '.'!r}", errno.EACCES)
