"""The driver against our own silicon: an ordinary life, a panic anywhere in it, and what follows.

``Rig`` is the smallest bench: a machine, a device with a wire as fast as you like, a driver.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from guest.synthetic import (
    Deadlock,
    Endpoint,
    MachineConfig,
    NetworkLoad,
    OutOfMemory,
    PanicStrikes,
    SyntheticMachine,
)
from netdump.contracts import DebugnetMethods, TxBatch
from nic_models.contracts import Mode
from nic_models.e1000.bringup import NicFailed
from nic_models.e1000.descriptors import RX_ERRORS, RX_STATUS
from nic_models.e1000.device import E1000Device
from nic_models.e1000.driver import LIVE_RING, E1000Driver
from nic_models.e1000.registers import CTRL, RCTL, Reg
from nic_models.frames import Frames
from nic_models.narrow import DwordRegisters

MAC = bytes.fromhex("02000a000001")
PEER_MAC = bytes.fromhex("02000a000002")
HERE = Endpoint(MAC, bytes([198, 18, 0, 2]))
PEER = Endpoint(PEER_MAC, bytes([198, 18, 0, 9]))
BROADCAST = b"\xff" * 6


class SpyMmio(DwordRegisters):
    """The device's registers, and who touched which since ``forget``."""

    def __init__(self, device: E1000Device) -> None:
        self.device = device
        self.touched: list[tuple[str, int]] = []

    def read32(self, offset: int) -> int:
        self.touched.append(("read", offset))
        return self.device.read32(offset)

    def write32(self, offset: int, value: int) -> None:
        self.touched.append(("write", offset))
        self.device.write32(offset, value)


class Rig:
    """A machine with a NIC, alive."""

    def __init__(
        self,
        *,
        mode: Mode = Mode.POLLED,
        tx_ring: int = 64,
        rx_ring: int = 64,
        mtu: int = 1500,
        promiscuous: bool = False,
        live_ring: int = LIVE_RING,
        attach: bool = True,
        rate: int | None = None,
    ) -> None:
        config = MachineConfig(memory_size=1 << 20, arena_size=4 << 20, seed=3)
        self.machine = SyntheticMachine(config)
        line = self.machine.interrupt_line
        self.device = E1000Device(self.machine.memory.buffer, MAC, line, rate)
        self.mmio = SpyMmio(self.device)
        self.driver = E1000Driver(
            self.mmio,
            self.machine.memory,
            self.machine,
            mode=mode,
            mtu=mtu,
            promiscuous=promiscuous,
            tx_ring=tx_ring,
            rx_ring=rx_ring,
        )
        self.now = 0
        if attach:
            self.driver.attach(live_ring)
        self.load = NetworkLoad(self.machine, self.driver, HERE, PEER, seed=11, cpus=[1, 2, 3])

    def wire(self) -> list[bytes]:
        """What has left the wire by a second from now."""
        self.now += 10**9
        frames = self.device.transmit(self.now)
        return [frames.bytes_of(i) for i in range(len(frames))]

    def hear(self, *frames: bytes) -> None:
        self.device.deliver(Frames.of(frames))

    def die(self, cpu: int = 0) -> None:
        self.machine.panic("the test asked for it", cpu)
        self.device.forget_dma_writes()

    def start(self) -> None:
        self.driver.event("start")

    def transmit(self, batch: TxBatch) -> int:
        """As debugnet does: two mbufs a frame, and back with those of frames not taken."""
        count = len(batch)
        assert self.machine.panic_pool.take(2 * count)
        taken = self.driver.transmit(batch)
        self.machine.panic_pool.give(2 * (count - taken))
        return taken

    def pump(self) -> None:
        """One round of the network outside."""
        self.wire()
        self.hear(*self.load.peer_frames(3))


def batch_of(payloads: list[tuple[int, int]], width: int = 66, first: int = 0) -> TxBatch:
    """Frames with numbered headers; each payload an (address, length)."""
    count = len(payloads)
    headers = np.zeros((count, width), np.uint8)
    headers[:, :12] = np.frombuffer(PEER_MAC + MAC, np.uint8)
    headers[:, 14:18] = np.arange(first, first + count, dtype=">u4").view(np.uint8).reshape(-1, 4)
    return TxBatch(
        headers,
        np.full(count, width, np.int64),
        np.array([address for address, _ in payloads], np.int64).reshape(count),
        np.array([length for _, length in payloads], np.int64).reshape(count),
    )


def expected(batch: TxBatch, memory: NDArray[np.uint8]) -> list[bytes]:
    """The frames of a batch, put together the slow way."""
    frames = []
    for i in range(len(batch)):
        at, length = int(batch.payload_addresses[i]), int(batch.payload_lengths[i])
        head = batch.headers[i, : int(batch.header_lengths[i])].tobytes()
        frame = head + (memory[at : at + length].tobytes() if length else b"")
        frames.append(frame.ljust(60, b"\0"))
    return frames


def ack(number: int, to: bytes = MAC) -> bytes:
    return (to + PEER_MAC + b"\x08\x00" + number.to_bytes(4, "big")).ljust(60, b"\0")


def whole_round_trip(rig: Rig) -> None:
    """A full batch out, a full batch in, twice round the rings: every byte right."""
    memory = rig.machine.memory.buffer
    number = 0
    for lap in range(5):
        batch = batch_of([(4096 + 977 * i, 1 + (i * 211) % 1434) for i in range(31)], first=number)
        assert rig.transmit(batch) == 31
        sent = rig.wire()
        assert sent[-31:] == expected(batch, memory)
        acks = [ack(number + i) for i in range(31)]
        rig.hear(*acks)
        frames = rig.driver.poll(1000)
        got = [frames.bytes_of(i) for i in range(len(frames))]
        assert got[-31:] == acks
        assert len(got) == 31 or lap == 0, "old frames of the FIFO come first, and once"
        number += 31
    assert rig.machine.panic_pool.in_use == 0


# -- ordinary life -------------------------------------------------------------------------------


def test_the_driver_has_debugnets_methods() -> None:
    rig = Rig()
    methods: DebugnetMethods = rig.driver
    assert methods.mac == MAC
    assert methods.mtu == 1500
    assert methods.link_up()
    rig.device.set_link(False)
    assert not methods.link_up()


def test_bring_up_follows_the_manual() -> None:
    rig = Rig(attach=False)
    rig.driver.attach()
    order = [Reg(offset).name for kind, offset in rig.mmio.touched if offset not in _MTA]
    first = [order.index(name) for name in ("IMC", "RCTL", "TCTL", "CTRL", "TDBAL", "RDBAL", "IMS")]
    assert first == sorted(first)
    assert order[-1] == "IMS"
    assert rig.device.counters.resets == 1
    assert rig.device.counters.unknown_reads == rig.device.counters.unknown_writes == 0
    assert rig.device.read32(Reg.RCTL) == RCTL.EN | RCTL.BAM | RCTL.SECRC


_MTA = range(Reg.MTA, Reg.MTA + 512)


def test_a_nic_that_never_leaves_its_reset_is_given_up() -> None:
    @dataclass
    class Stuck(DwordRegisters):
        waited: int = 0

        def read32(self, offset: int) -> int:
            return int(CTRL.RST)

        def write32(self, offset: int, value: int) -> None:
            pass

    machine = SyntheticMachine(MachineConfig(1 << 20, 4 << 20))
    driver = E1000Driver(Stuck(), machine.memory, machine)
    with pytest.raises(NicFailed, match=r"CTRL\.RST is still set after 55 ms"):
        driver.attach()
    with pytest.raises(NicFailed, match="no valid address"):
        assert driver.mac


def test_ordinary_life_sends_receives_and_leaks_no_mbuf() -> None:
    rig = Rig()
    heard: list[bytes] = []
    rig.driver.stack.append(heard.append)
    sent: list[bytes] = []

    def pump() -> None:
        sent.extend(rig.wire())
        rig.hear(*rig.load.peer_frames(5))

    rig.load.run(40, pump)
    rig.machine.take_interrupts()
    assert len(sent) == rig.load.sent == 160
    assert len(heard) == rig.driver.stats.received == 200
    assert rig.machine.mbufs.in_use == 0
    assert rig.load.interrupts == 40
    assert not rig.machine.interrupt_line.level


def test_a_full_ring_and_an_empty_allocator_take_what_they_can() -> None:
    rig = Rig(live_ring=8)
    frames = [ack(i, PEER_MAC) for i in range(10)]
    assert rig.driver.send(frames) == 7
    assert rig.wire() == frames[:7]
    rig.machine.take_interrupts()
    rig.machine.mbufs.starve()
    assert rig.driver.send(frames) == 0
    rig.hear(ack(1))
    rig.machine.take_interrupts()
    assert rig.driver.stats.received == 0
    with pytest.raises(ValueError, match="em0 takes 1514"):
        rig.driver.send([bytes(1515)])


def test_jumbo_frames_of_ordinary_life_span_descriptors() -> None:
    rig = Rig(mtu=9000)
    heard: list[bytes] = []
    rig.driver.stack.append(heard.append)
    frame = MAC + PEER_MAC + b"\x08\x00" + bytes(range(250)) * 36
    rig.hear(frame)
    rig.machine.take_interrupts()
    assert heard == [frame]
    assert rig.machine.mbufs.in_use == 0
    assert rig.driver.send([frame]) == 1
    assert rig.wire() == [frame]


# -- the takeover --------------------------------------------------------------------------------


def _steps_of(work: Callable[[Rig], object]) -> list[str]:
    rig = Rig()
    _live(rig)
    rig.machine.begin_steps()
    work(rig)
    return rig.machine.step_names


def _live(rig: Rig) -> None:
    """Some life, ending with work for the handler."""
    rig.load.run(3, rig.pump)
    rig.pump()


def _send(rig: Rig) -> object:
    return rig.load.send_round()


def _interrupt(rig: Rig) -> object:
    return rig.load.interrupt_round()


SEND_STEPS = _steps_of(_send)
INTERRUPT_STEPS = _steps_of(_interrupt)


def test_steps_name_every_lock_descriptor_and_register() -> None:
    assert SEND_STEPS[:5] == [
        "lock em0:tx",
        "take mbuf for frame 0",
        "copy frame 0",
        "write TX descriptor 0",
        "arm TX descriptor 0",
    ]
    assert SEND_STEPS[-2:] == ["write TDT", "unlock em0:tx"]
    assert INTERRUPT_STEPS[:2] == ["read ICR", "lock em0:tx"]
    assert {"read RX descriptor 0", "refill RX descriptor 2", "write RDT"} < set(INTERRUPT_STEPS)


@pytest.mark.parametrize(
    ("work", "at"),
    [(_send, at) for at in range(len(SEND_STEPS))]
    + [(_interrupt, at) for at in range(len(INTERRUPT_STEPS))],
)
def test_the_nic_is_taken_over_from_a_panic_at_every_step(
    work: Callable[[Rig], object], at: int
) -> None:
    rig = Rig()
    _live(rig)
    rig.machine.arm_panic(at, "panic at every step")
    with pytest.raises(PanicStrikes):
        work(rig)
    rig.die()
    rig.start()
    whole_round_trip(rig)
    assert rig.machine.memory_changes() == []
    assert rig.machine.guard.violations == []
    arena, end = rig.machine.memory.arena
    assert all(arena <= a and b <= end for a, b in rig.device.dma_writes())
    assert not rig.machine.interrupt_line.level


def test_the_takeover_lets_no_frame_into_the_old_rings() -> None:
    rig = Rig()
    rig.die()
    rig.start()
    rig.hear(*[ack(i) for i in range(20)])
    assert rig.machine.memory_changes() == []
    assert len(rig.driver.poll(1000)) == 20


def test_rctl_is_written_once_after_the_stop_and_last() -> None:
    rig = Rig()
    rig.die()
    rig.mmio.touched.clear()
    rig.start()
    writes = [offset for kind, offset in rig.mmio.touched if kind == "write"]
    assert writes.count(Reg.RCTL) == 2, "once to stop, once to start"
    assert writes[-1] == Reg.RCTL
    assert rig.machine.delayed_us >= 10_000


def test_after_the_start_only_the_two_tails_are_touched() -> None:
    rig = Rig()
    rig.die()
    rig.start()
    rig.mmio.touched.clear()
    whole_round_trip(rig)
    assert set(rig.mmio.touched) == {("write", Reg.TDT), ("write", Reg.RDT)}


@pytest.mark.parametrize("told", [True, False])
def test_a_promiscuous_nic_stays_so_whoever_made_it_so(told: bool) -> None:
    rig = Rig(promiscuous=told)
    if not told:
        rig.device.write32(Reg.RCTL, rig.device.read32(Reg.RCTL) | RCTL.UPE | RCTL.MPE)
    rig.die()
    rig.start()
    rig.hear(ack(1), ack(2, to=PEER_MAC), ack(3, to=BROADCAST))
    assert len(rig.driver.poll(1000)) == 3


def test_otherwise_other_hosts_frames_are_not_heard() -> None:
    rig = Rig()
    rig.die()
    rig.start()
    rig.hear(ack(1), ack(2, to=PEER_MAC), ack(3, to=BROADCAST))
    frames = rig.driver.poll(1000)
    assert [frames.bytes_of(i) for i in range(len(frames))] == [ack(1), ack(3, to=BROADCAST)]


def test_the_driver_can_take_over_a_nic_that_it_never_attached() -> None:
    rig = Rig(attach=False)
    rig.die()
    assert rig.driver.mac == MAC
    rig.start()
    assert rig.driver.link_up()
    whole_round_trip(rig)


def test_a_second_start_gives_the_first_ones_mbufs_back() -> None:
    rig = Rig()
    rig.die()
    rig.start()
    rig.device.set_link(False)
    assert rig.transmit(batch_of([(4096, 100)] * 9)) == 9
    rig.driver.event("end")
    assert rig.machine.panic_pool.in_use == 18
    rig.device.set_link(True)
    rig.start()
    assert rig.driver.stats.panic_lost == 9
    assert rig.machine.panic_pool.in_use == 0
    whole_round_trip(rig)


def test_after_the_end_nothing_more_is_written_to_memory() -> None:
    rig = Rig()
    rig.die()
    rig.start()
    rig.driver.event("end")
    rig.device.forget_dma_writes()
    rig.hear(ack(1))
    assert rig.device.dma_writes() == []


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


# -- locks, buffers, arena -----------------------------------------------------------------------


def test_a_polled_driver_goes_round_its_locks_and_is_counted() -> None:
    rig = Rig()
    rig.machine.arm_panic("write TDT", "lock held")
    with pytest.raises(PanicStrikes):
        rig.load.send_round()
    rig.die()
    rig.start()
    rig.driver.poll(1000)
    assert rig.transmit(batch_of([(4096, 100)])) == 1
    guard = rig.machine.guard
    assert (guard.locks_bypassed, guard.bypassed_while_held) == (5, 3)
    assert guard.violations == []


@pytest.mark.parametrize(("work", "at"), [(_send, "write TDT"), (_interrupt, "write RDT")])
def test_a_locked_driver_meets_the_dead_and_says_so(work: Callable[[Rig], object], at: str) -> None:
    rig = Rig(mode=Mode.LOCKED)
    _live(rig)
    rig.machine.arm_panic(at, "lock held")
    with pytest.raises(PanicStrikes):
        work(rig)
    rig.die()
    with pytest.raises(Deadlock, match=rf"CPU 0 wants em0:.x, held by stopped CPU . .*'{at}'"):
        rig.start()
    rig.driver.event("end")
    [violation] = rig.machine.guard.violations
    assert violation.rule == "lock-of-stopped-cpu"
    assert violation.call_site.startswith("nic_models/e1000/driver.py:")


def test_a_locked_driver_whose_locks_are_free_dumps_as_well() -> None:
    rig = Rig(mode=Mode.LOCKED)
    _live(rig)
    rig.die()
    rig.start()
    whole_round_trip(rig)
    assert rig.machine.guard.locks_bypassed == 0
    assert rig.machine.guard.violations == []


def test_two_mbufs_a_frame_are_out_while_it_waits() -> None:
    rig = Rig()
    rig.die()
    rig.start()
    assert rig.transmit(batch_of([(4096, 100)] * 20)) == 20
    assert rig.machine.panic_pool.in_use == 40
    rig.wire()
    rig.driver.poll(1000)
    assert rig.machine.panic_pool.in_use == 0
    assert rig.machine.panic_pool.high_water == 40
    assert rig.machine.mbufs.in_use == 0


def test_the_smallest_machine_has_room_for_ordinary_life() -> None:
    machine = SyntheticMachine(MachineConfig(64 << 10, 256 << 10))
    device = E1000Device(machine.memory.buffer, MAC, machine.interrupt_line)
    driver = E1000Driver(device, machine.memory, machine, tx_ring=64, rx_ring=64)
    driver.attach()
    assert driver.send([ack(1, PEER_MAC)]) == 1


def test_an_arena_too_small_for_the_rings_is_refused_at_boot() -> None:
    machine = SyntheticMachine(MachineConfig(1 << 20, 256 << 10))
    device = E1000Device(machine.memory.buffer, MAC, machine.interrupt_line)
    with pytest.raises(OutOfMemory, match="the panic arena"):
        E1000Driver(device, machine.memory, machine)
    with pytest.raises(ValueError, match="multiple of 8"):
        E1000Driver(device, machine.memory, machine, tx_ring=12)
