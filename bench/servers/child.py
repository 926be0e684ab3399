"""A child process that does not outlive us, however we end.

PR_SET_PDEATHSIG makes the kernel send SIGKILL when the *thread* that started the child ends; so
start children from a thread that lives as long as they may, such as a namespace's own.

Nor does it end before us: a terminal's Ctrl-C goes to a whole process group, and a child that died
of it would be taken for one that failed. So it is in a group of its own.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Final

PR_SET_PDEATHSIG: Final = 1

_libc = ctypes.CDLL(None, use_errno=True)


def start_child(
    command: Sequence[str],
    output: int,
    pass_fds: Sequence[int] = (),
    errors: int | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    folder: str | None = None,
    user: tuple[int, int] | None = None,
    before: Callable[[], None] | None = None,
) -> subprocess.Popen[bytes]:
    """Start ``command`` with no input; ``output`` (a descriptor) takes what it prints, and
    ``errors``, where it is given, what it prints on stderr.

    ``environment`` is added to ours; ``folder`` is its current one, by default ours. ``user``:
    (uid, gid) that it becomes, with no other groups. ``before`` is called in the child after that;
    it may change who the child is, and may not raise.
    """
    parent = os.getpid()

    def die_with_parent() -> None:
        if before is not None:
            before()
        # After that: who becomes another user loses this (prctl(2)).
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before we asked
            os._exit(1)

    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output if errors is None else errors,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
        cwd=folder,
        pass_fds=pass_fds,
        process_group=0,
        user=None if user is None else user[0],
        group=None if user is None else user[1],
        extra_groups=None if user is None else [],
        preexec_fn=die_with_parent,  # after it has become that user, which would undo it
    )
