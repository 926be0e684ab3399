"""The dump as a write-only stream: every block, whatever its size, is the right piece of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.synthetic import PhysicalMemory, fill
from netdump.dumper import DumperInfo, DumpImage, DumpRefused
from netdump.kdh import KernelDumpHeader
from netdump.tftp.stream import Stream

MEMORY = 128 << 10
PAGE = 4096
HEADER = KernelDumpHeader(dumplength=1, hostname="victim").pack()


def begun(segments: list[tuple[int, int]], most: int) -> tuple[Stream, PhysicalMemory, bytes]:
    """A stream over those segments, and all that it should hold."""
    memory = PhysicalMemory(MEMORY, 512 << 10)
    fill(memory.buffer[:MEMORY], seed=3, zero_pages=False)
    image = DumpImage(memory, segments)
    stream = Stream(memory, image, most)
    stream.begin(HEADER, DumperInfo(unlimited=True))
    parts = [memory.buffer[at : at + size].tobytes() for at, size in segments]
    return stream, memory, image.header + b"".join(parts) + HEADER


@given(
    pages=st.lists(st.booleans(), min_size=MEMORY // PAGE, max_size=MEMORY // PAGE),
    blksize=st.integers(8, 9000),
    window=st.integers(1, 70),
)
def test_the_blocks_end_to_end_are_the_dump(pages: list[bool], blksize: int, window: int) -> None:
    segments = [(i * PAGE, PAGE) for i, dumped in enumerate(pages) if dumped]
    stream, memory, whole = begun(segments, 9000)
    assert stream.length == len(whole)
    count = len(whole) // blksize + 1
    found = []
    for first in range(0, count, window):
        addresses, lengths = stream.blocks(first, min(window, count - first), blksize)
        found += list(zip(addresses.tolist(), lengths.tolist(), strict=True))
    # Read only now: no block may have been copied over another.
    read = b"".join(memory.buffer[at : at + size].tobytes() for at, size in found)
    assert read == whole
    assert all(size == blksize for _, size in found[:-1])
    assert found[-1][1] < blksize


def test_memory_is_sent_from_where_it_lies() -> None:
    """Only the blocks in which one stretch ends and the next begins are copied."""
    stream, memory, whole = begun([(0, 64 << 10), (96 << 10, 16 << 10)], 1428)
    addresses, _ = stream.blocks(0, len(whole) // 1428 + 1, 1428)
    copied = addresses[addresses >= MEMORY].tolist()
    # Two blocks of the ELF header, which lies in the arena anyway, and one for each joint: from it
    # to the first segment, to the second, and to the kernel dump header.
    assert len(copied) == 2 + 3
    last = len(whole) % 1428
    assert memory.buffer[copied[-1] : copied[-1] + last].tobytes() == whole[-last:]


def test_the_dump_core_has_its_say() -> None:
    memory = PhysicalMemory(MEMORY, 512 << 10)
    stream = Stream(memory, DumpImage(memory, [(0, PAGE)]), 512)
    with pytest.raises(DumpRefused, match="ENOSPC"):
        stream.begin(HEADER, DumperInfo(media_size=PAGE))
