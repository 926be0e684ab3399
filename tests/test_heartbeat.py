"""A run that was disturbed says so: the bench measures whether it got the CPU itself."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

import pytest
from rich.console import Console

from bench.cli import main
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
    print(heartbeat.lost_s(), heartbeat.longest_s)
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


def test_what_is_lost_within_ten_seconds_is_added_up_and_below_a_second_it_is_no_disturbance() -> (
    None
):
    heartbeat = Heartbeat()
    for now, late in ((1.0, 0.6), (12.0, 0.6), (23.0, 0.9)):
        heartbeat.note(now, late)
    assert (heartbeat.longest_s, heartbeat.lost_s()) == (0.0, 0.0)
    for now, late in ((30.0, 0.2), (40.0, 3.0), (50.0, -0.1)):
        heartbeat.note(now, late)
    assert (heartbeat.longest_s, heartbeat.lost_s()) == (3.0, 0.9 + 0.2 + 3.0)


def test_a_quota_that_takes_the_cpu_away_ten_times_a_second_is_a_disturbance() -> None:
    heartbeat = Heartbeat()
    for beat in range(1000):
        heartbeat.note(beat * 0.1, 0.05)
    assert heartbeat.lost_s() > 0.95 * 1000 * 0.05
    assert heartbeat.longest_s == 0.05


def test_outside_of_a_run_nothing_is_measured() -> None:
    assert Heartbeat().lost_s() == 0.0


def test_what_the_process_does_itself_is_no_disturbance() -> None:
    """A search through a guest's memory lets no other thread run, and nobody has taken the CPU."""
    heartbeat = Heartbeat()
    heartbeat.note(1.0, 2.0, cpu_s=1.9)
    assert heartbeat.lost_s() == 0.0
    heartbeat.note(20.0, 2.0, cpu_s=0.5)
    assert (heartbeat.longest_s, heartbeat.lost_s()) == (1.5, 1.5)


def test_the_verdict_tells_of_a_disturbance() -> None:
    case = CaseResult("netdump2", "netdump2", "polled", "complete", "complete", True)
    case.paused_s, case.longest_pause_s = 4.5, 3.0
    out = io.StringIO()
    print_verdict(RunResult("clean-dump", "tap", "", 1, cases=[case]), Console(file=out, width=100))
    assert "did not get the CPU for 3.0 s at once, 4.5 s in all" in out.getvalue()


class Stopped(Heartbeat):
    """Of a bench that was stopped for 12 s: FreeBSD's client would have given it up."""

    def __enter__(self) -> Self:
        self.note(0.0, 12.0)
        return super().__enter__()


@pytest.mark.tap
@pytest.mark.parametrize(
    ("expected", "status", "outcome"), [("failed", 3, "disturbed"), ("lost", 0, "lost")]
)
def test_a_run_that_was_stopped_for_long_accuses_nobody_and_may_still_pass(
    expected: str,
    status: int,
    outcome: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    story = tmp_path / "story.toml"
    story.write_text(
        'title = "t"\nwhy = "t"\ntiers = ["tap", "sim"]\n[machine]\nmemory = "1 MiB"\n'
        'lost = "power"\nlost_after = 50\n'
        f'[[case]]\nprofile = "netdump2"\nexpect = {{ outcome = "{expected}" }}\n'
    )
    monkeypatch.setattr("bench.runner.Heartbeat", Stopped)
    words = ["run", str(story), "--json", "--runs", str(tmp_path / "runs")]
    assert main([*words, "--tier", "tap"]) == status
    (case,) = json.loads(capsys.readouterr().out)["cases"]
    assert case["outcome"] == outcome
    assert case["longest_pause_s"] >= 12.0
    if outcome == "disturbed":
        assert re.search(r"It came to lost .*; the bench did not run for 12 s", case["why"])
        assert set(case["oracles"].values()) == {"not-applicable"}
    assert main([*words, "--tier", "sim"]) == (1 if outcome == "disturbed" else 0)
    (case,) = json.loads(capsys.readouterr().out)["cases"]
    assert (case["outcome"], case["paused_s"]) == ("lost", 0.0)
