"""Memory that is mapped: shared with another process, kept as it was, and given back at once.

numpy's own memory can do none of the three. Here an array is laid over a mapping of a memfd, and
the rules are these (mmap(2), memfd_create(2)):

* *Kept without a copy.* ``frozen`` maps the same addresses once more, privately: every array of
  them stays valid, what is written from then on goes to pages of its own, and the memfd holds what
  memory held. So a frozen machine costs its memory once, and a page for each page that it still
  writes to.
* *Given back.* A machine is a knot of references, and its arrays live until the collector finds it.
  ``release`` takes the pages away from under them: they read zeros from then on, and hold nothing.
* A mapping lives as long as an array of it; nothing has to be closed.
* *Made of parts.* ``AddressSpace`` is a machine's physical addresses, with holes: memory is laid
  where the machine has it.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

#: mmap(2) on Linux; the module mmap does not name them.
_MAP_FIXED: Final = 0x10
_MAP_NORESERVE: Final = 0x4000
_MADV_HUGEPAGE: Final = 14
_MADV_POPULATE_READ, _MADV_POPULATE_WRITE = 22, 23
_READ_WRITE: Final = mmap.PROT_READ | mmap.PROT_WRITE

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class Mapping:
    """``size`` bytes; ``array`` is uint8, flat and writable.

    Raises ``MemoryError`` where the machine has no room for it.
    """

    def __init__(
        self, size: int, fd: int = -1, *, private: bool = False, reserve: bool = False
    ) -> None:
        """Of the file ``fd``, from its beginning; private: writes stay here. Without a file: fresh
        memory, zeros; ``reserve``: of which little will be used.
        """
        self.size: Final = size
        kind = mmap.MAP_PRIVATE | _MAP_NORESERVE if private else mmap.MAP_SHARED
        if fd < 0:
            kind = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | (_MAP_NORESERVE if reserve else 0)
        self._address = _map(None, size, kind, fd)
        self.array: NDArray[np.uint8] = np.asarray(_Owner(self._address, size))

    def release(self) -> None:
        """Give the memory back now. Arrays of it stay valid, read zeros, and are good for nothing.

        Twice is harmless.
        """
        anew = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE | _MAP_FIXED
        _map(self._address, self.size, anew, -1)


class AddressSpace(Mapping):
    """``size`` addresses, of which only those hold anything where memory was laid; others read
    zeros.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size, reserve=True)

    def lay(self, address: int, length: int, fd: int, offset: int = 0) -> None:
        """At ``address`` lies, shared, what the file holds from ``offset`` on; whole pages."""
        if address + length > self.size:
            raise ValueError(f"{address:#x} and {length:#x} more are beyond {self.size:#x}")
        _map(self._address + address, length, mmap.MAP_SHARED | _MAP_FIXED, fd, offset)


class FreezableMemory(Mapping):
    """Fresh memory, zeros, whose contents can be kept as they are at one instant."""

    _fd = -1

    def __init__(self, size: int) -> None:
        self._fd = os.memfd_create("machine")
        try:
            os.ftruncate(self._fd, size)
            super().__init__(size, self._fd)
            # All of it will be filled: its pages together cost less than one by one. (A hint.)
            _libc.madvise(self._address, size, _MADV_POPULATE_WRITE)
        except BaseException:
            self._close()
            raise

    @property
    def fd(self) -> int:
        """The memfd that it is a mapping of, until it is frozen or released."""
        return self._fd

    def freeze(self, length: int) -> Mapping:
        """What the first ``length`` bytes, whole pages, hold now, for good. Once."""
        kept = Mapping(length, self._fd, private=True)
        again = mmap.MAP_PRIVATE | _MAP_NORESERVE | _MAP_FIXED
        _map(self._address, length, again, self._fd)
        # Nor shall the dump pay for finding each page again. (A hint, and it copies nothing.)
        _libc.madvise(self._address, length, _MADV_POPULATE_READ)
        self._close()
        return kept

    def release(self) -> None:
        super().release()
        self._close()

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self._close()


class _Owner:
    """Unmaps its addresses when no array refers to it any more."""

    def __init__(self, address: int, size: int) -> None:
        self._range = address, size
        self.__array_interface__: dict[str, Any] = {
            "data": (address, False),
            "shape": (size,),
            "typestr": "|u1",
            "version": 3,
        }

    def __del__(self, unmap: Any = _libc.munmap) -> None:
        unmap(*self._range)


def _map(address: int | None, size: int, kind: int, fd: int, offset: int = 0) -> int:
    found = _libc.mmap(address, size, _READ_WRITE, kind, fd, offset)
    if found in (None, ctypes.c_void_p(-1).value):
        why = os.strerror(ctypes.get_errno())
        raise MemoryError(f"{size} bytes of memory can't be mapped: {why}")
    # What is read and written all over costs less with large pages, where the host lets us.
    _libc.madvise(found, size, _MADV_HUGEPAGE)
    return int(found)
