"""A run that was disturbed says so: the bench measures whether it got the CPU itself."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from bench.heartbeat import Heartbeat
from bench.report import print_verdict
from bench.verdict import CaseResult, RunResult

ROOT = Path(__file__).parents[1]

_SLEEPER = """
import sys
from bench.heartbeat import Heartbeat
with Heartbeat() as heartbeat:
    print("stop me", flush=True)
    sys.stdin.readline()
print(heartbeat.lost_s, heartbeat.longest_s)
"""


def test_a_process_that_was_stopped_knows_for_how_long() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _SLEEPER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "stop me\n"
        child.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
        stopped = time.monotonic()
        time.sleep(1.5)  # the subject: a time in which it does not run
        at_least = time.monotonic() - stopped
        child.send_signal(signal.SIGCONT)
        said, _ = child.communicate("\n")
    lost, longest = map(float, said.split())
    assert lost >= longest >= at_least - 0.1


def test_what_is_late_by_less_than_a_second_is_no_disturbance_and_longer_pauses_add_up() -> None:
    heartbeat = Heartbeat()
    for late in (0.0, 0.9, 1.5, 0.2, 3.0):
        heartbeat.note(late)
    assert (heartbeat.longest_s, heartbeat.lost_s) == (3.0, 4.5)


def test_what_the_process_does_itself_is_no_disturbance() -> None:
    """A search through a guest's memory lets no other thread run, and nobody has taken the CPU."""
    heartbeat = Heartbeat()
    heartbeat.note(2.0, cpu_s=1.9)
    assert heartbeat.lost_s == 0.0
    heartbeat.note(2.0, cpu_s=0.5)
    assert (heartbeat.longest_s, heartbeat.lost_s) == (1.5, 1.5)


@pytest.mark.parametrize(("tier", "tells"), [("tap", True), ("sim", False)])
def test_the_verdict_tells_of_a_disturbance_where_time_is_real(tier: str, tells: bool) -> None:
    case = CaseResult("netdump2", "netdump2", "polled", "complete", "complete", True)
    case.paused_s, case.longest_pause_s = 4.5, 3.0
    out = io.StringIO()
    print_verdict(RunResult("clean-dump", tier, "", 1, cases=[case]), Console(file=out, width=100))
    assert ("did not get the CPU for 3.0 s at once, 4.5 s in all" in out.getvalue()) is tells
