"""The client in C, right and wrong: played on a real TAP, through the faults, and judged."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from bench.cli import main
from bench.errors import BadInput
from bench.progress import Silent
from bench.put_in import with_parts
from bench.runner import run_scenario
from bench.scenario import load_scenario
from tests.command_rig import ARGUMENTS, SOURCE, STOCK, Played, compiled

pytestmark = pytest.mark.tap

#: Where the wire loses frames: so that no time is spent on waiting for what does not come.
SOON: Final = ("--wait", "10")
#: Where a frame that was sent again would spoil the story: longer than a busy machine needs.
LATE: Final = ("--wait", "60000")


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
