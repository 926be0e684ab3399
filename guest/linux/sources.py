"""What a guest image is made of, whoever supplies it.

A source is asked in turn until one delivers; what keeps it from that is one line, with the cure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

Progress = Callable[[str], None]
"""Is told, in a line, what is being done."""


class SourceUnavailable(Exception):
    """This source can't deliver; the message is one line: what is missing, and what to do."""


@dataclass(frozen=True, slots=True)
class KernelChoice:
    """A kernel that the user names, instead of a distribution's package."""

    kernel: Path
    """A bzImage or a vmlinux."""
    modules: Path | None = None
    """Its folder of modules; None: ``ownkernel.py`` looks where such folders are."""


@dataclass(frozen=True, slots=True)
class Package:
    """Something with a version that the image's contents depend on."""

    name: str
    version: str
    sha256: str
    """Of the file that it came in."""


@dataclass(frozen=True, slots=True)
class Ingredients:
    """Files that lie ready."""

    source: str
    """For the reader: "Debian package linux-image-6.1.0-41-amd64 6.1.158-1"."""
    packages: tuple[Package, ...]
    kernel: Path
    """A bzImage or a vmlinux."""
    modules: Path
    """The folder ``/lib/modules/RELEASE``."""
    busybox: Path


class Source(Protocol):
    """Where a kernel and a busybox come from."""

    name: str

    def fetch(self, folder: Path, tell: Progress) -> Ingredients:
        """Deliver, into an empty folder if need be; it is removed when the image is built.

        Raises:
            SourceUnavailable: it can't.
        """
        ...


def modules_folder(roots: tuple[Path, ...], release: str) -> Path:
    """``lib/modules/RELEASE`` below the first root that has it.

    Raises:
        SourceUnavailable: none has it.
    """
    for root in roots:
        folder = root / "lib" / "modules" / release
        if folder.is_dir():
            return folder
    places = " or ".join(str(root / "lib" / "modules") for root in roots)
    raise SourceUnavailable(f"there is no folder {release} in {places}")
