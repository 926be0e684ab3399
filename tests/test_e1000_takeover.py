"""The driver takes the NIC over from a panic at any step of its ordinary life."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from guest.synthetic import PanicStrikes
from nic_models.e1000.registers import RCTL, Reg
from tests.e1000_driver_rig import (
    BROADCAST,
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


def _steps_of(work: Callable[[Rig], object]) -> list[str]:
    rig = Rig()
    live(rig)
    rig.machine.begin_steps()
    work(rig)
    return rig.machine.step_names


SEND_STEPS = _steps_of(send)
INTERRUPT_STEPS = _steps_of(interrupt)


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
    [(send, at) for at in range(len(SEND_STEPS))]
    + [(interrupt, at) for at in range(len(INTERRUPT_STEPS))],
)
def test_the_nic_is_taken_over_from_a_panic_at_every_step(
    work: Callable[[Rig], object], at: int
) -> None:
    rig = Rig()
    live(rig)
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
