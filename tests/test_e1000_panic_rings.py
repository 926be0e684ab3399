"""The driver after the takeover: batches out, frames in, through rings of any size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nic_models.e1000.descriptors import RX_ERRORS, RX_STATUS
from nic_models.e1000.registers import Reg
from tests.e1000_driver_rig import Rig, ack, batch_of, expected

# -- transmit ------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", range(16))
def test_a_batch_wraps_from_every_slot(start: int) -> None:
    rig = Rig(tx_ring=16, rx_ring=16)
    rig.die()
    rig.start()
    for _ in range(start):
        assert rig.transmit(batch_of([(0, 0)])) == 1  # one descriptor each
        rig.wire()
        rig.driver.poll(1000)
    batch = batch_of([(8192 + i, 300 + i) for i in range(7)])
    assert rig.transmit(batch) == 7
    assert rig.wire() == expected(batch, rig.machine.memory.buffer)
    rig.driver.poll(1000)
    assert rig.machine.panic_pool.in_use == 0


def test_a_ring_takes_whole_frames_and_keeps_one_slot_empty() -> None:
    rig = Rig(tx_ring=16)
    rig.die()
    rig.start()
    batch = batch_of([(4096, 500)] * 20)
    assert rig.transmit(batch) == 7, "14 of 15 descriptors: half a frame is no frame"
    assert rig.transmit(batch_of([(4096, 500)])) == 0
    assert rig.transmit(batch_of([(0, 0)])) == 1, "one more has room without a payload"
    assert rig.device.read32(Reg.TDT) == 15
    assert rig.driver.stats.panic_ring_full == 2
    assert len(rig.wire()) == 8
    assert rig.transmit(batch) == 7, "a transmit that finds the ring full looks for what is done"


def test_frames_are_reclaimed_one_by_one_as_the_wire_lets_them_go() -> None:
    rig = Rig(tx_ring=64, rate=10**9)
    rig.die()
    rig.start()
    assert rig.transmit(batch_of([(4096, 1434)] * 31)) == 31
    rig.device.transmit(1)  # the FIFO takes the first ten or so
    rig.driver.poll(1000)
    waiting = rig.machine.panic_pool.in_use // 2
    assert 15 < waiting < 31
    rig.device.transmit(100_000)
    rig.driver.poll(1000)
    assert 0 < rig.machine.panic_pool.in_use // 2 < waiting


def test_payload_at_physical_address_0_is_sent_although_0_means_null_to_the_silicon() -> None:
    rig = Rig()
    rig.die()
    rig.machine.memory.buffer[:64] = np.arange(64)  # page 0 belongs to the dump, and may be used
    rig.start()
    batch = batch_of([(0, 1434), (1434, 1434), (0, 0), (0, 7)])
    assert rig.transmit(batch) == 4
    assert rig.wire() == expected(batch, rig.machine.memory.buffer)


def test_headers_wider_than_a_slot_are_refused() -> None:
    rig = Rig()
    rig.die()
    rig.start()
    with pytest.raises(ValueError, match="headers of 129 bytes"):
        rig.driver.transmit(batch_of([(0, 0)], width=129))


FRAME = st.tuples(st.integers(4096, 60000), st.integers(0, 1434))


@given(
    st.sampled_from([8, 16, 24, 64]),
    st.lists(st.lists(FRAME, max_size=40), min_size=1, max_size=8),
)
@settings(max_examples=100)
def test_any_batches_through_any_ring_come_out_whole_and_in_order(
    ring: int, batches: list[list[tuple[int, int]]]
) -> None:
    rig = Rig(tx_ring=ring, rx_ring=ring, attach=False)
    rig.die()
    rig.start()
    memory = rig.machine.memory.buffer
    number = 0
    for payloads in batches:
        batch = batch_of(payloads, first=number)
        taken = rig.transmit(batch)
        descriptors = sum(1 + (length > 0) for _, length in payloads[:taken])
        assert descriptors < ring
        if taken < len(payloads):
            assert descriptors + 1 + (payloads[taken][1] > 0) > ring - 1, "took all that fitted"
        assert rig.wire() == expected(batch, memory)[:taken]
        rig.driver.poll(1)
        number += len(payloads)
    assert rig.machine.panic_pool.in_use == 0


# -- poll ----------------------------------------------------------------------------------------


@given(st.sampled_from([8, 16, 64]), st.lists(st.integers(0, 90), min_size=1, max_size=10))
@settings(max_examples=100)
def test_any_bursts_through_any_ring_are_heard_in_order(ring: int, bursts: list[int]) -> None:
    rig = Rig(tx_ring=8, rx_ring=ring, attach=False)
    rig.die()
    rig.start()
    number = 0
    for burst in bursts:
        frames = [ack(number + i) + bytes(i) for i in range(burst)]
        rig.hear(*frames)
        got: list[bytes] = []
        for _ in range(-(-burst // (ring - 1)) + 1):  # the FIFO follows as descriptors come back
            polled = rig.driver.poll(1000)
            got += [polled.bytes_of(i) for i in range(len(polled))]
        assert got == frames
        number += burst
    assert rig.device.counters.rx_missed == 0


def test_a_poll_hands_over_no_more_than_its_budget() -> None:
    rig = Rig()
    rig.die()
    rig.start()
    rig.hear(*[ack(i) for i in range(10)])
    sizes = [len(rig.driver.poll(4)) for _ in range(4)]
    assert sizes == [4, 4, 2, 0]
    assert len(rig.driver.poll(0)) == 0


def test_polled_frames_outlive_the_next_poll() -> None:
    rig = Rig(rx_ring=8)
    rig.die()
    rig.start()
    rig.hear(*[ack(i) for i in range(7)])
    frames = rig.driver.poll(1000)
    rig.hear(*[ack(100 + i) for i in range(7)])
    rig.driver.poll(1000)
    assert [frames.bytes_of(i) for i in range(7)] == [ack(i) for i in range(7)]


def test_bad_frames_and_pieces_of_long_ones_are_dropped_and_counted() -> None:
    rig = Rig(rx_ring=16)
    rig.die()
    rig.start()
    rig.hear(*[ack(i) for i in range(6)])
    at = rig.device.read32(Reg.RDBAL)
    ring = rig.machine.memory.buffer[at : at + 256].reshape(16, 16)
    ring[1, 13] = RX_ERRORS.CE
    ring[3, 12] &= ~np.uint8(RX_STATUS.EOP)  # 3 and 4 are one long frame
    ring[5, 12] &= ~np.uint8(RX_STATUS.EOP)  # and 5 the start of another
    frames = rig.driver.poll(1000)
    assert [frames.bytes_of(i) for i in range(len(frames))] == [ack(0), ack(2)]
    assert rig.driver.rx_errors == 4
    rig.hear(ack(6), ack(7))  # 6 ends what 5 began
    frames = rig.driver.poll(1000)
    assert [frames.bytes_of(i) for i in range(len(frames))] == [ack(7)]
    assert rig.driver.rx_errors == 5
