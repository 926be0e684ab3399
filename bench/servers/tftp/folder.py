"""Where a TFTP server keeps its files: one folder, and nothing above, below or beside it.

A file has its name when its last block is stored; until then, and for good if the upload breaks
off, it is called ``NAME.partial``. So what lies there says what it is. (Stock servers use the final
name from the first octet on: there nothing tells half a file from a whole one.)
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from bench.servers.tftp.config import TftpConfig
from netdump.tftp.packets import Code, Error

PARTIAL: Final = ".partial"
_LONGEST: Final = 255 - len(PARTIAL)


class NoFile(Exception):
    """It can't be written; ``error`` is what the client is told."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.error = Error(code, text)


class Upload:
    """A file that is being written, from its first octet on."""

    def __init__(self, folder: Path, name: str, room: int | None) -> None:
        self._final = folder / name
        self.path = folder / (name + PARTIAL)
        """Where it lies while it is written."""
        self.length = 0
        """Octets that are stored."""
        self._room = room
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd: int | None = os.open(self.path, flags, 0o644)

    def write(self, octets: bytes | memoryview) -> None:
        """Append. ``OSError``: the disk does not take it all."""
        assert self._fd is not None, "not closed"
        if self._room is not None and self.length + len(octets) > self._room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        rest = memoryview(octets)
        while rest:
            rest = rest[os.write(self._fd, rest) :]
        self.length += len(octets)

    def finish(self) -> None:
        """It is whole."""
        self.close()
        os.replace(self.path, self._final)

    def close(self) -> None:
        """It stays what it is."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


#: ``(folder, name, room)`` -> a file that is begun.
MakeUpload = Callable[[Path, str, int | None], Upload]


class Folder:
    """The files of one server."""

    def __init__(self, path: Path, config: TftpConfig, upload: MakeUpload = Upload) -> None:
        """``upload``: the place for a disk that lies."""
        self._path = path
        self._config = config
        self._upload = upload

    def open(self, file: bytes) -> tuple[str, Upload]:
        """Begin a file; its name. Raises ``NoFile``."""
        name = _checked(file)
        there = (self._path / name).is_file()
        if there and self._config.existing == "refuse":
            raise NoFile(Code.EXISTS, f"{name} is there already")
        if not there and self._config.existing == "required":
            raise NoFile(Code.NOT_FOUND, f"there is no {name}, and none is made")
        try:
            return name, self._upload(self._path, name, self._config.room)
        except OSError as error:
            raise NoFile(code_of(error), error.strerror or "it can't be written") from error


def code_of(error: OSError) -> Code:
    """What a client is told of it."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return Code.DISK_FULL
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP, errno.EISDIR):
        return Code.ACCESS
    return Code.UNDEFINED


def _checked(file: bytes) -> str:
    """A plain name in this folder; leading slashes are the client's way to say its root."""
    name = file.decode("ascii", "replace").lstrip("/")
    plain = name.isprintable() and "/" not in name and "\ufffd" not in name
    if not plain or name in ("", ".", "..") or name.endswith(PARTIAL) or len(name) > _LONGEST:
        raise NoFile(Code.ACCESS, "no name that may be written here")
    return name
