"""A guest kernel and its initramfs, built once and kept.

    CACHE/lock                      held (flock) by whoever builds
    CACHE/.building-XXXX/           a build, until it is complete
    CACHE/guest-KEY/manifest.json   what the image is made of, and the SHA-256 of its files
                    vmlinux         what QEMU boots
                    vmlinuz         the bzImage that it was in, as it came; QEMU boots this one if
                                    it could not be opened
                    initramfs.cpio

Three rules. A folder gets its name ``guest-KEY`` when it is complete, by one rename, so whatever
kills a build leaves nothing that looks like an image; the next build removes what it left. An image
is verified each time it is handed out (0.06 s), and made anew when it is damaged. And a good image
serves without asking anybody: no network, no apt.

The *recipe* is all that this program decides: the format number below, ``init.sh``, the modules,
and the NICs that a guest may have, which the caller names. An image that lacks a module of the NIC
that is to be played now is none for that.
KEY is a hash of the recipe and of the packages' checksums. Images of another recipe are left alone:
another version of this program may use them. An image of a kernel that the user named serves only
who names it again: ``wanted`` is its identity, and empty for the distribution's.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from guest.linux import initramfs, kernel
from guest.linux.hostkernel import HostKernel
from guest.linux.initramfs import NO_NICS, Nics
from guest.linux.kernel import BadKernel
from guest.linux.modules import BadModules, ModuleTree
from guest.linux.ownkernel import OwnKernel, examine
from guest.linux.packages import DebianPackages
from guest.linux.sources import (
    Ingredients,
    KernelChoice,
    Progress,
    Source,
    SourceUnavailable,
)

#: Count up when the same ingredients are made into another image.
FORMAT: Final = 2
#: As long as the slowest build may take.
LOCK_TIMEOUT_S: Final = 1200.0
SOURCES: Final[tuple[Source, ...]] = (DebianPackages(), HostKernel())

_VMLINUX, _VMLINUZ, _INITRAMFS = "vmlinux", "vmlinuz", "initramfs.cpio"
_MANIFEST: Final = "manifest.json"
_IMAGE, _BUILDING, _LOCK = "guest-", ".building-", "lock"
_LOCK_POLL_S: Final = 0.1
_CURE: Final = (
    "on Debian, let apt-get reach its mirror once; elsewhere install a static busybox, and a kernel"
    " in /boot that you may read"
)


class GuestImageUnavailable(Exception):
    """There is no guest image and none can be made: ``why``, and ``cure``."""

    def __init__(self, why: str, cure: str) -> None:
        super().__init__(f"{why}; {cure}")
        self.why = why
        self.cure = cure


class _Damaged(Exception):
    """A folder of the cache is no whole image."""


@dataclass(frozen=True, slots=True)
class GuestImage:
    """What QEMU's ``-kernel`` and ``-initrd`` need; ``initramfs.py`` and ``init.sh`` tell more."""

    kernel: Path
    packed: bool
    """``kernel`` is a bzImage, which unpacks itself; else a vmlinux."""
    initramfs: Path
    release: str
    """``uname -r``."""
    source: str
    """Where the kernel came from, for the reader."""
    modules: tuple[str, ...]
    """What is in the initramfs."""
    sha256: str
    """Of ``kernel``."""


def guest_image(
    cache: Path | None = None,
    progress: Progress | None = None,
    *,
    rebuild: bool = False,
    sources: Sequence[Source] = SOURCES,
    choice: KernelChoice | None = None,
    nics: Nics = NO_NICS,
) -> GuestImage:
    """The newest good image in the cache; built, when there is none or ``rebuild`` is set.

    ``cache`` is a folder, by default ``default_cache()``. ``progress`` is told in a line what is
    being done. The sources are tried in turn; with ``choice`` it is that kernel or none.

    Raises:
        BadChoice: the kernel that was named can't be played.
        GuestImageUnavailable: no source delivers, or the cache can't be used.
    """
    folder = cache or default_cache()
    tell = progress or (lambda line: None)
    wanted = ""
    if choice is not None:
        own = examine(choice, nics)
        wanted, sources = own.identity, [OwnKernel(own)]
    try:
        if not rebuild and (image := _newest(folder, wanted, nics, None)):
            return image
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder, tell):
            for left in folder.glob(f"{_BUILDING}*"):
                shutil.rmtree(left, ignore_errors=True)
            # By now another process may have built one.
            if not rebuild and (image := _newest(folder, wanted, nics, tell)):
                return image
            return _build(folder, sources, wanted, nics, tell)
    except OSError as error:
        raise GuestImageUnavailable(
            f"the cache of guest images, {folder}: {error}",
            "make room or mend its permissions, or set XDG_CACHE_HOME to another folder",
        ) from error


def cached_image(
    cache: Path | None = None, choice: KernelChoice | None = None, nics: Nics = NO_NICS
) -> GuestImage | None:
    """The newest good image in the cache; None if there is none. Builds and changes nothing.

    Raises:
        BadChoice: the kernel that was named can't be played.
        OSError: the cache can't be read.
    """
    wanted = "" if choice is None else examine(choice, nics).identity
    return _newest(cache or default_cache(), wanted, nics, None)


def default_cache() -> Path:
    """``netdump-bench`` in the user's folder for caches (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The specification has relative paths ignored.
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "netdump-bench"


def _newest(folder: Path, wanted: str, nics: Nics, tell: Progress | None) -> GuestImage | None:
    """With ``tell``, damaged images are told of and removed: only under the lock."""
    found: list[tuple[int, GuestImage]] = []
    for path in folder.glob(f"{_IMAGE}*"):
        try:
            if image := _verified(path, wanted, nics):
                found.append((image.kernel.stat().st_mtime_ns, image))
        except _Damaged as error:
            if tell:
                tell(f"the guest image {path} is damaged ({error}): removing it")
                shutil.rmtree(path, ignore_errors=True)
    return max(found, key=lambda item: item[0])[1] if found else None


def _verified(folder: Path, wanted: str, nics: Nics) -> GuestImage | None:
    """The image in a folder; None if it was made after another recipe, or of another kernel, or
    lacks a module that is needed."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_bytes())
        if manifest["recipe"] != _recipe(nics) or manifest["wanted"] != wanted:
            return None
        if not set(nics.needed).isdisjoint(manifest["lacks"]):
            return None
        for name, checksum in manifest["files"].items():
            with (folder / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != checksum:
                    raise _Damaged(f"{name} has changed")
        return _image(folder, manifest)
    except FileNotFoundError as error:
        raise _Damaged(f"{Path(error.filename).name} is missing") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _Damaged(f"{_MANIFEST} can't be read") from error


def _image(folder: Path, manifest: dict[str, Any]) -> GuestImage:
    return GuestImage(
        folder / str(manifest["kernel"]),
        manifest["kernel"] == _VMLINUZ,
        folder / _INITRAMFS,
        str(manifest["release"]),
        str(manifest["source"]),
        tuple(map(str, manifest["modules"])),
        str(manifest["files"][manifest["kernel"]]),
    )


def _build(
    folder: Path, sources: Sequence[Source], wanted: str, nics: Nics, tell: Progress
) -> GuestImage:
    work = Path(tempfile.mkdtemp(prefix=_BUILDING, dir=folder))
    tried = []
    try:
        for number, source in enumerate(sources):
            room = work / str(number)
            room.mkdir()
            try:
                ingredients = source.fetch(room, tell)
                manifest = _assemble(ingredients, wanted, nics, work / "image")
            except (SourceUnavailable, BadKernel, BadModules) as error:
                tried.append(f"{source.name}: {error}")
                continue
            target = folder / f"{_IMAGE}{_key(manifest)}"
            if target.exists():
                target.rename(work / "replaced")
            (work / "image").rename(target)
            tell(f"the guest image is {target}: {ingredients.source}")
            return _image(target, manifest)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    raise GuestImageUnavailable(f"no guest kernel is to be had ({', '.join(tried)})", _CURE)


def _assemble(ingredients: Ingredients, wanted: str, nics: Nics, folder: Path) -> dict[str, Any]:
    """Make the image's folder; its manifest."""
    file = ingredients.kernel.read_bytes()
    boots = kernel.bootable(file)
    root = initramfs.build(
        boots.release, ModuleTree(ingredients.modules), ingredients.busybox.read_bytes(), nics
    )
    files = {_INITRAMFS: root.archive}
    if not boots.packed:
        files[_VMLINUX] = boots.data
    if file != files.get(_VMLINUX):
        files[_VMLINUZ] = file
    manifest = {
        "format": FORMAT,
        "recipe": _recipe(nics),
        "wanted": wanted,
        "release": boots.release,
        "kernel": _VMLINUZ if boots.packed else _VMLINUX,
        "source": ingredients.source,
        "packages": [asdict(package) for package in ingredients.packages],
        "modules": list(root.modules),
        "lacks": list(root.lacks),
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    }
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    return manifest


def _recipe(nics: Nics) -> str:
    return _hash(
        {
            "format": FORMAT,
            "init": hashlib.sha256(initramfs.init_script()).hexdigest(),
            "needed": initramfs.NEEDED_MODULES,
            "boot": initramfs.BOOT_MODULES,
            "optional": initramfs.OPTIONAL_MODULES,
            "also": initramfs.ALSO_NEEDED,
            "nics": [asdict(nic) for nic in nics.known],
        }
    )


def _key(manifest: dict[str, Any]) -> str:
    return _hash([manifest[part] for part in ("recipe", "wanted", "packages")])[:16]


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@contextlib.contextmanager
def _locked(folder: Path, tell: Progress) -> Iterator[None]:
    """Nobody else builds in this cache meanwhile. The kernel frees the lock of a killed process."""
    with (folder / _LOCK).open("w") as file:
        deadline = time.monotonic() + LOCK_TIMEOUT_S
        waiting = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if not waiting:
                    tell("waiting for another process that builds the guest image")
                    waiting = True
                if time.monotonic() > deadline:
                    raise GuestImageUnavailable(
                        f"another process has been building for {LOCK_TIMEOUT_S:.0f} s",
                        f"see who holds {folder / _LOCK} (fuser), and end it",
                    ) from error
                time.sleep(_LOCK_POLL_S)
        yield
