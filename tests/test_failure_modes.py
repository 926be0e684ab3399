"""What a clumsy user and a poor machine bring about: one line, the right status, nothing left.

The statuses: 2 for what the user gave, 3 for what the machine lacks, 128 and the signal's number
for a signal, and never a traceback.
"""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import cli
from bench.cures import CURES
from bench.runs import RunFolder
from bench.scenario import load_scenario
from bench.servers.native import ServerLaunchFailure
from bench.wire import segment
from bench.wire.contracts import WireError
from bench.wire.tap import can_tap
from tests.fakes import FakeRunner
from tests.patience import HANG_S

ROOT = Path(__file__).resolve().parents[1]
BENCH = [sys.executable, "-m", "bench"]

Act = Callable[[Path], None]


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> FakeRunner:
    return FakeRunner(monkeypatch)


def run(runs: Path | str, *words: str) -> int:
    return cli.main(["run", "clean-dump", "--tier", "sim", "--runs", str(runs), *words])


def raising(error: BaseException) -> Act:
    def act(folder: Path) -> None:
        (folder / "half").write_text("of a dump")
        raise error

    return act


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The complaint, which is all there is on stderr."""
    said = capsys.readouterr().err
    assert said.startswith("netdump-bench: ")
    assert said.count("\n") == 1
    return said


# --- signals --------------------------------------------------------------------------------------


def test_ctrl_c_while_the_command_is_still_being_imported_is_one_line_and_130() -> None:
    code = (
        "import os, signal, sys\n"
        "class Impatient:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'numpy': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Impatient())\n"
        "sys.argv = ['netdump-bench', 'list', '--json']\n"
        "from bench.__main__ import main\n"
        "sys.exit(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=HANG_S
    )
    assert done.returncode == 130
    assert done.stderr == "netdump-bench: interrupted; nothing was left behind\n"
    assert json.loads(done.stdout)["status"] == 130


@pytest.mark.parametrize(
    ("ignored", "test"),
    [
        ("INT", "test_ctrl_c_while_the_command_is_still_being_imported_is_one_line_and_130"),
        ("HUP", "test_a_server_whose_terminal_is_closed_ends_in_good_order"),
    ],
)
def test_these_tests_pass_where_the_shell_ignores_a_signal_too(ignored: str, test: str) -> None:
    """A background job ignores Ctrl-C, and nohup that the terminal is closed; all that they start
    does so too.
    """
    pytest_again = [sys.executable, "-m", "pytest", "-q", "-n", "0", f"{__file__}::{test}"]
    done = subprocess.run(
        ["sh", "-c", f"trap '' {ignored}; exec \"$@\"", "sh", *pytest_again],
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )
    assert done.returncode == 0, done.stdout


def test_a_terminal_that_is_closed_in_mid_run_leaves_nothing_behind(
    tmp_path: Path, runner: FakeRunner, capsys: pytest.CaptureFixture[str]
) -> None:
    def hang_up(folder: Path) -> None:
        assert callable(signal.getsignal(signal.SIGHUP)), "the signal would end this process"
        os.kill(os.getpid(), signal.SIGHUP)

    runner.act = hang_up
    assert run(tmp_path, "--quiet") == 128 + signal.SIGHUP
    assert "terminated; nothing was left behind" in one_line(capsys)
    assert list(tmp_path.iterdir()) == []


def test_under_nohup_a_run_outlives_its_terminal(tmp_path: Path, runner: FakeRunner) -> None:
    runner.act = lambda folder: os.kill(os.getpid(), signal.SIGHUP)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run(tmp_path, "--quiet") == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_what_a_killed_run_left_is_cleared_by_a_run_of_any_name_which_says_so(
    tmp_path: Path, runner: FakeRunner, capsys: pytest.CaptureFixture[str]
) -> None:
    def die_in_mid_run() -> None:
        (RunFolder(tmp_path, "another-tap-seed7").path / "half").write_text("")
        os._exit(9)

    child = multiprocessing.get_context("fork").Process(target=die_in_mid_run)
    child.start()
    child.join(HANG_S)
    assert (tmp_path / ".partial-another-tap-seed7-1").exists()
    assert run(tmp_path, "--quiet") == 0
    assert "left by a run that was killed" in one_line(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["clean-dump-sim-seed1-1"]


def test_what_a_living_run_has_begun_is_let_be(tmp_path: Path) -> None:
    with RunFolder(tmp_path, "a") as alive, RunFolder(tmp_path, "b") as other:
        assert other.cleared == []
        assert alive.path.exists()


# --- output that goes nowhere ---------------------------------------------------------------------


@pytest.mark.parametrize("words", [["list"], ["list", "--json"]])
def test_a_reader_who_leaves_early_changes_no_status(words: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*BENCH, *words], stdout=writer, stderr=subprocess.PIPE, timeout=HANG_S)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("redirection", [">&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_lead_nowhere(redirection: str) -> None:
    shell = ["sh", "-c", f'exec "$@" {redirection}', "sh"]
    done = subprocess.run([*shell, *BENCH, "list"], capture_output=True, timeout=HANG_S)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_full_disk_behind_standard_output_is_one_line_and_2() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*BENCH, "list"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=HANG_S
        )
    assert done.returncode == 2
    assert done.stderr == (
        "netdump-bench: can't write to standard output: No space left on device\n"
    )


def test_a_runs_folder_whose_name_is_no_text_is_written_all_the_same(
    tmp_path: Path, runner: FakeRunner, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / os.fsdecode(b"\xff\xfe")
    assert run(runs, "--json") == 0
    told = json.loads(capsys.readouterr().out.encode("utf-8"))
    kept = json.loads((runs / "clean-dump-sim-seed1-1" / "verdict.json").read_bytes())
    assert told["run_folder"] == kept["run_folder"] == str(runs / "clean-dump-sim-seed1-1")


# --- what the user gave ---------------------------------------------------------------------------


def test_a_folder_without_a_name_is_a_variable_that_was_never_set(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("") == 2
    assert "--runs: is empty: name a folder" in one_line(capsys)


def test_an_abbreviated_option_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "--js"]) == 2
    assert "--js" in one_line(capsys)


def test_a_current_folder_that_is_gone_is_one_line_and_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert run(tmp_path) == 2
    assert "the current folder: No such file or directory" in one_line(capsys)


def test_toml_that_nests_for_ever_is_one_line_and_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.toml").write_text("a = " + "[" * 5000)
    assert cli.main(["run", str(tmp_path / "x.toml")]) == 2
    assert "x.toml: not TOML: nested too deeply" in one_line(capsys)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", -1),
        ("seed", True),
        ("seed", 1 << 63),
        ("only_profile", 7),
        ("cases", [1, 2]),
        ("scenario", "../../elsewhere/x"),
        ("scenario", ""),
        ("parts", {"files": ["driver.py"]}),
        ("parts", {"files": {"driver.py": 7}}),
    ],
)
def test_a_damaged_verdict_is_not_replayed(
    tmp_path: Path, key: str, value: object, capsys: pytest.CaptureFixture[str]
) -> None:
    verdict = {"scenario": "clean-dump", "tier": "sim", "seed": 1, "cases": []}
    (tmp_path / "verdict.json").write_text(json.dumps(verdict | {key: value}))
    (tmp_path / "scenario.toml").write_text(load_scenario("clean-dump").text)
    assert cli.main(["replay", str(tmp_path)]) == 2
    assert f"verdict.json: {key} is not as `run` writes it" in one_line(capsys)


def test_a_verdict_that_nests_for_ever_is_not_replayed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "verdict.json").write_text("[" * 100_000)
    assert cli.main(["replay", str(tmp_path)]) == 2
    assert "not the JSON that `run` wrote" in one_line(capsys)


def test_a_quote_in_a_scenarios_name_never_reaches_makes_shell() -> None:
    done = subprocess.run(
        ["make", "--dry-run", "scenario", "NAME=it's"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )
    assert done.returncode == 0
    assert '-- "$NAME"' in done.stdout
    assert "it's" not in done.stdout


# --- what the machine lacks -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (WireError("can't set x: Read-only file system"), "can't set x: Read-only file system"),
        (ServerLaunchFailure(["server"], 3, "EMFILE: no sockets"), "EMFILE: no sockets"),
        (MemoryError(), "out of memory"),
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
    ],
)
def test_what_the_machine_does_not_give_in_mid_run_is_one_line_and_3(
    tmp_path: Path,
    runner: FakeRunner,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    says: str,
) -> None:
    runner.act = raising(error)
    assert run(tmp_path, "--quiet", "--json") == 3
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert document["status"] == 3
    assert says in document["error"]
    assert captured.err == f"netdump-bench: {document['error']}\n"
    assert list(tmp_path.iterdir()) == []


def test_a_file_larger_than_the_limit_is_the_output_folders_trouble(
    tmp_path: Path, runner: FakeRunner, capsys: pytest.CaptureFixture[str]
) -> None:
    runner.act = raising(OSError(errno.EFBIG, "File too large"))  # a write names no file
    assert run(tmp_path, "--quiet") == 2
    assert f"can't write to {tmp_path}: File too large" in one_line(capsys)


def test_who_has_no_tun_device_is_told_so_before_any_namespace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment, "TUN_DEVICE", str(tmp_path / "tun"))
    found = can_tap()
    assert (found.ok, found.why) == (False, f"{tmp_path / 'tun'}: No such file or directory")
    assert found.cure == CURES["tun-absent"]


def test_who_may_not_open_the_tun_device_is_told_how(monkeypatch: pytest.MonkeyPatch) -> None:
    really_open = os.open

    def closed(path: str, flags: int, mode: int = 0o777) -> int:
        if path == segment.TUN_DEVICE:
            raise PermissionError(errno.EACCES, "Permission denied")
        return really_open(path, flags, mode)

    monkeypatch.setattr(os, "open", closed)
    found = can_tap()
    assert (found.ok, found.why) == (False, "/dev/net/tun: Permission denied")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert can_tap().cure == CURES["tun-closed"]
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert can_tap().cure == CURES["tun-forbidden"], "root is not told to be root"


# --- serve ----------------------------------------------------------------------------------------


def test_a_taken_port_is_a_document_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = str(taken.getsockname()[1])
        words = ["serve", "--bind", "127.0.0.1", "--port", port, "--dumpdir", str(tmp_path)]
        assert cli.main([*words, "--json"]) == 2
    document = json.loads(capsys.readouterr().out)
    assert document["status"] == 2
    assert "another server has it" in document["error"]


def test_a_descriptor_below_zero_is_no_descriptor(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serve", "--ready-fd", "-1"]) == 2
    assert "--ready-fd: '-1' is no number" in one_line(capsys)


def test_a_server_whose_terminal_is_closed_ends_in_good_order(tmp_path: Path) -> None:
    words = ["serve", "--bind", "127.0.0.1", "--port", "0", "--dumpdir", str(tmp_path)]
    with subprocess.Popen([*BENCH, *words], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdout.readline().startswith("ready 127.0.0.1")
        server.send_signal(signal.SIGHUP)
        said, _ = server.communicate(timeout=HANG_S)
    assert server.returncode == 0
    assert said.startswith("stopped")
