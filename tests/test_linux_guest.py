"""A real Linux guest: it boots, answers, is crashed, and lies still; and what goes wrong instead.

A boot takes seconds. So one guest lives and dies for several tests, each of which asks about one
part of its history.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.guests import guest_nics
from bench.servers.child import start_child
from guest.kernel.corpse import changes
from guest.linux import crash as crash_module
from guest.linux import guest as guest_module
from guest.linux.guest import LinuxConfig, LinuxGuest
from guest.linux.image import guest_image
from guest.qemu import guest as qemu_guest
from guest.qemu.coredump import CoreDump
from guest.qemu.corpse import GuestCorpse
from guest.qemu.errors import QemuGone
from guest.qemu.guest import GuestFailed, Panic, QemuGuest
from guest.qemu.parking import stand_at
from guest.qemu.vm import COMMAND, CONSOLE, LOG, Vm
from tests.fakes import nothing
from tests.patience import SOON_S
from tests.qemu_rig import MAC, MIB, leaves_nothing

pytestmark = pytest.mark.qemu

MEMORY, ARENA = 96 * MIB, 4 * MIB
LOOKS, BETWEEN_LOOKS_S = 10, 0.02


def config() -> LinuxConfig:
    image = guest_image(nics=guest_nics())
    return LinuxConfig(image, MEMORY, ARENA, MAC, "198.18.0.2/24", cpus=2, hostname="victim")


@dataclass
class Life:
    """What was seen of the one guest, in the order of its life."""

    ready: str = ""
    banner: str = ""
    answers: list[str] = field(default_factory=list)
    survival: GuestFailed | None = None
    survival_seconds: float = 0.0
    panic: Panic | None = None
    memory: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))
    """All RAM, arena included, when it stood still."""
    core: CoreDump | None = None
    lie: GuestFailed | None = None
    delay: GuestFailed | None = None
    parked: list[int] = field(default_factory=list)
    stand: list[list[int]] = field(default_factory=list)
    """Where its CPUs stand then, asked twice."""
    status: str = ""
    changes: list[list[tuple[int, int]]] = field(default_factory=list)
    """[start, end) of pages that are not as when it stood still, at each look after parking."""
    corpse_changes: list[list[tuple[int, int]]] = field(default_factory=list)
    """The same as the corpse tells it: untouched, and with a byte in its last page changed."""
    segments: list[tuple[int, int]] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)


@cache
def lived() -> Life:
    life = Life()
    with TemporaryDirectory() as name, leaves_nothing():
        with LinuxGuest(config(), Path(name), start_child) as guest:
            _live(guest, life)
            _die(guest, life)
        life.files = {path.name: path.read_text() for path in Path(name).iterdir()}
    return life


def _live(guest: LinuxGuest, life: Life) -> None:
    life.ready = guest.boot(nothing)
    life.banner = guest.banner
    life.answers = [guest.shell(line, nothing) for line in ("echo $((6 * 7))", "hostname")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(qemu_guest, "CRASH_TIMEOUT_S", 0.5)
        patch.setitem(crash_module.TRIGGERS, "threat", nothing)
        began = time.monotonic()
        try:
            guest.crash("threat", nothing)
        except GuestFailed as failed:
            life.survival = failed
        life.survival_seconds = time.monotonic() - began


def _die(guest: LinuxGuest, life: Life) -> None:
    vm = guest.vm
    life.panic = guest.crash("nmi", nothing)
    with pytest.MonkeyPatch.context() as patch:
        photograph = Vm.dump_memory

        def too_late(vm: Vm) -> CoreDump:
            core = photograph(vm)
            vm.ram[MEMORY - 1] ^= 1  # as if a CPU still ran
            return core

        patch.setattr(Vm, "dump_memory", too_late)
        try:
            guest.freeze()
        except GuestFailed as failed:
            life.lie = failed
        vm.ram[MEMORY - 1] ^= 1
    life.core = guest.freeze()
    life.memory = vm.ram.copy()
    corpse = GuestCorpse(guest, life.core, panic_mbufs=64, delay_us=nothing)
    life.segments = corpse.dump_segments()
    life.parked = guest.park()
    for _ in range(LOOKS):
        life.changes.append(changes(life.memory, vm.ram))
        time.sleep(BETWEEN_LOOKS_S)
    life.stand = [stand_at(vm), stand_at(vm)]
    life.status = guest.monitor.execute("query-status")["status"]
    life.corpse_changes.append(corpse.memory_changes())
    vm.ram[MEMORY - 1] ^= 1
    life.corpse_changes.append(corpse.memory_changes())
    guest.monitor.execute("stop")
    try:
        guest.freeze()
    except GuestFailed as failed:
        life.delay = failed


@pytest.fixture
def life() -> Life:
    return lived()


# --- it lives -------------------------------------------------------------------------------------


def test_it_boots_and_says_that_its_network_is_up(life: Life) -> None:
    assert life.ready.startswith("ready release=")
    assert f"nic=eth0 mac={MAC.hex(':')}" in life.ready
    assert life.banner.startswith("Linux version ")


def test_its_shell_answers_with_what_the_command_printed_and_nothing_else(life: Life) -> None:
    assert [answer.strip() for answer in life.answers] == ["42", "victim"]


def test_a_guest_that_does_not_crash_is_told_in_bounded_time(life: Life) -> None:
    assert life.survival is not None
    assert "the guest survived threat" in str(life.survival)
    assert "netdump-bench#" in str(life.survival), "the end of its console"
    assert 0.5 <= life.survival_seconds < 3


# --- it dies --------------------------------------------------------------------------------------


def test_its_panic_is_known_by_its_own_words(life: Life) -> None:
    assert life.panic is not None
    assert life.panic.noticed_by == "GUEST_PANICKED"
    assert "NMI" in life.panic.message
    assert life.panic.seconds < qemu_guest.CRASH_TIMEOUT_S


def test_the_truth_is_the_memory_that_is_shared(life: Life) -> None:
    assert life.core is not None
    assert life.segments == [(0, 0xA0000), (MIB, MEMORY - MIB)]
    for start, length in life.segments:
        assert np.array_equal(life.core.read(start, length), life.memory[start : start + length])
    assert life.core.notes.count(b"CORE\0") == 2, "registers of two CPUs"
    assert b"VMCOREINFO\0" in life.core.notes


def test_a_truth_that_is_not_what_memory_holds_is_refused(life: Life) -> None:
    assert life.lie is not None
    assert "from 0x100000 on is not what QEMU shares" in str(life.lie)


def test_a_truth_that_is_taken_after_the_machine_ran_on_is_refused(life: Life) -> None:
    assert life.delay is not None
    assert "is 'paused', not 'guest-panicked'" in str(life.delay)


def test_parked_it_stands_still_and_its_memory_is_as_at_the_panic(life: Life) -> None:
    assert life.status == "running"
    assert life.parked, "the one that panicked was running"
    assert life.stand == [life.parked, life.parked]
    assert all(place < MEMORY for place in life.parked)
    assert life.changes == [[]] * LOOKS


def test_a_corpse_notices_the_change_of_one_bit(life: Life) -> None:
    assert life.corpse_changes == [[], [(MEMORY - 4096, MEMORY)]]


def test_what_it_said_is_kept_and_nothing_else_is_left(life: Life) -> None:
    assert set(life.files) == {COMMAND, LOG, CONSOLE}
    assert life.banner in life.files[CONSOLE]
    assert "netdump-bench guest: ready" in life.files[CONSOLE]


# --- it does not get so far -----------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with leaves_nothing():
        yield tmp_path


def test_a_guest_that_can_not_boot_is_told_with_the_end_of_its_console(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    garbage = folder / "garbage"
    garbage.write_bytes(np.random.default_rng(1).bytes(64 << 10))
    broken = replace(config(), image=replace(guest_image(nics=guest_nics()), initramfs=garbage))
    with (
        LinuxGuest(broken, folder, start_child) as guest,
        pytest.raises(
            GuestFailed, match=r"panicked while it booted: VFS: Unable to mount"
        ) as caught,
    ):
        guest.boot(nothing)
    assert "panic+0x" in str(caught.value), "the end of its console"


def test_a_guest_that_says_nothing_is_given_up(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guest_module, "BOOT_TIMEOUT_S", 0.3)
    began = time.monotonic()
    with (
        LinuxGuest(config(), folder, start_child) as guest,
        pytest.raises(GuestFailed, match=r"with -accel tcg .* did not say that it is ready"),
    ):
        guest.boot(nothing)
    assert time.monotonic() - began < SOON_S


def test_a_guest_that_can_not_do_what_it_was_told_says_what(folder: Path) -> None:
    lost = replace(config(), address="198.18.0.2/99")
    with (
        LinuxGuest(lost, folder, start_child) as guest,
        pytest.raises(GuestFailed, match=r"the guest says: FAILED: nb\.ip=198\.18\.0\.2/99"),
    ):
        guest.boot(nothing)


def test_a_qemu_that_is_killed_while_its_guest_boots_is_gone(folder: Path) -> None:
    turns: list[int] = []

    with LinuxGuest(config(), folder, start_child) as guest:

        def turn() -> None:
            turns.append(1)
            if len(turns) == 100:
                guest.vm.kill()

        began = time.monotonic()
        with pytest.raises(QemuGone, match="signal 9"):
            guest.boot(turn)
        assert time.monotonic() - began < SOON_S


@pytest.mark.parametrize("pvpanic", [True, False])
def test_a_qemu_that_dies_instead_of_its_guest_is_gone(
    pvpanic: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def power_cut(victim: QemuGuest) -> None:
        victim.vm.kill()

    monkeypatch.setitem(crash_module.TRIGGERS, "power cut", power_cut)
    with LinuxGuest(replace(config(), pvpanic=pvpanic), folder, start_child) as guest:
        began = time.monotonic()
        with pytest.raises(QemuGone, match="signal 9"):
            guest.crash("power cut", nothing)
        assert time.monotonic() - began < SOON_S
