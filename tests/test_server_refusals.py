"""What the server refuses is told by its name: in the log with the client, in the info file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from netdump.kdh import KernelDumpHeader
from server.cli import NOTABLE
from tests.server_rig import (
    DRAWN,
    HOST,
    KERNEL,
    Rig,
    finished,
    frames,
    herald,
    image_of,
    kdh,
    key,
    vmcore,
)

IMAGE = image_of(65536)
HEADER = KernelDumpHeader(
    dumplength=len(IMAGE), hostname="victim", panicstring="page fault\x1b[2J", architecture="i386"
)
LAST = len(frames(IMAGE, 2)) + 2


class Listener(Rig):
    """A rig that is asked what it has refused."""

    def refusals(self) -> list[dict[str, Any]]:
        return self.told.of_kind("refused")

    def only(self, reason: str) -> Mapping[str, Any]:
        """The one refusal that was told; with it goes the client's address."""
        (fields,) = self.refusals()
        assert (fields["reason"], fields["client"]) == (reason, f"{HOST}:20024")
        return fields

    def falls_silent(self) -> str:
        """The client gives up; the info file's last line."""
        self.now += 600.0
        self.core.tick(self.now)
        return self.info()[-1]


@pytest.fixture
def rig(tmp_path: Path) -> Listener:
    return Listener(tmp_path)


def test_refusals_are_lines_of_the_default_log() -> None:
    assert "refused" in NOTABLE


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("seqno", [KERNEL, DRAWN])
def test_a_header_of_an_older_version_is_read_as_what_it_is_and_refused_by_name(
    rig: Listener, version: int, seqno: int
) -> None:
    session = rig.open(seqno)
    rig.say(session, *frames(IMAGE, seqno + 1))
    header = kdh(seqno + LAST, replace(HEADER, version=version))
    for _ in range(12):
        assert rig.say(session, header) == []
    fields = rig.only("kdh-version")
    assert f"header of version {version} came and was refused: only version 4" in fields["message"]
    assert (fields["version"], fields["length"], fields["hostname"]) == (version, 65536, "victim")
    assert (fields["architecture"], fields["panic"]) == ("i386", "page fault\\x1b[2J")
    running = rig.info()
    assert {f"Header Version: {version}", "Hostname: victim", "Architecture: i386"} < set(running)
    assert running[-1] == f"Refused: {fields['message']}"  # told already while the dump runs
    last = rig.falls_silent()
    assert last.startswith("Dump incomplete: client timed out; a kernel dump header of version")
    assert last.endswith("65536 of 65536 bytes came")
    assert "header is missing" not in last
    assert "--no-rescue" not in last
    assert rig.refusals()[1:] == [{**fields, "left_out": 11}]


def test_an_older_header_that_comes_first_leaves_an_info_file_too(rig: Listener) -> None:
    """The client of 2010 sends its header before all else."""
    session = rig.open(KERNEL)
    assert rig.say(session, kdh(2, replace(HEADER, version=1))) == []
    assert "version 1" in rig.info()[-1]
    assert rig.falls_silent().endswith("; 0 of 65536 bytes came")


@pytest.mark.parametrize(
    ("header", "reason", "words"),
    [
        (replace(HEADER, magic="OtherBSD Dump \x1b]0;"), "kdh-magic", "'OtherBSD Dump \\x1b]0;'"),
        (HEADER.pack()[:-1] + b"!", "kdh-parity", "bad parity"),
        (HEADER.pack() + b"!", "kdh-length", "513 octets, not 512"),
        (HEADER.pack()[:35] + b"\x05" + HEADER.pack()[36:], "kdh-version", "version 5 is not"),
    ],
)
def test_a_header_that_is_not_ours_is_named(
    rig: Listener, header: KernelDumpHeader | bytes, reason: str, words: str
) -> None:
    session = rig.open()
    rig.say(session, *frames(IMAGE, 2))
    assert rig.say(session, kdh(LAST, header)) == []
    message = rig.only(reason)["message"]
    assert words in message
    assert message.isprintable()
    last = rig.falls_silent()
    assert last == f"Dump incomplete: client timed out; {message}; 65536 bytes came"


def test_a_dump_whose_second_header_is_right_is_complete_and_the_first_is_told(
    rig: Listener,
) -> None:
    session = rig.open()
    rig.say(session, *frames(IMAGE, 2))
    rig.say(session, kdh(LAST, HEADER.pack()[:-1] + b"!"), kdh(LAST, HEADER))
    assert rig.say(session, finished(LAST + 1)) == [LAST + 1]
    refused, last = rig.info()[-2:]
    assert "bad parity" in refused
    assert last == "Dump complete"


@pytest.mark.parametrize("seqno", [KERNEL, DRAWN])
def test_frames_that_are_too_long_are_named_with_the_option_that_helps(
    rig: Listener, seqno: int
) -> None:
    session = rig.open(seqno)
    sent = frames(IMAGE, seqno + 1, payload=16058)
    acked = rig.say(session, *sent)
    assert set(acked) <= {seqno + len(sent)}  # the short one at the end of the chunk, if any
    words = "frames longer than --max-datagram came and were refused: 16082 octets came, at most"
    message = rig.only("datagram-too-long")["message"]
    assert message == f"{words} 9216 are taken; raise it"
    last = rig.falls_silent()
    assert last == f"Dump incomplete: client timed out; {message}; 1304 bytes came"


def test_with_stock_acks_frames_are_too_long_for_another_reason(tmp_path: Path) -> None:
    rig = Listener(tmp_path, strict_finish=False)
    rig.say(rig.open(), *frames(IMAGE, 2, payload=8948))
    message = rig.only("datagram-too-long")["message"]
    assert message.endswith("8972 octets came, at most 4120 are taken; so it is with netdumpd")


def test_what_lies_beyond_the_largest_dump_is_named(tmp_path: Path) -> None:
    rig = Listener(tmp_path, max_dump=1 << 20)
    session = rig.open()
    rig.say(session, *frames(IMAGE, 2), vmcore(90, 70 << 30, b"x"))
    message = rig.only("beyond-max-dump")["message"]
    assert message == "data beyond --max-dump, 1048576 bytes, came and were refused; raise it"
    assert rig.falls_silent().endswith(f"timed out; {message}; 65536 bytes came")


def test_a_header_that_promises_too_much_is_named(tmp_path: Path) -> None:
    rig = Listener(tmp_path, max_dump=1 << 20)
    session = rig.open()
    rig.say(session, *frames(IMAGE, 2), kdh(LAST, replace(HEADER, dumplength=1 << 21)))
    assert "promises 2097152 bytes" in rig.only("beyond-max-dump")["message"]
    assert "promises 2097152 bytes" in rig.falls_silent()


def test_a_refused_folder_is_named_and_the_dump_is_taken(rig: Listener) -> None:
    assert rig.dump(rig.open(path="lab/rack7"), IMAGE, HEADER, 2)
    message = rig.only("herald-path")["message"]
    assert "'lab/rack7': No such file or directory" in message
    assert f"Refused: {message}" in rig.info()
    assert rig.info()[-1] == "Dump complete"


def test_a_long_path_is_shortened_in_the_middle(rig: Listener) -> None:
    rig.say(rig.open(path="x/" * 30 + "y" * 900), vmcore(2, 0, b"x"))
    message = rig.only("herald-path")["message"]
    assert len(message) < 300
    assert "'x/x/" in message
    assert "yyy': No such file or directory" in message


@pytest.mark.parametrize(
    ("datagram", "reason"),
    [
        (key(9, 65536, b"k"), "key-too-long"),
        (kdh(9, replace(HEADER, dumplength=9)), "second-header"),
        (b"short", "runt"),
        (vmcore(9, 0, b"abc")[:-1], "length-mismatch"),
        (b"\0\0\0\x63" + vmcore(9, 0, b"abc")[4:], "unknown-type"),
    ],
)
def test_all_else_that_a_dump_is_refused_is_in_its_info_file(
    rig: Listener, datagram: bytes, reason: str
) -> None:
    session = rig.open()
    rig.say(session, kdh(2, HEADER))
    assert rig.say(session, datagram) == []
    message = rig.only(reason)["message"]
    assert rig.info()[-1] == f"Refused: {message}"
    assert f"; {message}; 1 hole" in rig.falls_silent()


def test_rubbish_is_not_the_reason_why_a_header_is_missing(rig: Listener) -> None:
    session = rig.open()
    rig.say(session, *frames(IMAGE, 2), b"rubbish")
    assert rig.falls_silent().endswith("; the dump header is missing, 65536 bytes came")


def test_a_herald_that_finds_no_room_is_named(tmp_path: Path) -> None:
    rig = Listener(tmp_path, max_clients=1)
    rig.say(rig.open(), *frames(IMAGE, 2))
    assert rig.core.herald(("198.18.0.9", 20024), herald(), 0.0) is None
    (fields,) = rig.refusals()
    assert fields["client"] == "198.18.0.9:20024"
    assert fields["reason"] == "too-many-clients"
    assert "running dumps take all of --max-clients, 1" in fields["message"]


def test_a_hostile_client_fills_neither_the_log_nor_the_disk(rig: Listener) -> None:
    session = rig.open()
    for n in range(2000):
        rig.say(session, vmcore(2 + n, 2 * n, b"x"), finished(9000), kdh(3, bytes(512)), b"?")
        rig.core.herald((f"198.18.{n // 250}.{n % 250}", 20024), b"?", rig.now)
    assert len(rig.told.events) < 80
    rig.now = 60.0
    rig.core.tick(rig.now)
    left_out = {f["reason"]: f["left_out"] for f in rig.refusals() if "left_out" in f}
    assert left_out["kdh-magic"] == 1999
    assert rig.core.refused["kdh-magic"] == 2000
    assert len(rig.told.events) < 160


def test_each_client_has_its_own_line(rig: Listener) -> None:
    for n in range(3):
        rig.core.herald((f"198.18.0.{n}", 20024), b"?", 0.0)
        rig.core.herald((f"198.18.0.{n}", 9), b"?", 0.0)
    assert [f["client"] for f in rig.refusals()] == [f"198.18.0.{n}:20024" for n in range(3)]
