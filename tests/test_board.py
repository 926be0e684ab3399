"""The board: when the hardware gets its turn."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bench.board import Board, BoardNic, OutOfTime
from bench.clock import Budget, VirtualClock
from netdump.contracts import TxBatch
from nic_models.frames import Frames
from tests.fakes import FakeWire, NotingSilicon, Told, nothing

MAC = bytes.fromhex("020000000002")
DEADLINE_NS = 1_000_000
#: Registers: a doorbell, and one that is none.
TAIL, OTHER = 0x10, 0x20

#: A frame out, and one in.
OUT, IN = Frames.of([b"\x01" * 60]), Frames.of([b"\x02" * 60])


class Witness:
    """Where the hardware's turn is written down: who was called, and when."""

    def __init__(self, out: Frames | None = None, heard: Frames | None = None) -> None:
        self.clock = VirtualClock()
        self.calls: list[str] = []
        self.silicon = Silicon(self.clock, self.note)
        self.wire = Wire(self.note)
        if out is not None:
            self.silicon.to_send = out
        if heard is not None:
            self.wire.to_receive = [heard]

    def note(self, what: str) -> None:
        self.calls.append(f"{what} at {self.clock.now_ns()}")


class Silicon(NotingSilicon):
    """It is told the right time."""

    def __init__(self, clock: VirtualClock, note: Callable[[str], object]) -> None:
        super().__init__(note)
        self.heard: list[bytes] = []
        self._clock = clock

    def transmit(self, now_ns: int) -> Frames:
        assert now_ns == self._clock.now_ns()
        return super().transmit(now_ns)

    def deliver(self, frames: Frames) -> None:
        super().deliver(frames)
        self.heard += [frames.bytes_of(i) for i in range(len(frames))]


class Wire(FakeWire):
    """Says when it has its turn."""

    def __init__(self, note: Callable[[str], object]) -> None:
        super().__init__()
        self._note = note

    def send(self, frames: Frames) -> None:
        self._note("wire carries")
        super().send(frames)

    def receive(self) -> Frames:
        self._note("wire brings")
        return super().receive()


def board_of(witness: Witness, tell: Callable[..., None] = nothing) -> Board:
    def far_end(now_ns: int) -> None:
        assert now_ns == witness.clock.now_ns()
        witness.note("far end")

    return Board(
        witness.clock,
        witness.silicon,
        {TAIL: "tail"},
        witness.wire,
        far_end,
        Budget(witness.clock, DEADLINE_NS),
        tell,
    )


def test_time_in_which_the_bench_itself_did_not_run_is_given_back() -> None:
    clock, lost = VirtualClock(7), 0.0
    budget = Budget(clock, 300 * 10**9, lambda: lost)
    end = 7 + 300 * 10**9
    assert not budget.used_up(end)
    assert budget.used_up(end + 1)
    lost = 40.0
    assert not budget.used_up(end + 40 * 10**9)
    assert budget.used_up(end + 40 * 10**9 + 1)


def test_a_part_of_a_budget_begins_when_it_is_taken_and_gets_back_what_was_lost_since() -> None:
    clock, lost = VirtualClock(0), 40.0
    budget = Budget(clock, 300 * 10**9, lambda: lost)
    clock.delay_us(5_000_000)
    part = budget.part(10 * 10**9)
    assert not part.used_up(15 * 10**9)
    assert part.used_up(15 * 10**9 + 1), "what was lost before is none of its time"
    lost = 42.0
    assert not part.used_up(17 * 10**9)
    assert part.used_up(17 * 10**9 + 1)
    assert str(part) == "the run's budget of 10 s is used up"


# --- turns ----------------------------------------------------------------------------------------


def test_a_turn_goes_from_cause_to_effect() -> None:
    witness = Witness(out=OUT, heard=IN)
    board_of(witness).turn()
    assert witness.calls == [
        "NIC sends at 0",
        "wire carries at 0",
        "far end at 0",
        "wire brings at 0",
        "NIC hears at 0",
    ]
    assert (witness.wire.sent, witness.silicon.heard) == ([OUT.bytes_of(0)], [IN.bytes_of(0)])


def test_a_quiet_turn_moves_no_empty_batches() -> None:
    witness = Witness()
    board_of(witness).turn()
    assert witness.calls == ["NIC sends at 0", "far end at 0", "wire brings at 0"]


def test_the_doorbell_is_told_and_is_the_hardwares_turn() -> None:
    witness = Witness()
    told = Told()
    board = board_of(witness, told)
    board.write32(TAIL, 12)
    assert witness.calls[:2] == ["write 12 at 0", "NIC sends at 0"]
    assert told.events == [("doorbell", {"tail": 12})]


def test_no_other_register_access_lets_time_pass_for_the_hardware() -> None:
    witness = Witness()
    witness.silicon.registers[OTHER] = OTHER + 1
    board = board_of(witness)
    board.write32(OTHER, 5)
    assert board.read32(OTHER) == OTHER + 1
    assert witness.calls == ["write 5 at 0", "read at 0"]


def test_a_delay_passes_first_and_then_the_hardware_catches_up() -> None:
    witness = Witness()
    board_of(witness).delay_us(7)
    assert witness.calls[0] == "NIC sends at 7000"


def test_a_run_that_is_over_its_budget_ends_there_and_not_before() -> None:
    witness = Witness()
    board = board_of(witness)
    witness.clock.advance_to(DEADLINE_NS)
    board.turn()
    witness.clock.delay_us(1)
    witness.calls.clear()
    with pytest.raises(OutOfTime, match="budget of 0 s is used up"):
        board.turn()
    with pytest.raises(OutOfTime):
        board.delay_us(1)
    with pytest.raises(OutOfTime):
        board.write32(TAIL, 0)
    assert witness.calls == ["write 0 at 1002000"], "nothing moved any more"


# --- skipped polls --------------------------------------------------------------------------------


class CountingDriver:
    """A driver that has nothing to do, and counts how often it is asked."""

    mac = MAC
    mtu = 1500

    def __init__(self) -> None:
        self.polls = 0
        self.events: list[str] = []

    def link_up(self) -> bool:
        return True

    def event(self, what: str) -> None:
        self.events.append(what)

    def transmit(self, batch: TxBatch) -> int:
        return len(batch)

    def poll(self, budget: int) -> Frames:
        self.polls += 1
        return Frames.empty()


def test_each_poll_is_played_and_the_hardware_has_its_turn_before_it() -> None:
    witness = Witness()
    driver = CountingDriver()
    nic = BoardNic(driver, board_of(witness))
    for _ in range(5):
        assert not len(nic.poll(100).lengths)
    assert driver.polls == 5
    assert witness.calls.count("NIC sends at 0") == 5


def test_the_client_sees_the_driver_through_the_board() -> None:
    driver = CountingDriver()
    nic = BoardNic(driver, board_of(Witness()))
    assert (nic.mac, nic.mtu, nic.link_up()) == (MAC, 1500, True)
    nic.event("start")
    nic.event("end")
    assert driver.events == ["start", "end"]
