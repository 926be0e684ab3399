"""A network namespace for a run, which leaves nothing behind: ``open_namespace``.

It is one of two with the same face. The first choice is ``NetNamespace``, a new one.

A named namespace is a mount, and a bench that is killed leaves it. This one has no name: one thread
of this process unshares its network and stays in it, and the namespace lives as long as that thread
and the file descriptor do. However the process dies, SIGKILL included, the kernel takes away the
namespace and everything in it.

A socket, a TAP and a child process belong to the namespace of the *thread* that makes them; hence
``run``, which makes them there. That thread also outlives every child that it starts, which matters
to PR_SET_PDEATHSIG: the kernel sends that signal when the starting thread ends, not the process.

A container with NET_ADMIN may make no namespace (that takes SYS_ADMIN), but has one: there
``SharedNamespace`` uses that, if it is not the host's own and nothing in it clashes with a run. All
that a run adds to it, the TAP and its addresses and routes, goes when the TAP's descriptor does.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Network
from pathlib import Path
from typing import Final, ParamSpec, Protocol, TypeVar

from bench import cures
from bench.wire.contracts import WireError

P = ParamSpec("P")
T = TypeVar("T")

CLONE_NEWNET: Final = 0x40000000
#: What is done inside the namespace hangs when it takes longer, seconds.
RUN_TIMEOUT_S: Final = 120.0
#: Set in the environment of a process that has already been restarted in a user namespace.
ROOTLESS: Final = "NETDUMP_BENCH_ROOTLESS"

#: Addresses of a run's segment and of what lies behind its gateway (RFC 2544: for benchmarks).
ADDRESSES: Final = IPv4Network("198.18.0.0/15")
#: The dump server's port.
PORT: Final = 20023
#: The longest that another run may keep a shared namespace: two of its budgets.
SHARED_TIMEOUT_S: Final = 600.0
_SHARED_POLL_S: Final = 0.05
_WAITING: Final = "waits for another run, which has this network namespace, to end"
#: Abstract, so it belongs to the network namespace, and is gone with the process that has it.
_LOCK: Final = "\0netdump-bench"

_SYSCTL: Final = Path("/proc/sys/net")
#: A knob of the whole kernel, which only its first network namespace shows.
_KERNELS_OWN: Final = _SYSCTL / "core/dev_weight"
#: A knob that every network namespace shows: without it nothing is known.
_EVERY_ONES: Final = _SYSCTL / "core/somaxconn"


class NamespaceError(WireError):
    """This machine would not give us a network namespace, or something in it."""


class NamespaceRefused(NamespaceError):
    """We may make none."""


class Namespace(Protocol):
    """What both have."""

    fd: int

    def run(self, do: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...

    def close(self) -> None: ...

    def __enter__(self) -> Namespace: ...

    def __exit__(self, *_: object) -> None: ...


def open_namespace() -> Namespace:
    """One of our own; where we may make none, the one that we are in, if that is safe.

    Raises:
        NamespaceError: neither will do. What, and after a semicolon what to do.
    """
    try:
        return NetNamespace()
    except NamespaceRefused as refused:
        why, _, _ = str(refused).partition("; ")
        try:
            return SharedNamespace()
        except NamespaceError as unsafe:
            raise NamespaceError(f"{why}, and {unsafe}") from unsafe


class NetNamespace:
    """An anonymous network namespace with its loopback up and IPv6 off. A context manager."""

    def __init__(self, enter: Callable[[], int] | None = None) -> None:
        """``enter`` brings the thread that calls it into the namespace, by default a new one, and
        gives a descriptor of it.
        """
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="netns")
        try:
            self.fd = self.run(enter or _enter_new)
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


class SharedNamespace:
    """The network namespace that this process is in, for one run at a time. A context manager."""

    def __init__(self) -> None:
        if _KERNELS_OWN.exists() or not _EVERY_ONES.exists():
            cure = cures.as_root_or_user("host-network")
            raise NamespaceError(f"the network namespace here is the host's own, or may be; {cure}")
        self._lock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._wait_for_our_turn()
            _check_for_clashes()
            self.fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        except BaseException:
            self._lock.close()
            raise

    def run(self, do: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``do``: every thread of ours is in the namespace."""
        return do(*args, **kwargs)

    def close(self) -> None:
        """Let the next run have it."""
        if self.fd >= 0:
            self._lock.close()
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> SharedNamespace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _wait_for_our_turn(self) -> None:
        deadline = time.monotonic() + SHARED_TIMEOUT_S
        said = False
        while True:
            try:
                self._lock.bind(_LOCK)
                return
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise NamespaceError(f"an abstract socket: {error.strerror}") from error
            if time.monotonic() > deadline:
                raise NamespaceError(
                    f"another run has had this network namespace for {SHARED_TIMEOUT_S:.0f} s;"
                    " wait for its end"
                )
            if not said:
                said = True
                print(f"netdump-bench: {_WAITING}", file=sys.stderr, flush=True)
            time.sleep(_SHARED_POLL_S)


def _check_for_clashes() -> None:
    """Nothing in the namespace has addresses, routes or the port of a run."""
    from pyroute2 import IPRoute

    with IPRoute() as route:
        networks = [
            f"{address.get_attr('IFA_ADDRESS')}/{address['prefixlen']}"
            for address in route.get_addr(family=socket.AF_INET)
        ]
        networks += [
            f"{entry.get_attr('RTA_DST')}/{entry['dst_len']}"
            for entry in route.get_routes(family=socket.AF_INET)
            if entry.get_attr("RTA_DST")
        ]
    for network in networks:
        if IPv4Network(network, strict=False).overlaps(ADDRESSES):
            raise NamespaceError(
                f"the network namespace here has {network}, where a run has its addresses;"
                f" {cures.CURES['addresses-taken']}"
            )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("0.0.0.0", PORT))
        except OSError as error:
            raise NamespaceError(
                f"UDP port {PORT} here: {error.strerror}; {cures.CURES['port-taken']}"
            ) from error


def _enter_new() -> int:
    from pyroute2 import IPRoute

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET):
        number = ctypes.get_errno()
        cure = cures.as_root_or_user("net-admin")
        why = f"unshare(CLONE_NEWNET): {os.strerror(number)} (uid {os.geteuid()})"
        raise NamespaceRefused(f"{why}; {cure}")
    fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    be_quiet()
    with IPRoute() as route:
        route.link("set", index=1, state="up")
    return fd


def be_quiet() -> None:
    """No router solicitations, no MLD reports; acts on the calling thread's namespace.

    A /proc/sys that can only be read costs some noise, not more.
    """
    with contextlib.suppress(OSError):
        for name in ("all", "default"):
            (_SYSCTL / f"ipv6/conf/{name}/disable_ipv6").write_text("1")


def rootless_reexec_command(argv: Sequence[str]) -> list[str] | None:
    """The command that runs ``argv`` (program first) as root of a user namespace of its own.

    None where that is not needed, was done already, or does not work here (tried). A container's
    root may need it, too.
    """
    from bench.wire.segment import open_tun
    from bench.wire.tap import can_tap

    unshare = shutil.which("unshare")
    if os.environ.get(ROOTLESS) or unshare is None:
        return None
    try:
        os.close(open_tun())
    except WireError:
        return None  # nobody gets that by a namespace
    if os.geteuid() == 0 and can_tap().ok:
        return None
    prefix = [unshare, "--user", "--map-root-user", "--net", "--", "env", f"{ROOTLESS}=1"]
    probe = "from bench.wire.tap import can_tap; raise SystemExit(not can_tap().ok)"
    try:
        tried = subprocess.run(
            [*prefix, sys.executable, "-P", "-c", probe],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=RUN_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return [*prefix, *argv] if tried.returncode == 0 else None
