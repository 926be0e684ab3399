"""The verdict: its promised keys for programs, and a text that a newcomer can read."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from bench.judge.oracles import ORACLES, OracleState
from bench.report import print_verdict
from bench.verdict import (
    MAX_LISTED,
    CaseResult,
    Difference,
    Hole,
    PanicContext,
    RunResult,
    to_text,
)

PROMISED_RUN = {
    "scenario",
    "tier",
    "why_this_tier",
    "seed",
    "passed",
    "run_folder",
    "replay",
    "cases",
}
PROMISED_CASE = {
    "profile",
    "mode",
    "outcome",
    "expected",
    "met",
    "oracles",
    "dump_bytes",
    "seconds",
    "frames",
    "retransmissions",
    "refused",
    "first_difference",
}


def oracles(**states: OracleState) -> dict[str, OracleState]:
    held: OracleState = "held"
    named = {key.replace("_", "-"): state for key, state in states.items()}
    return {oracle: named.get(oracle, held) for oracle in ORACLES}


def complete() -> CaseResult:
    return CaseResult(
        name="netdump2",
        profile="netdump2",
        mode="polled",
        outcome="complete",
        expected="complete, 0 foreign frames accepted",
        met=True,
        oracles=oracles(device_truth="not-applicable"),
        dump_bytes=16 << 20,
        seconds=0.25,
        frames=23_180,
        retransmissions=3,
        selective_acks=96,
        refused={"destination-mac": 3862, "ack-late": 1},
        wire={"drop": 3, "acks-for-another-mac": 3862},
        panic_context=PanicContext(128, 5120, 3, 1, 512, 0),
    )


def swallowed() -> CaseResult:
    return CaseResult(
        name="patch-2010",
        profile="patch-2010",
        mode="polled",
        outcome="silent-hole",
        expected="silent-hole",
        met=True,
        oracles=oracles(no_false_success="broken", bytes_equal="broken"),
        oracle_reasons={"no-false-success": "both sides call the dump complete; it is not equal"},
        dump_bytes=16 << 20,
        seconds=6.5,
        frames=23_000,
        foreign_frames_accepted=3862,
        first_difference=Difference(0x7C70, "4a5b" * 8, "00" * 16, 0x8C70),
        holes=[Hole(0x7C70, 0x7C70 + 1448)],
        hole_bytes=1448,
    )


def foreign() -> CaseResult:
    """A client that is a program: nobody sees into it."""
    why = "no guard sees what it does"
    return replace(
        complete(),
        name="their client",
        oracles=oracles(panic_hygiene="not-ruled-on", device_truth="not-ruled-on"),
        oracle_reasons={"panic-hygiene": why, "device-truth": why},
        panic_context=None,
    )


def sweep(met: bool = True) -> list[CaseResult]:
    holes = {*range(14), *range(32, 46)}
    return [
        CaseResult(
            name=f"freebsd-14-lost-frame-{value:03d}",
            group="freebsd-14",
            profile="freebsd-14",
            mode="polled",
            outcome="silent-hole" if value in holes else "complete",
            expected="silent-hole" if value in holes else "complete",
            met=met or value != 3,
            unmet=[] if met or value != 3 else ["expected complete, came silent-hole"],
            sweep_over="lost-frame",
            sweep_value=value,
            dump_bytes=1 << 20,
            seconds=0.1,
            frames=1500,
            oracles=oracles(no_false_success="broken" if value in holes else "held"),
        )
        for value in range(46)
    ]


def result(*cases: CaseResult) -> RunResult:
    return RunResult(
        scenario="promisc-panic",
        tier="tap",
        why_this_tier="",
        seed=1,
        run_folder="runs/promisc-panic-tap-seed1-1",
        replay="netdump-bench replay runs/promisc-panic-tap-seed1-1",
        cases=list(cases),
        title="Panic with the NIC in promiscuous mode",
        why="Review 2010: the client never checks that a frame was meant for its MAC.",
    )


@pytest.fixture(autouse=True)
def _a_terminal_of_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a "dumb" one rich expects no colour, and 80 columns."""
    monkeypatch.setenv("TERM", "xterm")
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)


def printed(run: RunResult, *, terminal: bool = False, width: int = 100) -> str:
    out = io.StringIO()
    print_verdict(run, Console(file=out, width=width, force_terminal=terminal))
    return out.getvalue()


def flat(text: str) -> str:
    return " ".join(text.split())


def test_the_json_has_the_promised_keys_and_every_oracle() -> None:
    document = json.loads(to_text(result(complete(), swallowed()).as_json()))
    assert set(document) >= PROMISED_RUN
    for case in document["cases"]:
        assert set(case) >= PROMISED_CASE
        assert list(case["oracles"]) == list(ORACLES)
    assert document["cases"][0]["first_difference"] is None
    assert document["cases"][1]["first_difference"]["offset"] == 0x7C70
    assert document["cases"][0]["refused"] == {"ack-late": 1, "destination-mac": 3862}


def test_a_run_passes_when_every_case_met_its_expectation_and_there_was_one() -> None:
    assert result(complete()).passed
    assert not result(complete(), replace(swallowed(), met=False)).passed
    assert not result().passed


def test_a_thousand_holes_do_not_fill_the_document() -> None:
    case = replace(swallowed(), holes=[Hole(i, i + 1) for i in range(1000)])
    assert len(case.as_json()["holes"]) == MAX_LISTED


def test_a_newcomer_reads_what_happened_and_why() -> None:
    text = flat(printed(result(complete(), swallowed())))
    for said in (
        "promisc-panic: PASSED, on tier tap, seed 1",
        "Panic with the NIC in promiscuous mode.",
        "netdump2, polled: complete, as expected",
        "The stored dump equals memory at the panic, byte for byte.",
        "16 MiB in 0.25 s (67.1 MB/s), 23,180 frames on the wire, 3 of them sent again, 96"
        " selective acks back.",
        "3 lost",
        "3,862 destination-mac (addressed to another MAC), 1 ack-late",
        "at most 128 of 5,120 pool buffers in use; 512 polls; 0 interrupts; locks bypassed 3 times,"
        " 1 of them held by a stopped CPU.",
        "patch-2010, polled: silent hole, as expected",
        "The client reports success, yet what is stored is not what memory held.",
        "3,862 frames addressed to another MAC: the client believed them.",
        "1 hole of 1,448 bytes, at 0x7c70..0x8218.",
        "first at offset 0x7c70 (physical address 0x8c70): memory held 4a 5b 4a 5b 4a 5b 4a 5b,"
        " the dump has 00 00 00 00 00 00 00 00.",
        "no-false-success: both sides call the dump complete",
        "broken: bytes-equal (patch-2010), no-false-success (patch-2010)",
        "runs/promisc-panic-tap-seed1-1",
        "netdump-bench replay runs/promisc-panic-tap-seed1-1",
    ):
        assert said in text


def test_what_nobody_saw_is_told_with_its_reason_and_is_never_among_what_held() -> None:
    text = flat(printed(result(foreign())))
    assert "unruled not ruled on: panic-hygiene, device-truth: no guard sees what it does" in text
    assert "pool buffers" not in text
    held = text.partition("oracles held: ")[2]
    assert held.startswith("bytes-equal, no-false-success, no-false-failure, ack-means-kept,")
    assert "panic-hygiene" not in held.partition(";")[0]
    assert "; not ruled on: panic-hygiene, device-truth." in text
    document = foreign().as_json()
    assert document["oracles"]["panic-hygiene"] == "not-ruled-on"
    assert document["panic_context"] is None


def test_what_one_case_held_and_nobody_saw_in_another_is_told_as_both() -> None:
    text = flat(printed(result(complete(), foreign())))
    held, _, unruled = text.partition("oracles held: ")[2].partition("; not ruled on: ")
    assert "panic-hygiene" in held
    assert unruled.startswith("panic-hygiene (their client), device-truth (their client).")


def test_a_sweep_is_told_as_one_case() -> None:
    text = flat(printed(result(*sweep())))
    assert "freebsd-14, polled: 46 runs, one for each lost frame, all as expected" in text
    assert "28 silent holes at 0..13, 32..45." in text
    assert "18 complete at 14..31." in text
    assert text.count("freebsd-14, polled") == 1


def test_what_is_missing_is_told_first() -> None:
    text = flat(printed(result(*sweep(met=False))))
    assert "NOT AS EXPECTED" in text
    assert "1 NOT as expected" in text
    assert "at 3: expected complete, came silent-hole" in text


def test_why_it_is_not_the_first_choice_of_tiers_is_said_at_once() -> None:
    run = replace(result(complete()), tier="sim", why_this_tier="not tap: no /dev/net/tun")
    lines = printed(run).splitlines()
    assert "on tier sim" in lines[0]
    assert "not tap: no /dev/net/tun" in lines[1]
    assert "virtual seconds" in printed(run)


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_no_line_is_wider_than_a_hundred_columns_nor_than_the_terminal(width: int) -> None:
    run = result(complete(), swallowed(), *sweep(met=False))
    plain = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    print_verdict(run, plain)
    assert isinstance(plain.file, io.StringIO)
    for line in plain.file.getvalue().splitlines():
        if "runs/" not in line:
            assert len(line) <= min(width, 100)


def test_there_is_colour_on_a_terminal_and_none_in_a_file() -> None:
    assert "\x1b[" in printed(result(complete()), terminal=True)
    assert "\x1b" not in printed(result(complete()))


def test_brackets_in_a_reason_are_not_taken_for_markup() -> None:
    case = replace(swallowed(), why="[bold]disk[/bold] full")
    assert "[bold]disk[/bold] full" in printed(result(case))
