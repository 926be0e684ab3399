"""The dump core: the bounds of the medium, and the pieces that a dump is written in."""

from __future__ import annotations

import errno
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guest.synthetic import PhysicalMemory, fill
from netdump.dumper import MAX_IO_SIZE, DumperInfo, DumpImage, DumpRefused, Piece, check_bounds


def refusal(info: DumperInfo, offset: int, length: int) -> int:
    """errno, or 0 for a write that may happen."""
    try:
        check_bounds(info, offset, length)
    except DumpRefused as refused:
        return refused.errno
    return 0


@pytest.mark.parametrize(
    ("info", "offset", "length", "code"),
    [
        (DumperInfo(media_size=8192), 0, 8192, 0),
        (DumperInfo(media_size=8192), 4096, 8192, errno.ENOSPC),
        (DumperInfo(media_size=8192), 8192, 4096, errno.ENOSPC),
        (DumperInfo(media_offset=4096, media_size=8192), 4096, 8192, 0),
        (DumperInfo(media_offset=4096, media_size=8192), 0, 4096, errno.ENOSPC),
        (DumperInfo(media_offset=4096, media_size=8192), 8192, 8192, errno.ENOSPC),
        # Review 2010: a size of 0 that means no limit is worrying. Here it is a size of 0.
        (DumperInfo(), 0, 4096, errno.ENOSPC),
        (DumperInfo(size_zero_is_unlimited=True), 1 << 40, 4096, 0),
        (DumperInfo(size_zero_is_unlimited=True, media_size=4096), 4096, 4096, errno.ENOSPC),
        (DumperInfo(unlimited=True), 1 << 40, 65536, 0),
        (DumperInfo(unlimited=True, media_size=4096), 1 << 40, 4096, 0),
        (DumperInfo(unlimited=True), 0, 65536 + 4096, errno.ENOSPC),
        (DumperInfo(unlimited=True), 0, 4095, errno.EINVAL),
        (DumperInfo(unlimited=True), 100, 4096, errno.EINVAL),
        (DumperInfo(unlimited=True, block_size=512), 512, 1024, 0),
        (DumperInfo(), 12345, 0, 0),
    ],
)
def test_bounds_are_checked_in_one_place(
    info: DumperInfo, offset: int, length: int, code: int
) -> None:
    assert refusal(info, offset, length) == code


@settings(max_examples=200)
@given(
    media=st.tuples(st.integers(0, 20), st.integers(0, 20)),
    offset=st.integers(0, 50),
    length=st.integers(1, 20),
)
def test_a_bounded_medium_takes_a_write_exactly_if_every_block_of_it_is_inside(
    media: tuple[int, int], offset: int, length: int
) -> None:
    start, size = media
    info = DumperInfo(media_offset=start * 4096, media_size=size * 4096)
    inside = set(range(offset, offset + length)) <= set(range(start, start + size))
    code = refusal(info, offset * 4096, length * 4096)
    assert code == (0 if inside and length <= 16 else errno.ENOSPC)


def blocks(lengths: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Segments from (gap, length) in blocks."""
    segments = []
    at = 0
    for gap, length in lengths:
        at += gap
        segments.append((at * 4096, length * 4096))
        at += length
    return segments


@settings(max_examples=150)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, 40)), min_size=1, max_size=6).map(blocks)
)
def test_pieces_cover_the_image_and_break_where_the_stream_has_64_kib(
    segments: list[tuple[int, int]],
) -> None:
    memory = PhysicalMemory(2 << 20, 16 << 10)
    fill(memory.buffer[: 2 << 20], seed=3)
    image = DumpImage(memory, segments)
    pieces = list(image.pieces(DumperInfo(unlimited=True)))
    stream = b"".join(memory.buffer[p.address : p.address + p.length].tobytes() for p in pieces)
    parts = [memory.buffer[at : at + size].tobytes() for at, size in segments]
    assert stream == image.header + b"".join(parts)
    assert image.length == len(stream)
    lengths = [piece.length for piece in pieces]
    assert [piece.offset for piece in pieces] == [0, *np.cumsum(lengths)[:-1].tolist()]
    for piece in pieces:
        assert piece.length > 0
        assert piece.length % 4096 == piece.offset % 4096 == piece.address % 4096 == 0
        assert piece.offset // MAX_IO_SIZE == (piece.offset + piece.length - 1) // MAX_IO_SIZE


def test_a_medium_that_is_one_block_short_takes_all_but_the_last_piece() -> None:
    memory = PhysicalMemory(1 << 20, 16 << 10)
    image = DumpImage(memory, [(0, 1 << 20)])
    fits = DumperInfo(media_offset=8192, media_size=image.length)
    assert len(list(image.pieces(fits))) == 18
    short = replace(fits, media_size=image.length - 4096)
    taken: list[Piece] = []
    with pytest.raises(DumpRefused, match=r"ENOSPC: write of 4096 bytes at 0x102000 is outside"):
        taken.extend(image.pieces(short))
    assert len(taken) == 17


@pytest.mark.parametrize("segment", [(100, 4096), (4096, 100)])
def test_a_segment_of_broken_blocks_is_refused(segment: tuple[int, int]) -> None:
    memory = PhysicalMemory(1 << 20, 16 << 10)
    with pytest.raises(DumpRefused, match="EINVAL") as refused:
        DumpImage(memory, [segment])
    assert refused.value.errno == errno.EINVAL
