"""The judge of a kernel's last words: which of its lines came over the network, and why not."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.clock import VirtualClock
from bench.judge.expect import unmet
from bench.judge.netconsole import NetconsoleWatch, judge, records
from bench.judge.oracles import ORACLES, Ruling
from bench.scenario import Expect
from bench.scenario.values import parse_count
from bench.verdict import CaseResult, LastWords
from bench.wire.faults import Faults, Rule
from bench.wire.memory import MemoryLink
from nic_models.frames import Frames
from tests import wire_frames as wf


def line(number: int, text: str = "") -> str:
    """A record of the kernel's log."""
    return f"[{number // 10:5d}.{number:06d}] {text or f'line {number}'}"


def console(*lines: str) -> str:
    """As a serial line prints them, with what is not the kernel's in between."""
    return "netdump-bench# " + "".join(f"{text}\r\n" for text in lines)


def sent(*lines: str, note: dict[int, str] | None = None) -> list[tuple[str, str]]:
    return [(text + "\n", (note or {}).get(index, "")) for index, text in enumerate(lines)]


LINES = [line(number) for number in range(8)]
HEARD = [text + "\n" for text in LINES]


# --- what is compared -----------------------------------------------------------------------------


def test_only_what_the_kernel_printed_is_its_last_words() -> None:
    text = console(LINES[0], "sh: syntax error", "[ 12] not a record", f"{LINES[1]}   ", "")
    assert records(text) == LINES[:2]
    assert records("[12345.678901] far from boot\n") == ["[12345.678901] far from boot"]
    assert records("") == []


def test_a_record_of_several_lines_in_one_datagram_is_all_of_them() -> None:
    assert records(f"{LINES[0]}\n{LINES[1]}\n") == LINES[:2]


# --- verdicts -------------------------------------------------------------------------------------


def test_on_a_sound_wire_all_arrives_and_nothing_has_to_be_explained() -> None:
    assert judge(console(*LINES), sent(*LINES), HEARD) == LastWords(
        console=8, sent=8, arrived=8, lost=0, unexplained=0, first_unexplained=""
    )


def test_a_line_that_the_wire_broke_is_lost_and_explained() -> None:
    broken = sent(*LINES, note={3: "dropped"})
    words = judge(console(*LINES), broken, HEARD[:3] + HEARD[4:])
    assert (words.arrived, words.lost, words.unexplained) == (7, 1, 0)


def test_a_line_that_vanished_without_a_fault_is_told_by_its_text() -> None:
    words = judge(console(*LINES), sent(*LINES), HEARD[:5] + HEARD[6:])
    assert (words.lost, words.unexplained, words.first_unexplained) == (1, 1, LINES[5])


def test_a_line_that_never_left_the_nic_is_not_explained_either() -> None:
    words = judge(console(*LINES), sent(*LINES[:7]), HEARD[:7])
    assert (words.sent, words.lost, words.unexplained) == (7, 1, 1)
    assert words.first_unexplained == LINES[7]


def test_a_line_that_arrives_twice_counts_once_and_covers_for_no_other() -> None:
    words = judge(console(*LINES), sent(*LINES), [*HEARD[:7], HEARD[0]])
    assert (words.arrived, words.lost, words.first_unexplained) == (7, 1, LINES[7])


def test_of_a_line_that_was_printed_twice_both_have_to_arrive() -> None:
    twice = [LINES[0], LINES[0], LINES[1]]
    words = judge(console(*twice), sent(*twice), [HEARD[0], HEARD[1]])
    assert (words.console, words.arrived, words.lost, words.unexplained) == (3, 2, 1, 1)
    words = judge(console(*twice), sent(*twice, note={1: "dropped"}), [HEARD[0], HEARD[1]])
    assert words.unexplained == 0


def test_a_line_that_arrives_otherwise_than_it_was_printed_is_lost() -> None:
    bent = HEARD[2].replace("line", "lime")
    words = judge(
        console(*LINES), sent(*LINES, note={2: "bit 300 flipped (byte 37)"}), [*HEARD[:2], bent]
    )
    assert words.arrived == 2
    assert words.lost == 6
    assert words.unexplained == 5
    words = judge(console(*LINES[:3]), sent(*LINES[:3]), [*HEARD[:2], bent])
    assert words.first_unexplained == LINES[2]


texts = st.lists(st.integers(0, 5).map(line), max_size=12)


@given(texts, st.lists(st.tuples(st.integers(0, 5).map(line), st.booleans()), max_size=12), texts)
def test_whatever_happens_the_sums_are_right(
    printed: list[str], left: list[tuple[str, bool]], heard: list[str]
) -> None:
    words = judge(
        console(*printed),
        [(text + "\n", "dropped" if broken else "") for text, broken in left],
        [text + "\n" for text in heard],
    )
    assert words.console == len(printed)
    assert words.sent == len(left)
    assert words.arrived + words.lost == words.console
    assert 0 <= words.unexplained <= words.lost
    assert bool(words.unexplained) == bool(words.first_unexplained)
    missing = Counter(printed) - Counter(heard)
    assert words.unexplained >= words.lost - sum(broken for _, broken in left)
    assert all(text in printed for text in missing)
    if not any(broken for _, broken in left):
        assert words.unexplained == words.lost


# --- what is seen on the wire ---------------------------------------------------------------------


def datagram(text: str) -> bytes:
    return wf.datagram(text.encode(), sport=6665, dport=6666)


def test_frames_are_overheard_with_what_the_wire_does_to_them() -> None:
    clock, watch = VirtualClock(), NetconsoleWatch()
    rule = Rule(action="drop", direction="to-server", kind="netconsole", index=(1,))
    link = MemoryLink(clock)
    wire = Faults(link.machine_end, [rule], seed=1, clock=clock, observer=watch.observe)
    wire.send(Frames.of([datagram(HEARD[0]), wf.vmcore(1), datagram(HEARD[1]), wf.arp_request()]))
    wire.send(Frames.of([datagram("x\n")]))  # shorter than Ethernet's shortest: padded by its NIC
    assert [text for text, _ in watch.sent] == [HEARD[0].rstrip("\0"), HEARD[1], "x\n"]
    notes = [note for _, note in watch.sent]
    assert (notes[0], notes[2]) == ("", "")
    assert "drop" in notes[1]


def test_padding_is_no_part_of_a_line_and_a_reply_is_none_of_it() -> None:
    watch = NetconsoleWatch()
    padded = datagram("[    1.000000] x\n").ljust(60, b"\0")
    watch.observe("to-server", Frames.of([padded]), {})
    watch.observe("to-client", Frames.of([padded]), {})
    assert watch.sent == [("[    1.000000] x\n", "")]


# --- what is expected -----------------------------------------------------------------------------

HELD: dict[str, Ruling] = {name: Ruling("held") for name in ORACLES}


def complaints(words: LastWords | None, expected: str | None) -> list[str]:
    lost = None if expected is None else parse_count(expected)
    result = CaseResult("n", "netdump2", "polled", "complete", "complete", False)
    result.outcome, result.netconsole = "complete", words
    return unmet(Expect(outcome="complete", netconsole_lost=lost), result, HELD)


@pytest.mark.parametrize("expected", [None, ">0", "1"])
def test_a_line_that_vanished_without_a_fault_is_never_as_expected(expected: str | None) -> None:
    words = judge(console(*LINES), sent(*LINES), HEARD[:5] + HEARD[6:])
    (complaint,) = complaints(words, expected)
    assert complaint.startswith("1 lines of netconsole did not arrive though the wire broke none")
    assert complaint.endswith(LINES[5])


def test_losses_are_held_against_what_was_expected() -> None:
    whole = judge(console(*LINES), sent(*LINES), HEARD)
    holed = judge(console(*LINES), sent(*LINES, note={0: "dropped"}), HEARD[1:])
    assert complaints(whole, "0") == complaints(holed, ">0") == complaints(holed, None) == []
    assert complaints(whole, ">0") == ["expected more than 0 lines of netconsole lost, came 0"]
    assert complaints(holed, "0") == ["expected 0 lines of netconsole lost, came 1"]
