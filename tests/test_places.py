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

from guest.linux.image import default_cache
from tests import seccomp

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


def play(place: list[str], folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [*place, *BENCH, "run", "--json", "--quiet", "--runs", str(folder), *words]
    environment = {**os.environ, "XDG_CACHE_HOME": str(default_cache().parent)}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def verdict(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr or done.stdout
    document: dict[str, Any] = json.loads(done.stdout)
    return document


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
