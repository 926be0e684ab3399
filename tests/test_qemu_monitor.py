"""QMP with a real QEMU at its other end: commands, events, and a QEMU that stops or dies."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from guest.qemu import monitor as monitor_module
from guest.qemu.errors import MonitorRefused, QemuGone
from guest.qemu.monitor import Monitor
from guest.qemu.vm import Vm
from tests.fakes import nothing
from tests.patience import SOON_S, until
from tests.qemu_rig import leaves_nothing, machine


@pytest.fixture
def vm() -> Iterator[Vm]:
    with leaves_nothing(), machine() as started:
        yield started


def events(vm: Vm, *names: str) -> list[str]:
    """All that come within a moment of each other, in their order."""
    seen = []
    while (event := vm.monitor.wait_for(names, 0.3, nothing)) is not None:
        seen.append(event["event"])
    return seen


@pytest.mark.qemu
def test_commands_are_answered_and_arguments_have_qmps_names(vm: Vm) -> None:
    assert vm.monitor.execute("query-status")["running"] is True
    assert vm.monitor.execute("human-monitor-command", command_line="info status") == (
        "VM status: running\r\n"
    )
    assert "HLT=1" in vm.monitor.human("info registers")


@pytest.mark.qemu
def test_a_refused_command_is_told_with_its_arguments_and_the_next_one_works(vm: Vm) -> None:
    with pytest.raises(MonitorRefused, match=r"chardev-send-break.*no-such-line"):
        vm.monitor.execute("chardev-send-break", id="no-such-line")
    with pytest.raises(MonitorRefused, match="no-such-command"):
        vm.monitor.execute("no-such-command")
    assert vm.monitor.execute("query-status")["running"] is True


@pytest.mark.qemu
def test_no_event_is_lost_and_their_order_is_kept(vm: Vm) -> None:
    for _ in range(20):
        vm.monitor.execute("stop")
        vm.monitor.execute("cont")
    assert events(vm, "STOP", "RESUME") == ["STOP", "RESUME"] * 20


@pytest.mark.qemu
def test_events_of_other_names_are_passed_over(vm: Vm) -> None:
    vm.monitor.execute("stop")
    vm.monitor.execute("system_reset")
    vm.monitor.execute("cont")
    assert events(vm, "RESET", "RESUME") == ["RESET", "RESUME"]


@pytest.mark.qemu
def test_pending_tells_of_what_has_come_and_forgets_it(vm: Vm) -> None:
    assert not vm.monitor.pending("STOP")
    vm.monitor.execute("stop")
    until(lambda: bool(vm.monitor.pending("STOP")), "the event STOP")
    assert not vm.monitor.pending("STOP")


@pytest.mark.qemu
def test_a_wait_gives_its_caller_a_turn_and_ends_in_time(vm: Vm) -> None:
    turns: list[float] = []
    began = time.monotonic()
    found = vm.monitor.wait_for(("STOP",), 0.2, lambda: turns.append(time.monotonic()))
    assert found is None
    assert 0.2 <= time.monotonic() - began < SOON_S
    assert len(turns) > 5


@pytest.mark.qemu
def test_what_the_callers_turn_raises_ends_the_wait(vm: Vm) -> None:
    monitor = vm.monitor
    vm.kill()
    with pytest.raises(QemuGone, match="signal 9"):
        monitor.wait_for(("STOP",), 10, vm.check)


@pytest.mark.qemu
def test_a_qemu_killed_in_mid_command_is_gone_at_once(vm: Vm) -> None:
    monitor = vm.monitor
    os.kill(vm.pid, signal.SIGSTOP)  # so that it is in the middle of it
    killer = threading.Timer(0.2, os.kill, (vm.pid, signal.SIGKILL))
    killer.start()
    began = time.monotonic()
    with pytest.raises(QemuGone, match="query-status"):
        monitor.execute("query-status")
    assert 0.1 < time.monotonic() - began < SOON_S
    killer.join()


@pytest.mark.qemu
def test_a_qemu_that_hangs_is_given_up(vm: Vm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor_module, "COMMAND_TIMEOUT_S", 0.2)
    monitor = vm.monitor
    os.kill(vm.pid, signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(QemuGone, match="query-status"):
        monitor.execute("query-status")
    assert time.monotonic() - began < SOON_S
    os.kill(vm.pid, signal.SIGCONT)
    assert monitor.execute("query-status")["running"] is True, "its late answer is dropped"


@pytest.mark.qemu
def test_hanging_up_twice_is_harmless_and_afterwards_it_is_gone(vm: Vm) -> None:
    monitor = vm.monitor
    for _ in range(2):
        monitor.close()
    assert vm.running, "only the monitor was hung up"
    began = time.monotonic()
    with pytest.raises(QemuGone):
        monitor.execute("query-status")
    assert time.monotonic() - began < SOON_S


@pytest.mark.qemu
def test_a_hang_up_of_a_qemu_that_does_not_move_is_bounded(
    vm: Vm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor_module, "_CONNECT_TIMEOUT_S", 0.3)
    monitor = vm.monitor
    os.kill(vm.pid, signal.SIGSTOP)
    began = time.monotonic()
    monitor.close()
    assert time.monotonic() - began < SOON_S


@pytest.mark.parametrize("says", [None, b"", b"SSH-2.0-nonsense\r\n", b'{"QMP": 7}\r\n'])
def test_somebody_who_is_no_monitor_is_refused_in_bounded_time(
    says: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor_module, "_CONNECT_TIMEOUT_S", 0.3)
    with leaves_nothing():
        ours, theirs = socket.socketpair()
        with ours, theirs:
            if says is None:
                theirs.close()
            else:
                theirs.sendall(says)
            began = time.monotonic()
            with pytest.raises(QemuGone, match="monitor does not answer"):
                connect(ours)
            assert time.monotonic() - began < SOON_S


def connect(end: socket.socket) -> Any:
    return Monitor(end)
