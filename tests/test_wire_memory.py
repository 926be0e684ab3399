"""The sim tier's wire: latency, line rate, order and bounds, to the nanosecond."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.clock import RealClock, VirtualClock
from bench.wire.memory import MemoryLink, serve_in_turn
from nic_models.frames import Frames

pytestmark = pytest.mark.sim


def test_a_frame_arrives_after_the_latency_and_not_before() -> None:
    clock = VirtualClock()
    link = MemoryLink(clock, latency_ns=50_000)
    link.machine_end.send(Frames.of([b"hello"], 1_000))
    clock.advance_to(50_999)
    assert len(link.host_end.receive()) == 0
    assert link.host_end.next_arrival_ns() == 51_000
    clock.advance_to(51_000)
    arrived = link.host_end.receive()
    assert arrived.bytes_of(0) == b"hello"
    assert arrived.time_ns.tolist() == [51_000]
    assert link.host_end.next_arrival_ns() is None


def test_frames_come_in_the_order_of_arrival() -> None:
    clock = VirtualClock(10_000_000)
    link = MemoryLink(clock, latency_ns=0)
    link.host_end.send(Frames.of([b"second"], 20))
    link.host_end.send(Frames.of([b"first"], 10))
    link.host_end.send(Frames.of([b"third"], 20))
    arrived = link.machine_end.receive()
    assert [arrived.bytes_of(i) for i in range(3)] == [b"first", b"second", b"third"]


def test_at_a_gigabit_full_frames_come_12304_ns_apart() -> None:
    clock = VirtualClock(10_000_000)
    link = MemoryLink(clock, latency_ns=0, bits_per_second=1_000_000_000)
    link.machine_end.send(Frames.of([bytes(1514)] * 3, 0))
    link.machine_end.send(Frames.of([bytes(42)], 0))  # padded to 60 on the line
    times = link.host_end.receive().time_ns.tolist()
    assert times == [12_304, 24_608, 36_912, 36_912 + 84 * 8]


def test_a_queue_that_nobody_reads_drops_and_counts() -> None:
    link = MemoryLink(VirtualClock(), capacity=10)
    for _ in range(3):
        link.machine_end.send(Frames.of([b"x"] * 4))
    assert link.host_end.dropped == 2


def test_a_closed_link_is_silent() -> None:
    clock = VirtualClock(1_000_000)
    link = MemoryLink(clock)
    link.host_end.close()
    link.host_end.close()
    link.machine_end.send(Frames.of([b"x"]))
    assert len(link.host_end.receive()) == 0


@settings(max_examples=100)
@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**4)), max_size=30),
    st.integers(0, 10**6),
)
def test_serving_in_turn_is_the_recurrence_it_unrolls(
    customers: list[tuple[int, int]], free_at: int
) -> None:
    arrivals = np.array([a for a, _ in customers], np.int64)
    service = np.array([s for _, s in customers], np.int64)
    expected = []
    at = free_at
    for arrival, needs in customers:
        at = max(at, arrival) + needs
        expected.append(at)
    assert serve_in_turn(arrivals, service, free_at).tolist() == expected


def test_time_does_not_run_backwards() -> None:
    clock = VirtualClock(5)
    clock.delay_us(2)
    clock.advance_to(100)
    assert clock.now_ns() == 2005
    with pytest.raises(ValueError, match="backwards"):
        clock.delay_us(-1)
    real = RealClock()
    before = real.now_ns()
    real.delay_us(1000)
    assert real.now_ns() - before >= 1_000_000
