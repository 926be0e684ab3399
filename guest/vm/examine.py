"""A look at a machine of the user's own before anything of its run is started.

What can't be opened, and what QEMU does not know, is found out by asking: the files are opened, and
QEMU is started with the very machine, which never runs an instruction.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from guest.qemu.errors import QemuLaunchFailure, QemuMissing
from guest.qemu.vm import Spawn, Vm
from guest.vm.machine import VmConfig, options

#: What QEMU says of a file that another one has open for writing (block/file-posix.c).
_IN_USE: Final = re.compile(r"Failed to get .*lock")
#: What it puts in front of what went wrong, and what it says as a warning only.
_WHERE: Final = re.compile(r"^(?:qemu-system-\w+|qemu): (?:-\w+ [^:]*(?::[^ :]*)*: )?")
_WARNING: Final = re.compile(r"warning:|^WARNING:|^\s", re.IGNORECASE)
_KEYS: Final = "QKeyCode"


class BadMachine(Exception):
    """What the user gave can't be used: one line."""


class ImageInUse(Exception):
    """The disk image is another machine's at the moment: one line."""


def examine(config: VmConfig, keys: Iterable[str], spawn: Spawn) -> None:
    """``keys``: the names of all keys that will be pressed.

    Raises:
        BadMachine: a file can't be read, or QEMU can't use it, or a key is none.
        ImageInUse: another process has the image open.
    """
    for what, path in (
        ("disk image", config.image),
        ("kernel", config.kernel),
        ("initrd", config.initrd),
        ("firmware", config.firmware),
    ):
        if path is not None:
            _readable(what, path)
    with TemporaryDirectory(prefix="netdump-bench-") as folder:
        made = options(config, Path(folder), serial=False)
        made = replace(made, more=(*made.more, "-S"))
        try:
            with Vm(made, None, spawn) as vm:
                _known(set(keys), _key_names(vm))
        except QemuMissing:
            raise
        except QemuLaunchFailure as error:
            raise _explained(config, error) from error


def _readable(what: str, path: Path) -> None:
    try:
        if path.is_dir():
            raise BadMachine(f"{path}: a folder, and no {what}")
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        raise BadMachine(f"{path}: no {what} that can be read: {error.strerror}") from None


def _explained(config: VmConfig, error: QemuLaunchFailure) -> Exception:
    lines = [line for line in error.output.splitlines() if line and not _WARNING.search(line)]
    said = _WHERE.sub("", lines[-1]) if lines else f"it exited {error.status} and printed nothing"
    if config.image is not None and _IN_USE.search(error.output):
        return ImageInUse(f"{config.image}: another process has this disk image open for writing")
    return BadMachine(f"QEMU can't start this machine ({config.system}): {said}")


def _key_names(vm: Vm) -> set[str]:
    """QEMU's names of keys: the values of an enumeration of its own, found where send-key is."""
    schema = {entry["name"]: entry for entry in vm.monitor.execute("query-qmp-schema")}
    kinds = schema[schema["send-key"]["arg-type"]]["members"]
    (listed,) = (member["type"] for member in kinds if member["name"] == "keys")
    value = schema[schema[listed]["element-type"]]
    codes = next(variant["type"] for variant in value["variants"] if variant["case"] == "qcode")
    (data,) = (m["type"] for m in _members(schema, codes) if m["name"] == "data")
    return set(schema[data]["values"])


def _members(schema: dict[str, dict[str, object]], name: str) -> list[dict[str, str]]:
    members = schema[name]["members"]
    assert isinstance(members, list), "an object has them"
    return members


def _known(keys: set[str], names: set[str]) -> None:
    for key in sorted(keys - names):
        near = difflib.get_close_matches(key.lower(), names, n=1)
        hint = f'; did you mean "{near[0]}"?' if near else ""
        raise BadMachine(f'QEMU knows no key "{key}"{hint}')
