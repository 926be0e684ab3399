"""The network namespace of a process, entered: a container's.

It has the face of one of our own (``bench/wire/namespace.py``), so a TAP is set up in it, and a
socket opened in it, in the same way. A thread of ours goes in and stays; with its descriptor it
keeps the namespace, whatever becomes of the container.
"""

from __future__ import annotations

import ctypes
import errno
import os
from functools import partial

from bench.wire.namespace import CLONE_NEWNET, NamespaceError, NetNamespace, be_quiet


def enter_namespace(pid: int) -> NetNamespace:
    """That of a process. Raises ``NamespaceError``."""
    try:
        return NetNamespace(partial(_enter, pid))
    except OSError as error:
        raise NamespaceError(
            f"the network namespace of process {pid}: {error.strerror}; play as root, on the"
            " machine that the container runs on"
        ) from error


def _enter(pid: int) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    if os.path.samestat(os.fstat(fd), os.stat("/proc/thread-self/ns/net")):
        os.close(fd)
        raise OSError(errno.EINVAL, "it is our own: the container has the host's network")
    if libc.setns(fd, CLONE_NEWNET):
        number = ctypes.get_errno()
        os.close(fd)
        raise OSError(number, os.strerror(number))
    be_quiet()
    return fd
