"""A machine of one's own: it dies as its user says, its dump is whole, its files stay as they are.

Three systems that every QEMU package brings or a page of bytes makes: the firmware with its network
boot (iPXE), a distribution's kernel and initramfs by their paths, and a boot sector.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile

from bench import cli
from bench.guests import guest_nics
from bench.machines import vm as kind
from bench.progress import Silent
from bench.runner import run_scenario
from bench.scenario import (
    ResolvedCase,
    ScenarioError,
    expand_cases,
    load_scenario,
    parse_scenario,
)
from bench.servers.child import start_child
from bench.story import vm as story_module
from bench.verdict import CaseResult
from guest.kernel.guard import PanicGuard
from guest.linux.image import guest_image
from guest.qemu import guest as qemu_guest
from guest.qemu import parking
from guest.qemu.console import ConsoleSilent
from guest.qemu.guest import GuestFailed
from guest.qemu.vm import CONSOLE, Vm, VmOptions
from guest.vm.examine import examine
from guest.vm.machine import Crash, Say, Strike, VmConfig, VmGuest
from netdump import elfnotes
from tests.boot_sector import DIES, READY, boot_disk, reset_by_nmi
from tests.patience import HANG_S, until
from tests.qemu_rig import MAC, MIB, leaves_nothing, wait_until_gone
from tests.vmcore_tools import notes_of

ROOT = Path(__file__).parent.parent
HEAD = 'title = "a test"\nwhy = "a test"\ntiers = ["qemu"]\n'
TAIL = '[nic]\nrx_ring = 512\n[[case]]\nprofile = "netdump2"\nexpect = { outcome = "complete" }\n'
FIRMWARE: dict[str, Any] = {"memory": "32 MiB", "cpus": 1, "strike_live": True, "crash": "stop"}


#: QEMU's e1000 is deaf for its first second; iPXE shows a dot for each.
HEARS: dict[str, Any] = {"strike_after": r"Configuring[^\n]*\.{6}", "dead_time_ms": 200}


def toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{k} = {toml(v)}' for k, v in value.items())} }}"
    return json.dumps(value)


def story(**machine: object) -> str:
    lines = [f"{key} = {toml(value)}\n" for key, value in machine.items()]
    return f'{HEAD}[machine]\nkind = "vm"\n{"".join(lines)}{TAIL}'


def play(folder: Path, **machine: object) -> CaseResult:
    with leaves_nothing():
        (case,) = run_scenario(
            parse_scenario(story(**machine), "made", str(folder / "made.toml")),
            tier="qemu",
            why_this_tier="",
            seed=1,
            run_folder=folder,
            progress=Silent(),
        ).cases
    return case


def nothing() -> None:
    """Nobody else needs a turn."""


def vmcore(folder: Path) -> Path:
    (stored,) = folder.glob("dumps/vmcore.*.0")
    return stored


def loads(path: Path) -> list[tuple[int, int]]:
    """(physical address, length) of each stretch of memory in a dump, by pyelftools."""
    with path.open("rb") as file:
        segments = list(ELFFile(file).iter_segments("PT_LOAD"))
    return [(int(s["p_paddr"]), int(s["p_filesz"])) for s in segments]


# --- each system dies, and its dump is whole ------------------------------------------------------


@pytest.mark.qemu
@pytest.mark.parametrize("crash", ["stop", "nmi"])
def test_the_firmware_is_struck_while_its_ring_is_live_and_all_memory_comes_home(
    crash: str, tmp_path: Path
) -> None:
    case = play(tmp_path, **{**FIRMWARE, "cpus": 2, "crash": crash, **HEARS})
    assert case.met, case
    assert case.oracles["bytes-equal"] == case.oracles["panic-hygiene"] == "held"
    assert case.nic_wrote_pages, "the firmware's own buffers, until the takeover"
    dump = vmcore(tmp_path)
    assert loads(dump) == [(0, 0xA0000), (MIB, 31 * MIB)]
    assert len(elfnotes.cpus(notes_of(dump))) == 2
    assert {note.name for note in notes_of(dump)} == {elfnotes.CORE}


@pytest.mark.qemu
def test_memory_above_the_devices_of_a_pc_is_dumped_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = kind.config_of

    def split(case: ResolvedCase, accelerator: str) -> VmConfig:
        return replace(made(case, accelerator), low_memory=32 * MIB)

    monkeypatch.setattr(story_module, "config_of", split)
    case = play(tmp_path, **{**FIRMWARE, "memory": "48 MiB"})
    assert case.met, case
    assert loads(vmcore(tmp_path)) == [(0, 0xA0000), (MIB, 31 * MIB), (4 << 30, 16 * MIB)]


def linux(**machine: object) -> dict[str, object]:
    """A distribution's kernel and initramfs, by their paths."""
    image = guest_image(nics=guest_nics())
    return {
        "memory": "96 MiB",
        "cpus": 1,
        "kernel": str(image.kernel),
        "initrd": str(image.initramfs),
        "cmdline": "console=ttyS0 net.ifnames=0 nb.ip=198.18.0.2/24",
        "strike_after": "guest: ready",
        **machine,
    }


DEATHS: list[dict[str, object]] = [
    {"crash": "nmi", "notice": "pvpanic", "cpus": 2},
    {
        "crash": "keys",
        "keys": "alt-sysrq-c",
        "notice": "console",
        "dies_saying": "Kernel panic - not syncing: .*$",
    },
    {"crash": "break", "line": "c", "notice": "pvpanic", "strike_live": True},
    {
        "crash": "console",
        "line": "echo c > /proc/sysrq-trigger",
        "notice": "pvpanic",
        "say": [{"after": "^netdump-bench# ", "line": "echo $((6 * 7))"}],
        "strike_after": "42$",
    },
    {"crash": "stop", "cpus": 2, "load": "heavy", "strike_at_s": 1},
]


@pytest.mark.qemu
@pytest.mark.parametrize("death", DEATHS, ids=lambda death: str(death["crash"]))
def test_a_kernel_by_its_path_dies_in_each_way_and_all_memory_comes_home(
    death: dict[str, object], tmp_path: Path
) -> None:
    case = play(tmp_path, **linux(**death))
    assert case.met, case
    assert case.oracles["bytes-equal"] == case.oracles["panic-hygiene"] == "held"
    (info,) = tmp_path.glob("dumps/info.*.0")
    told = info.read_text()
    assert f"kernel {guest_image(nics=guest_nics()).kernel.name}" in told
    if death.get("notice") == "console":
        assert "not syncing: sysrq triggered crash" in told


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk image, which is as it was when the test ends."""
    path = tmp_path / "the user's, disk.img"
    path.write_bytes(boot_disk())
    os.utime(path, ns=(10**18, 10**18))
    with _unchanged(path):
        yield path


@contextmanager
def _unchanged(path: Path) -> Iterator[None]:
    def seen() -> tuple[str, int, int]:
        status = path.stat()
        contents = hashlib.sha256(path.read_bytes()).hexdigest()
        return contents, status.st_mtime_ns, status.st_size

    before = seen()
    yield
    assert seen() == before


def on_disk(path: Path, **machine: object) -> dict[str, object]:
    return {
        "memory": "32 MiB",
        "cpus": 1,
        "image": str(path),
        "strike_after": READY,
        "crash": "console",
        "line": "die",
        "notice": "console",
        "dies_saying": DIES,
        **machine,
    }


@pytest.mark.qemu
@pytest.mark.parametrize("bus", ["ide", "virtio"])
def test_a_disk_keeps_what_its_machine_writes_and_its_image_does_not(
    bus: str, disk: Path, tmp_path: Path
) -> None:
    """``READY`` is printed from what was written and read back."""
    folder = tmp_path / "run"
    folder.mkdir()
    case = play(folder, **on_disk(disk, bus=bus))
    assert case.met, case
    files = {path.name for path in folder.iterdir() if path.is_file()}
    ours = {"console.log", "qemu.log", "qemu.command", "events.jsonl", "wire.pcapng", "server.log"}
    assert files <= ours, "no overlay"


@pytest.mark.qemu
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_ended_leaves_the_image_as_it_was_and_nothing_beside_it(
    number: int, disk: Path, tmp_path: Path
) -> None:
    path, runs = tmp_path / "made.toml", tmp_path / "runs"
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    path.write_text(story(**on_disk(Path(disk.name), strike_after="never")))  # from there on
    command = subprocess.Popen(
        [sys.executable, "-m", "bench", "run", str(path), "--runs", str(runs), "--quiet"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)},
        start_new_session=True,
    )
    try:
        until(
            lambda: any(READY in log.read_text() for log in runs.glob(f".partial-*/{CONSOLE}")),
            "the disk has been written to",
        )
        children = Path(f"/proc/{command.pid}/task/{command.pid}/children").read_text().split()
        assert children
        (os.killpg if number == signal.SIGINT else os.kill)(command.pid, number)
        _, said = command.communicate(timeout=HANG_S)
    finally:
        if command.poll() is None:
            command.kill()
            command.communicate()
    assert all(wait_until_gone(int(child), HANG_S) for child in children)
    assert command.returncode == (130 if number == signal.SIGINT else -number), said
    left = [path for path in runs.rglob("*") if path.is_file()]
    assert not [path for path in left if path.read_bytes().startswith(b"QFI\xfb")], "no overlay"
    assert not list(temporary.iterdir())


@pytest.mark.qemu
def test_the_example_for_a_kernel_is_played_with_the_files_beside_it(tmp_path: Path) -> None:
    image = guest_image(nics=guest_nics())
    text = (ROOT / "examples" / "vm" / "my-kernel.toml").read_text()
    (tmp_path / "vmlinuz").symlink_to(image.kernel)
    (tmp_path / "initrd.img").symlink_to(image.initramfs)
    run = tmp_path / "run"
    run.mkdir()
    scenario = parse_scenario(text, "my-kernel", str(tmp_path / "my-kernel.toml"))
    result = run_scenario(
        scenario, tier="qemu", why_this_tier="", seed=1, run_folder=run, progress=Silent()
    )
    assert result.passed, result


@pytest.mark.qemu
@pytest.mark.parametrize("kernel", ["Linux", "multiboot"])
def test_an_initrd_may_have_a_comma_in_its_path(tmp_path: Path, kernel: str) -> None:
    """QEMU starts only if it finds the file. Linux' is taken as it is, multiboot's is split."""
    folder = tmp_path / "a,b"
    folder.mkdir()
    if kernel == "Linux":
        (folder / "kernel").symlink_to(guest_image(nics=guest_nics()).kernel)
    else:
        (folder / "kernel").write_bytes(_multiboot())
    (folder / "initrd,img").write_bytes(b"an initrd")
    config = VmConfig(
        96 * MIB, 4 * MIB, MAC, cpus=1, kernel=folder / "kernel", initrd=folder / "initrd,img"
    )
    with leaves_nothing():
        examine(config, [], start_child)


def _multiboot() -> bytes:
    """A kernel of one instruction (hlt), at 1 MiB; its header says where (flags, bit 16)."""
    magic, flags = 0x1BADB002, 1 << 16
    head = [magic, flags, (1 << 32) - magic - flags, MIB, MIB, 0, 0, MIB + 32]
    return struct.pack("<8I", *head).ljust(48, b"\xf4") + bytes(8192)


def test_the_example_for_a_disk_is_a_scenario() -> None:
    scenario = load_scenario(ROOT / "examples" / "vm" / "my-disk.toml")
    told, stopped = expand_cases(scenario)
    assert told.machine_part.options.image == str(ROOT / "examples" / "vm" / "disk.qcow2")
    pattern = told.machine_part.options.death().pattern
    assert pattern.search("x\nKernel panic - not syncing: y\n")
    assert stopped.machine_part.options.crash == "stop"


# --- what parking promises ------------------------------------------------------------------------


@pytest.mark.qemu
def test_the_cpus_stand_while_the_machine_runs_and_memory_is_as_it_was(tmp_path: Path) -> None:
    """A CPU that works in the firmware, and one that never was started."""
    config = VmConfig(32 * MIB, 4 * MIB, MAC, cpus=2)
    with leaves_nothing(), VmGuest(config, tmp_path, start_child) as guest:
        guest.rest(1.0)
        guest.monitor.execute("stop")
        before = guest.vm.ram[: 32 * MIB].copy()
        guest.freeze()
        places = guest.park()
        for _ in range(5):
            assert guest.monitor.execute("query-status")["running"]
            assert parking.stand_at(guest.vm) == places
            assert (guest.vm.ram[: 32 * MIB] == before).all()
            time.sleep(0.05)
        start, end = guest.memory(PanicGuard()).arena
        guest.vm.ram[start : start + 4] = [1, 2, 3, 4]
        assert guest.vm.qtest.readl(start) == 0x04030201, "the NIC sees the arena, too"
        guest.vm.qtest.writel(end - 4, 0x08070605)
        guest.vm.qtest.flush()
        assert guest.vm.ram[end - 4 : end].tolist() == [5, 6, 7, 8]


@pytest.mark.qemu
def test_a_system_that_runs_on_after_its_truth_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    freeze = VmGuest.freeze

    def let_it_run(guest: VmGuest) -> object:
        core = freeze(guest)
        guest.monitor.execute("cont")
        guest.rest(0.3)
        guest.monitor.execute("stop")
        return core

    monkeypatch.setattr(VmGuest, "freeze", let_it_run)
    case = play(tmp_path, **FIRMWARE)
    assert not case.met
    assert case.oracles["panic-hygiene"] == case.oracles["bytes-equal"] == "broken"


# --- what does not come ---------------------------------------------------------------------------


@pytest.mark.qemu
def test_what_never_comes_is_told_with_the_end_of_the_console_and_the_wait(
    disk: Path, tmp_path: Path
) -> None:
    config = VmConfig(32 * MIB, 4 * MIB, MAC, image=disk)
    with leaves_nothing(), VmGuest(config, tmp_path, start_child) as guest:
        guest.await_moment(Strike(after=re.compile(READY), patience_s=HANG_S), nothing)
        never = Strike(after=re.compile("login: $"), patience_s=0.3)
        with pytest.raises(ConsoleSilent) as silent:
            guest.await_moment(never, nothing)
        said = "did not say 'login: $' within 0.3 s; its console ends with: "
        assert said in str(silent.value)
        assert str(silent.value).endswith(f"disk guest{READY.partition('disk guest')[2]}")
        deaf = Strike(live=lambda: False, patience_s=0.3)
        with pytest.raises(GuestFailed, match=r"could not receive within 0\.3 s; its console ends"):
            guest.await_moment(deaf, nothing)
        early = Strike(say=(Say(re.compile("Password:"), "secret"),), patience_s=0.3)
        with pytest.raises(ConsoleSilent, match="did not say 'Password:'"):
            guest.await_moment(early, nothing)


@pytest.mark.qemu
def test_a_case_whose_moment_never_comes_is_not_judged_and_the_status_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "made.toml"
    path.write_text(story(**{**FIRMWARE, "strike_after": "login: $", "patience_s": 1}))
    assert cli.main(["run", str(path), "--runs", str(tmp_path / "runs")]) == 3
    said = " ".join(capsys.readouterr().out.split())
    assert "the guest did not say 'login: $' within 1 s; its console ends with: " in said


@pytest.mark.qemu
def test_a_machine_that_its_crash_would_reset_has_died_before(tmp_path: Path) -> None:
    """An NMI may be a triple fault to a firmware. One that came to a machine that still ran reset
    it, sooner or later: QEMU said "prelaunch" instead of "paused", or memory was that of the reset.
    """
    image = tmp_path / "disk"
    image.write_bytes(reset_by_nmi())
    run = tmp_path / "run"
    run.mkdir()
    config = VmConfig(32 * MIB, 4 * MIB, MAC, image=image)
    with leaves_nothing(), VmGuest(config, run, start_child) as guest:
        guest.await_moment(Strike(after=re.compile(READY)), nothing)
        guest.rest(0.2)
        guest.monitor.pending("RESET")
        guest.crash(Crash("nmi"), nothing)
        guest.freeze()
        assert not guest.monitor.pending("RESET")
        assert bytes(guest.vm.ram[0x7D00:0x7D06]) == READY.encode()[:6]


@pytest.mark.qemu
def test_a_machine_that_survives_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu_guest, "CRASH_TIMEOUT_S", 1.0)
    case = play(tmp_path, **{**FIRMWARE, "crash": "nmi", "notice": "pvpanic"})
    assert case.outcome == "broke-down"
    assert "the machine survived crash = 'nmi': the guest did not say GUEST_PANICKED" in case.why


@pytest.mark.qemu
def test_a_machine_that_resets_itself_instead_of_telling_is_told(tmp_path: Path) -> None:
    reset = {"crash": "keys", "keys": "ctrl-alt-delete"}
    noticed = {"notice": "console", "dies_saying": "Kernel panic"}
    case = play(tmp_path, **linux(**reset, **noticed))
    assert case.outcome == "broke-down"
    assert "it was reset, and its console had not shown 'Kernel panic'" in case.why


# --- bad input ------------------------------------------------------------------------------------


def run_one(folder: Path, capsys: pytest.CaptureFixture[str], **machine: object) -> tuple[int, str]:
    path = folder / "made.toml"
    path.write_text(story(**machine))
    status = cli.main(["run", str(path), "--runs", str(folder / "runs"), "--quiet"])
    return status, capsys.readouterr().err


@pytest.mark.qemu
@pytest.mark.parametrize(
    ("machine", "says"),
    [
        ({"image": "none.img"}, "none.img: no disk image that can be read: No such file"),
        ({"image": "."}, ": a folder, and no disk image"),
        ({"image": "broken.qcow2"}, "(disk image broken.qcow2): "),
        ({"kernel": "broken.qcow2"}, "(kernel broken.qcow2): "),
        ({"kernel": "none"}, "none: no kernel that can be read"),
        ({"firmware": "broken.qcow2"}, "could not load PC BIOS"),
        ({"cpu": "nonsense"}, "unable to find CPU model 'nonsense'"),
        (
            {"crash": "keys", "keys": ["alt-sysrq-c", "alt-sysrqq-c"]},
            'QEMU knows no key "sysrqq"; did you mean "sysrq"?',
        ),
    ],
)
def test_what_qemu_can_not_use_is_told_in_one_line_before_anything_runs(
    machine: dict[str, object], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.qcow2").write_bytes(b"QFI\xfb\0\0\0\x03" + b"\xff" * 200)
    status, said = run_one(tmp_path, capsys, **{**FIRMWARE, **machine})
    assert status == 2
    assert says in said
    assert said.count("\n") == 1
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())


@pytest.mark.qemu
def test_each_case_of_a_file_is_looked_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "made.toml"
    second = 'machine = { firmware = "none.fd" }\nexpect = { outcome = "complete" }\n'
    path.write_text(story(**FIRMWARE) + f'[[case]]\nprofile = "netdump2"\n{second}')
    assert cli.main(["run", str(path), "--runs", str(tmp_path / "runs"), "--quiet"]) == 2
    assert "none.fd: no firmware that can be read" in capsys.readouterr().err


@pytest.mark.qemu
def test_an_image_that_another_machine_writes_to_is_left_alone(
    disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = str(disk).replace(",", ",,")
    drive = ("-drive", f"file={name},format=raw,if=ide", "-S")
    with Vm(VmOptions(16 * MIB, more=drive), None, start_child):
        status, said = run_one(tmp_path, capsys, **on_disk(disk))
    assert status == 3
    assert "another process has this disk image open for writing" in said
    assert "end the machine that uses it" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("machine", "says"),
    [
        ({"strike_live": False}, "it has to be said when a machine of your own is struck"),
        ({"memory": "8 MiB"}, "machine.memory: QEMU's machine has whole MiB"),
        ({"arena": "260 KiB"}, "machine.arena"),
        ({"cpus": 65}, "machine.cpus"),
        ({"initrd": "x"}, "machine.initrd: an initrd is loaded with a kernel"),
        ({"cmdline": "x"}, "machine.cmdline"),
        ({"keys": "alt-sysrq-c"}, "machine.keys: keys and crash = 'keys' come together"),
        ({"crash": "keys"}, "machine.keys"),
        ({"crash": "keys", "keys": "alt--c"}, "is no chord"),
        ({"crash": "console"}, "machine.line: crash = 'console' needs the line"),
        ({"crash": "nmi", "line": "x"}, "machine.line"),
        ({"notice": "pvpanic"}, "machine.notice: a machine that is only stopped"),
        ({"crash": "nmi", "notice": "console"}, "machine.dies_saying"),
        ({"dies_saying": "x"}, "machine.dies_saying"),
        ({"strike_after": "(x"}, "'(x' is no regular expression"),
        ({"strike_at_s": 300}, "machine.strike_at_s: that is later than patience_s"),
        ({"say": [{"after": "x"}]}, "machine.say[1].line"),
        ({"imgae": "x"}, 'did you mean "image"?'),
    ],
)
def test_what_can_not_be_is_refused_where_it_is_written(
    machine: dict[str, object], says: str
) -> None:
    with pytest.raises(ScenarioError) as refused:
        parse_scenario(story(**{**FIRMWARE, **machine}), "made", "made.toml")
    assert says in str(refused.value)
    assert str(refused.value).startswith("made.toml:")
