"""The batch way and the way one by one do the same: everything is done both ways, and compared.

Descriptors are mostly plain, as a driver writes them, with oddities in between: at the beginning,
in the middle of a batch, at its end, round the ring's end.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nic_models.e1000 import plain
from nic_models.e1000.descriptors import TX_READ
from nic_models.e1000.registers import RCTL, RCTL_BSIZE_SHIFT, TCTL, Reg
from nic_models.frames import Frames
from tests.e1000_device_rig import (
    DEXT,
    EOP,
    GIGABIT,
    IC,
    IFCS,
    LAST,
    MAC,
    MEMORY,
    PEER,
    RX_BUFFERS,
    RX_RING,
    TX_BUFFERS,
    TX_RING,
    Rig,
)

SLOTS = 64
#: A stretch of data: address, length. Ordinary ones first.
_address = st.one_of(
    st.integers(TX_BUFFERS, RX_BUFFERS - 2048),
    st.sampled_from([0, MEMORY - 30, MEMORY - 1, MEMORY, 2**64 - 1]),
)
_length = st.one_of(st.sampled_from([66, 1448, 376, 42]), st.integers(0, 3000))
_command = st.one_of(st.just(LAST), st.sampled_from([EOP, EOP | IFCS, LAST | IC, LAST | DEXT, 0]))


@st.composite
def ordinary(draw: st.DrawFn) -> list[tuple[int, int, int]]:
    """A run of frames as the panic driver makes them: headers and payload, or headers alone."""
    count, payload = draw(st.integers(1, 20)), draw(st.sampled_from([1448, 376, 0]))
    one = [(TX_BUFFERS + 128, 66, IFCS if payload else LAST)]
    one += [(TX_BUFFERS + 4096, payload, LAST)] * bool(payload)
    return [(address + 3 * n, length, cmd) for n in range(count) for address, length, cmd in one]


odd = st.lists(st.tuples(_address, _length, _command), max_size=4)
descriptors = st.lists(st.one_of(ordinary(), ordinary(), odd), max_size=8).map(
    lambda parts: [one for part in parts for one in part]
)


@contextmanager
def one_by_one() -> Iterator[None]:
    """No batch is large enough."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nic_models.e1000.plain.FEWEST", 1 << 30)
        patch.setattr("nic_models.e1000.rx.FEWEST", 1 << 30)
        yield


def rig(rate: int | None) -> Rig:
    made = Rig(rate, slots=SLOTS)
    noise = np.random.default_rng(3).integers(1, 256, MEMORY - TX_BUFFERS, np.uint8)
    made.memory[TX_BUFFERS:MEMORY] = noise.tobytes()
    return made


def told(made: Rig) -> tuple[object, ...]:
    """All that can be seen of it from outside. (The log of DMA writes is of spans of descriptors,
    which end where a batch does: it is compared where buffers are written, on reception.)
    """
    counted = {r: made.read(r) for r in (Reg.GPTC, Reg.GOTCL, Reg.TPT, Reg.GPRC, Reg.TPR, Reg.MPC)}
    return bytes(made.memory), made.device.snapshot(), counted


@example(
    program=[(TX_BUFFERS, 66, IFCS), (TX_BUFFERS + 70, 376, EOP)] * 12,
    bites=[40],
    rate=None,
    pad=True,
)
@given(
    program=descriptors,
    bites=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    rate=st.sampled_from([None, GIGABIT, 10_000_000]),
    pad=st.booleans(),
)
def test_frames_leave_the_same_way_in_batches_and_one_by_one(
    program: list[tuple[int, int, int]], bites: list[int], rate: int | None, pad: bool
) -> None:
    def played() -> list[object]:
        made, left, slot, now = rig(rate), list(program), 0, 0
        seen: list[object] = []
        made.write(Reg.TCTL, TCTL.EN | (TCTL.PSP if pad else 0))
        for bite in [*bites, *[50] * (1 + len(program) // 20)]:
            head = made.read(Reg.TDH)
            for address, length, command in left[: min(bite, (head - slot - 1) % SLOTS)]:
                made.tx(slot, address, length, command)
                slot = (slot + 1) % SLOTS
                left.pop(0)
            made.write(Reg.TDT, slot)
            for step in (1_000, 30_000, 500_000):
                now += step
                frames = made.device.transmit(now)
                seen += [(frames.bytes_of(i), int(frames.time_ns[i])) for i in range(len(frames))]
                seen += told(made)
        return seen

    batched = played()
    with one_by_one():
        assert played() == batched


_frame_length = st.one_of(st.sampled_from([60, 1514, 64]), st.integers(14, 1600))


@st.composite
def arrivals(draw: st.DrawFn) -> list[bytes]:
    """A batch of frames of few lengths, or of many."""
    lengths = draw(
        st.one_of(
            st.lists(st.sampled_from([60, 1514]), max_size=40), st.lists(_frame_length, max_size=20)
        )
    )
    return [
        (MAC + PEER + b"\x88\xb5" + bytes([n % 251]) * length)[:length]
        for n, length in enumerate(lengths)
    ]


@example(
    batches=[([MAC + PEER + bytes([n]) * size for n, size in enumerate([900, 40] * 10)], 0)],
    buffers=[RX_BUFFERS + 700, RX_BUFFERS, RX_BUFFERS + 30],
    strip=True,
    small=False,
)
@given(
    batches=st.lists(st.tuples(arrivals(), st.integers(0, 20)), max_size=6),
    buffers=st.lists(
        st.sampled_from([0, RX_BUFFERS, RX_BUFFERS + 30, RX_BUFFERS + 700, MEMORY - 64, MEMORY]),
        max_size=8,
    ),
    strip=st.booleans(),
    small=st.booleans(),
)
def test_frames_arrive_the_same_way_in_batches_and_one_by_one(
    batches: list[tuple[list[bytes], int]], buffers: list[int], strip: bool, small: bool
) -> None:
    """``buffers``: odd ones, from slot 6 on: null, overlapping, at the end of memory, outside.
    ``small``: buffers of 256 bytes, so that long frames take several.
    """

    def played() -> list[object]:
        made = rig(None)
        for place, address in enumerate(buffers):
            struct.pack_into("<Q", made.memory, RX_RING + 16 * (6 + place), address)
        size = 3 << RCTL_BSIZE_SHIFT if small else 0
        made.write(Reg.RCTL, RCTL.EN | RCTL.BAM | (RCTL.SECRC if strip else 0) | size)
        seen: list[object] = []
        for frames, given_back in batches:
            made.device.deliver(Frames.of(frames))
            seen += [told(made), made.device.dma_writes()]
            made.write(Reg.RDT, (made.read(Reg.RDT) + given_back) % SLOTS)
        return [*seen, told(made)]

    batched = played()
    with one_by_one():
        assert played() == batched


def test_a_short_frame_takes_as_much_room_as_it_has_on_the_wire() -> None:
    made = rig(None)
    for slot in range(8):
        made.tx(slot, TX_BUFFERS, 42)
    block = made.device.dma.descriptors(TX_RING, 0, 8, TX_READ)
    memory = made.device.dma.array
    for room, frames in ((480, 8), (60 * 7 + 42, 8), (60 * 7 + 41, 7)):
        assert plain.plain_frames(memory, block, 16_000, room, 60)[1] == frames
    assert plain.plain_frames(memory, block, 16_000, 42 * 8, 0)[1] == 8


def test_an_odd_address_in_a_stretch_of_plain_ones_costs_its_frame_only() -> None:
    """At a line rate the lengths ahead are looked at first; what will be dropped is not plain."""
    made = rig(GIGABIT)
    for slot in range(41):
        made.tx(slot, MEMORY - 30 if slot == 30 else TX_BUFFERS, 66)
    made.write(Reg.TDT, 41)
    sent = sum(len(made.device.transmit(now)) for now in range(0, 1_000_000, 10_000))
    assert sent == 40
    assert made.device.counters.tx_aborted == 1


def test_what_arrives_in_a_batch_is_stored_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    made = rig(None)
    monkeypatch.setattr(made.device.receiver, "_deliver", lambda items: 0)
    made.device.deliver(Frames.of([(MAC + PEER).ljust(60, b"x")] * 20))
    assert made.read(Reg.RDH) == 20


def test_what_a_driver_writes_is_plain() -> None:
    """Else the tests above would compare one way with itself."""
    made = rig(None)
    for slot in range(0, 40, 2):
        made.tx(slot, TX_BUFFERS, 66, IFCS)
        made.tx(slot + 1, TX_BUFFERS + 1000, 1448)
    block = made.device.dma.descriptors(TX_RING, 0, 40, TX_READ)
    memory = made.device.dma.array
    frames, used = plain.plain_frames(memory, block, 16_000, 1 << 20, 60)
    assert (len(frames), used) == (20, 40)
    frames, used = plain.plain_frames(memory, block, 16_000, 1514 * 7 + 66, 60)
    assert (len(frames), used) == (7, 14), "the eighth does not fit as a whole"
    assert len(plain.plain_frames(memory, block, 16_000, 1514 * 7, 60)[0]) == 7
    assert len(plain.plain_frames(memory, block, 16_000, 1514 * 7 - 1, 60)[0]) == 6
    assert len(plain.plain_frames(memory, block, 1000, 1 << 20, 60)[0]) == 0
