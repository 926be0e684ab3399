"""A QEMU process: what it shares with us, what it tells when it fails, what it leaves (nothing)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.runs import scratch_home
from bench.servers.child import start_child
from guest.qemu import qtest as qtest_module
from guest.qemu.errors import QemuError, QemuGone, QemuLaunchFailure
from guest.qemu.vm import COMMAND, CONSOLE, LOG, PROGRAM, Vm, halted
from tests.patience import HANG_S, SOON_S
from tests.qemu_rig import MAC, MIB, leaves_nothing, machine, rams, wait_until_gone

pytestmark = pytest.mark.qemu

ROOT = Path(__file__).parent.parent


# --- what is shared -------------------------------------------------------------------------------


def test_memory_is_the_same_on_both_sides() -> None:
    with machine() as vm:
        assert len(vm.ram) == 16 * MIB
        vm.ram[0x1000:0x1004] = (0x78, 0x56, 0x34, 0x12)
        assert vm.qtest.readl(0x1000) == 0x12345678
        vm.qtest.writel(16 * MIB - 4, 0xCAFEF00D)
        vm.qtest.write(0x2000, b"\xfa\xf4\xeb\xfd")
        vm.qtest.flush()
        assert vm.ram[-4:].tobytes() == bytes.fromhex("0df0feca")
        assert vm.ram[0x2000:0x2004].tobytes() == bytes.fromhex("faf4ebfd")


def test_the_machine_stands_still_and_nothing_of_its_memory_changes_by_itself() -> None:
    with machine() as vm:
        assert "HLT=1" in vm.monitor.human("info registers")
        before = vm.ram.copy()
        time.sleep(0.1)
        assert np.array_equal(before, vm.ram)


def test_two_machines_know_nothing_of_each_other() -> None:
    with machine() as one, machine() as two:
        assert one.pid != two.pid
        one.ram[:] = 1
        two.ram[:] = 2
        assert one.qtest.readl(0x100) == 0x01010101
        assert two.qtest.readl(0x100) == 0x02020202
        one.kill()
        assert two.qtest.readl(0x100) == 0x02020202


def test_a_dump_is_memory_at_one_instant_and_stays_so() -> None:
    with machine() as vm:
        vm.ram[:] = np.arange(len(vm.ram), dtype=np.uint32).view(np.uint8)[: len(vm.ram)]
        first_memory = vm.ram[:0xA0000].copy()
        first = vm.dump_memory()
        assert np.array_equal(first.read(MIB, 15 * MIB), vm.ram[MIB:])
        assert b"CORE" in first.notes
        vm.ram[:] = 0x55
        second = vm.dump_memory()
        assert (second.read(0, 0xA0000) == 0x55).all()
        assert np.array_equal(first.read(0, 0xA0000), first_memory), "it is a photograph"


# --- a start that fails ---------------------------------------------------------------------------


def test_an_option_that_qemu_refuses_is_told_with_command_status_and_qemus_own_words() -> None:
    with leaves_nothing():
        options = replace(halted(16 * MIB, mac=MAC), more=("-device", "no-such-nic"))
        with pytest.raises(QemuLaunchFailure) as caught:
            Vm(options, None, start_child)
        failure = caught.value
        assert failure.status == 1
        assert failure.command[-1] == "no-such-nic"
        assert "'no-such-nic' is not a valid device model name" in failure.output
        told = str(failure).splitlines()
        assert PROGRAM in told[0]
        assert told[-1].startswith("QEMU exited 1; it printed: ")
        assert failure.output.strip() in str(failure)


def test_without_qemu_there_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with leaves_nothing():
        with pytest.raises(QemuLaunchFailure) as caught:
            machine()
        assert str(caught.value) == f"there is no {PROGRAM} on the PATH"


def test_a_qemu_that_never_answers_is_ended_in_bounded_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(qtest_module, "ANSWER_TIMEOUT_S", 0.2)
    monkeypatch.setattr("guest.qemu.vm._STATUS_TIMEOUT_S", 0.2)

    def sleeper(
        _command: Sequence[str], output: int, fds: Sequence[int]
    ) -> subprocess.Popen[bytes]:
        return start_child(["sleep", "60"], output, fds)

    with leaves_nothing():
        began = time.monotonic()
        with pytest.raises(QemuLaunchFailure, match="did not answer in time") as caught:
            Vm(halted(16 * MIB, mac=MAC), None, sleeper)
        assert time.monotonic() - began < SOON_S
        assert caught.value.status is None


def test_a_process_that_can_not_be_started_costs_no_descriptor() -> None:
    def fail(*_: object) -> subprocess.Popen[bytes]:
        raise MemoryError("no room for a child")

    with leaves_nothing(), pytest.raises(MemoryError):
        Vm(halted(16 * MIB, mac=MAC), None, fail)


# --- an end ---------------------------------------------------------------------------------------


def test_a_killed_qemu_is_gone_whatever_is_asked_of_it() -> None:
    with leaves_nothing(), machine() as vm:
        monitor = vm.monitor
        vm.check()
        vm.kill()
        assert not vm.running
        for ask in (
            lambda: vm.qtest.readl(0),
            lambda: monitor.execute("query-status"),
            vm.dump_memory,
            vm.check,
        ):
            began = time.monotonic()
            with pytest.raises(QemuGone):
                ask()
            assert time.monotonic() - began < SOON_S
        with pytest.raises(QemuGone, match="ended by signal 9"):
            vm.check()


def test_a_qemu_that_was_killed_before_anybody_asked_for_its_monitor_has_none() -> None:
    with leaves_nothing(), machine() as vm:
        vm.kill()
        with pytest.raises(QemuGone, match="monitor"):
            vm.monitor.execute("query-status")


def test_nothing_is_left_and_what_it_held_can_still_be_read(tmp_path: Path) -> None:
    before = rams()
    with leaves_nothing():
        vm = machine(tmp_path)
        vm.monitor.execute("query-status")
        vm.ram[0x3000] = 0x42
        pid, ram, said = vm.pid, vm.ram, vm.output()
        vm.close()
        vm.close()
        assert wait_until_gone(pid, 0)
        assert ram[0x3000] == 0x42
        assert said in vm.output() == (tmp_path / LOG).read_text()
        with pytest.raises(QemuError):
            vm.qtest.readl(0)
    assert rams() == before + 1
    del vm, ram
    assert rams() == before


def test_its_ram_is_given_back_when_it_is_released_though_arrays_of_it_are_left() -> None:
    before = rams()
    with machine() as vm:
        vm.ram[:] = 0x42
        assert rams() == before + 1
    vm.release_ram()
    vm.release_ram()
    assert rams() == before
    assert not vm.ram.any()


def test_the_folder_gets_the_evidence_and_no_socket_and_no_memory(tmp_path: Path) -> None:
    folder = tmp_path / "a comma, a space"  # QEMU's options are made of commas
    folder.mkdir()
    with Vm(replace(halted(16 * MIB, mac=MAC), serial=True), folder, start_child) as vm:
        assert set(os.listdir(folder)) == {COMMAND, LOG, CONSOLE}
        vm.qtest.outl(0x3F8, ord("!"))  # four ports at once; the first is the UART's transmitter
        vm.qtest.flush()
        assert vm.serial is not None
        assert vm.serial.read() == b"!"
    assert all(path.is_file() for path in folder.iterdir())
    assert (folder / CONSOLE).read_bytes()[:1] == b"!"
    assert (folder / COMMAND).read_text().startswith("/")
    assert sum(path.stat().st_size for path in folder.iterdir()) < 10_000


def test_without_a_folder_nothing_is_written_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with machine() as vm:
        vm.dump_memory()
        assert not os.listdir(tmp_path)


_START = """
import sys, time
from tests.qemu_rig import machine
vm = machine()
vm.monitor.execute("query-status")
print(vm.pid, flush=True)
time.sleep(600)
"""


def test_qemu_does_not_outlive_a_parent_that_is_killed(tmp_path: Path) -> None:
    before = set(os.listdir("/dev/shm"))
    with subprocess.Popen(
        [sys.executable, "-c", _START],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        cwd=tmp_path,
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert PROGRAM in Path(f"/proc/{pid}/cmdline").read_text()
        parent.send_signal(signal.SIGKILL)
        assert wait_until_gone(pid, HANG_S), "QEMU lives on"
    assert not os.listdir(tmp_path)
    assert set(os.listdir("/dev/shm")) - {scratch_home().name} <= before
