"""Machines that share a line: no one takes it all, and a full queue is not flooded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.clock import VirtualClock
from bench.together import Dumped, Line, Turn, dump_together, take_turns
from bench.wire.switch import Switch
from netdump.profiles import PROFILES
from nic_models.frames import Frames

MIB = 1 << 20
MACS = [bytes((2, 0, 0, 0, 0, n)) for n in (2, 3)]
HOST = bytes((2, 0, 0, 0, 0, 9))
OURS = PROFILES["netdump2"]


def together(names: list[str], line: Line, folder: Path, size: int = 4 * MIB) -> list[Dumped]:
    dumped = dump_together([PROFILES[name] for name in names], size, line, folder)
    for number, one in enumerate(dumped):
        assert one.report.claims_success
        kept = folder / f"vmcore.198.18.0.{2 + number}.0"
        assert kept.read_bytes() == one.image
    return dumped


@pytest.mark.parametrize("queue", [512, 4096])
def test_two_dumps_share_a_gigabit_within_a_tenth(queue: int, tmp_path: Path) -> None:
    first, second = together(["netdump2"] * 2, Line(queue_frames=queue), tmp_path)
    assert 0.9 < first.share / second.share < 1 / 0.9
    assert 0.9 < first.ended_ns / second.ended_ns < 1 / 0.9
    # And the line is used: two dumps of 4 MiB, frame by frame, take 71 ms of it.
    assert max(first.ended_ns, second.ended_ns) < 71e6 / 0.6


def test_a_queue_that_overflows_lowers_the_rate_to_what_is_delivered(tmp_path: Path) -> None:
    """The line is a tenth of what the NICs can send, and its queue is that of a cheap switch."""
    line = Line(bits_per_second=100_000_000, queue_frames=128)
    dumped = together(["netdump2"] * 2, line, tmp_path)
    for one in dumped:
        stats = one.report.stats
        assert one.dropped > 0, "else nothing was tried"
        assert stats.retransmissions < 0.3 * stats.frames_sent
        assert 0.45 < one.share < 0.55
    assert max(one.ended_ns for one in dumped) < 710e6 / 0.8, "and the line is used"


def test_a_stock_client_beside_ours_is_not_starved(tmp_path: Path) -> None:
    """It sends 64 KiB and waits, so it never has half; alone it takes 137 ms for 4 MiB."""
    ours, stock = together(["netdump2", "freebsd-14"], Line(), tmp_path)
    assert ours.dropped == stock.dropped == 0
    assert stock.share > 0.08


def test_what_is_played_together_comes_out_the_same_again(tmp_path: Path) -> None:
    ends = [
        [one.ended_ns for one in together(["netdump2"] * 2, Line(), tmp_path / again, MIB)]
        for again in ("once", "twice")
    ]
    assert ends[0] == ends[1]


# --- turns ----------------------------------------------------------------------------------------


def test_whoever_is_due_first_goes_on() -> None:
    clock = VirtualClock()
    turns = [Turn(clock), Turn(clock)]
    seen: list[tuple[str, int]] = []

    def waits(name: str, turn: Turn, step: int) -> None:
        for _ in range(3):
            turn.delay_us(step)
            seen.append((name, turn.now_ns() // 1000))

    turns[0].start(lambda: waits("slow", turns[0], 5))
    turns[1].start(lambda: waits("fast", turns[1], 2))
    take_turns(clock, turns)
    assert seen == [
        *(("fast", t) for t in (2, 4)),
        ("slow", 5),
        ("fast", 6),
        ("slow", 10),
        ("slow", 15),
    ]


def test_what_one_of_them_raises_comes_out() -> None:
    clock = VirtualClock()
    turn = Turn(clock)

    def fails() -> None:
        turn.delay_us(1)
        raise ValueError("of its own")

    turn.start(fails)
    with pytest.raises(ValueError, match="of its own"):
        take_turns(clock, [turn])


# --- the switch -----------------------------------------------------------------------------------


def frames(count: int, at_ns: int, to: bytes = HOST, source: bytes = MACS[0]) -> Frames:
    return Frames.of([to + source + b"\x08\0" + bytes(1486)] * count, at_ns)


def test_frames_wait_in_the_order_of_their_arrival_whoever_had_the_first_turn() -> None:
    clock = VirtualClock()
    switch = Switch(clock, MACS, bits_per_second=10**9, queue_frames=10, latency_ns=1000)
    one, two = switch.ports
    clock.advance_to(20_000)
    one.send(frames(1, 10_000))
    one.receive()
    clock.advance_to(21_000)
    assert not len(switch.receive()), "the other may have sent something before"
    two.send(frames(1, 9_000, source=MACS[1]))
    two.receive()
    clock.advance_to(60_000)
    one.receive()
    two.receive()
    got = switch.receive()
    assert [got.bytes_of(i)[6:12] for i in range(2)] == [MACS[1], MACS[0]]
    assert got.time_ns.tolist() == [10_000 + 12_192, 10_000 + 2 * 12_192]


def test_a_full_queue_drops_what_comes_last_and_counts_whose_it_was() -> None:
    clock = VirtualClock()
    switch = Switch(clock, MACS, bits_per_second=10**9, queue_frames=4, latency_ns=0)
    one, two = switch.ports
    one.send(frames(7, 5))
    two.send(frames(2, 6, source=MACS[1]))
    clock.advance_to(10**6)
    for port in switch.ports:
        port.receive()
    assert len(switch.receive()) == 5  # one on the line, four in the queue
    assert (one.dropped, two.dropped) == (2, 2)
    assert one.passed == 5 * 1500


def test_answers_go_to_whom_they_are_for_and_broadcasts_to_all() -> None:
    clock = VirtualClock()
    switch = Switch(clock, MACS, bits_per_second=10**9, queue_frames=4)
    switch.send(frames(2, 0, to=MACS[1], source=HOST))
    switch.send(frames(1, 0, to=b"\xff" * 6, source=HOST))
    clock.advance_to(10**6)
    assert [len(port.receive()) for port in switch.ports] == [1, 3]
    switch.close()
    assert np.all([port.seen_ns is None for port in switch.ports])
