"""What is stored, compared with what memory held: equal, holes, differences."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.judge import compare as compare_module
from bench.judge.compare import MAX_RANGES, Image, Range, Stored, compare
from tests.judge_rig import HOLED, MEMORY, WRONG, compared, octets, on_disk, with_hole


def test_what_is_equal_has_no_ranges() -> None:
    found = compared(MEMORY)
    assert found.equal
    assert found.only_holes
    assert (found.ranges, found.expected_at_first, found.stored_at_first) == ([], b"", b"")


def test_a_hole_is_where_the_store_has_zeros_and_memory_had_none() -> None:
    found = compared(HOLED)
    assert found.ranges == [Range(1448, 2896, hole=True)]
    assert found.only_holes
    assert found.expected_at_first == MEMORY[1448:1464]
    assert found.stored_at_first == bytes(16)


def test_any_other_byte_that_disagrees_is_a_difference() -> None:
    found = compared(WRONG)
    assert found.ranges == [Range(100, 102, hole=False)]
    assert not found.only_holes
    assert not found.holes


def test_a_store_that_ends_early_has_a_hole_to_the_end_even_where_memory_is_zero() -> None:
    assert compared(MEMORY[:-1]).ranges == [Range(9999, 10_000, hole=True)]
    zeros = compared(bytes(100), memory=bytes(200))
    assert zeros.ranges == [Range(100, 200, hole=True)]
    assert compared(b"").ranges == [Range(0, 10_000, hole=True)]


def test_a_store_that_is_too_long_is_not_equal_though_no_byte_differs() -> None:
    found = compared(MEMORY + b"tail")
    assert not found.equal
    assert (found.ranges, found.stored_length, found.expected_length) == ([], 10_004, 10_000)


def test_what_can_not_be_right_is_a_hole_whatever_is_stored_there() -> None:
    found = compared(MEMORY)
    found.add_holes([])
    assert found.ranges == []
    found.add_holes([(100, 200), (5000, 6000)])
    assert found.holes == [Range(100, 200, hole=True), Range(5000, 6000, hole=True)]
    found = compared(MEMORY[:9000])
    found.add_holes([(8000, 9500)])
    assert found.holes == [Range(8000, 10_000, hole=True)], "what overlaps is one"
    found = compared(WRONG)
    found.add_holes([(5000, 6000)])
    assert [r.start for r in found.ranges] == [100, 5000]
    assert found.expected_at_first == MEMORY[100:116]
    found.add_holes([(0, 10)])
    assert [r.start for r in found.ranges] == [0, 100, 5000]
    assert found.expected_at_first == b"", "it would be that of another place"


def test_zeros_that_memory_held_do_not_split_a_hole() -> None:
    memory = MEMORY[:1000] + bytes(60) + MEMORY[1060:]
    assert compared(with_hole(500, 2000), memory).ranges == [Range(500, 2000, hole=True)]


def test_two_holes_with_a_few_good_bytes_between_them_are_no_difference() -> None:
    stored = MEMORY[:500] + bytes(100) + MEMORY[600:620] + bytes(100) + MEMORY[720:]
    found = compared(stored)
    assert found.ranges == [Range(500, 720, hole=True)]


def test_ranges_are_bounded_and_the_rest_is_counted() -> None:
    apart = 2 * 64 + 2
    count = MAX_RANGES + 200
    memory = b"\x01" * (apart * count)
    stored = bytearray(memory)
    for at in range(0, len(stored), apart):
        stored[at] = 0
    found = compared(bytes(stored), memory)
    assert len(found.ranges) == MAX_RANGES
    assert found.ranges_left_out == 200
    assert found.ranges[0] == Range(0, 1, hole=True)
    assert found.only_holes


def test_a_stored_file_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with closing(Stored(tmp_path / "empty")) as empty:
        assert (empty.length, len(empty.read(0, 10))) == (0, 0)
    (tmp_path / "some").write_bytes(MEMORY)
    with closing(Stored(tmp_path / "some")) as some:
        assert some.read(0, len(MEMORY)).tobytes() == MEMORY
        assert some.read(9_990, 20_000).tobytes() == MEMORY[9_990:]
        assert len(some.read(10_000, 20_000)) == len(some.read(20_000, 20_001)) == 0
        some.length = 5_000
        assert some.read(4_990, 6_000).tobytes() == MEMORY[4_990:5_000]


def test_a_stored_file_that_becomes_shorter_while_it_is_read_is_told(tmp_path: Path) -> None:
    path = tmp_path / "some"
    path.write_bytes(MEMORY)
    with closing(Stored(path)) as stored:
        path.write_bytes(MEMORY[:100])
        with pytest.raises(OSError, match="became shorter"):
            compare(Image([octets(MEMORY)]), stored)


@settings(max_examples=200)
@given(
    parts=st.lists(st.binary(max_size=20), max_size=6),
    start=st.integers(0, 130),
    size=st.integers(0, 130),
)
def test_an_image_reads_as_its_parts_end_to_end(parts: list[bytes], start: int, size: int) -> None:
    image = Image([octets(part) for part in parts])
    whole = b"".join(parts)
    assert image.length == len(whole)
    assert image.read(start, start + size).tobytes() == whole[start : start + size]


BYTE = st.sampled_from([0, 0, 1, 2])


@settings(max_examples=200)
@given(
    memory=st.lists(BYTE, max_size=600).map(bytes),
    edits=st.lists(
        st.tuples(st.integers(0, 599), st.integers(1, 90), st.sampled_from([0, 0, 7])), max_size=6
    ),
    length=st.integers(-90, 5),
    cut=st.integers(0, 600),
    block=st.sampled_from([64, 100, 1 << 20]),
)
def test_ranges_tell_exactly_what_a_walk_over_the_bytes_finds(
    memory: bytes, edits: list[tuple[int, int, int]], length: int, cut: int, block: int
) -> None:
    stored = bytearray(memory)
    for at, count, value in edits:
        stored[at : at + count] = bytes([value]) * len(stored[at : at + count])
    stored = stored[: len(stored) + length] if length < 0 else stored + bytes(length)
    parts = [octets(memory[:cut]), octets(memory[cut:])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare_module, "_BLOCK", block)
        found = compare(Image(parts), on_disk(bytes(stored)))

    def differs(at: int) -> bool:
        return at >= len(stored) or stored[at] != memory[at]

    def hole(at: int) -> bool:
        return at >= len(stored) or stored[at] == 0

    different = {at for at in range(len(memory)) if differs(at)}
    told = [set(range(r.start, r.end)) & different for r in found.ranges]
    assert found.equal == (bytes(stored) == memory)
    assert set().union(*told) == different, "nothing is left out"
    assert sum(map(len, told)) == len(different), "nothing is told twice"
    for one, inside in zip(found.ranges, told, strict=True):
        assert {one.start, one.end - 1} <= different, "a range is no longer than it must be"
        assert one.hole == all(map(hole, inside))
    assert found.ranges == sorted(found.ranges, key=lambda r: r.start)
    assert found.ranges_left_out == 0
