"""Our own modules are ours, whatever lies in the user's current folder."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from bench.again import module
from bench.wire.tap import can_tap
from tests.patience import HANG_S

ROOT = Path(__file__).resolve().parents[1]
CAPABILITY = can_tap()


@pytest.mark.tap
@pytest.mark.skipif(not CAPABILITY.ok, reason=f"{CAPABILITY.why}; {CAPABILITY.cure}")
def test_a_users_own_server_py_and_bench_are_not_run_instead(tmp_path: Path) -> None:
    (tmp_path / "server.py").write_text("raise SystemExit('the wrong server')\n")
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "__init__.py").write_text("raise SystemExit('the wrong bench')\n")
    story = tmp_path / "story.toml"
    story.write_text(
        'title = "t"\nwhy = "w"\ntiers = ["tap"]\nmachine = { memory = "1 MiB" }\n'
        '[[case]]\nprofile = "netdump2"\nexpect = { outcome = "complete" }\n'
    )
    for more in ((), ("--repeat", "2")):
        done = subprocess.run(
            module("bench", "run", str(story), "--quiet", "--runs", str(tmp_path), *more),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=HANG_S,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_bench_starts_python_in_no_other_way() -> None:
    for path in (ROOT / "bench").rglob("*.py"):
        for words in re.findall(r'sys\.executable, ("-\w+")', path.read_text()):
            assert words == '"-P"', path
