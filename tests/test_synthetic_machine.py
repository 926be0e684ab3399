"""The machine that dies: what its memory, locks, buffers and guard promise."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from guest.synthetic import (
    PAGE_SIZE,
    BadLocking,
    Deadlock,
    Endpoint,
    MachineConfig,
    MachineError,
    MbufAccounting,
    NetworkLoad,
    OutOfMemory,
    PanicStrikes,
    PhysicalMemory,
    SyntheticMachine,
    fill,
    udp_frame,
)
from guest.synthetic.contents import KERNEL_BASE, KINDS, kinds_of
from nic_models.contracts import DmaMemory, Kernel

SMALL = MachineConfig(memory_size=1 << 20, arena_size=256 << 10)


def machine(config: MachineConfig = SMALL) -> SyntheticMachine:
    return SyntheticMachine(config)


def test_the_machine_is_what_a_driver_asks_for() -> None:
    kernel: Kernel = machine()
    memory: DmaMemory = machine().memory
    assert kernel.mbufs.take(1)
    assert memory.buffer.dtype == np.uint8


# -- memory ------------------------------------------------------------------------------------


def test_ordinary_memory_and_arena_never_overlap_and_end() -> None:
    memory = PhysicalMemory(64 << 10, 8 << 10)
    first = memory.allocate(100, 16)
    second = memory.allocate(100, 4096)
    assert first == PAGE_SIZE, "page 0 stays unused"
    assert second == 2 * PAGE_SIZE
    inside = memory.reserve(100, 128)
    assert memory.arena[0] <= inside < memory.arena[1]
    assert (memory.buffer[inside : inside + 100] == 0xFF).all(), "fresh arena memory is poisoned"
    with pytest.raises(OutOfMemory, match=r"panic arena has 8092 bytes left.*larger arena"):
        memory.reserve(8 << 10, 1)
    with pytest.raises(OutOfMemory, match="more memory"):
        memory.allocate(64 << 10, 1)
    with pytest.raises(ValueError, match="power of two"):
        memory.allocate(1, 3)


def test_memory_comes_in_whole_pages() -> None:
    with pytest.raises(ValueError, match="whole pages"):
        PhysicalMemory(PAGE_SIZE * 2 + 1, 0)


def test_the_same_seed_is_the_same_memory_on_every_machine() -> None:
    memory = np.ones(1 << 20, np.uint8)
    fill(memory, 1)
    digest = hashlib.sha256(memory.data).hexdigest()
    assert digest == "6322849e717daec74cc7aa8a68fa3d273d6fee63c490bff482e31e08460b8047"
    other = np.zeros(1 << 20, np.uint8)
    fill(other, 2)
    assert not np.array_equal(memory, other)


def test_memory_looks_like_a_kernels() -> None:
    memory = np.zeros(4 << 20, np.uint8)
    fill(memory, 7)
    pages = memory.reshape(-1, PAGE_SIZE)
    kinds = kinds_of(len(pages), 7)
    by_name = {name: pages[kinds == number] for number, (name, _) in enumerate(KINDS)}
    assert not by_name["zero"].any()
    assert b"em0: <Intel(R)" in by_name["text"].tobytes()
    pointers = by_name["pointers"].copy().view("<u8")
    assert (pointers >= KERNEL_BASE).all()
    assert (pointers < KERNEL_BASE + (64 << 20)).all()
    distinct = {page.tobytes() for page in pages[kinds != 0]}
    assert len(distinct) == np.count_nonzero(kinds), "no two pages with contents are equal"


def test_without_zero_pages_no_hole_can_hide() -> None:
    memory = np.zeros(1 << 20, np.uint8)
    fill(memory, 7, zero_pages=False)
    assert memory.reshape(-1, PAGE_SIZE).any(axis=1).all()


# -- locks -------------------------------------------------------------------------------------


def test_a_lock_is_owned_by_the_cpu_that_took_it() -> None:
    victim = machine()
    lock = victim.lock("em0:tx")
    assert victim.lock("em0:tx") is lock
    with victim.on_cpu(2):
        lock.acquire()
        with pytest.raises(BadLocking, match="twice"):
            lock.acquire()
    with pytest.raises(BadLocking, match="held by CPU 2"):
        lock.acquire()
    with pytest.raises(BadLocking, match="releases em0:tx"):
        lock.release()
    with pytest.raises(BadLocking, match="without a panic"):
        lock.bypass()
    with victim.on_cpu(2):
        lock.release()
    lock.acquire()


def test_wanting_a_dead_cpus_lock_is_a_deadlock_told_in_one_line() -> None:
    victim = machine()
    lock = victim.lock("em0:tx")
    with victim.on_cpu(2):
        lock.acquire()
        victim.step("write TX descriptor 3")
    victim.panic("page fault", cpu=0)
    with pytest.raises(Deadlock) as caught:
        lock.acquire()
    assert str(caught.value) == (
        "deadlock: CPU 0 wants em0:tx, held by stopped CPU 2 since step 'write TX descriptor 3'"
    )
    [violation] = victim.guard.violations
    assert violation.rule == "lock-of-stopped-cpu"
    assert violation.call_site.startswith("tests/test_synthetic_machine.py:")
    assert violation.call_site.endswith(
        " test_wanting_a_dead_cpus_lock_is_a_deadlock_told_in_one_line"
    )


def test_the_panicking_cpus_own_interrupted_code_holds_its_locks_too() -> None:
    victim = machine()
    lock = victim.lock("em0:tx")
    lock.acquire()
    victim.panic("page fault")
    with pytest.raises(Deadlock, match="the interrupted code of CPU 0 itself"):
        lock.acquire()


def test_panic_code_uses_free_locks_as_usual() -> None:
    victim = machine()
    victim.panic("page fault")
    lock = victim.lock("em0:rx")
    lock.acquire()
    with pytest.raises(BadLocking, match="twice"):
        lock.acquire()
    lock.release()
    assert not victim.guard.violations


def test_bypasses_are_counted_and_those_of_held_locks_apart() -> None:
    victim = machine()
    with victim.on_cpu(1):
        victim.lock("a").acquire()
    victim.panic("page fault", cpu=0)
    victim.lock("a").bypass()
    victim.lock("b").bypass()
    assert victim.guard.locks_bypassed == 2
    assert victim.guard.bypassed_while_held == 1


# -- buffers -----------------------------------------------------------------------------------


def test_the_ordinary_allocator_serves_in_a_panic_but_is_told_on() -> None:
    victim = machine()
    assert victim.mbufs.take(3)
    assert not victim.guard.violations
    victim.panic("page fault")
    assert victim.mbufs.take(2)
    assert victim.mbufs.take(2)
    assert len(victim.guard.violations) == 2
    line = victim.guard.summary()[0]
    assert line.startswith("ordinary-allocation: 2 mbufs from the ordinary allocator (tests/")


def test_a_starved_allocator_has_nothing_even_after_frees() -> None:
    victim = machine()
    assert victim.mbufs.take(5)
    victim.mbufs.starve()
    victim.mbufs.give(5)
    assert not victim.mbufs.take(1)
    assert victim.mbufs.refused == 1


def test_the_panic_pool_is_all_or_nothing_and_remembers_its_high_water() -> None:
    victim = SyntheticMachine(MachineConfig(1 << 20, 256 << 10, panic_mbufs=10))
    pool = victim.panic_pool
    assert pool.take(8)
    assert not pool.take(3)
    pool.give(8)
    assert pool.take(2)
    assert (pool.high_water, pool.in_use, pool.refused) == (8, 2, 1)
    with pytest.raises(MbufAccounting, match="3 buffers given back to the panic pool"):
        pool.give(3)


# -- dying -------------------------------------------------------------------------------------


def test_the_last_words_are_in_the_truth() -> None:
    victim = machine()
    assert "BOOT" in victim.msgbuf.text()
    victim.panic("page fault in kernel mode", cpu=1)
    assert victim.truth is not None
    assert (
        b"panic: page fault in kernel mode\ncpuid = 1\n"
        in victim.truth.read(0, victim.memory.size).tobytes()
    )
    assert victim.panic_cause == "page fault in kernel mode"
    assert [cpu.number for cpu in victim.cpus.all if cpu.running] == [1]
    with pytest.raises(MachineError, match="already"):
        victim.panic("again")
    with pytest.raises(MachineError, match="stopped by the panic"), victim.on_cpu(0):
        pass


def test_the_message_buffer_keeps_the_newest_when_it_overflows() -> None:
    victim = SyntheticMachine(MachineConfig(64 << 10, 256 << 10))
    for number in range(1000):
        victim.msgbuf.append(f"line {number}")
    text = victim.msgbuf.text()
    assert text.endswith("line 998\nline 999\n")
    assert "line 1\n" not in text


@pytest.mark.parametrize("at", [2, "ring the doorbell"])
def test_a_panic_strikes_before_the_armed_step_and_releases_nothing(at: int | str) -> None:
    victim = machine()
    lock = victim.lock("em0:tx")
    done: list[str] = []

    def work() -> None:
        for what in ("lock", "write a descriptor", "ring the doorbell", "unlock"):
            victim.step(what)
            done.append(what)
            if what == "lock":
                lock.acquire()
        lock.release()

    victim.step("something earlier")
    victim.arm_panic(at, "the bench asked for it")
    with pytest.raises(PanicStrikes) as caught, victim.on_cpu(3):
        work()
    assert (caught.value.number, caught.value.cpu) == (2, 3)
    assert not isinstance(caught.value, Exception), "no `except Exception` revives a dead CPU"
    assert done == ["lock", "write a descriptor"]
    victim.panic()
    assert victim.panic_cause == "the bench asked for it"
    assert victim.cpus.current == 3
    assert lock.owner is not None


def test_steps_are_enumerated_by_a_dry_run() -> None:
    victim = machine()
    victim.step("boot")
    victim.begin_steps()
    for what in "abc":
        victim.step(what)
    assert (victim.steps_taken, victim.step_names) == (3, ["a", "b", "c"])


@given(st.sets(st.integers(0, 255), max_size=6))
@settings(max_examples=60)
def test_every_changed_page_outside_the_arena_is_found(pages: set[int]) -> None:
    victim = _DEAD
    for page in pages:
        victim.memory.buffer[page * PAGE_SIZE + page % PAGE_SIZE] ^= 0xA5
    found = {
        page
        for start, end in victim.memory_changes()
        for page in range(start // PAGE_SIZE, end // PAGE_SIZE)
    }
    for page in pages:
        victim.memory.buffer[page * PAGE_SIZE + page % PAGE_SIZE] ^= 0xA5
    assert found == pages
    assert victim.memory_changes() == []


_DEAD = machine()
_DEAD.panic("for the test of changes")


def test_the_arena_may_change_and_is_no_part_of_the_dump() -> None:
    victim = machine()
    with pytest.raises(MachineError, match="before the panic"):
        victim.memory_changes()
    victim.panic("page fault")
    start, end = victim.memory.arena
    victim.memory.buffer[start:end] = 1
    assert victim.memory_changes() == []
    assert victim.dump_segments() == [(0, start)]


def test_sleep_ordinary_memory_and_interrupts_are_told_on_in_a_panic() -> None:
    waited: list[int] = []
    victim = SyntheticMachine(SMALL, waited.append)
    victim.sleep_us(1)
    victim.panic("page fault")
    victim.sleep_us(7)
    victim.memory.allocate(16, 16)
    victim.take_interrupts()
    victim.delay_us(5)
    assert [violation.rule for violation in victim.guard.violations] == [
        "sleep",
        "memory-outside-arena",
        "interrupt",
    ]
    assert waited == [1, 7, 5]
    assert victim.delayed_us == 13


# -- interrupts and load -----------------------------------------------------------------------


class EchoDriver:
    """A driver whose device raises its line after each send."""

    def __init__(self, victim: SyntheticMachine) -> None:
        self.victim = victim
        self.frames: list[bytes] = []
        self.senders: list[int] = []
        self.handled: list[int] = []

    def send(self, frames: list[bytes]) -> int:
        self.frames += frames
        self.senders.append(self.victim.cpus.current)
        self.victim.interrupt_line.set(True)
        return len(frames)

    def interrupt(self) -> None:
        self.handled.append(self.victim.cpus.current)
        self.victim.interrupt_line.set(False)


HERE = Endpoint(bytes.fromhex("02000a000001"), bytes([198, 18, 0, 2]))
PEER = Endpoint(bytes.fromhex("02000a000002"), bytes([198, 18, 0, 9]))


def test_load_goes_round_the_cpus_and_is_the_same_for_the_same_seed() -> None:
    drivers = []
    for _ in range(2):
        victim = machine()
        driver = EchoDriver(victim)
        load = NetworkLoad(victim, driver, HERE, PEER, seed=5, frames_a_round=3)
        load.run(4, lambda: None)
        assert load.sent == 12
        assert load.interrupts == 4
        drivers.append(driver)
    assert drivers[0].frames == drivers[1].frames
    assert drivers[0].senders == [0, 1, 2, 3]
    assert drivers[0].handled == [0, 1, 2, 3]


def test_interrupts_are_delivered_before_the_panic_and_only_counted_after_it() -> None:
    victim = machine()
    driver = EchoDriver(victim)
    victim.register_interrupt(driver.interrupt, cpu=3)
    assert victim.take_interrupts() == 0, "the line is down"
    victim.interrupt_line.set(True)
    assert victim.take_interrupts() == 1
    assert driver.handled == [3]
    victim.panic("page fault")
    for _ in range(2):
        victim.interrupt_line.set(True)
        victim.interrupt_line.set(True)
        victim.interrupt_line.set(False)
    assert victim.guard.interrupts_asserted == 2
    assert driver.handled == [3]


def test_a_handler_that_never_clears_its_cause_is_a_storm_not_a_hang() -> None:
    victim = machine()
    victim.register_interrupt(lambda: None)
    victim.interrupt_line.set(True)
    with pytest.raises(MachineError, match="still up"):
        victim.take_interrupts()


@given(st.binary(max_size=200), st.integers(0, 65535), st.integers(0, 65535))
@settings(max_examples=60)
def test_datagrams_are_what_scapy_would_build(payload: bytes, source: int, port: int) -> None:
    ours = udp_frame(HERE, PEER, (source, port), payload)
    ip = IP(src="198.18.0.2", dst="198.18.0.9", id=0, flags="DF", ttl=64)
    ether = Ether(src="02:00:0a:00:00:01", dst="02:00:0a:00:00:02")
    theirs = ether / ip / UDP(sport=source, dport=port) / payload
    assert ours == bytes(theirs)
