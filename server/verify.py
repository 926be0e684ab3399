"""``verify DUMP``: is a dump still what its manifest says? (``manifest.py``)

    status   line begins   when
    0        ok            the file has the length and the digest of the manifest, and is complete
    1        damaged       it, or its key file, has another length or digest: it is not what the
                           server stored
    1        incomplete    it is what the server stored, and that was never the whole dump
    2        unverified    there is no manifest, or none that can be read, or it has no digest

The manifest lies beside the dump: ``manifest.HOST.N`` for ``vmcore.HOST.N`` with whatever ending. A
symbolic link, as ``vmcore.HOST.last``, is followed to the dump first. Nothing is written.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, Final

from netdump.digest import NAME, Hasher
from server.infofile import escape
from server.manifest import VERSION

OK, WRONG, UNVERIFIED = 0, 1, 2
_DUMP: Final = re.compile(r"vmcore(?:_encrypted)?\.(.+?\.\d+)(?:\.gz|\.zst)?(?:\.partial)?")
#: No manifest of ours is longer.
_LONGEST: Final = 4 << 20
_STRETCH: Final = 1 << 20


def verify(dump: str, manifest: str | None = None) -> tuple[int, str]:
    """The exit status and the line for a dump's path. ``manifest``: of its manifest, if that does
    not lie beside it.
    """
    shown = escape(dump)
    try:
        path = Path(dump).resolve(strict=True)
        beside_it = beside(path, "manifest") if manifest is None else Path(manifest)
        if beside_it is None:
            return UNVERIFIED, f"unverified {shown}: its name is no dump's, so name its manifest"
        told = read_manifest(beside_it)
        length, value = told["length"], told["digest"] and told["digest"]["value"]
        if told["digest"] and told["digest"]["algorithm"] != NAME:
            return UNVERIFIED, f"unverified {shown}: its digest is not a {NAME}"
        if not isinstance(length, int) or not isinstance(value, str | None):
            raise ValueError("length or digest is none")
        status, outcome = str(told["status"]), escape(str(told["outcome"]))
        if value is None:
            return UNVERIFIED, f"unverified {shown}: its manifest has no digest ({outcome})"
        size = path.stat().st_size
        if size != length:
            return WRONG, f"damaged {shown}: {size} bytes, {length} were stored"
        found = _digest(path)
        key = _key_trouble(path, told)
    except OSError as error:
        where = escape(str(error.filename or dump))
        return UNVERIFIED, f"unverified {shown}: can't read {where}: {error.strerror}"
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        return UNVERIFIED, f"unverified {shown}: its manifest can't be used: {escape(str(error))}"
    if found != value:
        return WRONG, f"damaged {shown}: its {NAME} is {found}, {escape(value)} was stored"
    if key:
        return WRONG, f"damaged {shown}: {key}, so it can't be decrypted"
    if status != "complete":
        return WRONG, f"incomplete {shown}: {length} bytes, as stored; {outcome}"
    return OK, f"ok {shown}: {length} bytes, {NAME} {found}"


def beside(dump: Path, kind: str) -> Path | None:
    """Where the dump's ``manifest`` or ``key`` lies; None if the dump's name is none."""
    match = _DUMP.fullmatch(dump.name)
    return dump.with_name(f"{kind}.{match[1]}") if match else None


def read_manifest(path: Path) -> dict[str, Any]:
    """What it says. Raises OSError, or ValueError for what is no manifest of ours."""
    with path.open("rb") as file:
        text = file.read(_LONGEST + 1)
    if len(text) > _LONGEST:
        raise ValueError("it is too long")
    told = json.loads(text)
    if not isinstance(told, dict) or told.get("manifest") != VERSION:
        raise ValueError(f"it is none of version {VERSION}")
    return told


def _key_trouble(dump: Path, told: dict[str, Any]) -> str:
    """What is wrong with the key file beside an encrypted dump, or ""."""
    key = told.get("key")
    if key is None:
        return ""
    file = dump.with_name(str(key["file"]).rpartition("/")[2])
    try:
        found = file.stat().st_size, _digest(file)
    except OSError as error:
        return f"its key file {escape(file.name)}: {error.strerror}"
    wanted = key["length"], key["value"]
    return "" if found == wanted else f"its key file {escape(file.name)} is not as it was stored"


def _digest(path: Path) -> str:
    """Read from the disk, where the kernel lets us."""
    hasher = Hasher()
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while octets := file.read(_STRETCH):
            hasher.update(octets)
    return hasher.digest().value.hex()
