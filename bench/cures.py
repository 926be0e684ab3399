"""What to do about a machine that lacks something: one table, for doctor and for every message.

A cure leads where it says: each has a test that follows it (``tests/test_cures.py``). Which one
holds is found out by looking at this machine, because each distribution forbids user namespaces in
a way of its own, and a container in yet another.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_TUN: Final = "/dev/net/tun"
_CONTAINER: Final = f"--device {_TUN} --cap-add NET_ADMIN"

CURES: Final[dict[str, str]] = {
    # -- the device
    "tun-absent": f"as root: modprobe tun; in a container: start it with {_CONTAINER}",
    "tun-closed": f"as root: chmod 666 {_TUN}",
    "tun-forbidden": f"start the container with {_CONTAINER}",
    # -- a network namespace
    "net-admin": f"start the container with {_CONTAINER}",
    "host-network": f"start the container with a network of its own and {_CONTAINER}",
    "addresses-taken": "start the container with --network none, or with --cap-add SYS_ADMIN and"
    " --security-opt apparmor=unconfined",
    "client-stack": "start the container with --cap-add SYS_ADMIN and"
    " --security-opt apparmor=unconfined",
    "port-taken": "end the dump server that runs beside us, or start the container with"
    " --cap-add SYS_ADMIN and --security-opt apparmor=unconfined",
    # -- a user namespace
    "userns-debian": "as root: sysctl kernel.unprivileged_userns_clone=1",
    "userns-apparmor": "as root: sysctl kernel.apparmor_restrict_unprivileged_userns=0",
    "userns-limit": "as root: sysctl user.max_user_namespaces=10000",
    "userns-seccomp": "a sandbox refuses user namespaces: leave it; a container: start it with"
    f" --security-opt seccomp=unconfined --device {_TUN}, or play as its root with {_CONTAINER}",
    "userns-unknown": "play as root",
    "unshare-absent": "install util-linux",
    # -- the kernel
    "uso": "Linux 6.2 or newer",
    "udp-segment": "Linux 4.18 or newer; in a sandbox: one that lets recvmmsg and UDP_SEGMENT pass",
    # -- programs
    "python": "install Python 3.11 or newer, or name one: make PYTHON=python3.12",
    "numpy": "pip install 'numpy>=2'",
    "disk": "make clean, or --runs DIR",
    "qemu": "scripts/debian-packages qemu, as root",
    "qemu-old": "install QEMU 7.2 or newer",
    "guest-image": "make scenario NAME=nmi-panic",
    "kvm": "none needed, TCG boots a guest in seconds; for KVM: a CPU that shows vmx or svm",
    "docker": "scripts/debian-packages docker, as root",
    "docker-daemon": "scripts/docker-engine start, as root; or start the machine's own",
    "docker-root": "play as root: a container's network is entered by root alone",
    "bench": "scripts/debian-packages bench, as root",
    "tftp": "scripts/debian-packages tftp, as root",
    "tftp-root": "play as root",
}

#: sysctls that forbid user namespaces to ordinary users: where, with which value, and the cure.
_FORBIDDEN_BY: Final = (
    ("kernel/unprivileged_userns_clone", "0", "userns-debian"),
    ("kernel/apparmor_restrict_unprivileged_userns", "1", "userns-apparmor"),
    ("user/max_user_namespaces", "0", "userns-limit"),
)
_SYSCTL: Final = Path("/proc/sys")
#: linux/seccomp.h: SECCOMP_MODE_FILTER.
_FILTERED: Final = "Seccomp:\t2"


def user_namespace(sysctl: Path = _SYSCTL, status: Path = Path("/proc/self/status")) -> str:
    """What makes user namespaces work here, where they do not."""
    for name, forbids, cure in _FORBIDDEN_BY:
        try:
            if (sysctl / name).read_text().strip() == forbids:
                return CURES[cure]
        except OSError:
            continue  # another distribution's
    try:
        filtered = _FILTERED in status.read_text()
    except OSError:
        filtered = False
    return CURES["userns-seccomp" if filtered else "userns-unknown"]


def as_root_or_user(root: str, user: str | None = None) -> str:
    """The cure for root; an ordinary user's way is a user namespace, where he has no other."""
    if os.geteuid() == 0:
        return CURES[root]
    return user_namespace() if user is None else CURES[user]
