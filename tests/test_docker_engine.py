"""scripts/docker-engine: started, found running, stopped, killed; and what it leaves: nothing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.patience import HANG_S, until

SCRIPT = Path(__file__).parent.parent / "scripts" / "docker-engine"
PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
OUTSIDE = [Path(place) for place in ("/etc/docker", "/opt/containerd", "/run/docker")]

engine = [
    pytest.mark.docker,
    pytest.mark.skipif(
        os.geteuid() != 0 or shutil.which("dockerd", path=PATH) is None,
        reason="no dockerd, or not root; scripts/debian-packages docker, as root",
    ),
]


def script(*words: object, **changes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCRIPT, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=HANG_S,
        env={**os.environ, **changes},
    )


def processes_of(folder: Path) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in command:
            found.append(command)
    return found


def control_groups(folder: Path) -> list[Path]:
    return list(Path("/sys/fs/cgroup").glob(f"**/netdump-bench*{folder.name}*"))


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An engine's; afterwards it has left nothing."""
    place = tmp_path_factory.mktemp("engine")
    before = [path for path in OUTSIDE if path.exists()]
    mounts = Path("/proc/self/mounts").read_text()
    interfaces = os.listdir("/sys/class/net")
    yield place
    assert script("stop", place).returncode == 0
    assert sorted(path.name for path in place.iterdir() if path.name != "data") in ([], ["log"])
    assert processes_of(place) == []
    assert control_groups(place) == []
    assert Path("/proc/self/mounts").read_text() == mounts
    assert os.listdir("/sys/class/net") == interfaces
    assert [path for path in OUTSIDE if path.exists()] == before


class TestLife:
    pytestmark = engine

    def test_started_it_answers_and_says_how_to_use_it(self, folder: Path) -> None:
        forwarding = Path("/proc/sys/net/ipv4/ip_forward").read_text()
        started = script("start", folder)
        assert (started.returncode, started.stderr) == (0, "")
        assert started.stdout == f"export DOCKER_HOST=unix://{folder}/docker.sock\n"
        again = script("start", "--plain", folder)
        assert again.stdout == f"DOCKER_HOST=unix://{folder}/docker.sock\n"
        assert "it runs already, engine Docker/" in again.stderr
        status = script("status", folder)
        assert (status.returncode, status.stdout) == (0, started.stdout)
        assert Path("/proc/sys/net/ipv4/ip_forward").read_text() == forwarding
        assert script("stop", folder).stderr == "stopped\n"
        status = script("status", folder)
        assert (status.returncode, status.stdout) == (1, "")

    def test_what_a_killed_one_left_is_cleared_away_by_the_next(self, folder: Path) -> None:
        assert script("start", folder).returncode == 0
        pid = int((folder / "pid").read_text())
        os.kill(pid, signal.SIGKILL)
        until(lambda: "dockerd" not in " ".join(processes_of(folder)), "the end of dockerd")
        assert (folder / "pid").exists(), "it could not take its files away"
        assert script("start", folder).returncode == 0
        assert script("status", folder).returncode == 0

    def test_one_that_dies_says_its_last_words(self, folder: Path) -> None:
        (folder / "data").write_text("in the way")
        died = script("start", folder)
        assert died.returncode == 3
        assert "the engine died at its start: " in died.stderr
        assert f"{folder}/data" in died.stderr
        assert died.stderr.count("\n") == 1
        (folder / "data").unlink()


@pytest.mark.parametrize("words", [[], ["begin"], ["start", "a", "b"]])
def test_wrong_words_are_answered_with_the_right_ones(words: list[str]) -> None:
    refused = script(*words)
    assert refused.returncode == 2
    assert refused.stderr == "docker-engine: docker-engine start|stop|status [DIR] [--plain]\n"


def test_a_folder_whose_socket_no_kernel_would_take_is_refused(tmp_path: Path) -> None:
    refused = script("start", tmp_path / ("x" * 120))
    assert refused.returncode == 2
    assert "too long for a socket's path" in refused.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user; as root")
def test_who_is_not_root_is_told_in_one_line(tmp_path: Path) -> None:
    command = ["setpriv", "--reuid=65534", "--clear-groups", "/usr/bin/python3", "-", "start", "x"]
    refused = subprocess.run(
        command, input=SCRIPT.read_text(), capture_output=True, text=True, timeout=HANG_S
    )
    assert refused.returncode == 3
    assert refused.stderr.startswith("docker-engine: an engine is started by root: sudo")
    assert refused.stderr.count("\n") == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="who is not root is told that first; as root")
def test_where_there_is_no_dockerd_the_cure_is_told(tmp_path: Path) -> None:
    """In a mount namespace that has none."""
    python = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else shutil.which("python3")
    hide = "".join(
        f"mount --bind /dev/null {found};"
        for place in ("/usr/sbin/dockerd", "/usr/bin/dockerd", "/usr/local/bin/dockerd")
        if (found := Path(place)).exists()
    )
    refused = subprocess.run(
        [
            "unshare",
            "--mount",
            "sh",
            "-c",
            f'{hide} exec {python} "$0" start "$1"',
            str(SCRIPT),
            str(tmp_path),
        ],
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )
    assert refused.returncode == 3
    assert "there is no dockerd; scripts/debian-packages docker, as root" in refused.stderr
