"""Memory that is kept without a copy, and given back under its arrays."""

from __future__ import annotations

import gc
import os
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from guest.kernel.mapping import FreezableMemory, Mapping
from guest.kernel.memory import PAGE_SIZE, PhysicalMemory
from guest.kernel.truth import Truth, TruthUnknown

MIB = 1 << 20
PAGES = 16
SIZE = PAGES * PAGE_SIZE


def held() -> int:
    """Bytes that this process holds: each page once, however often it is mapped."""
    text = Path("/proc/self/smaps_rollup").read_text()
    (kib,) = re.findall(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    return int(kib) << 10


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@settings(max_examples=60)
@given(
    before=st.lists(st.tuples(st.integers(0, SIZE - 1), st.integers(0, 255)), max_size=20),
    after=st.lists(st.tuples(st.integers(0, SIZE - 1), st.integers(0, 255)), max_size=20),
    frozen=st.integers(1, PAGES),
)
def test_what_is_frozen_stays_and_the_machine_goes_on_in_the_same_arrays(
    before: list[tuple[int, int]], after: list[tuple[int, int]], frozen: int
) -> None:
    memory = FreezableMemory(SIZE)
    view = memory.array.reshape(PAGES, PAGE_SIZE)
    model = np.zeros(SIZE, np.uint8)
    for at, value in before:
        memory.array[at] = model[at] = value
    kept = memory.freeze(frozen * PAGE_SIZE)
    then = model.copy()
    for at, value in after:
        view[at // PAGE_SIZE, at % PAGE_SIZE] = model[at] = value
    assert np.array_equal(memory.array, model)
    assert np.array_equal(kept.array, then[: frozen * PAGE_SIZE])
    kept.array[:] = 1
    assert np.array_equal(memory.array, model), "neither writes to the other"


def test_a_frozen_machine_costs_its_memory_once_and_the_pages_that_it_writes_to() -> None:
    began = held()
    memory = PhysicalMemory(64 * MIB, MIB)
    memory.buffer[:] = 7
    full = held()
    truth = memory.freeze()
    assert truth.read(0, memory.size).sum(dtype=np.int64) == 7 * memory.size
    memory.buffer[0 : 8 * PAGE_SIZE] = 1
    assert memory.ordinary.any()
    assert full - began >= 64 * MIB
    assert held() - full < 4 * MIB
    truth.release()
    memory.release()
    assert held() - began < 4 * MIB, "given back at once"
    assert not memory.buffer.any(), "and an array of it can still be read"


def test_no_descriptor_and_no_memory_is_left_behind() -> None:
    gc.collect()
    files, began = descriptors(), held()
    for _ in range(8):
        memory = FreezableMemory(16 * MIB)
        memory.array[:] = 1
        memory.freeze(MIB)
        del memory
    FreezableMemory(MIB).release()
    gc.collect()
    assert descriptors() == files
    assert held() - began < 8 * MIB


def test_released_twice_is_released() -> None:
    memory = Mapping(MIB)
    memory.array[:] = 1
    memory.release()
    memory.release()
    assert not memory.array.any()


def test_memory_that_can_not_be_had_is_told() -> None:
    with pytest.raises(MemoryError, match="bytes of memory can't be mapped: "):
        Mapping(1 << 60)


# --- the truth ------------------------------------------------------------------------------------


def of(*blocks: tuple[int, bytes]) -> Truth:
    return Truth([(at, np.frombuffer(data, np.uint8).copy()) for at, data in blocks])


def buffer(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8)


def test_the_truth_can_not_be_written_to_by_accident() -> None:
    memory = PhysicalMemory(SIZE, 0)
    for truth in (memory.freeze(), of((0, bytes(SIZE)))):
        read = truth.read(0, SIZE)
        with pytest.raises(ValueError, match="read-only"):
            read[0] = 1
        with pytest.raises(ValueError, match="read-only"):
            read[8:24].view("<u8")[:] = 1


def test_what_was_not_kept_is_not_told() -> None:
    truth = of((4, b"low!"), (100, b"high"))
    assert truth.read(5, 8).tobytes() == b"ow!"
    for start, end in ((3, 5), (7, 9), (6, 102), (104, 105), (50, 51)):
        with pytest.raises(TruthUnknown, match=f"from {start:#x} to {end:#x}"):
            truth.read(start, end)
    truth.release()
    with pytest.raises(TruthUnknown):
        truth.read(5, 8)


@given(start=st.integers(0, 40), size=st.integers(0, 40))
def test_what_the_nic_wrote_is_true_as_far_as_it_is_dumped(start: int, size: int) -> None:
    truth = of((4, bytes(10)), (20, bytes(10)))
    truth.accept(start, start + size, buffer(b"\x01" * 40))
    for first in (4, 20):
        for at in range(first, first + 10):
            assert truth.read(at, at + 1)[0] == (start <= at < start + size)
