"""The board: when the hardware gets its turn, and that a poll that is skipped loses nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bench.board import Board, BoardNic, OutOfTime
from bench.clock import VirtualClock
from guest.synthetic import MachineConfig, SyntheticMachine
from netdump.contracts import TxBatch
from nic_models.e1000.device import E1000Device
from nic_models.e1000.driver import E1000Driver
from nic_models.e1000.registers import Reg
from nic_models.frames import Frames

MAC = bytes.fromhex("020000000002")
DEADLINE_NS = 1_000_000

#: A frame out, and one in.
OUT, IN = Frames.of([b"\x01" * 60]), Frames.of([b"\x02" * 60])


@dataclass
class Witness:
    """A device, a wire and a far end that only write down who is called, and when."""

    clock: VirtualClock = field(default_factory=VirtualClock)
    out: Frames = field(default_factory=Frames.empty)
    heard: Frames = field(default_factory=Frames.empty)
    calls: list[str] = field(default_factory=list)

    def note(self, what: str) -> None:
        self.calls.append(f"{what} at {self.clock.now_ns()}")

    # the device
    def read32(self, offset: int) -> int:
        self.note("read")
        return offset + 1

    def write32(self, offset: int, value: int) -> None:
        self.note(f"write {value}")

    def transmit(self, now_ns: int) -> Frames:
        assert now_ns == self.clock.now_ns()
        self.note("NIC sends")
        return self.out

    # the wire has `receive` and `send`, the device `receive` too: two views of one witness
    def send(self, frames: Frames) -> None:
        assert frames is self.out
        self.note("wire carries")

    def receive(self) -> Frames:
        self.note("wire brings")
        return self.heard

    def close(self) -> None: ...


class Silicon:
    """The witness seen as a device."""

    def __init__(self, witness: Witness) -> None:
        self._witness = witness
        self.read32 = witness.read32
        self.write32 = witness.write32
        self.transmit = witness.transmit

    def receive(self, frames: Frames) -> None:
        assert frames is self._witness.heard
        self._witness.note("NIC hears")


def board_of(witness: Witness, tell: Callable[..., None] = lambda *_, **__: None) -> Board:
    def far_end(now_ns: int) -> None:
        assert now_ns == witness.clock.now_ns()
        witness.note("far end")

    return Board(witness.clock, Silicon(witness), witness, far_end, DEADLINE_NS, tell)


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


def test_a_quiet_turn_moves_no_empty_batches() -> None:
    witness = Witness()
    board_of(witness).turn()
    assert witness.calls == ["NIC sends at 0", "far end at 0", "wire brings at 0"]


def test_the_doorbell_is_told_and_is_the_hardwares_turn() -> None:
    witness = Witness()
    told: list[tuple[str, dict[str, object]]] = []
    board = board_of(witness, lambda what, **fields: told.append((what, fields)))
    board.write32(Reg.TDT, 12)
    assert witness.calls[:2] == ["write 12 at 0", "NIC sends at 0"]
    assert told == [("doorbell", {"tdt": 12})]


def test_no_other_register_access_lets_time_pass_for_the_hardware() -> None:
    witness = Witness()
    board = board_of(witness)
    board.write32(Reg.RDT, 5)
    assert board.read32(Reg.STATUS) == Reg.STATUS + 1
    assert witness.calls == ["write 5 at 0", "read at 0"]


def test_a_delay_passes_first_and_then_the_hardware_catches_up() -> None:
    witness = Witness()
    board_of(witness).delay_us(7)
    assert witness.calls[0] == "NIC sends at 7000"


def test_a_run_that_is_over_its_budget_ends_there_and_not_before() -> None:
    witness = Witness(clock=VirtualClock(DEADLINE_NS))
    board = board_of(witness)
    board.turn()
    witness.clock.delay_us(1)
    witness.calls.clear()
    with pytest.raises(OutOfTime, match="budget ended at 0 s"):
        board.turn()
    with pytest.raises(OutOfTime):
        board.delay_us(1)
    with pytest.raises(OutOfTime):
        board.write32(Reg.TDT, 0)
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


def test_a_poll_that_can_find_nothing_new_is_not_played_but_the_hardware_has_its_turn() -> None:
    witness = Witness()
    driver = CountingDriver()
    nic = BoardNic(driver, board_of(witness))
    for _ in range(5):
        assert not len(nic.poll(100).lengths)
    assert driver.polls == 1
    assert witness.calls.count("NIC sends at 0") == 5
    witness.heard = IN
    nic.poll(100)
    assert driver.polls == 2
    witness.heard = Frames.empty()
    nic.poll(100)
    assert driver.polls == 2
    witness.out = OUT  # descriptors were written back: there is something to reclaim
    nic.poll(100)
    assert driver.polls == 3


def test_the_client_sees_the_driver_through_the_board() -> None:
    driver = CountingDriver()
    nic = BoardNic(driver, board_of(Witness()))
    assert (nic.mac, nic.mtu, nic.link_up()) == (MAC, 1500, True)
    nic.event("start")
    nic.event("end")
    assert driver.events == ["start", "end"]


class Script:
    """A wire that brings what the script has for each turn, and carries what it is given."""

    def __init__(self) -> None:
        self.brings: list[bytes] = []
        self.carried = 0

    def send(self, frames: Frames) -> None:
        self.carried += len(frames)

    def receive(self) -> Frames:
        frames, self.brings = self.brings, []
        return Frames.of(frames)

    def close(self) -> None: ...


def frame(number: int, size: int) -> bytes:
    """To us, and unlike any other."""
    return (MAC + b"\x02\0\0\0\0\x09\x88\xb5" + number.to_bytes(4, "big")).ljust(size, b"\x5a")


#: One poll: sizes of what arrives before it, the driver's budget, frames to send first.
Step = tuple[list[int], int, int]


def heard_at_each_poll(
    before: list[int], steps: list[Step], rx_ring: int, *, always: bool
) -> tuple[list[list[bytes]], int]:
    """What the driver hands over at each poll, and how many frames it sent.

    ``before``: sizes of frames that the NIC took in ordinary life, and nobody fetched.
    """
    machine = SyntheticMachine(MachineConfig(memory_size=512 << 10, arena_size=512 << 10))
    device = E1000Device(machine.memory.buffer, MAC, machine.interrupt_line, None)
    wire = Script()
    clock = VirtualClock()
    board = Board(clock, device, wire, lambda _: None, 10**12, lambda *_, **__: None)
    driver = E1000Driver(
        board, machine.memory, machine, mtu=9000, tx_ring=16, rx_ring=rx_ring, promiscuous=True
    )
    nic = BoardNic(driver, board)
    driver.attach()
    numbers = iter(range(10_000))
    device.receive(Frames.of([frame(next(numbers), size) for size in before]))
    machine.panic("the test asked for it", cpu=0)
    nic.event("start")
    heard: list[list[bytes]] = []
    for sizes, budget, sends in steps:
        wire.brings = [frame(next(numbers), size) for size in sizes]
        if sends:
            rows = np.frombuffer(frame(0, 60) * sends, np.uint8).reshape(sends, 60)
            nothing = np.zeros(sends, np.int64)
            machine.panic_pool.take(2 * sends)
            batch = TxBatch(rows, np.full(sends, 60), nothing, nothing)
            machine.panic_pool.give(2 * (sends - nic.transmit(batch)))
        if always:
            board.turn()
            frames = driver.poll(budget)
        else:
            polled = nic.poll(budget)
            frames = Frames(polled.data, polled.lengths, polled.lengths)
        heard.append([frames.bytes_of(i) for i in range(len(frames))])
    return heard, wire.carried


#: Two jumbo frames fill the ring of ordinary life and most of a third waits in the NIC's FIFO.
JUMBO = [9000, 9000, 9000, 9000, 60]


@settings(max_examples=60, deadline=None)
@given(
    before=st.lists(st.sampled_from([60, 1514, 5000, 9000]), max_size=7),
    steps=st.lists(
        st.tuples(
            st.lists(st.integers(60, 1514), max_size=20),
            st.sampled_from([1, 3, 1000]),
            st.integers(0, 3),
        ),
        min_size=1,
        max_size=12,
    ),
    rx_ring=st.sampled_from([8, 16]),
)
@example(before=JUMBO, steps=[([], 1000, 0)] * 8, rx_ring=8)
def test_skipping_polls_brings_the_same_frames_at_the_same_polls_as_never_skipping(
    before: list[int], steps: list[Step], rx_ring: int
) -> None:
    skipping = heard_at_each_poll(before, steps, rx_ring, always=False)
    assert skipping == heard_at_each_poll(before, steps, rx_ring, always=True)
