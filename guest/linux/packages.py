"""The distribution's kernel and busybox, as the packages that apt would install, not installed.

The kernel is the one that a metapackage depends on: Debian's linux-image-amd64 or Ubuntu's
linux-image-generic; the ordinary flavour, since those for clouds have no e1000. Debian's has its
modules in it; Ubuntu's names two more, linux-modules-... and, through the metapackage alone,
linux-modules-extra-.... A package for another architecture than x86-64 is refused before it is
downloaded. Nothing here needs root: ``apt-get download`` writes into the folder
where it is started, and ``dpkg-deb --extract`` into the one it is given.

Trust is apt's: it believes an index only with the distribution's signature, and a package only with
the SHA-256 that the index has for it. That sum is checked here once more, because it goes into the
image's manifest. Where apt has no index, or one so old that the packages it names are gone, it is
asked again with an index of its own (``-o Dir::State=...``), which ``apt-get update`` fetches into
the build folder; the machine's own lists are never touched.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from guest.linux import kernel
from guest.linux.hostkernel import static_busybox
from guest.linux.sources import (
    Ingredients,
    Package,
    Progress,
    SourceUnavailable,
    modules_folder,
)

METAPACKAGES: Final[tuple[str, ...]] = ("linux-image-amd64", "linux-image-generic")
BUSYBOX: Final = "busybox-static"
ARCHITECTURE: Final = "amd64"
_PROGRAMS: Final = ("apt-get", "dpkg-deb")

UPDATE_TIMEOUT_S: Final = 300.0
DOWNLOAD_TIMEOUT_S: Final = 600.0
_QUICK_S: Final = 60.0

#: A kernel's own packages among what it depends on, with or without its modules apart.
_KERNEL_PACKAGE: Final = re.compile(r"\blinux-(?:image|modules|modules-extra|binary)-\d[\w.+~-]*")
_PATIENCE: Final = ("-o", "Acquire::Retries=2", "-o", "Acquire::http::Timeout=30")
#: The line of apt's that tells what went wrong: an error, else a warning, but not the one that root
#: gets where the user _apt may not write.
_COMPLAINTS: Final = (
    re.compile(r"^E: (?:Failed to fetch )?(.*)", re.MULTILINE),
    re.compile(r"^W: (?!Download is performed)(?:Failed to fetch )?(.*)", re.MULTILINE),
    re.compile(r"(.+)\s*\Z"),
)


class CommandFailed(Exception):
    """A program failed or took too long. Carries the command, its status and what it printed."""

    def __init__(self, command: list[str], status: int | None, output: str) -> None:
        self.command = command
        self.status = status
        self.output = output
        found = (pattern.search(output) for pattern in _COMPLAINTS)
        line = next((match[1].strip() for match in found if match), "(it printed nothing)")
        how = "took too long" if status is None else f"exited {status}"
        super().__init__(f"{command[0]} {how}: {line}")


class _Unknown(CommandFailed):
    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(["apt-cache"], 0, f"E: apt's index has no {' and no '.join(names)}")


class DebianPackages:
    """The newest kernel that this machine's apt knows; a ``Source``."""

    name = "Debian packages"

    def fetch(self, folder: Path, tell: Progress) -> Ingredients:
        """Download and unpack. Raises ``SourceUnavailable``: there is no apt, or it can't."""
        missing = [program for program in _PROGRAMS if not shutil.which(program)]
        if missing:
            raise SourceUnavailable(f"there is no {' and no '.join(missing)}")
        try:
            return self._fetch(folder, tell)
        except CommandFailed as error:
            raise SourceUnavailable(str(error)) from error

    def _fetch(self, folder: Path, tell: Progress) -> Ingredients:
        root = folder / "root"
        packages = _unpacked(folder, root, resolve, tell)
        bzimage = _only_one(root, "boot/vmlinuz-*")
        image = next(package for package in packages if package.name.startswith("linux-image-"))
        return Ingredients(
            source=f"Debian package {image.name} {image.version}",
            packages=packages,
            kernel=bzimage,
            modules=modules_folder((root, root / "usr"), kernel.release(bzimage.read_bytes())),
            busybox=_only_one(root, "bin/busybox", "usr/bin/busybox"),
        )


def busybox_can_be_had() -> None:
    """Raises ``SourceUnavailable``: no static one is on the PATH, and there is no apt."""
    if not all(map(shutil.which, _PROGRAMS)):
        static_busybox()


def fetch_busybox(folder: Path, tell: Progress) -> tuple[Package, Path]:
    """A static busybox alone, for a kernel from elsewhere. Raises ``SourceUnavailable``."""
    root = folder / "busybox"
    try:
        (package,) = _unpacked(folder, root, resolve_busybox, tell)
    except CommandFailed as error:
        raise SourceUnavailable(str(error)) from error
    return package, _only_one(root, "bin/busybox", "usr/bin/busybox")


def _unpacked(
    folder: Path,
    root: Path,
    choose: Callable[[tuple[str, ...]], tuple[Package, ...]],
    tell: Progress,
) -> tuple[Package, ...]:
    """Download what is chosen with apt's index, unpack it into ``root``, and what it was."""
    debs = folder / "debs"
    try:
        packages = _download(debs, choose(()), (), tell)
    except CommandFailed as error:
        tell(f"{error}; trying again with a fresh index, for this build alone")
        debs = folder / "debs-of-fresh-index"  # the first may hold other versions
        options = _private_index(folder)
        packages = _download(debs, choose(options), options, tell)
    for package in packages:
        tell(f"unpacking {package.name} {package.version}")
        deb = _verified(debs, package)
        _run(["dpkg-deb", "--extract", str(deb), str(root)], DOWNLOAD_TIMEOUT_S)
        deb.unlink()
    return packages


def resolve(options: tuple[str, ...] = ()) -> tuple[Package, ...]:
    """The packages that make a guest, as apt's index has them: the kernel's, then busybox.

    Raises:
        CommandFailed: apt does not know one of them.
        SourceUnavailable: they are for another architecture.
    """
    known = _known(METAPACKAGES, options)
    metapackage = next((name for name in METAPACKAGES if name in known), None)
    if metapackage is None:
        raise _Unknown(METAPACKAGES)
    seen = {metapackage: known[metapackage]}
    while True:
        depends = " ".join(fields.get("Depends", "") for fields in seen.values())
        new = sorted(set(_KERNEL_PACKAGE.findall(depends)) - set(seen))
        if not new:
            break
        seen |= _show(new, options)
    del seen[metapackage]
    if not seen:
        raise SourceUnavailable(f"{metapackage} depends on no kernel package of a known name")
    return (*_packages(seen), *resolve_busybox(options))


def resolve_busybox(options: tuple[str, ...] = ()) -> tuple[Package, ...]:
    """Busybox alone; raises as ``resolve`` does."""
    return _packages(_show([BUSYBOX], options))


def _packages(found: dict[str, dict[str, str]]) -> tuple[Package, ...]:
    for name, fields in found.items():
        if (architecture := fields.get("Architecture")) != ARCHITECTURE:
            raise SourceUnavailable(
                f"apt's package {name} is for {architecture}, and the guest is {ARCHITECTURE}"
            )
    return tuple(
        Package(name, fields["Version"], fields["SHA256"]) for name, fields in found.items()
    )


def _show(names: list[str], options: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """What apt's index says of the version of each package that it would install."""
    found = _known(names, options)
    unknown = [name for name in names if name not in found]
    if unknown:
        raise _Unknown(unknown)
    return found


def _known(names: Sequence[str], options: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """The same of those that it knows. It exits 100 when it knows none."""
    output = _run(["apt-cache", *options, "show", "--no-all-versions", *names], _QUICK_S)
    found = {}
    for paragraph in output.split("\n\n"):
        fields = dict(
            line.split(": ", 1)
            for line in paragraph.splitlines()
            if ": " in line and not line[0].isspace()
        )
        if fields.keys() >= {"Package", "Version", "SHA256"}:
            found[fields["Package"]] = fields
    return found


def _download(
    debs: Path, packages: tuple[Package, ...], options: tuple[str, ...], tell: Progress
) -> tuple[Package, ...]:
    wanted = [f"{package.name}={package.version}" for package in packages]
    tell(f"downloading {' and '.join(wanted)}")
    debs.mkdir()
    _run(
        ["apt-get", *options, *_PATIENCE, "--quiet", "download", *wanted], DOWNLOAD_TIMEOUT_S, debs
    )
    return packages


def _private_index(folder: Path) -> tuple[str, ...]:
    """apt's options for state and cache of its own, with a fresh index in them."""
    state, cache = folder / "apt-state", folder / "apt-cache"
    (state / "lists" / "partial").mkdir(parents=True)
    (cache / "archives" / "partial").mkdir(parents=True)
    options = ("-o", f"Dir::State={state}", "-o", f"Dir::Cache={cache}")
    command = ["apt-get", *options, *_PATIENCE, "--quiet", "update"]
    output = _run(command, UPDATE_TIMEOUT_S)
    # apt exits 0 when it reached nobody, as long as nothing that it got was wrong.
    if not any(state.glob("lists/*Packages*")):
        raise CommandFailed(command, 0, output)
    return options


def _verified(debs: Path, package: Package) -> Path:
    deb = _only_one(debs, f"{package.name}_*.deb")
    with deb.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != package.sha256:
        raise SourceUnavailable(
            f"{deb.name} is not what apt's index describes: its SHA-256 is {found},"
            f" not {package.sha256}"
        )
    return deb


def _only_one(folder: Path, *patterns: str) -> Path:
    found = [path for pattern in patterns for path in sorted(folder.glob(pattern))]
    if len({path.resolve() for path in found}) != 1:
        raise SourceUnavailable(
            f"there should be one {' or '.join(patterns)} in what was downloaded,"
            f" there are {len(found)}"
        )
    return found[0]


def _run(command: list[str], timeout: float, folder: Path | None = None) -> str:
    """What a program prints. Raises ``CommandFailed``."""
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=os.environ | {"LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            check=False,
            text=True,
            errors="replace",
        )
    except subprocess.TimeoutExpired as error:
        output = (error.stdout or b"").decode(errors="replace")
        raise CommandFailed(command, None, output) from error
    except OSError as error:
        raise CommandFailed(command, 127, error.strerror or "") from error
    if done.returncode:
        raise CommandFailed(command, done.returncode, done.stdout)
    return done.stdout
