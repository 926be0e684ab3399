"""Clients that are programs: ours in C, right and wrong, and such as no bench should trip over.

Each plays on a real TAP, through the faults, to the real server, and is judged as any other client.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.l2 import ARP, Ether

from bench.cli import main
from bench.clients.machine_end import Place, open_machine_end
from bench.clients.program import ClientProgram
from bench.clock import RealClock
from bench.errors import BadInput, MachineLacks
from bench.progress import Silent
from bench.put_in import with_parts
from bench.runner import run_scenario
from bench.scenario import ScenarioError, load_scenario, parse_scenario
from bench.verdict import CaseResult
from bench.wire.namespace import NetNamespace
from nic_models.frames import Frames
from tests import wire_frames as wf
from tests.command_rig import ARGUMENTS, SOURCE, Played, command, compiled, python, sockets
from tests.patience import until

pytestmark = pytest.mark.tap

#: Where the wire loses frames: so that no time is spent on waiting for what does not come.
SOON: Final = ("--wait", "10")
#: Where a frame that was sent again would spoil the story: longer than a busy machine needs.
LATE: Final = ("--wait", "60000")
STOCK: Final = "{ rescue = false, strict_finish = false }"


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """The client in C, compiled with these options."""
    folder = tmp_path_factory.mktemp("c-client")
    return lambda *options: compiled(folder, *options)


@pytest.fixture
def play(tmp_path: Path) -> Played:
    return Played(tmp_path)


def drop(index: str) -> str:
    """The wire loses these frames of data, counted from 0."""
    return (
        f'[[wire.fault]]\ndoes = "drop"\ndirection = "to-server"\nkind = "vmcore"\nindex = {index}'
    )


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


# --- the client in C ------------------------------------------------------------------------------


def test_the_c_client_brings_all_of_memory_home(play: Played, build: Callable[..., str]) -> None:
    case = play([build(), *ARGUMENTS], memory="4 MiB")
    assert case.met, case.unmet
    assert (case.outcome, case.dump_bytes) == ("complete", 4 << 20)
    for oracle in ("bytes-equal", "no-false-success", "ack-means-kept", "liveness", "idempotence"):
        assert case.oracles[oracle] == "held", oracle
    assert (play.folder / "wire.pcapng").stat().st_size > 4 << 20
    assert not (play.folder / "memory").exists()


def test_what_nobody_saw_is_said_not_to_be_ruled_on(
    play: Played, build: Callable[..., str]
) -> None:
    case = play([build(), *ARGUMENTS])
    assert case.oracles["panic-hygiene"] == case.oracles["device-truth"] == "not-ruled-on"
    assert "no guard and no NIC" in case.oracle_reasons["panic-hygiene"]
    assert case.as_json()["panic_context"] is None
    text = play.text
    said = "not ruled on: panic-hygiene, device-truth: the client is a program of its own: no guard"
    assert said in text
    assert "not ruled on: panic-hygiene, device-truth." in text
    assert "panic-hygiene" not in text.partition("held: ")[2].partition(";")[0]


def test_an_oracle_that_is_not_ruled_on_is_not_broken_either(
    play: Played, build: Callable[..., str]
) -> None:
    case = play([build(), *ARGUMENTS], expect='oracle_broken = "panic-hygiene"')
    assert case.unmet == [
        "oracle panic-hygiene was to be broken, and is not ruled on: the client is a program of its"
        " own: no guard and no NIC of ours sees what it does"
    ]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_c_client_mends_what_the_wire_breaks(
    play: Played, build: Callable[..., str], seed: int
) -> None:
    broken = [
        f'[[wire.fault]]\ndoes = "{does}"\nchance = "{chance}"'
        for does, chance in (("drop", "2%"), ("corrupt", "1%"), ("duplicate", "2%"))
    ]
    case = play([build(), *SOON, *ARGUMENTS], *broken, seed=seed)
    assert case.met, case.unmet
    assert case.wire["drop"]
    assert case.retransmissions


@pytest.mark.parametrize("mtu", [576, 1500, 9000])
def test_the_c_client_cuts_memory_as_the_interface_wants_it(
    play: Played, build: Callable[..., str], mtu: int
) -> None:
    case = play([build(), *ARGUMENTS], f"nic = {{ mtu = {mtu} }}")
    assert case.met, case.unmet


def test_the_c_client_finds_a_server_behind_a_gateway(
    play: Played, build: Callable[..., str]
) -> None:
    assert play([build(), *ARGUMENTS], "network = { gateway = true }").met


def test_what_a_kernel_cut_into_fragments_is_held_against_nobody(play: Played) -> None:
    case = play(sockets(dumps="memory", piece=4096))
    assert case.met, case.unmet
    for oracle in ("ack-means-kept", "server-safety"):
        assert case.oracles[oracle] == "not-ruled-on", oracle
        assert "were IP fragments" in case.oracle_reasons[oracle]
    assert case.oracles["bytes-equal"] == "held"


def test_headers_in_fragments_are_not_ruled_on_and_memory_is(play: Played) -> None:
    case = play(sockets(dumps="memory", headers=4096, piece=4096))
    assert case.met, case.unmet
    assert case.oracles["bytes-equal"] == "not-ruled-on"
    (play.folder / "again").mkdir()
    wrong = Played(play.folder / "again")(
        sockets(dumps="memory", headers=4096, piece=4096, flipped=5000),
        expect='outcome = "silent-hole"',
    )
    assert wrong.met, wrong.unmet
    assert wrong.oracles["bytes-equal"] == "broken"


def test_what_a_client_sent_of_its_own_in_fragments_was_not_seen(play: Played) -> None:
    case = play(sockets(piece=4096))
    assert not case.met
    assert case.unmet == ["expected complete, came not-seen"]
    assert {case.oracles[one] for one in ("bytes-equal", "no-false-success")} == {"not-ruled-on"}
    assert "what it sent was not seen" in play.text


def test_the_c_client_believes_no_ack_that_was_meant_for_another(
    play: Played, build: Callable[..., str]
) -> None:
    """As promisc-panic: the stranger has acknowledged what the wire loses."""
    stranger = '[[wire.bystander]]\nsends = "acks-for-another-mac"\nevery = "1 frames"'
    others = '[[wire.bystander]]\nsends = "unicast-to-others"\nevery = "5 frames"'
    noise = '[[wire.bystander]]\nsends = "arp-spoof"\nevery = "7 frames"'
    case = play([build(), *ARGUMENTS], drop('"20..22"'), stranger, others, noise, server=STOCK)
    assert case.met, case.unmet
    assert case.wire["acks-for-another-mac"] > 500
    assert case.retransmissions >= 3


@pytest.mark.parametrize("lost", [5, 40])
def test_the_32_bit_bitmap_leaves_a_hole_that_both_sides_call_a_dump(
    play: Played, build: Callable[..., str], lost: int
) -> None:
    """As ack-alias-hole: 5 is one of 0..13, and 40 one of 32..45."""
    case = play(
        [build("-DACK_BITMAP_32"), *LATE, *ARGUMENTS],
        drop(str(lost)),
        expect='outcome = "silent-hole"',
        server=STOCK,
    )
    assert case.met, case.unmet
    assert [(hole.start, hole.end) for hole in case.holes] == [(lost * 1448, (lost + 1) * 1448)]
    assert case.retransmissions == 0
    assert "never acknowledged by the server; the client moved on" in play.text


@pytest.mark.parametrize(("lost", "server"), [(20, STOCK), (5, "{ rescue = true }")])
def test_the_32_bit_bitmap_is_right_where_nothing_aliases_or_a_server_saves_it(
    play: Played, build: Callable[..., str], lost: int, server: str
) -> None:
    case = play([build("-DACK_BITMAP_32"), *SOON, *ARGUMENTS], drop(str(lost)), server=server)
    assert case.met, case.unmet
    assert case.retransmissions


def test_the_right_bitmap_needs_no_saving(play: Played, build: Callable[..., str]) -> None:
    assert play([build(), *ARGUMENTS], drop("[5, 40, 77]"), server=STOCK).met


def test_the_c_client_gives_up_when_nobody_answers(play: Played, build: Callable[..., str]) -> None:
    case = play(
        [build(), *SOON, *ARGUMENTS], expect='outcome = "failed"', server="{ present = false }"
    )
    assert case.met, case.unmet
    assert "status 1; its last line: netdump: no ack of message type 1, seqno" in case.why


def test_the_c_client_says_what_is_wrong_with_its_command_line(
    build: Callable[..., str], tmp_path: Path
) -> None:
    memory = tmp_path / "memory"
    memory.write_bytes(bytes(4097))
    right = {"--interface": "lo", "--mac": "02:00:00:00:00:01", "--address": "198.18.0.2"}
    right["--server"] = "198.18.0.1"
    for changed, says in (
        ({"--mac": "02:00"}, "--mac 02:00: write it as"),
        ({"--address": "198.18"}, "--address 198.18: not an IPv4 address"),
        ({"--server": "198.18.0.1:0"}, "--server 0: not a number from 1 to 65535"),
        ({"--mtu": "1500x"}, "--mtu 1500x: not a number from 576 to 9000"),
        ({}, "memory is whole pages of 4096 bytes"),
    ):
        words = [word for pair in {**right, **changed}.items() for word in pair]
        done = subprocess.run(
            [build(), *words, str(memory)], capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("netdump: ")
        assert says in done.stderr
        assert done.stderr.count("\n") == 1


def test_the_example_is_built_as_it_says_and_its_scenario_comes_out(tmp_path: Path) -> None:
    compiled(tmp_path)  # or skipped
    example = tmp_path / "c-client"
    shutil.copytree(SOURCE.parent, example, ignore=shutil.ignore_patterns("netdump", "netdump-32"))
    subprocess.run(["make", "--silent", "-C", example], check=True, timeout=120)
    runs = tmp_path / "runs"
    runs.mkdir()
    played = run_scenario(
        load_scenario(example / "c-client.toml"),
        tier="tap",
        why_this_tier="",
        seed=1,
        run_folder=runs,
        progress=Silent(),
    )
    assert [case.outcome for case in played.cases] == [
        *("complete", "silent-hole", "complete", "silent-hole", "complete")
    ]
    for case in played.cases:
        assert case.met, (case.name, case.unmet)
        assert (case.profile, case.mode) == ("command", "")


def test_it_stands_in_for_the_client_of_a_scenario_and_replays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """promisc-panic: of its cases, the one that is about no profile and no driver is played."""
    Path(compiled(tmp_path)).rename(tmp_path / "netdump")
    table = str(shutil.copy(SOURCE.parent / "client.toml", tmp_path))
    runs = tmp_path / "runs"
    words = ["run", "--json", "--quiet", "--runs", str(runs), "--tier", "tap"]
    assert main([*words, "--client", table, "promisc-panic"]) == 0
    found = json.loads(capsys.readouterr().out)
    (case,) = found["cases"]
    assert case["outcome"] == "complete"
    assert case["retransmissions"] >= 3
    assert case["uncounted"] == ["foreign_frames_accepted", "refused"]
    assert "'freebsd-14': it is about the profile freebsd-14" in found["not_played"]
    assert main(["replay", "--quiet", found["run_folder"]]) == 0
    assert "the same outcome" in capsys.readouterr().out


def test_a_story_about_what_a_program_can_not_do_is_not_played_with_one() -> None:
    table = str(SOURCE.parent / "client.toml")
    with pytest.raises(BadInput, match=r"'netdump2': machine.panic_during: the client is a prog"):
        with_parts(load_scenario("lock-held-panic"), {"client": table})


# --- clients that do not do what a client does ----------------------------------------------------


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
    play: Played, build: Callable[..., str]
) -> None:
    """Stopped by its own shell, as it would be by a debugger."""
    script = '"$0" "$@" & sleep 0.05; kill -STOP $!; wait $!'
    client = command("/bin/sh", "-c", script, build(), *ARGUMENTS, seconds=3)
    case = play(client, expect='oracle_broken = "liveness"', memory="64 MiB")
    assert case.met, case.unmet
    assert case.outcome == "hung"
    assert case.oracles["server-safety"] == "held"
    until(lambda: not processes_of(build()), "the end of what the shell had started")


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


# --- the command ----------------------------------------------------------------------------------


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


def test_what_only_our_own_client_counts_is_not_asked_for_and_that_is_said(
    play: Played, build: Callable[..., str]
) -> None:
    wanted = 'outcome = "complete", refused = "destination-mac", foreign_frames_accepted = ">0"'
    case = play([build(), *ARGUMENTS], expect=wanted)
    assert case.met, case.unmet
    assert case.uncounted == ["foreign_frames_accepted", "refused"]
    said = "not counted, and so not asked for: foreign_frames_accepted, refused."
    assert said in play.text


def test_retransmissions_are_counted_by_the_witness(
    play: Played, build: Callable[..., str]
) -> None:
    wanted = 'outcome = "complete", retransmissions = ">0"'
    assert play([build(), *LATE, *ARGUMENTS], expect=wanted).unmet == [
        "expected more than 0 retransmissions, came 0"
    ]


def test_a_program_is_found_from_the_folder_of_the_file_that_names_it(play: Played) -> None:
    program = play.folder / "bin" / "client"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nexit 3\n")
    program.chmod(0o755)
    case = play(["bin/client", "{memory}"], expect='outcome = "failed"')
    assert case.why == "it ended with status 3, silent"


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


# --- the place ------------------------------------------------------------------------------------


@pytest.mark.parametrize("gateway", ["false", "true"])
def test_a_client_with_ordinary_sockets_gets_the_kernels_stack(play: Played, gateway: str) -> None:
    case = play(sockets(), f"network = {{ gateway = {gateway} }}")
    assert case.met, (case.unmet, (play.folder / "client.log").read_text())
    assert case.dump_bytes == 4096
    assert "held against what it sent" in play.text


def test_a_client_without_the_stack_has_no_address(play: Played) -> None:
    script = (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
        "s.connect(('198.18.0.1', 20023))"
    )
    case = play(python(script), expect='outcome = "failed"')
    assert "Network is unreachable" in case.why


def test_a_client_that_dumps_its_own_is_held_to_what_it_promised(play: Played) -> None:
    """Its header says 4096 bytes, and it sends 3072: a server that counts refuses, netdumpd not."""
    case = play(sockets(left_out=1024), expect='outcome = "silent-hole"', server=STOCK)
    assert case.met, case.unmet
    assert [(hole.start, hole.end) for hole in case.holes] == [(3072, 4096)]


def small(play: Played, client: str, expect: str, server: str = "{}") -> CaseResult:
    return play(client, expect=expect, server=server, memory="64 KiB")


@pytest.mark.parametrize("footer", [False, True])
@pytest.mark.parametrize("headers", [0, 512, 4096])
def test_a_client_may_put_headers_before_memory_and_a_footer_behind_it(
    play: Played, headers: int, footer: bool
) -> None:
    client = sockets(dumps="memory", headers=headers, footer=footer)
    case = small(play, client, 'outcome = "complete"')
    assert case.met, case.unmet
    assert case.dump_bytes == headers + (64 << 10)
    assert (f"It put {headers:,} bytes of headers before memory." in case.notes) == bool(headers)


def test_a_byte_of_memory_that_a_client_gets_wrong_is_found_behind_its_headers(
    play: Played,
) -> None:
    """Both sides call it a dump, and the server has kept what it was sent."""
    client = sockets(dumps="memory", headers=4096, flipped=5000)
    case = small(play, client, 'outcome = "silent-hole"')
    assert case.met, case.unmet
    assert case.first_difference is not None
    assert case.first_difference.offset == 5000
    assert case.oracles["ack-means-kept"] == "held"


def test_what_a_client_says_in_its_own_headers_is_its_own_affair(play: Played) -> None:
    client = sockets(dumps="memory", headers=4096, flipped=100)
    assert small(play, client, 'outcome = "complete"').met


def test_a_client_that_leaves_out_the_end_of_memory_has_not_dumped_it(play: Played) -> None:
    client = sockets(dumps="memory", left_out=1024)
    case = small(play, client, 'outcome = "silent-hole"', STOCK)
    assert case.met, case.unmet
    assert [(hole.start, hole.end) for hole in case.holes] == [(63 << 10, 64 << 10)]


@pytest.mark.parametrize("stack", [False, True])
def test_the_kernel_speaks_on_a_clients_interface_only_if_it_is_asked_to(stack: bool) -> None:
    """It is asked where it is, pinged, and told things by datagram and by broadcast."""
    clock, mac = RealClock(), bytes.fromhex(wf.CLIENT_MAC.replace(":", ""))
    asked = Ether(src=wf.SERVER_MAC, dst="ff:ff:ff:ff:ff:ff") / ARP(
        op=1, hwsrc=wf.SERVER_MAC, psrc=wf.SERVER_IP, pdst=wf.CLIENT_IP
    )
    ether, ip = Ether(src=wf.SERVER_MAC, dst=wf.CLIENT_MAC), IP(src=wf.SERVER_IP, dst=wf.CLIENT_IP)
    told = [ether / ip / ICMP(), ether / ip / UDP(dport=20024) / b"ack!"]
    told += [Ether(src=wf.SERVER_MAC) / IP(src=wf.SERVER_IP, dst="255.255.255.255") / UDP()]
    with ExitStack() as closing:
        place = Place(mac, 1500, wf.CLIENT_IP, stack=stack)
        end = open_machine_end(place, clock, closing)
        end.wire.send(Frames.of([bytes(frame) for frame in (asked, *told)]))
        said: list[Any] = []
        for _ in range(50):
            heard = end.wire.receive()
            said += [Ether(heard.bytes_of(row)) for row in range(len(heard))]
            clock.delay_us(10_000)
    assert bool(said) == stack, said
    assert any(ARP in frame and frame[ARP].op == 2 for frame in said) == stack


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
