"""A kernel that the user names: a bzImage or a vmlinux, and the folder of its modules.

All that can be wrong with them is found out before anything is downloaded or built: ``examine``
reads both. Where the folder is not named it is looked for beside the kernel, where the kernel lies
in it (Fedora's and Arch's /usr/lib/modules/RELEASE/vmlinuz), where the kernel came with it (a
package unpacked somewhere), and then in this machine's own places.

An image made of them is found again by its *identity*: the checksums of the kernel and of the
modules that an image wants. So another kernel under the same name is another image.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from guest.linux import initramfs, kernel
from guest.linux.elf import Elf
from guest.linux.hostkernel import file_sha256, static_busybox
from guest.linux.kernel import BadKernel
from guest.linux.modules import BadModules, Module, ModuleTree
from guest.linux.packages import busybox_can_be_had, fetch_busybox
from guest.linux.sources import (
    Ingredients,
    KernelChoice,
    Package,
    Progress,
    SourceUnavailable,
)

#: Ten times what a distribution's vmlinux with all its symbols has.
_FILE_MAX: Final = 8 << 30
_ROOTS: Final = (Path("/"), Path("/usr"))


class BadChoice(Exception):
    """This kernel can't be played; the message is one line: which file, what, and what to do."""


@dataclass(frozen=True, slots=True)
class Examined:
    """A choice that was looked at, and found good."""

    choice: KernelChoice
    release: str
    modules: Path
    identity: str


def examine(
    choice: KernelChoice, nics: initramfs.Nics = initramfs.NO_NICS, *, whole: bool = False
) -> Examined:
    """Read the kernel's header and its modules; with ``whole`` also open the kernel.

    Raises:
        BadChoice: it can't be played.
    """
    path = choice.kernel
    try:
        data = _read(path)
        release = kernel.release(data)
        if whole:
            kernel.bootable(data)
    except BadKernel as error:
        raise BadChoice(f"{path}: {error}") from error
    folder = _modules(choice, release)
    try:
        modules = initramfs.wanted_modules(ModuleTree(folder), nics)
    except BadModules as error:
        raise BadChoice(str(error)) from error
    _check_vermagic(modules, release, folder)
    sums = [hashlib.sha256(part).digest() for part in (data, *(m.data for m in modules))]
    return Examined(choice, release, folder, hashlib.sha256(b"".join(sums)).hexdigest())


class OwnKernel:
    """A ``Source`` of a choice that was examined."""

    name = "the kernel that was named"

    def __init__(self, examined: Examined) -> None:
        self._examined = examined

    def fetch(self, folder: Path, tell: Progress) -> Ingredients:
        """They lie ready, but for a busybox. Raises ``SourceUnavailable``: there is none."""
        examined = self._examined
        path = examined.choice.kernel
        checksum = file_sha256(path)
        try:
            busybox = static_busybox()
            package = Package("busybox", "of the host", file_sha256(busybox))
        except SourceUnavailable as error:
            busybox_can_be_had()
            tell(f"{error}: asking apt for it")
            package, busybox = fetch_busybox(folder, tell)
        tell(f"taking the kernel {path}, {examined.release}, and {examined.modules}")
        return Ingredients(
            source=f"the kernel {path}",
            packages=(Package(path.name, examined.release, checksum), package),
            kernel=path,
            modules=examined.modules,
            busybox=busybox,
        )


def _read(path: Path) -> bytes:
    try:
        if not path.is_file():
            why = "is no file" if path.exists() else "there is no such file"
            raise BadChoice(f"{path}: {why}; name a bzImage (/boot/vmlinuz-...) or a vmlinux")
        if path.stat().st_size > _FILE_MAX:
            raise BadChoice(f"{path}: too large for a kernel")
        return path.read_bytes()
    except OSError as error:
        raise BadChoice(f"{path}: {error.strerror}") from error


def _modules(choice: KernelChoice, release: str) -> Path:
    """The folder of the kernel's modules."""
    beside = choice.kernel.absolute().parent
    roots = (beside, beside / "usr", beside.parent, beside.parent / "usr", *_ROOTS)
    places = [root / "lib" / "modules" / release for root in roots]
    if choice.modules is not None:
        places = [choice.modules / "lib" / "modules" / release, choice.modules / release]
        places.append(choice.modules)
    elif beside.name == release:
        places.insert(0, beside)
    for place in places:
        if (place / "kernel").is_dir() or any(place.glob("*.ko*")):
            return place
    if choice.modules is not None:
        raise BadChoice(f"{choice.modules}: there are no modules of Linux {release} in it")
    raise BadChoice(
        f"{choice.kernel}: its modules are neither in lib/modules/{release} beside it, nor in"
        f" /lib/modules/{release}; name their folder (MODULES=, --modules)"
    )


def _check_vermagic(modules: list[Module], release: str, folder: Path) -> None:
    """A kernel refuses modules that were built for another one."""
    for module in modules:
        info = Elf(module.data).section(b".modinfo") or b""
        for string in info.split(b"\0"):
            key, _, value = string.partition(b"=")
            built_for = value.split(b" ")[0].decode("ascii", "replace")
            if key == b"vermagic" and built_for != release:
                raise BadChoice(
                    f"{folder}: {module.name} is a module of Linux {built_for}, not {release}"
                )
