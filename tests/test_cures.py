"""Every cure that doctor, or a message, can print: the lack is played, and the cure is followed.

Those of a container are followed in ``test_places.TestAContainersRoot``, message by message. What
no test can do, to install another kernel or a daemon, is held to be printed where it belongs.
"""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from bench import cli, doctor
from bench.cures import CURES, user_namespace
from bench.servers import engine, tftpd
from bench.wire import segment
from bench.wire.namespace import ROOTLESS
from guest.qemu.accel import Accelerator
from tests import seccomp

ROOT = Path(__file__).resolve().parents[1]
IN_CONTAINERS: Final = {
    *("tun-absent", "net-admin", "host-network", "addresses-taken", "port-taken"),
    "client-stack",
}
FOLLOWED: set[str] = set()


def follows(*cures: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    def note(test: Callable[..., None]) -> Callable[..., None]:
        FOLLOWED.update(cures)
        return test

    return note


def test_every_cure_is_followed_by_a_test() -> None:
    assert set(CURES) == FOLLOWED | IN_CONTAINERS


# --- user namespaces ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "forbids", "cure"),
    [
        ("kernel/unprivileged_userns_clone", "0", "userns-debian"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "userns-apparmor"),
        ("user/max_user_namespaces", "0", "userns-limit"),
    ],
)
@follows("userns-debian", "userns-apparmor", "userns-limit", "userns-unknown")
def test_the_sysctl_that_this_kernel_has_is_named_and_setting_it_helps(
    tmp_path: Path, name: str, forbids: str, cure: str
) -> None:
    knob = tmp_path / name
    knob.parent.mkdir(parents=True)
    knob.write_text(f"{forbids}\n")
    status = tmp_path / "status"
    status.write_text("Seccomp:\t0\n")
    said = user_namespace(tmp_path, status)
    assert said == CURES[cure]
    setting = re.fullmatch(r"as root: sysctl (\S+)=(\d+)", said)
    assert setting is not None
    knobs = {str(knob.relative_to(tmp_path)).replace("/", "."): knob}
    knobs[setting[1]].write_text(setting[2])
    assert user_namespace(tmp_path, status) == CURES["userns-unknown"]


SETS_THE_LIMIT = """
from pathlib import Path
from bench import doctor
limit = Path("/proc/sys/user/max_user_namespaces")
limit.write_text("0")
found = doctor._user_namespace()
print(found.ok, found.cure)
limit.write_text(found.cure.rpartition("=")[2])
print(doctor._user_namespace().ok)
"""


@follows("userns-limit")
def test_the_limit_is_real_and_lifting_it_as_told_helps() -> None:
    """Each user namespace has a limit of its own: this one is not the machine's."""
    if not doctor._user_namespace().ok:
        pytest.skip(f"no user namespaces here; cure: {user_namespace()}")
    command = ["unshare", "--user", "--map-root-user", sys.executable, "-c", SETS_THE_LIMIT]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert said.stdout.splitlines() == [f"False {CURES['userns-limit']}", "True"]


@follows("userns-seccomp")
def test_a_sandbox_that_refuses_user_namespaces_is_named_and_leaving_it_helps() -> None:
    if not doctor._user_namespace().ok or seccomp.why_not():
        pytest.skip("no user namespaces or no filters here; cure: play outside of a sandbox")
    look = "from bench import doctor; f = doctor._user_namespace(); print(f.ok, f.cure)"
    command = [*seccomp.refusing(unshare=errno.EPERM), sys.executable, "-c", look]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert said.stdout.strip() == f"False {CURES['userns-seccomp']}"


@follows("unshare-absent")
def test_who_has_no_unshare_is_told_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert doctor._user_namespace().cure == CURES["unshare-absent"] == "install util-linux"


# --- the device -----------------------------------------------------------------------------------


@follows("tun-closed", "tun-forbidden")
def test_an_ordinary_user_may_open_the_device_after_the_chmod(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make a device and be another user; cure: sudo")
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        device = Path(name) / "tun"
        os.mknod(device, 0o020600, os.makedev(10, 200))
        monkeypatch.setattr(segment, "TUN_DEVICE", str(device))
        found = doctor._tun_device()
        if not found.ok:  # a device file here opens nothing, as in a container without the device
            assert (
                found.cure == CURES["tun-forbidden" if "permitted" in found.why else "tun-absent"]
            )
            pytest.skip(f"a device made here does not open; cure: {found.cure}")
        os.seteuid(65534)
        try:
            closed = doctor._tun_device()
            assert (closed.ok, closed.why) == (False, f"{device}: Permission denied")
            assert closed.cure == CURES["tun-closed"] == "as root: chmod 666 /dev/net/tun"
            os.seteuid(0)
            device.chmod(0o666)
            os.seteuid(65534)
            assert doctor._tun_device().ok
        finally:
            os.seteuid(0)


# --- programs and kernels -------------------------------------------------------------------------


@pytest.mark.parametrize("cure", ["qemu", "bench", "tftp"])
@follows("qemu", "bench", "tftp")
def test_packages_are_of_a_group_that_there_is(cure: str) -> None:
    script, group = re.fullmatch(r"(\S+) (\S+), as root", CURES[cure]).groups()  # type: ignore[union-attr]
    assert subprocess.run([ROOT / script, "--list", group], capture_output=True).stdout


@follows("tftp-root")
def test_tftp_servers_want_a_user_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "uid_map"
    table.write_text("         0       1000          1\n")
    assert not tftpd._is_mapped(65_534, table)
    assert tftpd._is_mapped(0, table)
    if tftpd.find(tftpd.HPA) is None:
        pytest.skip(f"no tftpd-hpa; cure: {CURES['tftp']}")
    monkeypatch.setattr(tftpd, "_is_mapped", lambda _uid: False)
    found = tftpd.can_play(tftpd.HPA)
    assert (found.ok, found.cure) == (False, "play as root")


@follows("guest-image", "disk")
@pytest.mark.parametrize("words", [CURES["guest-image"], CURES["disk"].partition(",")[0]])
def test_make_has_what_is_advised(words: str) -> None:
    dry = subprocess.run([*words.split(), "-n"], cwd=ROOT, capture_output=True, text=True)
    assert dry.returncode == 0, dry.stderr


@follows("disk")
def test_run_folders_may_go_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["run", "--help"])
    assert CURES["disk"].split(", or ")[1] in capsys.readouterr().out


@follows("python", "numpy")
def test_the_interpreter_and_numpy_are_chosen_as_advised() -> None:
    assert "make PYTHON=" in CURES["python"]
    assert "PYTHON" in (ROOT / "scripts/make-venv").read_text()
    wanted = re.fullmatch(r"pip install '(numpy>=(\d+))'", CURES["numpy"])
    assert wanted is not None
    assert re.search(r"^numpy==2\.", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert doctor._numpy().ok
    assert doctor._python().ok


@follows("udp-segment")
def test_a_kernel_or_sandbox_without_udp_segment_is_found_by_use() -> None:
    assert doctor._udp_offload().ok
    if why := seccomp.why_not():
        pytest.skip(f"{why}; cure: play outside of that sandbox")
    look = "from bench import doctor; f = doctor._udp_offload(); print(f.ok, f.cure)"
    command = [*seccomp.refusing(sendmsg=errno.EPERM), sys.executable, "-c", look]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert said.stdout.strip() == f"False {CURES['udp-segment']}"


@pytest.mark.tap
@follows("uso")
def test_a_kernel_without_uso_is_told_which_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment, "offer_super_frames", lambda fd: False)
    assert doctor._super_frames().cure == CURES["uso"]


@follows("qemu", "qemu-old", "kvm")
def test_qemu_has_a_cure_for_each_of_its_lacks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "qemu-system-x86_64"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor._qemu().cure == doctor._kvm().cure == doctor._qemu_nic().cure == CURES["qemu"]
    program.write_text("#!/bin/sh\necho no such option >&2\nexit 1\n")
    program.chmod(0o755)
    assert doctor._qemu_nic().cure == CURES["qemu-old"]
    monkeypatch.setattr("guest.qemu.accel.accelerator", lambda spawn: Accelerator("tcg", "slow"))
    assert doctor._kvm().cure == CURES["kvm"]


@follows("docker", "docker-daemon", "docker-root")
def test_docker_is_installed_first_and_started_then_and_asked_by_root(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """That the second one helps is seen in ``test_docker_engine``."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    monkeypatch.setattr(engine, "_SBIN", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor._docker().cure == CURES["docker"]
    program = tmp_path / "dockerd"
    program.write_text("")
    program.chmod(0o755)
    assert doctor._docker().cure == CURES["docker-daemon"]

    class Answers:
        def version(self) -> dict[str, str]:
            return {"Version": "1"}

        def close(self) -> None: ...

    monkeypatch.setattr(engine, "connect", Answers)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert doctor._docker().cure == CURES["docker-root"]
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.delenv(ROOTLESS, raising=False)
    assert doctor._docker().ok
