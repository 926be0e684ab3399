"""Our e1000 beside QEMU's: what the table says is so, and it says all that there is.

The traces are played on a QEMU without software, with the devices' memories side by side
(bench/truth).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bench.truth import steps as vocabulary
from bench.truth.__main__ import LENGTH, explain, main
from bench.truth.differences import VERSION, Row
from bench.truth.pair import LINK_UP, Make, Theirs
from bench.truth.rig import Rig
from bench.truth.shrink import shrink
from bench.truth.steps import Arrive, Frame, Read, Step, Write, listing
from bench.truth.table import ROWS, document
from bench.truth.traces import trace
from guest.qemu.vm import PROGRAM
from nic_models.contracts import InterruptLine
from nic_models.e1000.device import E1000Device
from nic_models.e1000.registers import INT, RCTL, Reg

PAGE = Path(__file__).parent.parent / "docs" / "e1000-differences.md"
#: Steps of random traces that one test run plays, and in how many examples.
STEPS, EXAMPLES = 20_000, 160
#: Steps within which a planted defect is found.
WITHIN = 8_000


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Theirs]:
    if shutil.which(PROGRAM) is None:
        pytest.skip(f"no {PROGRAM}; cure: install qemu-system-x86")
    with Theirs(tmp_path_factory.mktemp("qemu")) as found:
        if found.version != VERSION:
            pytest.skip(
                f"QEMU is {found.version[0]}.{found.version[1]}; the table is of"
                f" {VERSION[0]}.{VERSION[1]}; python -m bench.truth shows where they differ"
            )
        yield found


# --- the table ---------------------------------------------------------------------------------


@pytest.mark.qemu
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_is_needed_and_is_enough(theirs: Theirs, row: Row) -> None:
    without = Rig(theirs, [other for other in ROWS if other is not row]).play(row.story)
    assert without is not None, "the difference is gone: so should the row be"
    assert without.where == row.shows
    rig = Rig(theirs, ROWS)
    assert rig.play(row.story) is None
    assert rig.tally.rows[row.name], "the story plays without the row"


def test_every_row_has_a_name_of_its_own() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)
    for row in ROWS:
        hooks = (row.reads, row.imitate, row.translate, row.leave_out)
        assert any(hooks), f"{row.name} explains nothing"


def test_the_page_is_what_the_table_makes() -> None:
    assert PAGE.read_text(encoding="utf-8") == document(), (
        f"run: python -m bench.truth --document > {PAGE.name}"
    )


# --- both on the same traces -------------------------------------------------------------------


@pytest.mark.qemu
def test_no_trace_shows_a_difference_that_the_table_has_not(theirs: Theirs) -> None:
    rig = Rig(theirs, ROWS)

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,  # the same traces in every run; `python -m bench.truth` has others
        database=None,
        phases=[Phase.generate],  # ``explain`` shortens: it takes out whole steps
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(st.randoms(use_true_random=False))
    def play(rng: Random) -> None:
        played = trace(rng, LENGTH)
        found = rig.play(played)
        if found is not None:
            short, difference = explain(rig, played, found)
            pytest.fail(f"{difference}\ntrace = {listing(short)}")

    play()
    assert rig.tally.total >= STEPS
    assert rig.tally.frames_in > 100
    assert rig.tally.frames_out > 100


@pytest.mark.qemu
def test_the_soak_says_what_it_played(theirs: Theirs, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--steps", "400", "--seed", "7"]) == 0
    told = capsys.readouterr().out
    assert "seed 7" in told
    assert all(row.name in told for row in ROWS)


# --- the rig can fail --------------------------------------------------------------------------


def _patched(owner: str, name: str, wrap: Callable[[Any, Any], Any]) -> Make:
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


def _rewired(change: Callable[[Any], None]) -> Make:
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


DEFECTS: dict[str, Make] = {
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
def test_a_planted_defect_is_found(theirs: Theirs, make: Make) -> None:
    rig, rng = Rig(theirs, ROWS, make), Random(11)
    while rig.tally.total < WITHIN:
        if rig.play(trace(rng, LENGTH)) is not None:
            return
    pytest.fail(f"not found within {rig.tally.total} steps")


@pytest.mark.qemu
def test_what_is_found_comes_as_a_short_trace_that_can_be_pasted(theirs: Theirs) -> None:
    rig, rng = Rig(theirs, ROWS, DEFECTS["DD without RS"]), Random(11)
    found = None
    while found is None:
        assert rig.tally.total < WITHIN
        played = trace(rng, LENGTH)
        found = rig.play(played)
    short, difference = explain(rig, played, found)
    assert difference.where == "memory"
    # Link, ring base, length, engine, a descriptor, the doorbell; and no more than a straggler.
    assert len(short) <= 8, listing(short)
    pasted = eval(listing(short), {**vars(vocabulary), "Reg": Reg})
    again = rig.play(pasted)
    assert again is not None
    assert str(again) == str(difference)
    assert Rig(theirs, ROWS).play(pasted) is None


# --- its parts ---------------------------------------------------------------------------------


def test_shrinking_keeps_what_matters_and_nothing_else() -> None:
    needed = {13, 40, 41}
    tried: list[int] = []

    def differs(candidate: list[Step]) -> bool:
        tried.append(len(candidate))
        return needed <= {step.register for step in candidate if isinstance(step, Read)}

    short = shrink([Read(i) for i in range(64)], differs)
    assert short == [Read(i) for i in sorted(needed)]
    assert len(tried) < 200


def test_shrinking_takes_out_what_needs_each_other() -> None:
    def differs(candidate: list[Step]) -> bool:
        seen = {step.register for step in candidate if isinstance(step, Read)}
        return 5 in seen and (2 in seen) == (8 in seen)

    assert shrink([Read(i) for i in range(10)], differs) == [Read(5)]


def test_shrinking_thins_a_batch_of_frames_and_stops_at_its_budget() -> None:
    frames = tuple(Frame(b"\xff" * 6, 60 + i) for i in range(6))

    def differs(candidate: list[Step]) -> bool:
        return any(isinstance(step, Arrive) and frames[3] in step.frames for step in candidate)

    noise: list[Step] = [Read(0)] * 10
    assert shrink([*noise, Arrive(frames), *noise], differs) == [Arrive(frames[3:4])]
    assert shrink([*noise, Arrive(frames)], differs, budget=0) == [*noise, Arrive(frames)]


def test_a_trace_is_a_function_of_its_seed() -> None:
    assert trace(Random(5), 100) == trace(Random(5), 100)
    assert trace(Random(5), 100) != trace(Random(6), 100)


@pytest.mark.qemu
def test_a_link_that_is_up_already_is_not_plugged_in_again(theirs: Theirs) -> None:
    rig = Rig(theirs, ROWS)
    assert rig.play([Write(Reg.CTRL, LINK_UP), vocabulary.Link(True), Read(Reg.STATUS)]) is None
    assert rig.tally.steps["Link"] == 0
