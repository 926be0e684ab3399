"""Run folders: where a run leaves what it saw, all of it or nothing.

    runs/NAME-TIER-seedN-COUNTER/
        verdict.json  scenario.toml  replay     the verdict, its story's text, the command
        events.jsonl  wire.pcapng  dumps/       for each case a folder of them, if there are several

A run is made in ``.partial-...`` and gets its name by one rename at the end, so a folder with a
proper name is whole. A partial folder is locked (flock) while its run lives; one that nobody holds
was left by a run that was killed, and the next run of that name clears it away. There is no clock
in the name: a counter tells runs apart.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from bench.errors import BadInput

VERDICT: Final = "verdict.json"
SCENARIO: Final = "scenario.toml"
REPLAY: Final = "replay"
_PARTIAL: Final = ".partial-"

#: What the disk or the folder may say that is not our mistake.
_NOT_OURS: Final = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOTDIR}
    | {errno.EIO, errno.ENAMETOOLONG, errno.EEXIST, errno.ENOENT}
)


def is_output_trouble(error: OSError, folder: Path) -> bool:
    """Whether an error is about the output folder: its disk, its rights, or its path."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return True
    name = error.filename
    if error.errno not in _NOT_OURS or not isinstance(name, str | os.PathLike):
        return False
    return Path(name).absolute().is_relative_to(folder.absolute())


def output_trouble(error: OSError, folder: Path) -> BadInput:
    """One line about it."""
    return BadInput(f"can't write to {folder}: {error.strerror}; name another folder with --runs")


class RunFolder:
    """A context manager: ``path`` is written to, ``keep`` makes it permanent, else it goes."""

    def __init__(self, runs: Path, stem: str) -> None:
        """Make the partial folder of the next free number. Raises ``BadInput``."""
        self._lock = -1
        try:
            runs.mkdir(parents=True, exist_ok=True)
            for number in count(1):
                self.final = runs / f"{stem}-{number}"
                self.path = runs / f"{_PARTIAL}{stem}-{number}"
                if not self.final.exists() and self._take():
                    return
        except OSError as error:
            raise output_trouble(error, runs) from None

    def _take(self) -> bool:
        """Make the partial folder ours; what a killed run left in it goes."""
        with contextlib.suppress(FileExistsError):
            self.path.mkdir()
        try:
            self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Between two of our steps another run may have finished under this number.
            ours = os.path.samestat(os.fstat(self._lock), self.path.stat())
        except (BlockingIOError, FileNotFoundError):
            ours = False
        if ours:
            for entry in self.path.iterdir():
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()
            if not self.final.exists():
                return True
            self.path.rmdir()
        self._unlock()
        return False

    def _unlock(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def keep(self) -> Path:
        """Give the folder its name; it is whole from here on."""
        os.rename(self.path, self.final)
        self._unlock()
        return self.final

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._lock >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            self._unlock()
