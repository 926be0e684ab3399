"""QEMU's device of a family, for tests that hold our model against it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.truth.families import comparable
from bench.truth.theirs import Theirs
from guest.qemu.vm import PROGRAM


@contextmanager
def qemus(name: str, folder: Path) -> Iterator[Theirs]:
    """The device; skips where there is no QEMU, or another than the one that the table is of."""
    if shutil.which(PROGRAM) is None:
        pytest.skip(f"no {PROGRAM}; cure: install qemu-system-x86")
    of, on_qemu = comparable(name)
    with Theirs(of, on_qemu, folder) as found:
        if found.version != of.qemu:
            pytest.skip(
                f"QEMU is {found.version[0]}.{found.version[1]}; the table is of"
                f" {of.qemu[0]}.{of.qemu[1]}; python -m bench.truth --nic {name} shows where they"
                " differ"
            )
        yield found
