"""Places that lack something, each played by a sandbox (bubblewrap): what can be played there is.

The sandbox of an ordinary user has no capability, no /dev/net/tun, and may make no namespace of any
kind. Hosted CI and rootless containers are like that.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.cures import CURES
from bench.wire.namespace import NamespaceError, NetNamespace, SharedNamespace
from guest.linux.image import default_cache
from tests import seccomp
from tests.command_rig import ARGUMENTS, compiled

ROOT = Path(__file__).resolve().parents[1]
BENCH = [sys.executable, "-m", "bench"]
NO_TAP = "no TAP: the wire ends at the simulated host, with the server in process"


@pytest.fixture(autouse=True)
def _sandboxes_work() -> None:
    if not shutil.which("bwrap"):
        pytest.skip("no bwrap; cure: scripts/debian-packages test, as root")
    if why := seccomp.why_not():
        pytest.skip(f"{why}; cure: run the tests outside of that sandbox")


def sandbox(folder: Path, *options: str) -> list[str]:
    """The beginning of a command: this system, read-only but for ``folder``."""
    return [
        *("bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"),
        *("--bind", str(folder), str(folder), "--die-with-parent", "--unshare-pid"),
        *options,
    ]


def ordinary_user(folder: Path) -> list[str]:
    return [
        *sandbox(folder, "--unshare-user", "--uid", "1000", "--gid", "1000", "--cap-drop", "ALL"),
        *seccomp.refusing(unshare=errno.EPERM),
    ]


#: What a container's root may do by default (docker).
DEFAULT: tuple[str, ...] = (
    *("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP"),
    *("NET_BIND_SERVICE", "NET_RAW", "SYS_CHROOT", "MKNOD", "AUDIT_WRITE", "SETFCAP"),
)
DEVICE = ("--dev-bind", "/dev/net/tun", "/dev/net/tun")
OWN_NETWORK = ("--unshare-net",)
LOCKED = {"unshare": errno.EPERM}


def container(folder: Path, *options: str, caps: str = "", **refused: int) -> list[str]:
    """A container's root, as docker makes it: few capabilities, /proc/sys that can only be read,
    and by a seccomp filter no unshare(2).
    """
    words = [*options, "--ro-bind", "/proc/sys", "/proc/sys", "--cap-drop", "ALL"]
    for cap in (*DEFAULT, *caps.split()):
        words += ["--cap-add", f"CAP_{cap}"]
    return [*sandbox(folder, *words), *(seccomp.refusing(**refused) if refused else [])]


def play(place: list[str], folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [*place, *BENCH, "run", "--json", "--quiet", "--runs", str(folder), *words]
    environment = {**os.environ, "XDG_CACHE_HOME": str(default_cache().parent)}
    environment["TMPDIR"] = str(folder)
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def verdict(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr or done.stdout
    document: dict[str, Any] = json.loads(done.stdout)
    return document


@pytest.mark.tap
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can play a container's root; cure: sudo")
class TestAContainersRoot:
    """Each message names a cure, and the place where it was followed comes next."""

    def refused(self, folder: Path, place: list[str]) -> str:
        done = play(place, folder, "--tier", "tap", "clean-dump")
        assert done.returncode == 3, done.stdout
        message: str = json.loads(done.stdout)["error"]
        assert "be root" not in message, "it is root"
        assert not done.stderr.strip("\n").count("\n"), "one line"
        return message

    def test_is_told_to_have_the_device_and_net_admin(self, tmp_path: Path) -> None:
        for options, caps in (((), ""), (DEVICE, "")):
            place = container(tmp_path, *OWN_NETWORK, *options, caps=caps, **LOCKED)
            assert "--device /dev/net/tun --cap-add NET_ADMIN" in self.refused(tmp_path, place)

    @pytest.mark.parametrize("story", ["clean-dump", "arp-gateway"])
    def test_with_both_plays_on_a_tap_in_the_namespace_it_has(
        self, tmp_path: Path, story: str
    ) -> None:
        place = container(tmp_path, *OWN_NETWORK, *DEVICE, caps="NET_ADMIN", **LOCKED)
        found = verdict(play(place, tmp_path, "--tier", "tap", story))
        assert (found["tier"], found["passed"]) == ("tap", True)

    def test_plays_two_runs_at_once_one_after_the_other(self, tmp_path: Path) -> None:
        place = container(tmp_path, *OWN_NETWORK, *DEVICE, caps="NET_ADMIN", **LOCKED)
        words = ("--tier", "tap", "--repeat", "3", "-j", "2", "clean-dump")
        assert play(place, tmp_path, *words).returncode == 0

    def test_with_sys_admin_plays_in_a_namespace_of_its_own(self, tmp_path: Path) -> None:
        place = container(tmp_path, *DEVICE, caps="NET_ADMIN SYS_ADMIN")
        assert verdict(play(place, tmp_path, "--tier", "tap", "clean-dump"))["passed"]

    def test_without_a_filter_needs_the_device_and_a_user_namespace(self, tmp_path: Path) -> None:
        place = container(tmp_path, *OWN_NETWORK, *DEVICE)
        assert verdict(play(place, tmp_path, "--tier", "tap", "clean-dump"))["passed"]

    def test_never_plays_in_the_hosts_own_namespace(self, tmp_path: Path) -> None:
        if not Path("/proc/sys/net/core/dev_weight").exists():
            pytest.skip("we are not in the host's own namespace; cure: run the tests there")
        place = container(tmp_path, *DEVICE, caps="NET_ADMIN", **LOCKED)
        message = self.refused(tmp_path, place)
        assert "the network namespace here is the host's own" in message
        assert "start the container with a network of its own" in message

    @pytest.mark.parametrize(
        ("does", "says"),
        [
            ("ip address add 198.19.7.7/32 dev lo", "has 198.19.7.7/32, where a run has"),
            ("ip link set lo up; ip route add 198.18.4.0/24 dev lo", "has 198.18.4.0/24, where"),
            ("ip link set lo up; ip route add 198.0.0.0/8 dev lo", "has 198.0.0.0/8, where"),
        ],
    )
    def test_keeps_out_of_a_namespace_where_something_clashes(
        self, tmp_path: Path, does: str, says: str
    ) -> None:
        place = container(tmp_path, *OWN_NETWORK, *DEVICE, caps="NET_ADMIN", **LOCKED)
        message = self.refused(tmp_path, [*place, "sh", "-c", f'{does}; exec "$@"', "sh"])
        assert says in message
        assert "--network none" in message

    def test_keeps_off_a_taken_port_and_a_taken_name(self, tmp_path: Path) -> None:
        place = container(tmp_path, *OWN_NETWORK, *DEVICE, caps="NET_ADMIN", **LOCKED)
        serve = (
            "import socket, subprocess, sys; s = socket.socket(type=socket.SOCK_DGRAM);"
            "s.bind(('0.0.0.0', 20023)); sys.exit(subprocess.run(sys.argv[1:]).returncode)"
        )
        message = self.refused(tmp_path, [*place, sys.executable, "-c", serve])
        assert "UDP port 20023 here: Address already in use" in message
        named = 'ip tuntap add tap0 mode tap; "$@" && ip link show tap0 >&2 && ! ip link show tap1'
        done = play([*place, "sh", "-c", named, "sh"], tmp_path, "--tier", "tap", "clean-dump")
        assert verdict(done)["passed"]
        assert "tap0" in done.stderr, "theirs is still there, and ours is not"

    def client(
        self, folder: Path, place: list[str], *words: str
    ) -> subprocess.CompletedProcess[str]:
        """Plays a client that is a program."""
        rig = [*place, sys.executable, "-m", "tests.command_rig", str(folder), *words]
        return subprocess.run(
            rig, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
        )

    def test_plays_a_client_that_is_a_program_in_the_namespace_it_has(self, tmp_path: Path) -> None:
        place = container(tmp_path, *OWN_NETWORK, *DEVICE, caps="NET_ADMIN", **LOCKED)
        done = self.client(tmp_path, place, "silent", compiled(tmp_path), *ARGUMENTS)
        case = json.loads(done.stdout)
        assert (case["met"], case["outcome"]) == (True, "complete"), done.stderr

    def test_is_told_what_a_client_with_the_kernels_stack_needs_and_that_is_enough(
        self, tmp_path: Path
    ) -> None:
        place = container(tmp_path, *OWN_NETWORK, *DEVICE, caps="NET_ADMIN", **LOCKED)
        refused = self.client(tmp_path, place, "stack").stderr.splitlines()[-1]
        assert "a client with a kernel's stack needs a network namespace of its own" in refused
        assert f"(cure: {CURES['client-stack']})" in refused
        place = container(tmp_path, *OWN_NETWORK, *DEVICE, caps="NET_ADMIN SYS_ADMIN")
        (tmp_path / "again").mkdir()
        done = self.client(tmp_path / "again", place, "stack")
        assert json.loads(done.stdout)["outcome"] == "complete", done.stderr


@pytest.mark.tap
def test_a_namespace_of_which_nothing_is_known_may_be_the_hosts_own_and_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/proc/sys is not there, as with a /proc that shows processes only."""
    for knob in ("_KERNELS_OWN", "_EVERY_ONES"):
        monkeypatch.setattr(f"bench.wire.namespace.{knob}", tmp_path / knob)
    with pytest.raises(NamespaceError, match="is the host's own, or may be"):
        SharedNamespace()


@pytest.mark.tap
def test_who_waits_for_a_shared_namespace_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "somaxconn").touch()
    monkeypatch.setattr("bench.wire.namespace._KERNELS_OWN", tmp_path / "dev_weight")
    monkeypatch.setattr("bench.wire.namespace._EVERY_ONES", tmp_path / "somaxconn")
    monkeypatch.setattr("bench.wire.namespace.SHARED_TIMEOUT_S", 0.2)
    with NetNamespace() as namespace, namespace.run(SharedNamespace):
        assert capsys.readouterr().err == ""
        with pytest.raises(NamespaceError, match="another run has had"):
            namespace.run(SharedNamespace)
    assert capsys.readouterr().err.count("waits for another run") == 1


def test_a_client_that_is_a_program_needs_a_tap_and_its_lack_is_told_with_the_cure(
    tmp_path: Path,
) -> None:
    done = play(ordinary_user(tmp_path), tmp_path, "examples/c-client/c-client.toml")
    assert done.returncode == 3
    message = json.loads(done.stdout)["error"]
    assert message.startswith("c-client can't be played here: not tap: /dev/net/tun: ")
    assert "(cure: " in message


@pytest.mark.qemu
@pytest.mark.parametrize("story", ["nmi-panic", "netconsole-panic"])
def test_an_ordinary_user_with_nothing_crashes_a_linux_guest_and_gets_its_memory(
    tmp_path: Path, story: str
) -> None:
    found = verdict(play(ordinary_user(tmp_path), tmp_path, story))
    assert found["tier"] == "qemu"
    assert found["why_this_tier"].startswith(f"{NO_TAP} (/dev/net/tun: ")
    assert "cure: " in found["why_this_tier"]
    for case in found["cases"]:
        assert case["oracles"]["bytes-equal"] == "held"
        assert case["outcome"] == "complete"
