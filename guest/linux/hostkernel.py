"""The kernel that this very machine runs, and a static busybox from the PATH.

Second best: it is whatever kernel the host has, it need not have PVH or e1000, and many systems let
only root read it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Final

from guest.linux.elf import EM_X86_64, PT_INTERP, BadElf, Elf
from guest.linux.sources import Ingredients, Package, Progress, SourceUnavailable, modules_folder

_BUSYBOXES: Final = ("busybox", "busybox-static", "busybox.static")


class HostKernel:
    """``/boot/vmlinuz-$(uname -r)`` and ``/lib/modules/$(uname -r)``; a ``Source``."""

    name = "the host's own kernel"

    def __init__(self, root: Path = Path("/"), release: str | None = None) -> None:
        """``root`` and ``release`` stand for those of this machine."""
        self._root = root
        self._release = release or os.uname().release

    def fetch(self, folder: Path, tell: Progress) -> Ingredients:
        """Find them where they are. Raises ``SourceUnavailable``: one is missing or unreadable."""
        bzimage = self._root / "boot" / f"vmlinuz-{self._release}"
        kernel_sum = file_sha256(bzimage)
        modules = modules_folder((self._root, self._root / "usr"), self._release)
        busybox = static_busybox()
        tell(f"taking the host's own kernel, {self._release}")
        return Ingredients(
            source="the host's kernel",
            packages=(
                Package("vmlinuz", self._release, kernel_sum),
                Package("busybox", "of the host", file_sha256(busybox)),
            ),
            kernel=bzimage,
            modules=modules,
            busybox=busybox,
        )


def static_busybox() -> Path:
    """The first busybox on the PATH that needs no interpreter, so no libraries.

    Raises:
        SourceUnavailable: there is none, or none for x86-64.
    """
    dynamic = []
    for name in _BUSYBOXES:
        found = shutil.which(name)
        if found is None:
            continue
        try:
            elf = Elf(Path(found).read_bytes())
            if elf.machine != EM_X86_64:
                raise SourceUnavailable(f"{found} is not for x86-64: the guest can't run it")
            if not elf.segments(PT_INTERP):
                return Path(found)
        except (OSError, BadElf) as error:
            raise SourceUnavailable(f"{found}: {error}") from error
        dynamic.append(found)
    why = f"{' and '.join(dynamic)} needs shared libraries" if dynamic else "there is no busybox"
    raise SourceUnavailable(f"{why}; install a static one (Debian's package busybox-static)")


def file_sha256(path: Path) -> str:
    """Raises ``SourceUnavailable``: it can't be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise SourceUnavailable(f"{path}: {error.strerror}") from error
