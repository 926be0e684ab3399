"""The image of our own server, made of the Python that runs here: no registry is asked.

Two images, each called after what is in it, so that nothing is built twice:

* ``netdump-bench-python:KEY``: the interpreter, its standard library, numpy, crc32c, blake3, and
  the shared libraries that they want, each where it is on this machine. Built FROM scratch.
* ``netdump-bench-server:KEY``: that, and what ``server/Dockerfile`` puts on top of its own base.

So a server in a container has the very Python and numpy that the bench has. Who has a registry and
wants the server by itself builds ``server/Dockerfile`` as it is, on ``python:3-slim``.

A key is of names and contents. Compiled ``.pyc`` files come along, with the times that make them
valid, and are not in the key: they make a start quicker, and nothing else.

    python -m bench.servers.image            build it, if it is not there; print its name
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import struct
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import cache_from_source
from pathlib import Path
from typing import IO, Any, Final

from bench.errors import BenchError, MachineLacks
from bench.servers.engine import EngineError, connect, engine_errors
from bench.wire.contracts import WireError

PYTHON_IMAGE: Final = "netdump-bench-python"
SERVER_IMAGE: Final = "netdump-bench-server"
#: What the server needs that is not in the standard library.
PACKAGES: Final = ("numpy", "crc32c", "blake3")
#: Our packages in the image.
CODE: Final = ("netdump", "server")
_SITE: Final = "/opt/netdump-bench"
_ROOT: Final = Path(__file__).parents[2]
_DOCKERFILE: Final = _ROOT / "server" / "Dockerfile"
#: The line of it from which on it is about the server, and no more about where Python comes from.
_SERVER_PART: Final = "# The server"
#: Of the standard library, and of packages, what no server needs.
_LEFT_OUT: Final = frozenset(
    {"test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "pydoc_data"}
    | {"site-packages", "dist-packages", "f2py", "config"}
)
_SUFFIXES_LEFT_OUT: Final = (".pyi", ".a", ".h", ".exe")
_CACHE: Final = "__pycache__"
_PT_INTERP: Final = 3


class ImageError(WireError):
    """No image can be made of what is here. What; after a semicolon, what to do."""


@dataclass(frozen=True, slots=True)
class File:
    """A file of an image."""

    name: str
    """Its path in the image, without the first /."""
    path: Path


@dataclass(frozen=True, slots=True)
class Built:
    """An image that is in the engine now."""

    tag: str
    was_there: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """An image that could be built."""

    tag: str
    dockerfile: str
    files: tuple[File, ...]


def server_image(client: Any) -> Built:
    """The image of the server as it is here; built if the engine has not got it."""
    _python_image(client)
    plan = server_plan()
    if _is_there(client, plan.tag):
        return Built(plan.tag, True)
    with tempfile.TemporaryFile() as context:
        with tarfile.open(fileobj=context, mode="w") as tar:
            _add_text(tar, "Dockerfile", plan.dockerfile)
            _add_all(tar, plan.files)
        _build(client, plan.tag, context)
    return Built(plan.tag, False)


def _python_image(client: Any) -> None:
    plan = python_plan()
    if _is_there(client, plan.tag):
        return
    with tempfile.TemporaryFile() as root, tempfile.TemporaryFile() as context:
        with tarfile.open(fileobj=root, mode="w", format=tarfile.PAX_FORMAT) as tar:
            _add_all(tar, plan.files)
            python = tarfile.TarInfo("usr/local/bin/python3")
            python.type, python.linkname = tarfile.SYMTYPE, os.path.realpath(sys.executable)
            tar.addfile(python)
            folder = tarfile.TarInfo("tmp")
            folder.type, folder.mode = tarfile.DIRTYPE, 0o1777
            tar.addfile(folder)
        size = root.tell()
        root.seek(0)
        with tarfile.open(fileobj=context, mode="w") as tar:
            _add_text(tar, "Dockerfile", plan.dockerfile)
            member = tarfile.TarInfo("root.tar")
            member.size = size
            tar.addfile(member, root)
        _build(client, plan.tag, context)


# Once a process: what runs here does not change under it.


@cache
def python_plan() -> Plan:
    """Of the Python that runs here."""
    files = tuple(_python_files())
    text = (
        "FROM scratch\n"
        "ADD root.tar /\n"
        f"ENV PATH=/usr/local/bin PYTHONPATH={_SITE} PYTHONDONTWRITEBYTECODE=1\n"
    )
    key = _key(files, text + os.path.realpath(sys.executable))
    return Plan(f"{PYTHON_IMAGE}:{key}", text, files)


@cache
def server_plan() -> Plan:
    """Of our server, on that."""
    files = tuple(_code())
    text = _server_dockerfile(python_plan().tag)
    return Plan(f"{SERVER_IMAGE}:{_key(files, text)}", text, files)


def _server_dockerfile(python: str) -> str:
    """The server's own part of ``server/Dockerfile``, on our image of Python."""
    whole = _DOCKERFILE.read_text()
    at = whole.find(f"\n{_SERVER_PART}")
    if at < 0:
        raise ImageError(f"{_DOCKERFILE} has no line that begins with {_SERVER_PART!r}")
    return f"FROM {python}\n{whole[at + 1 :]}"


# --- what goes in ---------------------------------------------------------------------------------


def _python_files() -> list[File]:
    """The interpreter, its library, the packages, and the shared libraries that they want."""
    interpreter = Path(os.path.realpath(sys.executable))
    found = [_in_place(interpreter)]
    found += map(_in_place, _below(Path(sysconfig.get_path("stdlib"))))
    for name in PACKAGES:
        module = import_module(name)
        folder = Path(str(module.__file__)).parent
        # auditwheel puts a wheel's own libraries beside it; crc32c asks for its version.
        about = folder.parent.glob(f"{name}-*.dist-info")
        for part in (folder, folder.with_name(f"{name}.libs"), *about):
            found += [
                File(f"{_SITE[1:]}/{path.relative_to(folder.parent)}", path)
                for path in _below(part)
            ]
    loader = _loader(interpreter)
    wanted = {loader}
    for file in found:
        if _is_elf(file.path):
            wanted |= _libraries(loader, file.path)
    inside = {file.path for file in found}
    found += map(_in_place, sorted(wanted - inside))
    return sorted(found, key=lambda file: file.name)


def _in_place(path: Path) -> File:
    return File(str(path)[1:], path)


def _below(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(
            name for name in folders if name not in _LEFT_OUT and not name.startswith("config-")
        )
        for name in sorted(names):
            if not name.endswith(_SUFFIXES_LEFT_OUT):
                yield Path(root, name)


def _code() -> Iterator[File]:
    for name in CODE:
        for path in sorted((_ROOT / name).rglob("*.py")):
            for file in (path, Path(cache_from_source(path))):
                if file.exists():
                    yield File(str(file.relative_to(_ROOT)), file)


def _is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def _loader(program: Path) -> Path:
    """The dynamic loader that a program names (ELF, PT_INTERP)."""
    data = program.read_bytes()
    if data[:6] != b"\x7fELF\x02\x01":
        raise ImageError(f"{program} is no 64-bit little-endian ELF program")
    (table,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    for at in range(table, table + size * count, size):
        kind, _, offset, _, _, length = struct.unpack_from("<IIQQQQ", data, at)
        if kind == _PT_INTERP:
            return Path(os.fsdecode(data[offset : offset + length].rstrip(b"\0")))
    raise ImageError(f"{program} names no dynamic loader: is it linked statically?")


def _libraries(loader: Path, file: Path) -> set[Path]:
    """The shared libraries that a file wants, as the loader finds them here."""
    said = subprocess.run(
        [loader, "--list", file], capture_output=True, text=True, timeout=60, check=False
    )
    missing = re.search(r"^\s*(\S+) => not found", said.stdout, re.MULTILINE)
    if missing:
        raise ImageError(f"{file} wants {missing[1]}, which is not on this machine")
    return {Path(path) for path in re.findall(r"=> (/.*) \(0x", said.stdout)}


# --- how it is put together -----------------------------------------------------------------------


def _key(files: Sequence[File], text: str) -> str:
    """Called after names and contents."""
    found = hashlib.sha256(text.encode())
    for file in files:
        if _CACHE not in file.path.parts:
            data = file.path.read_bytes()
            found.update(f"\0{file.name}\0{len(data)}\0".encode())
            found.update(data)
    return found.hexdigest()[:16]


def _add_all(tar: tarfile.TarFile, files: Sequence[File]) -> None:
    for file in files:
        status = file.path.stat()
        member = tarfile.TarInfo(file.name)
        member.size, member.mtime = status.st_size, int(status.st_mtime)
        member.mode = 0o755 if status.st_mode & stat.S_IXUSR else 0o644
        with file.path.open("rb") as data:
            tar.addfile(member, data)


def _add_text(tar: tarfile.TarFile, name: str, text: str) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(text.encode())
    tar.addfile(member, io.BytesIO(text.encode()))


def _is_there(client: Any, tag: str) -> bool:
    from docker.errors import ImageNotFound

    with engine_errors(f"looking for {tag}"):
        try:
            client.images.get(tag)
        except ImageNotFound:
            return False
    return True


def _build(client: Any, tag: str, context: IO[bytes]) -> None:
    from docker.errors import BuildError

    context.seek(0)
    with engine_errors(f"building {tag}"):
        try:
            client.images.build(fileobj=context, custom_context=True, tag=tag, rm=True)
        except BuildError as error:
            raise EngineError(f"building {tag}: {error.msg}") from error


def main() -> int:
    """``scripts/server-image``."""
    began = time.monotonic()
    try:
        client = connect()
        try:
            built = server_image(client)
        finally:
            client.close()
    except WireError as error:
        why, _, cure = str(error).partition("; ")
        raise MachineLacks(f"{why} (cure: {cure})" if cure else why) from None
    how = "was there" if built.was_there else "built of the Python that runs here"
    print(f"server-image: {how}, {time.monotonic() - began:.1f} s", file=sys.stderr)
    print(built.tag)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchError as error:
        print(f"server-image: {error}", file=sys.stderr)
        sys.exit(error.status)
