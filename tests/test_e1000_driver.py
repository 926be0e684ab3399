"""The driver against our own silicon: an ordinary life, its locks and its buffers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from guest.synthetic import Deadlock, MachineConfig, OutOfMemory, PanicStrikes, SyntheticMachine
from netdump.contracts import DebugnetMethods
from nic_models.contracts import Mode
from nic_models.e1000.bringup import NicFailed
from nic_models.e1000.device import E1000Device
from nic_models.e1000.driver import E1000Driver
from nic_models.e1000.registers import CTRL, RCTL, Reg
from nic_models.narrow import DwordRegisters
from tests.e1000_driver_rig import (
    MAC,
    PEER_MAC,
    Rig,
    ack,
    batch_of,
    interrupt,
    live,
    send,
    whole_round_trip,
)

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


@pytest.mark.parametrize(("work", "at"), [(send, "write TDT"), (interrupt, "write RDT")])
def test_a_locked_driver_meets_the_dead_and_says_so(work: Callable[[Rig], object], at: str) -> None:
    rig = Rig(mode=Mode.LOCKED)
    live(rig)
    rig.machine.arm_panic(at, "lock held")
    with pytest.raises(PanicStrikes):
        work(rig)
    rig.die()
    with pytest.raises(Deadlock, match=rf"CPU 0 wants em0:.x, held by stopped CPU . .*'{at}'"):
        rig.start()
    rig.driver.event("end")
    [violation] = rig.machine.guard.violations
    assert violation.rule == "lock-of-stopped-cpu"
    assert violation.call_site.startswith("nic_models/e1000/debugnet.py:")


def test_a_locked_driver_whose_locks_are_free_dumps_as_well() -> None:
    rig = Rig(mode=Mode.LOCKED)
    live(rig)
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
