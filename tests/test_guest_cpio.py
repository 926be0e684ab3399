"""The cpio archives that an initramfs is."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.linux import cpio
from guest.linux.image import GuestImage
from tests.guest_rig import read_newc
from tests.patience import HANG_S


@pytest.fixture(scope="session")
def busybox(real_image: GuestImage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image's own busybox: its cpio was written by others."""
    contents = {name: data for name, _, data, _ in read_newc(real_image.initramfs.read_bytes())}
    program = tmp_path_factory.mktemp("busybox") / "busybox"
    program.write_bytes(contents["bin/busybox"])
    program.chmod(0o755)
    return program


def test_busybox_unpacks_what_was_packed(busybox: Path, tmp_path: Path) -> None:
    contents = {"etc/empty": b"", "etc/odd": b"x" * 4097, "init": b"#!/bin/sh\n"}
    archive = tmp_path / "archive"
    archive.write_bytes(
        cpio.archive(
            [
                *(cpio.file(name, data, 0o640) for name, data in contents.items()),
                cpio.symlink("sbin", "usr/bin"),
                cpio.directory("a/b", 0o700),
            ]
        )
    )
    command: list[str | Path] = [busybox, "cpio", "-i", "-d", "-F", archive]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=HANG_S)
    for name, data in contents.items():
        assert (tmp_path / name).read_bytes() == data
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o640
    assert os.readlink(tmp_path / "sbin") == "usr/bin"
    assert stat.S_IMODE((tmp_path / "a/b").stat().st_mode) == 0o700


def test_busybox_lists_all_of_the_real_initramfs(busybox: Path, real_image: GuestImage) -> None:
    listed = subprocess.run(
        [busybox, "cpio", "-i", "-t", "-v", "-F", real_image.initramfs],
        check=True,
        capture_output=True,
        text=True,
        timeout=HANG_S,
    ).stdout
    names = {line.split(" -> ")[0].split()[-1] for line in listed.splitlines()}
    assert names == {name for name, *_ in read_newc(real_image.initramfs.read_bytes())}
    assert re.search(r"^crw------- .* dev/console$", listed, re.MULTILINE)
    assert {f"lib/modules/{real_image.release}/{name}.ko" for name in real_image.modules} <= names


NAMES = st.lists(st.sampled_from(["a", "b", "c.d", "-", "z"]), min_size=1, max_size=3).map("/".join)


@given(st.dictionaries(NAMES, st.binary(max_size=9), max_size=6), st.randoms())
def test_the_order_of_entries_does_not_matter(files: dict[str, bytes], random: Random) -> None:
    entries = [cpio.file(name, data) for name, data in files.items()]
    below_a_file = any(a != b and b.startswith(f"{a}/") for a in files for b in files)
    if below_a_file:
        with pytest.raises(ValueError, match="no directory"):
            cpio.archive(entries)
        return
    archive = cpio.archive(entries)
    random.shuffle(entries)
    assert cpio.archive(entries) == archive
    read = list(read_newc(archive))
    assert {name: data for name, mode, data, _ in read if stat.S_ISREG(mode)} == files
    # A directory comes before what lies in it: the kernel makes none by itself.
    seen = {""}
    for name, *_ in read:
        assert name.rpartition("/")[0] in seen
        seen.add(name)


def test_a_device_has_its_two_numbers_where_the_kernel_looks() -> None:
    assert list(read_newc(cpio.archive([cpio.character_device("console", 5, 1)]))) == [
        ("console", stat.S_IFCHR | 0o600, b"", (5, 1))
    ]


@pytest.mark.parametrize("name", ["/init", "a//b", "../a", "a/", "", ".", "TRAILER!!!", "a\0b"])
def test_a_name_that_leads_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="can't be a name"):
        cpio.archive([cpio.file(name, b"")])


def test_a_name_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="init is in the archive twice"):
        cpio.archive([cpio.file("init", b"1"), cpio.file("init", b"2")])
