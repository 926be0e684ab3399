"""The 82540EM model and arbitrary software: nothing raises, nothing outside memory is touched, and
no frame is lost, torn or out of order.
"""

from __future__ import annotations

import struct

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nic_models.e1000.device import E1000Device
from nic_models.e1000.registers import CTRL, RCTL, TCTL, Reg
from nic_models.frames import Frames
from tests.e1000_device_rig import GIGABIT, IFCS, LAST, MAC, RX_RING, Rig, frame, unpack
from tests.fakes import Line

GUARD = 4096
SMALL = 1 << 16

_registers = st.one_of(
    st.sampled_from([int(reg) for reg in Reg]),
    st.integers(0, 0x1FFFF),
)
_values = st.one_of(
    st.integers(0, 0xFFFF_FFFF),
    st.integers(0, 64),
    st.sampled_from(
        [
            int(TCTL.EN | TCTL.PSP),
            int(RCTL.EN | RCTL.UPE | RCTL.MPE | RCTL.SECRC),
            int(RCTL.EN | RCTL.UPE | RCTL.MPE | RCTL.LPE) | 3 << 16,
            int(CTRL.SLU),
            int(CTRL.RST),
            0x80,
            0x100,
            0x1000,
            SMALL - 128,
        ]
    ),
)
_descriptors = st.tuples(
    st.integers(0, 15),
    st.one_of(st.integers(0, SMALL + 100), st.integers(0, (1 << 64) - 1)),
    st.integers(0, 0xFFFF),
    st.integers(0, 255),
)
_actions = st.lists(
    st.one_of(
        st.tuples(st.just("write"), _registers, _values),
        st.tuples(st.just("read"), _registers, st.none()),
        st.tuples(st.just("descriptor"), _descriptors, st.sampled_from([0x0, 0x1000])),
        st.tuples(st.just("time"), st.integers(0, 10**6), st.none()),
        st.tuples(
            st.just("frames"),
            st.lists(st.binary(min_size=14, max_size=3000), max_size=5),
            st.none(),
        ),
        st.tuples(st.just("link"), st.booleans(), st.none()),
    ),
    max_size=60,
)


def _guarded() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    whole = np.full(GUARD + SMALL + GUARD, 0xC5, np.uint8)
    memory = whole[GUARD : GUARD + SMALL]
    memory[:] = 0
    return whole, memory


@settings(max_examples=150)
@given(actions=_actions, rate=st.sampled_from([None, GIGABIT, 1_000_000]), live=st.booleans())
def test_whatever_software_writes_nothing_raises_and_nothing_outside_memory_is_touched(
    actions: list[tuple[str, object, object]], rate: int | None, live: bool
) -> None:
    whole, memory = _guarded()
    device = E1000Device(memory, MAC, Line(), rate_bps=rate)
    if live:  # start from a working NIC, so that the fuzz gets past the door
        for register, value in (
            (Reg.CTRL, int(CTRL.SLU)),
            (Reg.TDLEN, 256),
            (Reg.RDBAL, 0x1000),
            (Reg.RDLEN, 256),
            (Reg.RDT, 8),
            (Reg.TCTL, int(TCTL.EN | TCTL.PSP)),
            (Reg.RCTL, int(RCTL.EN | RCTL.UPE | RCTL.MPE)),
        ):
            device.write32(register, value)
    now = 0
    for what, first, second in actions:
        if what == "write":
            assert isinstance(first, int)
            assert isinstance(second, int)
            device.write32(first, second)
        elif what == "read":
            assert isinstance(first, int)
            assert 0 <= device.read32(first) <= 0xFFFF_FFFF
        elif what == "descriptor":
            assert isinstance(first, tuple)
            assert isinstance(second, int)
            slot, address, length, command = first
            raw = struct.pack("<QHBBBBH", address, length, 0, command, 0, 0, 0)
            memory[second + 16 * slot :][:16] = np.frombuffer(raw, np.uint8)
            device.write32(Reg.TDT, (slot + 1) % 16)
        elif what == "time":
            assert isinstance(first, int)
            now += first
            frames = device.transmit(now)
            assert (frames.time_ns <= now).all()
            assert (np.diff(frames.time_ns) >= 0).all()
        elif what == "frames":
            assert isinstance(first, list)
            device.deliver(Frames.of(first, now))
        else:
            device.set_link(bool(first))
        event = device.next_event_ns()
        assert event is None or event >= 0
    assert (whole[:GUARD] == 0xC5).all()
    assert (whole[-GUARD:] == 0xC5).all()
    assert all(0 <= start < end <= SMALL for start, end in device.dma_writes())


@settings(max_examples=100)
@given(
    lengths=st.lists(st.integers(60, 1518), min_size=1, max_size=40),
    slots=st.sampled_from([8, 16, 32]),
    step=st.integers(1, 7),
)
def test_received_frames_keep_their_order_through_any_refill(
    lengths: list[int], slots: int, step: int
) -> None:
    rig = Rig(slots=slots)
    frames = [frame(length, fill=i) for i, length in enumerate(lengths)]
    got: list[bytes] = []
    clean = 0
    for i in range(0, len(frames), 9):
        rig.arrive(frames[i : i + 9])
        for _ in range(step):
            if rig.rx_done(clean)[2] & 1:
                got.append(rig.rx_data(clean))
                struct.pack_into("<Q", rig.memory, RX_RING + 16 * clean + 8, 0)
                rig.write(Reg.RDT, clean)
                clean = (clean + 1) % slots
    while rig.rx_done(clean)[2] & 1:
        got.append(rig.rx_data(clean))
        struct.pack_into("<Q", rig.memory, RX_RING + 16 * clean + 8, 0)
        rig.write(Reg.RDT, clean)
        clean = (clean + 1) % slots
    missed = rig.count("rx_missed")
    assert len(got) == len(frames) - missed
    if not missed:
        assert got == frames


@settings(max_examples=100)
@given(
    sizes=st.lists(st.lists(st.integers(1, 700), min_size=1, max_size=4), min_size=1, max_size=12),
    rate=st.sampled_from([None, 100_000_000]),
    hop=st.integers(1_000, 500_000),
)
def test_every_frame_leaves_once_whole_and_in_order(
    sizes: list[list[int]], rate: int | None, hop: int
) -> None:
    rig = Rig(rate, slots=64)
    slot, expected = 0, []
    for number, pieces in enumerate(sizes):
        body = b""
        for i, length in enumerate(pieces):
            piece = bytes([number * 16 + i & 0xFF]) * length
            rig.put(slot, piece, LAST if i == len(pieces) - 1 else IFCS)
            body += piece
            slot += 1
        expected.append(body + bytes(max(0, 60 - len(body))))
    rig.write(Reg.TDT, slot)
    got: list[bytes] = []
    times: list[int] = []
    now = 0
    for _ in range(2000):
        frames = rig.device.transmit(now)
        got += unpack(frames)
        times += frames.time_ns.tolist()
        if rig.device.next_event_ns() is None:
            break
        now += hop
    assert got == expected
    assert times == sorted(times)
    assert rig.read(Reg.TDH) == slot
