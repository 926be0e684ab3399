"""Where a dump goes: one folder, names as FreeBSD's netdumpd gives them, and one more.

For the N-th dump of HOST (a numeric address)::

    info.HOST.N              what the dump is and how it ended; creating it reserves N
    vmcore.HOST.N.partial    the dump while it is not known to be complete
    vmcore.HOST.N            the dump, complete (vmcore_encrypted.HOST.N; + .gz, .zst)
    key.HOST.N               the encrypted key block of an encrypted dump
    manifest.HOST.N          what is stored, and what of it was verified (``manifest.py``)
    journal.HOST.N           for a server that comes up again (``journal.py``), while it is wanted
    bounds.HOST              the next N
    vmcore.HOST.last         -> the latest complete dump; info.HOST.last -> its info

netdumpd has no ``.partial``: there a half dump looks like a whole one; and it has no manifest and
no journal. Who has a journal open holds a lock on it, so no two servers have one dump.
Everything is 0600 (the key of a complete dump 0400), created with O_EXCL and never followed through
a symbolic link.

Rules:

1. ``write`` returns only when every byte is with the kernel (``fsync="always"``: on the disk). What
   was acknowledged survives the server's death; by ``fsync`` also the machine's.
2. Whatever the disk does comes out as ``StoreError``, with the place and the errno.
3. People move files, also those of a running dump, and then a name may be another dump's. So no
   name is used a second time unless it still leads to the file that is open here.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from netdump.errors import NetdumpError
from server.beside import Later, at_once
from server.journal_file import JournalFile
from server.machine import SILENT, Machine

#: When bytes are forced to the disk: never, before FINISHED is acknowledged, before each ack.
FsyncPolicy = Literal["none", "finish", "always"]

#: Dumps of one host that a folder takes, if bounds.HOST is of no help (netdumpd's MAXDUMPS).
MAX_DUMPS: Final = 1024
SUFFIXES: Final = ("", ".gz", ".zst")
_IOV_MAX: Final = 1024
_LAST_LINE: Final = 256
#: Every so many bytes the kernel is asked to begin writing back, so that the fsync at the end has
#: little left to wait for: a stock client gives up on FINISHED after 12 s.
_WRITEBACK_EVERY: Final = 8 << 20
_SYNC_FILE_RANGE_WRITE: Final = 2
#: WAIT_BEFORE, WRITE, WAIT_AFTER: it returns when the range has been written.
_SYNC_FILE_RANGE_WAIT: Final = 7
_NEW_FILE: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class StoreError(NetdumpError):
    """The disk refused. ``errno`` is its reason, ``offset`` the place in the dump, -1 for none."""

    reason = "store"

    def __init__(self, what: str, code: int, offset: int = -1) -> None:
        at = f" @ offset {offset}" if offset >= 0 else ""
        super().__init__(f"{what}{at}: {os.strerror(code)}")
        self.errno = code
        self.offset = offset


class Store(Protocol):
    """What a session needs of a disk. Every method may raise StoreError."""

    def begin(self) -> str:
        """Reserve a number and create the files; the dump's name, ``vmcore.HOST.N``."""
        ...

    def write(self, offset: int, blocks: Sequence[NDArray[np.uint8]]) -> None:
        """Keep contiguous blocks (uint8, C order) at ``offset`` bytes; all of them, or an error."""
        ...

    def write_key(self, offset: int, data: bytes) -> None:
        """Keep a piece of the key block."""
        ...

    def read_key(self) -> tuple[str, bytes]:
        """The key file's name and contents, from the disk if they are ever forced to it."""
        ...

    def write_info(self, text: str) -> None:
        """Replace the info file's contents."""
        ...

    def write_manifest(self, text: str) -> None:
        """Make the manifest: all of it, or none."""
        ...

    @property
    def synced(self) -> bool:
        """What was kept is on the disk, and not only with the kernel."""
        ...

    @property
    def boot(self) -> str:
        """The machine's, "" if it does not tell."""
        ...

    @property
    def inode(self) -> int:
        """Of the dump's file."""
        ...

    def journal(self, octets: bytes, anew: bool) -> None:
        """Append to the journal; ``anew``: they are all of it, or it is left as it was."""
        ...

    def end_journal(self) -> None:
        """Nobody will go on with this dump: it has none. Never raises."""
        ...

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the dump, as kept."""
        ...

    @property
    def reads_disk(self) -> bool:
        """``read_back`` reads from the disk; else it may read from the kernel's cache."""
        ...

    def read_back(self, offset: int, length: int) -> bytes:
        """The same ``length`` bytes, from the disk if they are ever forced to it; no fewer."""
        ...

    def later(self, read: Callable[[], int]) -> Future[int]:
        """Call ``read``, which may take long, beside what is being done; or at once."""
        ...

    def finish(self, length: int | None, suffix: str, encrypted: bool) -> str:
        """The dump is complete: cut it to ``length`` bytes and give it its final name."""
        ...

    def publish(self) -> None:
        """After ``finish``: point the ``.last`` links here. An error leaves the dump complete."""
        ...

    def seal(self) -> None:
        """Nothing but ``read`` and ``close`` will come; never raises."""
        ...

    def close(self) -> None:
        """Let go of the files; never raises."""
        ...


#: Makes the store for a client (address, port) in the folder that its HERALD asked for, "" for
#: none. Raises StoreError where that folder can't be used.
StoreFactory = Callable[[tuple[str, int], str], Store]


class FileStore:
    """One dump's files below an open folder, which it owns from now on."""

    def __init__(
        self,
        folder_fd: int,
        host: str,
        fsync: FsyncPolicy = "finish",
        later: Later = at_once,
        machine: Machine = SILENT,
    ) -> None:
        """``later``: a thread pool's ``submit``. ``machine``: that of the folder."""
        self._machine = machine
        self.later = later
        self._folder = folder_fd
        # Numeric addresses pass unchanged; nothing else can name another file.
        self._host = re.sub(r"[^0-9A-Za-z.:_-]", "_", host)[:64]
        self._fsync = fsync
        self._core = self._info = self._key = -1
        self._journal = JournalFile()
        self._number = -1
        self._final = ""
        self._unsynced = 0

    # -- begin -------------------------------------------------------------------------------

    def begin(self) -> str:
        try:
            self._reserve()
        except OSError as error:
            self._abandon()
            raise StoreError("can't create the dump's files", error_code(error)) from error
        # Only a hint for the next dump: the info file is what reserves the number.
        with suppress(OSError):
            self._write_bounds()
        return self._name("vmcore")

    def _reserve(self) -> None:
        first = self._read_bounds()
        candidates = [] if first is None else [first]
        for number in [*candidates, *range(MAX_DUMPS)]:
            self._number = number
            if self._taken():
                continue
            try:
                self._info = self._create(self._name("info"), 0o600)
            except FileExistsError:
                continue
            self._core = self._create(self._name("vmcore") + ".partial", 0o600)
            return
        self._number = -1
        raise OSError(errno.EDQUOT, "every number is taken")

    def _taken(self) -> bool:
        """Is any name in use that this number could come to need?"""
        cores = [self._name(kind) for kind in ("vmcore", "vmcore_encrypted")]
        names = [core + suffix for core in cores for suffix in SUFFIXES]
        names += [self._name(kind) for kind in ("info", "key", "manifest", "journal")]
        names += [self._name("vmcore") + ".partial"]
        return any(map(self._exists, names))

    def _read_bounds(self) -> int | None:
        try:
            fd = os.open(
                f"bounds.{self._host}",
                os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC,
                dir_fd=self._folder,
            )
        except OSError:
            return None
        try:
            text = os.read(fd, 16).strip()
        except OSError:
            return None
        finally:
            os.close(fd)
        return int(text) if re.fullmatch(rb"[0-9]{1,9}", text) else None

    def _write_bounds(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(f"bounds.{self._host}", flags, 0o600, dir_fd=self._folder)
        try:
            text = f"{self._number + 1}\n".encode()
            os.write(fd, text)
            os.ftruncate(fd, len(text))
        finally:
            os.close(fd)

    def _abandon(self) -> None:
        """Take back what a failed ``begin`` created: nothing has been promised yet."""
        for fd, name in ((self._core, "vmcore"), (self._info, "info")):
            if fd >= 0:
                suffix = ".partial" if name == "vmcore" else ""
                with suppress(OSError):
                    os.unlink(self._name(name) + suffix, dir_fd=self._folder)
        self.close()

    # -- data --------------------------------------------------------------------------------

    def write(self, offset: int, blocks: Sequence[NDArray[np.uint8]]) -> None:
        at = offset
        try:
            for first in range(0, len(blocks), _IOV_MAX):
                views = [b.data.cast("B") for b in blocks[first : first + _IOV_MAX] if b.size]
                while views:
                    wrote = self._pwritev(self._core, views, at)
                    if wrote <= 0:
                        # A disk that takes nothing and names no reason would be asked for ever.
                        raise OSError(errno.EIO, "nothing was written")
                    at += wrote
                    views = _behind(views, wrote)
            if self._fsync == "always":
                os.fdatasync(self._core)
            elif self._fsync == "finish":
                self._begin_writeback(at - offset)
        except OSError as error:
            raise StoreError("write error", error_code(error), at) from error

    def _pwritev(self, fd: int, views: list[memoryview], offset: int) -> int:
        """One write; a seam for faults."""
        return os.pwritev(fd, views, offset)

    def _begin_writeback(self, count: int) -> None:
        self._unsynced += count
        if self._unsynced >= _WRITEBACK_EVERY:
            self._unsynced = 0
            _sync_file_range(self._core, 0, 0, _SYNC_FILE_RANGE_WRITE)

    def write_key(self, offset: int, data: bytes) -> None:
        fresh = self._key < 0
        try:
            if fresh:
                self._require_ours(self._name("vmcore") + ".partial", self._core)
                self._key = self._create(self._name("key"), 0o600)
            self._pwrite_all(self._key, data, offset)
            if self._fsync == "always":
                os.fdatasync(self._key)
                if fresh:
                    os.fsync(self._folder)
        except OSError as error:
            raise StoreError("can't write the key file", error_code(error)) from error

    def read_key(self) -> tuple[str, bytes]:
        try:
            if self.reads_disk:
                os.fdatasync(self._key)
                os.posix_fadvise(self._key, 0, 0, os.POSIX_FADV_DONTNEED)
            return self._name("key"), os.pread(self._key, os.fstat(self._key).st_size, 0)
        except OSError as error:
            raise StoreError("can't read the key file back", error_code(error)) from error

    def write_info(self, text: str) -> None:
        data = text.encode("utf-8", "backslashreplace")
        try:
            self._pwrite_all(self._info, data, 0)
            os.ftruncate(self._info, len(data))
        except OSError as error:
            raise StoreError("can't write the info file", error_code(error)) from error

    def write_manifest(self, text: str) -> None:
        name = self._name("manifest")
        new = f"{name}.new"
        try:
            # Of a number that is ours, so what has this name was left by a server that died.
            with suppress(FileNotFoundError):
                os.unlink(new, dir_fd=self._folder)
            fd = self._create(new, 0o600)
            try:
                self._pwrite_all(fd, text.encode(), 0)
                if self._fsync != "none":
                    os.fsync(fd)
                os.rename(new, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            except OSError:
                with suppress(OSError):
                    os.unlink(new, dir_fd=self._folder)
                raise
            finally:
                os.close(fd)
        except OSError as error:
            raise StoreError(f"can't write {name}", error_code(error)) from error

    # -- for the next life ---------------------------------------------------------------------

    @property
    def synced(self) -> bool:
        return self._fsync == "always"

    def journal(self, octets: bytes, anew: bool) -> None:
        name = self._name("journal")
        try:
            if anew:
                self._journal.begin(self._folder, name, octets, self.synced)
            else:
                self._journal.append(octets, self.synced)
        except OSError as error:
            raise StoreError(f"can't write {name}", error_code(error)) from error

    def end_journal(self) -> None:
        with suppress(OSError):
            self._journal.void(self.synced)  # it may have been moved, or the folder be read-only
        with suppress(OSError, StoreError):
            if self._journal.fd >= 0:
                self._require_ours(self._name("journal"), self._journal.fd)
                os.unlink(self._name("journal"), dir_fd=self._folder)
        self._journal.close()

    def resume(self, number: int) -> bytes | None:
        """Go on with a dump that another life of the server began: its journal's octets; None:
        somebody has it.
        """
        self._number = number
        try:
            octets = self._journal.resume(self._folder, self._name("journal"))
            if octets is None:
                self.close()
                return None
            self._info = self._reopen("info")
            with suppress(FileNotFoundError):
                self._key = self._reopen("key")
            self._core = self._reopen_core()
            if self.synced:  # the earlier life may have been one that did not wait for the disk
                for fd in (self._core, self._key, self._folder):
                    if fd >= 0:
                        os.fsync(fd)
        except OSError as error:
            self.close()
            raise StoreError(
                f"can't go on with {self._name('vmcore')}", error_code(error)
            ) from error
        return octets

    def _reopen(self, kind: str, suffix: str = "") -> int:
        flags = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        name = self._name(kind) + suffix
        try:
            return os.open(name, os.O_RDWR | flags, dir_fd=self._folder)
        except PermissionError:  # the key of a complete dump
            return os.open(name, os.O_RDONLY | flags, dir_fd=self._folder)

    def _reopen_core(self) -> int:
        finals = [(k, s) for k in ("vmcore", "vmcore_encrypted") for s in SUFFIXES]
        for kind, suffix in [("vmcore", ".partial"), *finals]:
            with suppress(FileNotFoundError):
                fd = self._reopen(kind, suffix)
                if suffix != ".partial":
                    self._final = self._name(kind) + suffix
                return fd
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    @property
    def finished(self) -> bool:
        """It has its final name."""
        return bool(self._final)

    @property
    def has_manifest(self) -> bool:
        return self._exists(self._name("manifest"))

    @property
    def last_line(self) -> str:
        """Of the info file, as far as it is short: how the dump ended."""
        try:
            end = os.fstat(self._info).st_size
            octets = os.pread(self._info, _LAST_LINE, max(0, end - _LAST_LINE))
        except OSError as error:
            raise StoreError("can't read the info file", error_code(error)) from error
        return octets.decode(errors="replace").strip().rpartition("\n")[2]

    @property
    def name(self) -> str:
        """Of the dump."""
        return self._final or self._name("vmcore")

    @property
    def host(self) -> str:
        """Whose dump it is, as its files' names have it."""
        return self._host

    @property
    def size(self) -> int:
        """Octets of the dump's file."""
        with _looking():
            return os.fstat(self._core).st_size

    @property
    def inode(self) -> int:
        with _looking():
            return self._machine.inode(self._core)

    @property
    def boot(self) -> str:
        return self._machine.boot

    def _pwrite_all(self, fd: int, data: bytes, offset: int) -> None:
        views = [memoryview(data)] if data else []
        while views:
            wrote = self._pwritev(fd, views, offset)
            if wrote <= 0:
                raise OSError(errno.EIO, "nothing was written")
            offset += wrote
            views = _behind(views, wrote)

    def read(self, offset: int, length: int) -> bytes:
        try:
            return os.pread(self._core, length, offset)
        except OSError as error:
            raise StoreError("read error", error_code(error), offset) from error

    @property
    def reads_disk(self) -> bool:
        return self._fsync != "none"

    def read_back(self, offset: int, length: int) -> bytes:
        try:
            if self.reads_disk:
                # Written and no more in the cache, it is read from the disk; where the kernel keeps
                # it all the same (tmpfs, or somebody has it mapped), nobody can help it.
                _sync_file_range(self._core, offset, length, _SYNC_FILE_RANGE_WAIT)
                os.posix_fadvise(self._core, offset, length, os.POSIX_FADV_DONTNEED)
            parts = []
            at, end = offset, offset + length
            while at < end:
                part = os.pread(self._core, end - at, at)
                if not part:
                    raise OSError(errno.EIO, "the file is shorter than what was written")
                parts.append(part)
                at += len(part)
            return parts[0] if len(parts) == 1 else b"".join(parts)
        except OSError as error:
            raise StoreError("can't read back", error_code(error), offset) from error

    # -- the end -----------------------------------------------------------------------------

    def finish(self, length: int | None, suffix: str, encrypted: bool) -> str:
        final = self._name("vmcore_encrypted" if encrypted else "vmcore") + suffix
        partial = self._name("vmcore") + ".partial"
        try:
            if length is not None:
                os.ftruncate(self._core, length)
            if self._key >= 0:
                os.fchmod(self._key, 0o400)
            if self._fsync != "none":
                os.fsync(self._core)
                if self._key >= 0:
                    os.fsync(self._key)
            self._require_ours(partial, self._core)
            if self._exists(final):
                raise OSError(errno.EEXIST, "somebody put another file there")
            os.rename(partial, final, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        except OSError as error:
            raise StoreError(f"can't finish {final}", error_code(error)) from error
        self._final = final
        return final

    def publish(self) -> None:
        failed = []
        for kind, target, fd in (
            ("vmcore", self._final, self._core),
            ("info", self._name("info"), self._info),
        ):
            link = f"{kind}.{self._host}.last"
            try:
                self._require_ours(target, fd)
                self._link(target, link)
            except OSError as error:
                failed.append(StoreError(f"can't point {link} to {target}", error_code(error)))
            except StoreError as error:
                failed.append(error)
        if self._fsync != "none":
            try:
                os.fsync(self._folder)
            except OSError as error:
                failed.append(StoreError("can't fsync the dump folder", error_code(error)))
        if failed:
            raise failed[0]

    def _require_ours(self, name: str, fd: int) -> None:
        """Does the name lead to the open file? StoreError if not, OSError as ``stat``'s."""
        try:
            found = os.stat(name, dir_fd=self._folder, follow_symlinks=False)
        except FileNotFoundError as error:
            raise StoreError(f"{name} was moved or removed", errno.ENOENT) from error
        if not os.path.samestat(found, os.fstat(fd)):
            raise StoreError(f"{name} was moved, another file has its name now", errno.EEXIST)

    def _link(self, target: str, name: str) -> None:
        """Point a symbolic link elsewhere; there is no moment without it."""
        new = f"{name}.new"
        with suppress(FileNotFoundError):
            os.unlink(new, dir_fd=self._folder)
        os.symlink(target, new, dir_fd=self._folder)
        try:
            os.rename(new, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        except OSError:
            with suppress(OSError):
                os.unlink(new, dir_fd=self._folder)
            raise

    def seal(self) -> None:
        fds = (self._info, self._key)
        self._info = self._key = -1
        _close(fds)

    def close(self) -> None:
        self.seal()
        self._journal.close()
        fds = (self._core, self._folder)
        self._core = self._folder = -1
        _close(fds)

    # -- names -------------------------------------------------------------------------------

    def _name(self, kind: str) -> str:
        return f"{kind}.{self._host}.{self._number}"

    def _exists(self, name: str) -> bool:
        try:
            os.stat(name, dir_fd=self._folder, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def _create(self, name: str, mode: int) -> int:
        return os.open(name, _NEW_FILE, mode, dir_fd=self._folder)


def error_code(error: OSError) -> int:
    """Its errno; EIO for one that has none."""
    return error.errno or errno.EIO


def _close(fds: Iterable[int]) -> None:
    for fd in fds:
        if fd >= 0:
            # The kernel may report a late write error here; the fd is gone all the same.
            with suppress(OSError):
                os.close(fd)


@contextmanager
def _looking() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError("can't look at the dump's file", error_code(error)) from error


def _behind(views: list[memoryview], count: int) -> list[memoryview]:
    """What is left of ``views`` after ``count`` bytes."""
    for index, view in enumerate(views):
        if count < len(view):
            return [view[count:], *views[index + 1 :]]
        count -= len(view)
    return []


def _load_sync_file_range() -> Callable[[int, int, int, int], None]:
    try:
        function = ctypes.CDLL(None).sync_file_range
    except (OSError, AttributeError):
        return lambda fd, offset, count, flags: None
    function.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]

    def call(fd: int, offset: int, count: int, flags: int) -> None:
        # A hint; file systems without it (tmpfs) answer with an error that means nothing here.
        function(fd, offset, count, flags)

    return call


_sync_file_range = _load_sync_file_range()
