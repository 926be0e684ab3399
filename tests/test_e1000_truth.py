"""Our e1000 beside QEMU's: a defect that is planted in ours is found, and told as a short trace.

What the two do alike is tests/test_device_truth.py; here the comparison is made to fail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random
from typing import Any, Final

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.truth.__main__ import LENGTH, explain
from bench.truth.rig import Rig
from bench.truth.theirs import Theirs
from bench.truth.traces import trace
from nic_models.contracts import InterruptLine
from nic_models.differential import steps as vocabulary
from nic_models.differential.contract import MakeModel
from nic_models.differential.steps import Link, Read, Write, listing
from nic_models.e1000.device import E1000Device
from nic_models.e1000.differential import steps as relative
from nic_models.e1000.differential.steps import LINK_UP
from nic_models.e1000.differential.table import DIFFERENTIAL
from nic_models.e1000.registers import INT, RCTL, Reg
from tests.truth_rig import qemus

#: Steps within which a planted defect is found.
WITHIN: Final = 8_000


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Theirs]:
    with qemus("e1000", tmp_path_factory.mktemp("qemu")) as found:
        yield found


def broken_rig(theirs: Theirs, make: MakeModel) -> Rig:
    """Another device in place of ours."""
    return Rig(replace(DIFFERENTIAL, model=make), theirs)


def _patched(owner: str, name: str, wrap: Callable[[Any, Any], Any]) -> MakeModel:
    """Our device with one method in a part of it replaced: ``wrap(part, the old one)``."""

    def make(memory: NDArray[np.uint8], mac: bytes, line: InterruptLine) -> E1000Device:
        device = E1000Device(memory, mac, line)
        part: Any = device
        for name_of_part in owner.split("."):
            part = getattr(part, name_of_part)
        setattr(part, name, wrap(part, getattr(part, name)))
        return device

    return make


def _dd_without_rs(fetcher: Any, complete: Any) -> Any:
    def broken(block: Any) -> None:
        block["sta"] |= 1
        complete(block)

    return broken


def _ring_one_too_long(fetcher: Any, pending: Any) -> Any:
    return lambda tail: pending((tail + 1) % max(fetcher.ring.count, 1))


def _without_bit(bit: int) -> Callable[[Any, Any], Any]:
    """RCTL's bit does nothing in the filter."""
    return lambda part, judge: lambda data, rctl: judge(data, rctl & ~bit)


def _with_bit(bit: int) -> Callable[[Any, Any], Any]:
    return lambda part, judge: lambda data, rctl: judge(data, rctl | bit)


def _never_counts(register: int) -> Callable[[Any, Any], Any]:
    def wrap(statistics: Any, add: Any) -> Any:
        return lambda which, amount: None if which == register else add(which, amount)

    return wrap


def _never_posts(bit: int) -> Callable[[Any, Any], Any]:
    return lambda part, post: lambda causes: post(causes & ~bit)


def _always_posts(bit: int) -> Callable[[Any, Any], Any]:
    return lambda part, post: lambda causes: post(causes | bit)


def _line_stays(device: Any) -> None:
    """IMC clears the mask, and the line stays as it was."""

    def write(offset: int, value: int) -> None:
        device.interrupts.mask &= ~value

    device._writers[Reg.IMC] = write


def _icr_stays(device: Any) -> None:
    """Reading ICR does not clear it."""
    device._readers[Reg.ICR] = lambda offset: device.interrupts.cause


def _rewired(change: Callable[[Any], None]) -> MakeModel:
    def make(memory: NDArray[np.uint8], mac: bytes, line: InterruptLine) -> E1000Device:
        device = E1000Device(memory, mac, line)
        change(device)
        return device

    return make


def _swapped_sizes(part: Any, control: Any) -> Any:
    def broken(value: int) -> None:
        control(value)
        if part._buffer_size == 512:
            part._buffer_size = 1024

    return broken


def _loses_the_last(part: Any, receive: Any) -> Any:
    return lambda frames: receive(frames.take(slice(0, max(len(frames) - 1, 1))))


def _writes_too_far(part: Any, note: Any) -> Any:
    def broken(ranges: Any, total: int) -> None:
        ranges = list(ranges)
        for _, end in ranges[:1]:
            part.array[end : end + 1] ^= 1
        note(ranges, total)

    return broken


DEFECTS: dict[str, MakeModel] = {
    "DD without RS": _patched("transmitter.fetcher", "_complete", _dd_without_rs),
    "one descriptor beyond the tail": _patched(
        "transmitter.fetcher", "pending", _ring_one_too_long
    ),
    "BAM ignored": _patched("receiver.filter", "judge", _without_bit(int(RCTL.BAM))),
    "UPE ignored": _patched("receiver.filter", "judge", _without_bit(int(RCTL.UPE))),
    "always promiscuous": _patched("receiver.filter", "judge", _with_bit(int(RCTL.UPE))),
    "the hash takes other bits": _patched("receiver.filter", "judge", _with_bit(1 << 12)),
    "GPTC does not count": _patched("statistics", "add", _never_counts(Reg.GPTC)),
    "GORC does not count": _patched("statistics", "add", _never_counts(Reg.GORCL)),
    "MPRC does not count": _patched("statistics", "add", _never_counts(Reg.MPRC)),
    "no TXDW": _patched("interrupts", "post", _never_posts(int(INT.TXDW))),
    "no RXT0": _patched("interrupts", "post", _never_posts(int(INT.RXT0))),
    "no RXDMT0 at the threshold": _patched("interrupts", "post", _never_posts(int(INT.RXDMT0))),
    "TXDW with everything": _patched("interrupts", "post", _always_posts(int(INT.TXDW))),
    "IMC does not lower the line": _rewired(_line_stays),
    "ICR is not cleared by reading": _rewired(_icr_stays),
    "buffers of 512 bytes are 1024": _patched("receiver", "control", _swapped_sizes),
    "the last frame of a batch is lost": _patched("receiver", "receive", _loses_the_last),
    "DMA goes a byte too far": _patched("dma", "note_writes", _writes_too_far),
}


@pytest.mark.qemu
@pytest.mark.parametrize("make", DEFECTS.values(), ids=DEFECTS)
def test_a_planted_defect_is_found(theirs: Theirs, make: MakeModel) -> None:
    rig, rng = broken_rig(theirs, make), Random(11)
    while rig.tally.total < WITHIN:
        if rig.play(trace(DIFFERENTIAL, rng, LENGTH)) is not None:
            return
    pytest.fail(f"not found within {rig.tally.total} steps")


@pytest.mark.qemu
def test_what_is_found_comes_as_a_short_trace_that_can_be_pasted(theirs: Theirs) -> None:
    rig, rng = broken_rig(theirs, DEFECTS["DD without RS"]), Random(11)
    found = None
    while found is None:
        assert rig.tally.total < WITHIN
        played = trace(DIFFERENTIAL, rng, LENGTH)
        found = rig.play(played)
    short, difference = explain(rig, played, found)
    assert difference.where == "memory"
    # Link, ring base, length, engine, a descriptor, the doorbell; and no more than a straggler.
    assert len(short) <= 8, listing(short)
    pasted = eval(listing(short), {**vars(vocabulary), **vars(relative), "Reg": Reg})
    again = rig.play(pasted)
    assert again is not None
    assert str(again) == str(difference)
    assert Rig(DIFFERENTIAL, theirs).play(pasted) is None


@pytest.mark.qemu
def test_a_link_that_is_up_already_is_not_plugged_in_again(theirs: Theirs) -> None:
    rig = Rig(DIFFERENTIAL, theirs)
    assert rig.play([Write(Reg.CTRL, LINK_UP), Link(True), Read(Reg.STATUS)]) is None
    assert rig.tally.steps["Link"] == 0
