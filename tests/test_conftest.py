"""A test that can't be played is counted, with the reason and the cure, also with many workers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("workers", ["0", "2"])
def test_skips_are_told_at_the_end_with_their_number_reason_and_cure(
    workers: str, tmp_path: Path
) -> None:
    """On a machine that has no QEMU, which an empty PATH is enough to be."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", workers, "tests/test_qemu_nic.py"],
        cwd=ROOT,
        env={"PATH": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = [line for line in done.stdout.splitlines() if "NOT played" in line]
    assert len(told) == 1
    count, _, reason = told[0].partition(" tests were NOT played: ")
    assert int(count) > 5
    assert reason.startswith("no qemu tier: there is no qemu-system-x86_64 on the PATH; cure: ")


def test_no_property_test_fails_because_the_machine_is_busy() -> None:
    """Hypothesis gives an example 200 ms, if nobody says otherwise."""
    assert settings().deadline is None
