"""Run folders: where a run leaves what it saw, all of it or nothing.

    runs/NAME-TIER-seedN-COUNTER/
        verdict.json  scenario.toml  replay     the verdict, its story's text, the command
        events.jsonl  wire.pcapng  dumps/       for each case a folder of them, if there are several

A run is made in ``.partial-...`` and gets its name by one rename at the end, so a folder with a
proper name is whole. A partial folder is locked (flock) while its run lives; one that nobody holds
was left by a run that was killed, and the next run in ``runs``, whatever its name, clears it away.
There is no clock in the name: a counter tells runs apart.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from bench.errors import BadInput

#: Of a machine with more memory than this, a capture keeps only the beginning of each frame: the
#: headers of every protocol and some of the data, which is in the dump anyway.
SNAP_ABOVE: Final = 32 << 20
SNAPLEN: Final = 128

VERDICT: Final = "verdict.json"
SCENARIO: Final = "scenario.toml"
REPLAY: Final = "replay"
_PARTIAL: Final = ".partial-"

#: What the disk or the folder may say that is not our mistake.
_NOT_OURS: Final = frozenset(
    {errno.EACCES, errno.EPERM, errno.ENOTDIR}
    | {errno.EIO, errno.ENAMETOOLONG, errno.EEXIST, errno.ENOENT}
)


def is_output_trouble(error: OSError, folder: Path) -> bool:
    """Whether an error is about the output folder: its disk, its rights, or its path."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG):
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
            self.cleared = _clear_dead(runs)
            """Partial folders of killed runs that are gone now."""
            for number in count(1):
                self.final = runs / f"{stem}-{number}"
                self.path = runs / f"{_PARTIAL}{stem}-{number}"
                if not self.final.exists() and self._take():
                    return
        except OSError as error:
            raise output_trouble(error, runs) from None

    def _take(self) -> bool:
        """Make the partial folder, and make it ours."""
        for last in (False, False, True):
            try:
                self.path.mkdir()
                break
            except FileExistsError:
                return False
            except FileNotFoundError:  # a measurement that ended took its home away: it was empty
                if last:
                    raise
                self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(self.path)
        if self._lock < 0:  # taken for a dead run's, in this very moment: the next number, then
            return False
        if not self.final.exists():
            return True
        # Between two of our steps another run has finished under this number.
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


def scratch_home() -> Path:
    """Where measurements keep what they write: in memory, where there is some for files."""
    fast = Path("/dev/shm")
    home = fast if os.access(fast, os.W_OK) else Path(tempfile.gettempdir())
    return home / f"netdump-bench-{os.getuid()}"


@contextlib.contextmanager
def scratch(stem: str) -> Iterator[RunFolder]:
    """A folder that is gone at the end; what a killed one left is cleared away first."""
    home = scratch_home()
    try:
        with RunFolder(home, stem) as folder:
            yield folder
    finally:
        with contextlib.suppress(OSError):
            home.rmdir()  # unless another one is in it


def clear_scratch() -> list[Path]:
    """Remove what killed measurements left; which folders that were."""
    home = scratch_home()
    cleared = _clear_dead(home)
    with contextlib.suppress(OSError):
        home.rmdir()
    return cleared


def _lock(path: Path) -> int:
    """The descriptor of a folder that nobody else holds, or -1."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return -1
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Until it was locked it could be renamed, or removed.
        if os.path.samestat(os.fstat(fd), path.stat()):
            return fd
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return -1


def _clear_dead(runs: Path) -> list[Path]:
    """Remove the partial folders whose runs are dead. What is not ours to remove stays."""
    cleared = []
    for path in sorted(runs.glob(f"{_PARTIAL}*")):
        with contextlib.suppress(OSError):
            fd = _lock(path)
            if fd < 0:
                continue
            try:
                shutil.rmtree(path)
                cleared.append(path)
            finally:
                os.close(fd)
    return cleared
