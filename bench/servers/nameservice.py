"""A name service that answers at once, for a server that looks names up.

FreeBSD's netdumpd asks for its client's name before it acknowledges a HERALD, and is silent until
it has an answer, or a "no such name". In a namespace without a resolver that takes longer than any
client waits. So the child gets files of its own, by bind mounts that it alone sees, in a mount
namespace of its own:

* /etc/hosts names the addresses of the run;
* /etc/resolv.conf is empty: what the first does not name has no name. The C library then asks
  127.0.0.1, where nobody listens, and that is known at once;
* /etc/nsswitch.conf asks files alone, not the host's systemd-resolved over its socket.

A mount needs CAP_SYS_ADMIN in the user namespace, which a container's root may lack. Then the child
runs without, and ``lacks`` says so: a server that looks no name up needs nothing of this.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_CLONE_NEWNS: Final = 0x00020000
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 1 << 18
_ETC: Final = Path("/etc")
NO_BINDS: Final[Mapping[Path, Path]] = {}

_libc = ctypes.CDLL(None, use_errno=True)


class NameService:
    """Files for one child; ``enter`` is for the child, between fork and exec."""

    def __init__(
        self, folder: Path, names: Mapping[str, str], binds: Mapping[Path, Path] = NO_BINDS
    ) -> None:
        """``folder`` is made, for the files; ``names``: address -> name. ``binds``: folder -> where
        the child is to see it, too."""
        folder.mkdir(parents=True, exist_ok=True)
        hosts = {"127.0.0.1": "localhost", **names}
        texts = {
            "hosts": "".join(f"{address}\t{name}\n" for address, name in hosts.items()),
            "resolv.conf": "",
            "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
        }
        self._mounts: list[tuple[bytes, bytes]] = []
        for name, text in texts.items():
            (folder / name).write_text(text)
            (folder / name).chmod(0o644)
            # What this machine has not, its C library does without.
            if (_ETC / name).exists():
                self._mounts.append((bytes(folder / name), bytes(_ETC / name)))
        self._mounts += [(bytes(source), bytes(target)) for source, target in binds.items()]
        self.lacks = "" if (_ETC / "hosts").exists() else "this machine has no /etc/hosts"
        """Why the child has no name service; empty where it has."""
        self._told, self._tell = os.pipe()

    def enter(self) -> None:
        """In the child: see the files. A failure is told to the parent; the child goes on."""
        step, code = "unshare", 0
        if _libc.unshare(_CLONE_NEWNS):
            code = ctypes.get_errno()
        elif _libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None):
            step, code = "a private /", ctypes.get_errno()
        else:
            for source, target in self._mounts:
                if _libc.mount(source, target, None, _MS_BIND, None):
                    step, code = os.fsdecode(target), ctypes.get_errno()
                    break
        if code:
            os.write(self._tell, f"no mount for it ({step}: {os.strerror(code)})".encode())

    def entered(self) -> None:
        """In the parent, when the child has begun: ``lacks`` is known from here on."""
        os.close(self._tell)
        with os.fdopen(self._told, "rb") as told:  # its other end is closed by exec
            self.lacks = told.read().decode() or self.lacks
