"""The dump folder, and the folders below it that clients may ask for.

A HERALD can name a folder. It is taken relative to the dump folder and opened component by
component from there, without symbolic links or "..", so no name leads out; and it is never created.
What a client asks for costs a handful of system calls, whatever it is.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator
from typing import Final

from server.beside import Later, at_once
from server.journal_file import VOID_SIZE, remove_unfinished
from server.machine import Machine, this_machine
from server.store import FileStore, FsyncPolicy, StoreError, error_code

_MAX_PATH_PARTS: Final = 64
#: Names that are looked at for journals, those of folders among them.
_MOST_NAMES: Final = 100_000
_JOURNAL: Final = re.compile(r"journal\.([0-9A-Za-z:_.-]+)\.([0-9]{1,9})(\.new)?")
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class DumpFolder:
    """The dump folder; calling it makes a FileStore (a ``StoreFactory``)."""

    def __init__(
        self,
        path: str,
        fsync: FsyncPolicy = "finish",
        later: Later = at_once,
        machine: Machine | None = None,
    ) -> None:
        """``later``: see ``FileStore``. ``machine``: that of the folder; None: this one."""
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise StoreError(f"can't open the dump folder {path!r}", error_code(error)) from error
        self._fsync: FsyncPolicy = fsync
        self._later = later
        self.machine = machine or this_machine()
        try:
            _check_writable(self._fd, path)
        except StoreError:
            self.close()
            raise

    def __call__(self, client: tuple[str, int], path: str) -> FileStore:
        return self._store(self._open(path), client[0])

    def left_behind(self, on_lost: Callable[[str, str], None]) -> Iterator[tuple[FileStore, bytes]]:
        """Dumps that a server which died has left under way, here and below: each one's store, and
        its journal's octets. What can't be opened, or is another living server's, is left alone;
        of the former ``on_lost`` is told the dump's name, and why.
        """
        seen = 0
        for path, folders, names, fd in os.fwalk(".", dir_fd=self._fd, onerror=None):
            seen += len(folders) + len(names)
            if path.count("/") >= _MAX_PATH_PARTS:
                folders.clear()  # no client's path leads there
            for name in sorted(names):
                match = _JOURNAL.fullmatch(name)
                if match is None:
                    continue
                if match[3]:
                    remove_unfinished(fd, name)
                    continue
                try:
                    store = self._store(os.open(".", _FOLDER, dir_fd=fd), match[1])
                    octets = store.resume(int(match[2]))
                except OSError as error:
                    lost = StoreError("can't open its folder again", error_code(error))
                    on_lost(f"vmcore.{match[1]}.{match[2]}", str(lost))
                    continue
                except StoreError as error:
                    on_lost(f"vmcore.{match[1]}.{match[2]}", str(error))
                    continue
                if octets is not None and len(octets) == VOID_SIZE:  # it could not be removed
                    store.end_journal()
                    store.close()
                elif octets is not None:
                    yield store, octets
            if seen > _MOST_NAMES:
                return

    def close(self) -> None:
        os.close(self._fd)

    def _store(self, fd: int, host: str) -> FileStore:
        return FileStore(fd, host, self._fsync, self._later, self.machine)

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
