"""QEMU's NIC as the board has it: registers, frames both ways, and a line that is looked at."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.board import Board
from bench.clock import Budget, RealClock
from bench.qemu_nic import QemuNic
from bench.wire.memory import MemoryLink
from guest.qemu.errors import QemuGone
from guest.qemu.vm import Vm
from nic_models.e1000 import bringup
from nic_models.e1000.family import E1000
from nic_models.e1000.registers import INT, Reg
from nic_models.frames import Frames
from tests.fakes import Line, nothing
from tests.patience import SOON_S
from tests.qemu_rig import MAC, MIB, leaves_nothing, machine

pytestmark = pytest.mark.qemu

TX_RING, RX_RING = 1024, 512
TX, RX, DATA, BUFFERS = MIB, MIB + 0x10000, 2 * MIB, 4 * MIB
SLOT = 2048
EOP_IFCS_RS, DD = 0x0B, 1
DESCRIPTOR = np.dtype(
    [("address", "<u8"), ("length", "<u2"), ("a", "u1"), ("b", "u1"), ("c", "u1"), ("d", "V3")]
)
"""Legacy, both faces: a TX descriptor's b is its command and c its status; an RX one's c is its
status."""


assert E1000.on_qemu is not None
ON_QEMU = E1000.on_qemu


class Rig:
    """A NIC that was brought up, with rings of the test's own."""

    def __init__(self, vm: Vm) -> None:
        self.vm = vm
        self.line = Line()
        self.nic = QemuNic(vm, ON_QEMU, RealClock(), self.line)
        self.nic.power_on()
        self.tx = self._ring(TX, TX_RING)
        self.rx = self._ring(RX, RX_RING)
        self.rx["address"] = BUFFERS + SLOT * np.arange(RX_RING)
        self.tx["address"] = DATA + SLOT * np.arange(TX_RING)
        self.tx["b"] = EOP_IFCS_RS
        self.tail = self.heard = 0
        bringup.stop(self.nic.read32, self.nic.write32, nothing)
        bringup.set_link_up(self.nic.read32, self.nic.write32)
        bringup.start_transmit(self.nic.write32, TX, TX_RING)
        bringup.start_receive(
            self.nic.write32, RX, RX_RING, RX_RING - 1, bringup.RCTL_ON | bringup.RCTL_PROMISCUOUS
        )

    def _ring(self, at: int, count: int) -> NDArray[np.void]:
        ring = self.vm.ram[at : at + count * DESCRIPTOR.itemsize]
        ring[:] = 0
        return ring.view(DESCRIPTOR)

    def queue(self, frames: list[bytes]) -> None:
        """Frames and descriptors in memory; the doorbell is yet to be rung."""
        for frame in frames:
            start = DATA + SLOT * self.tail
            self.vm.ram[start : start + len(frame)] = np.frombuffer(frame, np.uint8)
            self.tx["length"][self.tail] = len(frame)
            self.tx["c"][self.tail] = 0
            self.tail = (self.tail + 1) % TX_RING

    def sent(self, count: int) -> list[bytes]:
        """What leaves the NIC, until there are so many, or two seconds are over."""
        frames: list[bytes] = []
        deadline = time.monotonic() + 2
        while len(frames) < count and time.monotonic() < deadline:
            frames += listed(self.nic.transmit(0))
        return frames

    def received(self) -> list[bytes]:
        """What is in memory now, and was not before; no command is sent for it."""
        frames = []
        while self.rx["c"][self.heard] & DD:
            start = int(self.rx["address"][self.heard])
            length = int(self.rx["length"][self.heard])
            frames.append(self.vm.ram[start : start + length].tobytes())
            self.rx["c"][self.heard] = 0
            self.heard = (self.heard + 1) % RX_RING
        return frames

    def line_rises(self) -> bool:
        """Within two seconds of the wire's turns: QEMU's e1000 moderates its interrupts."""
        deadline = time.monotonic() + 2
        while not self.line.up() and time.monotonic() < deadline:
            self.nic.transmit(0)
        return self.line.up()

    def give_back(self) -> None:
        self.nic.write32(Reg.RDT, (self.heard - 1) % RX_RING)


def buffers(numbers: set[int]) -> list[tuple[int, int]]:
    """[start, end) of receive buffers."""
    return [(BUFFERS + SLOT * n, BUFFERS + SLOT * (n + 1)) for n in sorted(numbers)]


def listed(frames: Frames) -> list[bytes]:
    return [frames.bytes_of(index) for index in range(len(frames))]


def some_frames(count: int, first: int = 0) -> list[bytes]:
    """Of every length from Ethernet's smallest to its largest, and none like another."""
    random = np.random.default_rng(first)
    return [
        MAC + MAC[:5] + b"\x77\x88\xb5" + random.bytes(46 + (first + number) * 37 % 1455)
        for number in range(count)
    ]


@pytest.fixture
def rig() -> Iterator[Rig]:
    with leaves_nothing(), machine() as vm:
        yield Rig(vm)


# --- registers ------------------------------------------------------------------------------------


def test_registers_are_the_nics(rig: Rig) -> None:
    assert bringup.station_address(rig.nic.read32) == MAC
    assert rig.nic.read32(Reg.STATUS) & 2, "the link is up"
    assert rig.nic.read32(Reg.TDBAL) == TX
    for value in (0x12340, 0):
        rig.nic.write32(Reg.RDBAH, value)
        assert rig.nic.read32(Reg.RDBAH) == value


def test_the_interrupt_line_follows_cause_and_mask(rig: Rig) -> None:
    nic, line = rig.nic, rig.line
    nic.read32(Reg.ICR)
    assert not line.up()
    nic.write32(Reg.ICS, INT.LSC)
    assert not line.up(), "masked"
    nic.write32(Reg.IMS, INT.LSC)
    assert line.up(), "unmasked, with the cause still there"
    nic.write32(Reg.IMC, INT.LSC)
    assert not line.up()
    nic.write32(Reg.IMS, INT.LSC)
    assert nic.read32(Reg.ICR) & INT.LSC
    assert not line.up(), "reading the cause clears it"


def test_the_line_is_raised_by_what_the_nic_does_by_itself(rig: Rig) -> None:
    nic, line = rig.nic, rig.line
    nic.read32(Reg.ICR)
    nic.write32(Reg.IMS, INT.TXDW | INT.RXT0)
    rig.queue(some_frames(1))
    nic.write32(Reg.TDT, rig.tail)
    assert rig.line_rises()
    assert nic.read32(Reg.ICR) & INT.TXDW
    assert not line.up()
    nic.deliver(Frames.of(some_frames(1)))
    assert rig.line_rises()
    assert nic.read32(Reg.ICR) & INT.RXT0
    nic.machine_died()
    nic.write32(Reg.ICS, INT.TXDW)
    nic.transmit(0)
    assert not line.up(), "the line is no longer looked at"


# --- frames ---------------------------------------------------------------------------------------


def test_a_frame_leaves_byte_for_byte_and_one_comes_in(rig: Rig) -> None:
    (out,), (come,) = some_frames(1, first=38), some_frames(1, first=11)
    rig.queue([out])
    rig.nic.write32(Reg.TDT, rig.tail)
    assert rig.sent(1) == [out]
    assert rig.tx["c"][0] & DD
    rig.nic.deliver(Frames.of([come]))
    rig.nic.settle()
    assert rig.received() == [come]


def test_a_doorbell_of_512_frames_leaves_whole_and_in_order(rig: Rig) -> None:
    for turn in range(3):  # round the ring
        frames = some_frames(512, first=512 * turn)
        rig.queue(frames)
        rig.nic.write32(Reg.TDT, rig.tail)
        assert rig.sent(512) == frames


def test_an_interrupt_that_qemu_holds_back_is_waited_for(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time stands still here, as when it does not get the CPU; at the first wait it goes on."""
    waits: list[float] = []

    def go_on(seconds: float) -> None:
        waits.append(seconds)
        rig.vm.monitor.execute("cont")

    def send_one() -> None:
        rig.queue(some_frames(1))
        rig.nic.write32(Reg.TDT, rig.tail)
        rig.nic.transmit(0)

    clock = SimpleNamespace(sleep=go_on, monotonic=time.monotonic)  # its own: threads sleep too
    monkeypatch.setattr("bench.qemu_nic.time", clock)
    rig.vm.monitor.execute("stop")
    rig.nic.write32(Reg.IMS, int(INT.TXDW))
    send_one()
    assert rig.line.up(), "the first one comes at once"
    rig.nic.read32(Reg.ICR)
    send_one()
    assert not rig.line.up(), "the second one is held back"
    rig.nic.await_interrupt()
    assert waits
    assert rig.line.up()
    rig.nic.read32(Reg.ICR)
    rig.nic.await_interrupt()
    assert not rig.line.up(), "there is no cause: nothing is waited for"


def test_what_settled_is_in_memory_every_time(rig: Rig) -> None:
    for turn in range(100):
        frames = some_frames(1 + turn % 7, first=turn)
        rig.nic.deliver(Frames.of(frames))
        assert rig.nic.settle()
        assert rig.received() == frames, turn
        rig.give_back()


def test_more_than_the_cable_holds_at_once_settles_too(rig: Rig) -> None:
    frames = [bytes([number % 256]) * 1514 for number in range(RX_RING - 1)]
    rig.nic.deliver(Frames.of(frames))
    assert rig.nic.settle()
    assert rig.received() == frames


def test_what_was_written_before_a_frame_comes_before_it(rig: Rig) -> None:
    """Posted writes go one way into QEMU, and the cable another."""
    for turn in range(30):
        frames = some_frames(2, first=turn)
        rig.nic.write32(Reg.RCTL, 0)
        rig.nic.write32(Reg.RCTL, bringup.RCTL_ON | bringup.RCTL_PROMISCUOUS)
        rig.nic.deliver(Frames.of(frames))
        assert rig.nic.settle()
        assert rig.received() == frames, turn
        rig.give_back()


def test_a_nic_that_can_not_receive_is_not_waited_for(rig: Rig) -> None:
    rig.nic.write32(Reg.RCTL, 0)
    began = time.monotonic()
    rig.nic.deliver(Frames.of(some_frames(3)))
    rig.nic.settle()
    assert time.monotonic() - began < SOON_S
    assert rig.received() == []


def test_its_reach_is_its_rings_and_its_buffers_and_what_it_writes_lies_within(rig: Rig) -> None:
    rig.nic.machine_died()
    reach = rig.nic.reach()
    assert reach[:2] == [(RX, RX + 16 * RX_RING), (TX, TX + 16 * TX_RING)]
    assert reach[2:] == buffers(set(range(RX_RING)) - {RX_RING - 1}), "from RDH to RDT"
    before = rig.vm.ram.copy()
    rig.queue(some_frames(9))
    before[DATA : DATA + 9 * SLOT] = rig.vm.ram[DATA : DATA + 9 * SLOT]  # that was us
    rig.nic.write32(Reg.TDT, rig.tail)
    rig.nic.deliver(Frames.of(some_frames(9)))
    assert rig.nic.settle()
    changed = before != rig.vm.ram
    assert changed.any()
    for start, end in reach:
        changed[start:end] = False
    assert not changed.any()
    assert len(rig.received()) == 9
    rig.give_back()
    rig.nic.machine_died()
    assert rig.nic.reach()[2:] == buffers(set(range(RX_RING)) - {8}), "round the ring's end"


def test_a_ring_that_lies_nowhere_reaches_nowhere(rig: Rig) -> None:
    rig.nic.write32(Reg.RCTL, 0)
    rig.nic.write32(Reg.RDBAH, 0x7FFF_FFFF)
    rig.nic.machine_died()
    assert len(rig.nic.reach()) == 2


# --- its end --------------------------------------------------------------------------------------


def test_a_qemu_that_is_killed_is_gone_at_the_next_turn(rig: Rig) -> None:
    clock = RealClock()
    far = MemoryLink(clock).machine_end
    board = Board(
        clock,
        rig.nic,
        E1000.doorbells,
        far,
        nothing,
        Budget(clock, 60 * 10**9),
        nothing,
    )
    board.turn()
    rig.nic.machine_died()  # as in a panic: only its cable tells
    rig.vm.kill()
    with pytest.raises(QemuGone, match="signal 9"):
        board.turn()
    with pytest.raises(QemuGone):
        board.read32(Reg.STATUS)
    with pytest.raises(QemuGone):
        rig.nic.settle()
