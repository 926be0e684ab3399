"""Kind ``command``: any program that takes netdumps, as a child in the run's namespace.

All that the bench asks of it is that it stays in the foreground, takes HERALDs on UDP port 20023
(or WRQs on port 69, where it says ``protocol = "tftp"``) and stores dumps in a folder. So FreeBSD's
netdumpd, built on Linux, is one::

    [server]
    kind       = "command"
    argv       = ["netdumpd", "-D", "-a", "{address}", "-d", "{dumpdir}"]
    finished   = "vmcore.*.last"
    unfinished = "vmcore.*"

* It listens when the kernel says that its UDP port is bound; or, where that is too early, when it
  has printed a line that fits ``ready``. (What goes to a file many programs print late.)
* What it calls a complete dump is told by patterns of file names (``names.py``).
* A program that looks its clients' names up gets an answer at once (``nameservice.py``).
* It may run as another user. The folder for the dumps is his then, and is readable by us.
* What it prints, how it ends and by which signal are evidence (``native.py``).
"""

from __future__ import annotations

import os
import pwd
import re
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final

from pydantic import AfterValidator, Field, StrictStr, ValidationInfo

from bench.argv import files_in, from_folder
from bench.errors import BadInput, MachineLacks
from bench.kinds import NamespacePlace, ServerKind
from bench.servers import PORTS
from bench.servers.child import start_child
from bench.servers.manners import (
    Argument,
    Foreign,
    filled,
    hosts_of,
    names_the_folder,
    transport_of,
)
from bench.servers.nameservice import NameService
from bench.servers.native import START_TIMEOUT_S, STOP_TIMEOUT_S, NativeServer
from bench.servers.ports import LOOK_S, bound, is_bound
from bench.servers.processes import living, open_in
from bench.wire.namespace import Namespace

_NET: Final = Path("/proc/thread-self/net")
#: Exit status of a child that can't become the one that it was to be (as a shell's "can't run").
_NOT_RUN: Final = 126


def _found(argv: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
    """With the paths of ``bench/argv``; the program must be there."""
    words = from_folder(argv, (info.context or {}).get("base", Path()))
    if shutil.which(words[0]) is None:
        raise ValueError(f"{words[0]!r}: there is no such program")
    return words


def _expression(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r} is no regular expression: {error}") from None
    return text


def _account_name(user: str) -> str:
    try:
        pwd.getpwnam(user)
    except KeyError:
        raise ValueError(f"no user is named {user!r} here") from None
    return user


class CommandOptions(Foreign):
    """How to play somebody's server."""

    argv: Annotated[tuple[Argument, ...], Field(min_length=1), AfterValidator(_found)]
    """Program and arguments; ``{address}``, ``{port}`` and ``{dumpdir}`` stand for the run's. Where
    no argument names the folder, it is the program's current one."""
    ready: Annotated[StrictStr, AfterValidator(_expression)] | None = None
    """A regular expression: it listens when a line of what it prints fits."""
    user: Annotated[StrictStr, AfterValidator(_account_name)] | None = None


class CommandServer(NativeServer):
    """Somebody's server in a namespace."""

    def __init__(
        self,
        namespace: Namespace,
        dumpdir: Path,
        log: Path,
        wanted: CommandOptions,
        *,
        bind: str = "198.18.0.1",
        hosts: Mapping[str, str] | None = None,
        owner: str | None = None,
        seen_at: Path | None = None,
        max_file: int | None = None,
    ) -> None:
        """``log`` gets what it prints. ``hosts``: addresses of the run and their names. ``owner``
        has the folder, where the program itself becomes another user; ``seen_at``: where it sees
        it, which may be closed to that user where it is. ``max_file``: the longest that it can
        make a file, as if its disk were full.
        """
        dumpdir = dumpdir.absolute()
        port = PORTS[wanted.protocol]
        command = filled(wanted.argv, bind, str(seen_at or dumpdir), port)
        super().__init__(namespace, dumpdir, log, (bind, port), command)
        self.protocol = wanted.protocol
        self.names = wanted.names
        self._wanted = wanted
        self._hosts = dict(hosts or {})
        self._owner = wanted.user or owner
        self._binds = {} if seen_at is None else {dumpdir: seen_at}
        self._max_file = max_file

    def start(self) -> None:
        if self.running:
            return
        if self._bound():
            address, port = self.address
            raise MachineLacks(
                f"UDP port {port} of {address} is taken, in the network namespace of the run (cure:"
                " end the program that has it)"
            )
        self.dumpdir.mkdir(parents=True, exist_ok=True)
        if self._owner is not None:
            account = pwd.getpwnam(self._owner)
            os.chown(self.dumpdir, account.pw_uid, account.pw_gid)
        super().start()

    def _spawn(self, log: int) -> subprocess.Popen[bytes]:
        service = NameService(self.log.parent / "etc", self._hosts, self._binds)
        become = _Becoming(self._wanted.user, self.dumpdir)

        def before() -> None:
            service.enter()
            _limit(self._max_file)
            become()

        try:
            child = start_child(
                self.command,
                log,
                environment={**self._wanted.environment, **self._brood.environment},
                folder=None if names_the_folder(self._wanted.argv) else str(self.dumpdir),
                before=before,
            )
        except OSError as error:
            raise BadInput(
                f"the server {self.command[0]}: {error.strerror}; is it for this machine, and its"
                " interpreter there?"
            ) from None
        finally:
            become.started()
            service.entered()
            note = f"The server has no name service: {service.lacks}."
            self.notes = [note] if service.lacks else []
        if service.lacks and self._binds:
            raise MachineLacks(f"the server can't be shown its folder: {service.lacks}")
        if become.refused:
            child.wait(STOP_TIMEOUT_S)
            raise MachineLacks(f"the server: {become.refused}")
        return child

    def _listens(self, printed_from: int) -> bool:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._is_ready(printed_from):
                self._check_who_listens()
                return self.running
            if self._ends_within(LOOK_S):
                break
        return False

    def _check_who_listens(self) -> None:
        """Its port is to be held by its own process group: what has left that could be neither
        paused nor killed. (Where we may not look, it is believed.)
        """
        for inode in self._namespace.run(bound, _NET, *self.address):
            group = {one.pid for one in living() if one.group == self.pid}
            with suppress(PermissionError):
                if self.running and not open_in(group, f"socket:[{inode}]"):
                    if inode not in self._namespace.run(bound, _NET, *self.address):
                        continue
                    raise BadInput(
                        f"the server {self.command[0]}: its port is held by a process that has left"
                        " its process group; it is to stay in the foreground (no setsid, no daemon)"
                    )

    def _is_ready(self, printed_from: int) -> bool:
        if self._wanted.ready is None:
            return self._bound()
        printed = self._log.text(printed_from)
        whole = printed[: printed.rfind("\n") + 1]
        return any(re.search(self._wanted.ready, line) for line in whole.splitlines())

    def _bound(self) -> bool:
        return self._namespace.run(is_bound, _NET, *self.address)


def _limit(max_file: int | None) -> None:
    """In the child: let what is written beyond that fail, as on a full disk, and not kill it."""
    if max_file is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # exec keeps what is ignored
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_file, max_file))


class _Becoming:
    """Makes a child another user; all that must be looked up is, before the fork. A child that
    can't be that user says why in a pipe, and ends.
    """

    def __init__(self, user: str | None, dumpdir: Path) -> None:
        self._account = None if user is None else pwd.getpwnam(user)
        self._groups: list[int] = []
        if self._account is not None:
            self._groups = os.getgrouplist(self._account.pw_name, self._account.pw_gid)
        self._dumpdir = dumpdir
        self._told, self._tell = os.pipe()
        self.refused = ""
        """Why it can't be, when it has been started."""

    def started(self) -> None:
        """In the parent, when the child has begun, or could not."""
        os.close(self._tell)
        with os.fdopen(self._told, "rb") as told:  # its other end is closed by exec
            self.refused = told.read().decode()

    def __call__(self) -> None:
        account = self._account
        if account is None:
            return
        try:
            os.setgroups(self._groups)
            os.setgid(account.pw_gid)
            os.setuid(account.pw_uid)
        except OSError as error:
            self._give_up(
                f"can't become user {account.pw_name}: {error.strerror} (cure: play as root)"
            )
        if not os.access(self._dumpdir, os.W_OK | os.X_OK):
            self._give_up(
                f"user {account.pw_name} can't reach {self._dumpdir}: a folder above it is closed"
                " to others (cure: name another one with --runs)"
            )

    def _give_up(self, why: str) -> None:
        os.write(self._tell, why.encode())
        os._exit(_NOT_RUN)


def _command(place: NamespacePlace, options: CommandOptions) -> CommandServer:
    return CommandServer(
        place.namespace,
        place.dumpdir,
        place.folder / "server.log",
        options,
        bind=place.address,
        hosts=hosts_of(place.segment),
    )


COMMAND: Final = ServerKind(
    name="command",
    says="any program that takes netdumps: netdumpd, or yours",
    options=CommandOptions,
    in_namespace=_command,
    transport=transport_of,
    by_nature={"rescue": False, "strict_finish": False},
    files=lambda options: files_in(options.argv),
)
