"""A client's command: what is wrong with it, what it is told, and as whom it runs."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

import pytest

from bench.cli import main
from bench.errors import BadInput, MachineLacks
from bench.scenario import ScenarioError, parse_scenario
from tests.command_rig import Played, command, python

pytestmark = pytest.mark.tap

FAILED = 'outcome = "failed"'


@pytest.fixture
def play(tmp_path: Path) -> Played:
    return Played(tmp_path)


@pytest.mark.parametrize(
    ("client", "says"),
    [
        (command(), "client.argv: "),
        (
            command("client"),
            'client.argv: it is to dump memory, and never names it: add "{memory}"',
        ),
        (
            command("client", "{memory}", "{interfce}"),
            '{interfce} stands for nothing; did you mean "interface"?; there are {interface}, ',
        ),
        (command("client", "{memory}", "{}"), "{} stands for nothing"),
        (command("client", "{memory!r}"), "{memory} stands for nothing"),
        (command("client", "{memory}", "{"), "client.argv: "),
        (command("client", "{memory}", dumps="all"), "'all' is none of memory, own"),
        (command("client", "{memory}", seconds=0), "client.seconds: "),
        (command("client", "{memory}", environment={"A": 1}), "client.environment.A: "),
        (command("client", "{memory}", windows=1), "unknown key"),
    ],
)
def test_a_wrong_command_is_one_line(play: Played, client: str, says: str) -> None:
    with pytest.raises(ScenarioError) as raised:
        play(client)
    (line,) = raised.value.problems
    assert says in line
    assert "client.toml:5: client" in line


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ('nic = { mode = "locked" }', "nic.mode: the client is a program"),
        ("[machine]\nstarve_mbufs = true", "machine.starve_mbufs: the client is a program"),
        ('[machine]\npanic_during = "transmit"', "machine.panic_during: the client is a program"),
        ('[machine]\nlost = "power"', "machine.lost: the client is a program"),
        ('[machine]\nflips = "nic"', "machine.flips: the client is a program"),
    ],
)
def test_what_only_a_machine_of_ours_would_notice_is_not_asked_of_a_program(
    more: str, says: str
) -> None:
    text = (
        f'title = "t"\nwhy = "w"\ntiers = ["tap"]\n{command("client", "{memory}")}\n{more}\n'
        '[[case]]\nexpect = { outcome = "complete" }'
    )
    with pytest.raises(ScenarioError, match=says):
        parse_scenario(text, "client", "client.toml")


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["/nonexistent/client", "{memory}"], "the client /nonexistent/client: there is no such"),
        (["no-such-client", "{memory}"], "the client no-such-client: not on the PATH"),
        (["/etc/passwd", "{memory}"], "or it may not be executed"),
    ],
)
def test_a_program_that_does_not_exist_is_bad_input(
    play: Played, argv: list[str], says: str
) -> None:
    with pytest.raises(BadInput, match=says) as raised:
        play(argv)
    assert raised.value.status == 2
    assert "\n" not in str(raised.value)


def test_it_is_one_line_and_exit_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "client.toml"
    client = command("./no-such-client", "{memory}")
    file.write_text(
        f'title = "t"\nwhy = "w"\ntiers = ["tap"]\n{client}\n'
        '[[case]]\nexpect = { outcome = "complete" }\n'
    )
    assert main(["run", "--quiet", "--runs", str(tmp_path / "runs"), str(file)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == (
        f"netdump-bench: the client {tmp_path}/no-such-client: there is no such program, or it may"
        " not be executed\n"
    )
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_program_of_another_machine_is_bad_input(play: Played, tmp_path: Path) -> None:
    program = tmp_path / "client"
    program.write_text("#!/nonexistent/interpreter\n")
    program.chmod(0o755)
    with pytest.raises(BadInput, match=r"client: .*is it for this machine, and its interpreter"):
        play([str(program), "{memory}"])


def test_a_program_is_found_from_the_folder_of_the_file_that_names_it(play: Played) -> None:
    program = play.folder / "bin" / "client"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nexit 3\n")
    program.chmod(0o755)
    case = play(["bin/client", "{memory}"], expect='outcome = "failed"')
    assert case.why == "it ended with status 3, silent"


def test_a_process_with_many_descriptors_carries_its_frames(play: Played) -> None:
    """A tap beyond descriptor 1023, which select(2) refuses: a long run has as many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    held = [os.dup(0) for _ in range(1024)]
    try:
        play(python("import time; time.sleep(0.1); raise SystemExit(3)"), expect=FAILED)
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_command_is_told_what_the_run_decides(play: Played) -> None:
    script = "import os, sys; print(*sys.argv[1:], os.environ['SECRET'])"
    words = (
        "{interface}",
        "{mac}",
        "{address}",
        "{server}",
        "{port}",
        "{gateway}",
        "{mtu}",
        "{{}}",
    )
    client = command(
        *(sys.executable, "-c", script, *words), dumps="own", environment={"SECRET": "42"}
    )
    play(client, "network = { gateway = true }", expect='outcome = "false-success"')
    said = (play.folder / "client.log").read_text()
    assert said == (
        "client0 02:00:00:00:00:02 198.18.0.2 198.19.0.1 20023 198.18.0.254 1500 {} 42\n"
    )


def test_a_client_may_be_another_user(play: Played) -> None:
    client = command("/bin/sh", "-c", "id -u; id -g; id -G; exit 7", dumps="own", user="65534")
    try:
        case = play(client, expect='outcome = "failed"')
    except MachineLacks as lacks:
        pytest.skip(str(lacks))
    assert (play.folder / "client.log").read_text() == "65534\n65534\n65534\n"
    assert case.why == "it ended with status 7; its last line: 65534"


def test_a_user_who_can_not_read_memory_is_bad_input(play: Played) -> None:
    play.folder.chmod(0o700)
    client = command("/bin/cat", "{memory}", user="65534")
    try:
        with pytest.raises(BadInput, match=r"the client's user 65534 may not read .*memory: with"):
            play(client)
    except MachineLacks as lacks:
        pytest.skip(str(lacks))


def test_there_is_no_such_user(play: Played) -> None:
    with pytest.raises(BadInput, match='there is no user "no-such-user"'):
        play(python("pass", user="no-such-user"))
