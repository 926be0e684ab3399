"""Clients that do not do what a client does: they claim, crash, hang, and leave things running."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from bench.clients.program import ClientProgram
from bench.wire.namespace import NetNamespace
from tests.command_rig import ARGUMENTS, Played, command, compiled, python
from tests.patience import until

pytestmark = pytest.mark.tap


@pytest.fixture
def play(tmp_path: Path) -> Played:
    return Played(tmp_path)


@pytest.mark.parametrize("shared", [False, True])
def test_what_a_client_started_out_of_its_group_ends_with_it(tmp_path: Path, shared: bool) -> None:
    script = (
        'setsid sh -c \'echo $$ > "$0"; sleep 600\' "$0" & while [ ! -s "$0" ]; do sleep 0.01; done'
    )
    program = ClientProgram(["/bin/sh", "-c", script, str(tmp_path / "pid")], tmp_path / "log")
    with ExitStack() as closing:
        inside = None if shared else closing.enter_context(NetNamespace())
        program.start((lambda do, *a, **k: do(*a, **k)) if inside is None else inside.run)
        until(lambda: not program.look(), "its end")
        left = Path("/proc", (tmp_path / "pid").read_text().strip(), "stat")
        assert left.exists()
        assert program.end().status == 0
        assert not left.exists() or left.read_text().rpartition(")")[2].split()[0] == "Z"
        program.kill()


def test_a_client_that_claims_success_without_a_frame_is_caught(play: Played) -> None:
    case = play(["/bin/true", "{memory}"], expect='outcome = "false-success"')
    assert case.met, case.unmet
    assert case.oracles["no-false-success"] == "broken"
    assert case.oracle_reasons["no-false-success"] == (
        "the client claims success; nothing is stored"
    )


def test_a_client_that_crashes_has_failed_and_its_last_line_is_told(play: Played) -> None:
    script = (
        "import os, signal; print('about to read page 0', flush=True);"
        "os.kill(os.getpid(), signal.SIGSEGV)"
    )
    case = play(python(script), expect='outcome = "failed"')
    assert case.met, case.unmet
    assert case.why == "SIGSEGV ended it; its last line: about to read page 0"
    assert (play.folder / "client.log").read_text() == "about to read page 0\n"


@pytest.mark.parametrize(
    "script",
    [
        "import time; time.sleep(1000)",
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: print('x' * 99)",
    ],
    ids=["sends nothing", "spins and prints"],
)
def test_a_client_that_does_not_end_is_out_of_time(play: Played, script: str) -> None:
    case = play(python(script, seconds=1), expect='oracle_broken = "liveness"')
    assert case.met, case.unmet
    assert case.outcome == "hung"
    assert case.oracle_reasons["liveness"] == "the run's budget of 1 s is used up"
    assert (play.folder / "client.log").stat().st_size <= 1 << 20


def test_a_client_that_hangs_in_the_middle_of_its_dump_is_out_of_time(
    play: Played, tmp_path: Path
) -> None:
    """Stopped by its own shell, as it would be by a debugger."""
    program = compiled(tmp_path)
    script = '"$0" "$@" & sleep 0.05; kill -STOP $!; wait $!'
    client = command("/bin/sh", "-c", script, program, *ARGUMENTS, seconds=3)
    case = play(client, expect='oracle_broken = "liveness"', memory="64 MiB")
    assert case.met, case.unmet
    assert case.outcome == "hung"
    assert case.oracles["server-safety"] == "held"
    until(lambda: not processes_of(program), "the end of what the shell had started")


def processes_of(program: str) -> list[int]:
    """What still runs of a program that only this test has started."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str((process / "exe").readlink()) == program:
                found.append(int(process.name))
        except OSError:
            continue
    return found


def test_what_a_client_leaves_running_ends_with_it(play: Played, tmp_path: Path) -> None:
    script = (
        "import subprocess, sys;"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1000)']);"
        "print(child.pid)"
    )
    play(python(script), expect='outcome = "false-success"')
    number = int((play.folder / "client.log").read_text())
    until(lambda: state_of(number) in "ZX", "the end of what the client had left running")


def state_of(number: int) -> str:
    """A process's, as proc(5) has it; X for one that is gone."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "X"
