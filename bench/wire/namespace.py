"""A network namespace that leaves nothing behind.

A named namespace is a mount, and a bench that is killed leaves it. This one has no name: one thread
of this process unshares its network and stays in it, and the namespace lives as long as that thread
and the file descriptor do. However the process dies, SIGKILL included, the kernel takes away the
namespace and everything in it.

A socket, a TAP and a child process belong to the namespace of the *thread* that makes them; hence
``run``, which makes them there. That thread also outlives every child that it starts, which matters
to PR_SET_PDEATHSIG: the kernel sends that signal when the starting thread ends, not the process.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from bench.wire.contracts import WireError

P = ParamSpec("P")
T = TypeVar("T")

CLONE_NEWNET: Final = 0x40000000
#: The longest that anything done inside the namespace may take, seconds.
RUN_TIMEOUT_S: Final = 30.0
#: Set in the environment of a process that has already been restarted in a user namespace.
ROOTLESS: Final = "NETDUMP_BENCH_ROOTLESS"

_SYSCTL: Final = Path("/proc/sys/net")


class NamespaceError(WireError):
    """This machine would not give us a network namespace, or something in it."""


class NetNamespace:
    """An anonymous network namespace with its loopback up and IPv6 off. A context manager."""

    def __init__(self) -> None:
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="netns")
        try:
            self.fd = self.run(_enter_new)
            """Refers to the namespace, for ``setns`` and for moving interfaces into it."""
        except BaseException:
            self._worker.shutdown(wait=False)
            raise

    def run(self, do: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``do`` inside the namespace, in its thread, and give its result or its exception."""
        return self._worker.submit(do, *args, **kwargs).result(RUN_TIMEOUT_S)

    def close(self) -> None:
        """Leave the namespace: it ends when nothing else, a child or a TAP, keeps it."""
        if self.fd >= 0:
            self._worker.shutdown()
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> NetNamespace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def sysctl(path: str, value: int) -> None:
    """Set ``/proc/sys/net/<path>`` of the calling thread's namespace."""
    try:
        (_SYSCTL / path).write_text(str(value))
    except OSError as error:
        raise NamespaceError(
            f"can't set {_SYSCTL / path} to {value}: {error.strerror}; "
            "in a container, mount /proc/sys/net writable (docker: --privileged)"
        ) from error


def _enter_new() -> int:
    from pyroute2 import IPRoute

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET):
        number = ctypes.get_errno()
        raise NamespaceError(
            f"unshare(CLONE_NEWNET): {os.strerror(number)} (uid {os.geteuid()}); "
            "be root, or allow user namespaces (`netdump-bench doctor` tells how)"
        )
    fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    # No router solicitations, no MLD reports. A read-only /proc/sys costs some noise, not more.
    with contextlib.suppress(NamespaceError):
        sysctl("ipv6/conf/all/disable_ipv6", 1)
        sysctl("ipv6/conf/default/disable_ipv6", 1)
    with IPRoute() as route:
        route.link("set", index=1, state="up")
    return fd


def rootless_reexec_command(argv: Sequence[str]) -> list[str] | None:
    """The command that runs ``argv`` (program first) as root of a user namespace of its own.

    None where that is not needed (we are root), was done already, or does not work here (tried).
    """
    unshare = shutil.which("unshare")
    if os.geteuid() == 0 or os.environ.get(ROOTLESS) or unshare is None:
        return None
    prefix = [unshare, "--user", "--map-root-user", "--net", "--", "env", f"{ROOTLESS}=1"]
    probe = "from bench.wire.tap import can_tap; raise SystemExit(not can_tap().ok)"
    try:
        tried = subprocess.run(
            [*prefix, sys.executable, "-c", probe],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=RUN_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return [*prefix, *argv] if tried.returncode == 0 else None
