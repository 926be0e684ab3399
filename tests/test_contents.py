"""A file's digest: of what a reader reads, whatever is a hole and whatever is written zeros."""

from __future__ import annotations

import os
from pathlib import Path

from bench.judge.contents import digest

MIB = 1 << 20


def made(path: Path, size: int, *pieces: tuple[int, bytes]) -> bytes:
    with path.open("wb") as file:
        file.truncate(size)
        for at, data in pieces:
            os.pwrite(file.fileno(), data, at)
    return digest(path)


def test_a_hole_and_written_zeros_are_the_same(tmp_path: Path) -> None:
    file = tmp_path / "file"
    holes = made(file, 5 * MIB, (3 * MIB + 7, b"x"))
    assert made(file, 5 * MIB, (0, bytes(2 * MIB)), (3 * MIB + 7, b"x")) == holes
    assert made(file, 5 * MIB, (0, bytes(5 * MIB)), (3 * MIB + 7, b"x")) == holes


def test_a_byte_its_place_and_the_size_count(tmp_path: Path) -> None:
    file = tmp_path / "file"
    found = [
        made(file, 0),
        made(file, 1),
        made(file, 5 * MIB),
        made(file, 5 * MIB, (3 * MIB + 7, b"x")),
        made(file, 5 * MIB, (3 * MIB + 8, b"x")),
        made(file, 5 * MIB, (2 * MIB + 7, b"x")),
        made(file, 5 * MIB, (3 * MIB + 7, b"y")),
        made(file, 5 * MIB + 1, (3 * MIB + 7, b"x")),
        made(file, 5 * MIB, (5 * MIB - 1, b"x")),
    ]
    assert len(set(found)) == len(found)


def test_a_large_file_with_little_in_it_is_read_at_once(tmp_path: Path) -> None:
    assert made(tmp_path / "a", 1 << 40, ((1 << 40) - 1, b"x")) != made(tmp_path / "b", 1 << 40)
