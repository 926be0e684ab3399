"""Kinds ``tftpd-hpa`` and ``atftpd``: Debian's TFTP servers, unmodified, in the run's namespace.

Both stay in the foreground, so each is a ``CommandServer`` with a command line of ours, a row of
this module. What tells them apart was seen by playing them, tftpd-hpa 5.2 and atftpd 0.8.0
(``tests/test_tftpd.py``; docs/tftp.md has the table):

* tftpd-hpa forks a process for each transfer, which becomes ``tftp`` in a chroot. It makes a file
  only with ``--create``, and cuts one that is there to nothing. It knows no window. **A disk that
  is full it does not notice: it acknowledges what it can't write, to the end.**
* atftpd becomes ``nobody`` and starts a thread for each transfer, for each copy of a WRQ too. It
  keeps to the window that it agrees to. What it has acknowledged lies in a buffer of 4 KiB first.
* Neither removes what is left of a transfer that broke off, nor gives it another name.

atftpd's user may not pass the folders above the run's: so it sees its folder elsewhere
(``_MOUNT``). It becomes that user by itself, for it has to bind port 69 before; so it loses
PR_SET_PDEATHSIG, and a bench that is killed leaves it behind, on a wire that is gone.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field, StrictBool, StrictInt

from bench.cures import CURES
from bench.kinds import NamespacePlace, ServerKind
from bench.scenario.schema import Size
from bench.servers.command import CommandOptions, CommandServer
from bench.servers.manners import hosts_of
from bench.table import Table
from bench.wire.contracts import Capability

#: Daemons are where a user's PATH may not lead.
_PATH: Final = "/usr/sbin:/sbin:/usr/local/sbin"
#: The packages conflict with each other: what ``scripts/debian-packages`` can't install beside the
#: other it unpacks here.
_UNPACKED: Final = "/opt/netdump-bench/usr/sbin"
#: Where a server sees its folder that may not pass the folders above. Each machine has this one.
_MOUNT: Final = Path("/mnt")


class TftpdOptions(Table):
    """How a stock TFTP server is played."""

    oack: StrictBool = True
    """It knows options; else it is as of 1992, and a block has 512 bytes."""
    max_file: Annotated[Size | None, Field(ge=512)] = None
    """The longest that it can make a file (RLIMIT_FSIZE): what is beyond fails as on a full
    disk; not given: no limit."""


class HpaOptions(TftpdOptions):
    """What tftpd-hpa can be told besides."""

    blksize: Annotated[StrictInt | None, Field(ge=512, le=65464)] = None
    """The largest block that it agrees to; not given: as large as it is asked for."""


@dataclass(frozen=True, slots=True)
class Daemon:
    """One of them."""

    program: str
    package: str
    version: re.Pattern[str]
    """What it answers to -V: atftpd goes by the name in.tftpd, too."""
    path: str
    user: str
    argv: tuple[str, ...]
    without_oack: tuple[str, ...]
    elsewhere: bool
    """It becomes its user before it opens its folder."""


HPA: Final = Daemon(
    program="in.tftpd",
    package="tftpd-hpa",
    version=re.compile(r"tftp-hpa"),
    path=_PATH,
    user="tftp",
    argv=(
        *("--foreground", "--listen", "--ipv4", "--address", "{address}:{port}"),
        *("--create", "--secure", "--user", "tftp"),
    ),
    without_oack=tuple(
        word
        for option in ("blksize", "blksize2", "tsize", "timeout", "utimeout", "rollover")
        for word in ("--refuse", option)
    ),
    elsewhere=False,
)
ATFTPD: Final = Daemon(
    program="atftpd",
    package="atftpd",
    version=re.compile(r"atftp-?0\.([89]|\d\d)|atftp-?[1-9]"),
    path=f"{_PATH}:{_UNPACKED}",
    user="nobody",
    argv=(
        *("--daemon", "--no-fork", "--logfile", "-", "--bind-address", "{address}"),
        *("--port", "{port}", "--user", "nobody.nogroup"),
    ),
    without_oack=("--no-blksize", "--no-windowsize", "--no-tsize", "--no-timeout"),
    elsewhere=True,
)


def find(daemon: Daemon) -> str | None:
    return shutil.which(daemon.program, path=f"{os.environ.get('PATH', '')}:{daemon.path}")


def can_play(daemon: Daemon) -> Capability:
    """Whether it is here, and we may start it."""
    program = find(daemon)
    if program is None:
        return Capability(False, f"there is no {daemon.program}", CURES["tftp"])
    said = subprocess.run([program, "-V"], capture_output=True, text=True, timeout=60, check=False)
    if not daemon.version.search(said.stdout):
        why = f"{program} is not {daemon.package}: {said.stdout.strip()[:60] or 'it says nothing'}"
        return Capability(False, why, CURES["tftp"])
    try:
        account = pwd.getpwnam(daemon.user)
    except KeyError:
        return Capability(False, f"no user is named {daemon.user} here", CURES["tftp"])
    if os.geteuid() != 0 or not _is_mapped(account.pw_uid):
        return Capability(False, f"it has to become user {daemon.user}", CURES["tftp-root"])
    return Capability(True, program)


def _is_mapped(uid: int, table: Path = Path("/proc/self/uid_map")) -> bool:
    """Whether our user namespace has that user; without /proc it is the first one, and does."""
    try:
        rows = [tuple(map(int, line.split())) for line in table.read_text().splitlines()]
    except OSError:
        return True
    return any(first <= uid < first + count for first, _, count in rows)


def _make(daemon: Daemon, place: NamespacePlace, options: TftpdOptions) -> CommandServer:
    argv = [find(daemon) or daemon.program, *daemon.argv]
    argv += [] if options.oack else daemon.without_oack
    if isinstance(options, HpaOptions) and options.blksize is not None:
        argv += ["--blocksize", str(options.blksize)]
    wanted = CommandOptions.model_validate(
        # All that is there is a dump, and by its name never an unfinished one.
        {"argv": [*argv, "{dumpdir}"], "protocol": "tftp", "finished": ["*"]},
    )
    return CommandServer(
        place.namespace,
        place.dumpdir,
        place.folder / "server.log",
        wanted,
        bind=place.address,
        hosts=hosts_of(place.segment),
        owner=daemon.user,
        seen_at=_MOUNT if daemon.elsewhere else None,
        max_file=options.max_file,
    )


def _kind(daemon: Daemon, options: type[TftpdOptions], says: str) -> ServerKind:
    def make(place: NamespacePlace, wanted: Any) -> CommandServer:
        return _make(daemon, place, wanted)

    return ServerKind(
        name=daemon.package,
        says=says,
        options=options,
        probe=lambda: can_play(daemon),
        in_namespace=make,
        transport=lambda _options: "tftp",
    )


HPA_SERVER: Final = _kind(HPA, HpaOptions, "Debian's tftpd-hpa, H. Peter Anvin's TFTP server")
ATFTP_SERVER: Final = _kind(ATFTPD, TftpdOptions, "Debian's atftpd, which knows windows (RFC 7440)")
