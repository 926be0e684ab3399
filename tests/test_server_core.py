"""The dump server's stories, without sockets: what comes in, what is acked, what is on the disk."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from netdump.kdh import COMPRESSION_GZIP, COMPRESSION_ZSTD, KernelDumpHeader
from netdump.messages import Message, MessageType
from netdump.sack import Sack, Scoreboard
from server.core import ServerCore
from server.session import State
from tests.server_rig import (
    CLIENT,
    DRAWN,
    HOST,
    KERNEL,
    USERLAND,
    Disk,
    NoDisk,
    Rig,
    block,
    finished,
    frames,
    herald,
    image_of,
    kdh,
    key,
    seqnos,
    vmcore,
)

IMAGE = image_of(3 * 65536 + 4096 * 3)
HEADER = KernelDumpHeader(dumplength=len(IMAGE), panicstring="page fault", hostname="lab1")
PARTIAL = f"vmcore.{HOST}.0.partial"
FINAL = f"vmcore.{HOST}.0"


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


# -- the good story ------------------------------------------------------------------------------


@pytest.mark.parametrize("seqno", [KERNEL, USERLAND, DRAWN])
def test_a_dump_arrives_whole_and_gets_its_final_name(rig: Rig, seqno: int) -> None:
    session = rig.open(seqno)
    assert rig.files() == []  # a HERALD alone, which anybody can forge, creates nothing
    assert rig.dump(session, IMAGE, HEADER, seqno + 1)
    assert rig.files() == [
        f"bounds.{HOST}",
        f"info.{HOST}.0",
        f"info.{HOST}.last",
        FINAL,
        f"vmcore.{HOST}.last",
    ]
    assert rig.read(FINAL) == IMAGE
    assert rig.read(f"vmcore.{HOST}.last") == IMAGE
    assert rig.read(f"bounds.{HOST}") == b"1\n"
    assert rig.core.sessions[session].state is State.COMPLETE
    for name in (FINAL, f"info.{HOST}.0", f"bounds.{HOST}"):
        assert stat.S_IMODE(os.stat(rig.folder / name).st_mode) == 0o600


def test_the_info_file_says_what_the_dump_is(rig: Rig) -> None:
    assert rig.dump(rig.open(), IMAGE, HEADER, DRAWN + 1)
    info = rig.info()
    assert info[0] == f"Dump from {HOST} [{HOST}]"
    assert info[-1] == "Dump complete"
    for line in (
        "Architecture: amd64",
        "Architecture Version: 2",
        f"Dump Length: {len(IMAGE)}B (0 MB)",
        "Blocksize: 4096",
        "Compression: none",
        "Dumptime: Thu Jan  1 00:00:00 1970 UTC",
        "Hostname: lab1",
        "Panic String: page fault",
        "Header Parity Check: Pass",
    ):
        assert line in info


def test_while_it_runs_a_dump_is_called_partial(rig: Rig) -> None:
    session = rig.open()
    rig.say(session, *frames(IMAGE, DRAWN + 1)[:100])
    assert rig.files() == [f"bounds.{HOST}", f"info.{HOST}.0", PARTIAL]
    assert rig.info() == [f"Dump from {HOST} [{HOST}]"]


def test_the_second_dump_of_a_host_gets_the_next_number(rig: Rig) -> None:
    for number in range(3):
        assert rig.dump(rig.open(KERNEL), IMAGE, HEADER)
        assert rig.read(f"vmcore.{HOST}.{number}") == IMAGE
        assert os.readlink(rig.folder / f"vmcore.{HOST}.last") == f"vmcore.{HOST}.{number}"


def test_without_a_bounds_file_the_first_free_number_is_taken(rig: Rig) -> None:
    assert rig.dump(rig.open(KERNEL), IMAGE, HEADER)
    (rig.folder / f"bounds.{HOST}").write_text("rubbish")
    (rig.folder / f"vmcore.{HOST}.1.gz").touch()  # somebody tidied its info file away
    assert rig.dump(rig.open(KERNEL), IMAGE, HEADER)
    assert rig.read(f"vmcore.{HOST}.2") == IMAGE


def test_frames_in_any_order_make_the_same_dump(rig: Rig) -> None:
    session = rig.open()
    parts = frames(IMAGE, DRAWN + 1)
    assert rig.say(session, kdh(9, HEADER)) == [9]
    shuffled = parts[::-3] + parts[1::3] + parts[::2] + parts
    assert rig.say(session, *shuffled) == seqnos(shuffled)
    assert rig.say(session, finished(10)) == [10]
    assert rig.read(FINAL) == IMAGE


@pytest.mark.parametrize(
    ("compression", "suffix"), [(COMPRESSION_GZIP, ".gz"), (COMPRESSION_ZSTD, ".zst")]
)
def test_a_compressed_dump_is_cut_to_its_length_and_named(
    rig: Rig, compression: int, suffix: str
) -> None:
    padded = image_of(70000) + bytes(73728 - 70000)
    header = KernelDumpHeader(dumplength=70000, compression=compression)
    assert rig.dump(rig.open(), padded, header, DRAWN + 1)
    assert rig.read(FINAL + suffix) == padded[:70000]


def test_an_encrypted_dump_needs_its_key(rig: Rig) -> None:
    session = rig.open()
    block = image_of(4096, 2)
    header = KernelDumpHeader(dumplength=len(IMAGE), dumpkeysize=4096, compression=COMPRESSION_ZSTD)
    assert rig.say(session, key(5, 0, block[:1448]), key(7, 2896, block[2896:])) == [5, 7]
    assert not rig.dump(session, IMAGE, header, 8)
    assert rig.info()[-1].endswith("4096 bytes of key are due, 2648 came")
    assert rig.say(session, key(6, 1448, block[1448:2896]), finished(99)) == [6, 99]
    assert rig.read(f"key.{HOST}.0") == block
    assert stat.S_IMODE(os.stat(rig.folder / f"key.{HOST}.0").st_mode) == 0o400
    assert rig.read(f"vmcore_encrypted.{HOST}.0.zst") == IMAGE


def test_the_2010_client_sends_header_first_and_footer_last(rig: Rig) -> None:
    session = rig.open(KERNEL)
    assert rig.say(session, kdh(2, HEADER)) == [2]
    parts = frames(IMAGE, 3)
    rig.say_in_batches(session, parts, 46)
    footer = vmcore(3 + len(parts), len(IMAGE), HEADER.pack())
    assert rig.say(session, footer) == [3 + len(parts)]
    assert rig.say(session, finished(4 + len(parts))) == [4 + len(parts)]
    assert rig.read(FINAL) == IMAGE
    assert rig.info()[-2:] == ["Footer Check: Pass", "Dump complete"]
    # A late copy of the footer is still known, though it was cut off.
    assert rig.say(session, footer) == [3 + len(parts)]


# -- what is not complete is not called so --------------------------------------------------------


def test_a_footer_that_disagrees_keeps_the_dump_partial(rig: Rig) -> None:
    session = rig.open()
    other = KernelDumpHeader(dumplength=len(IMAGE), panicstring="another panic")
    assert not rig.dump(session, IMAGE + other.pack(), HEADER, DRAWN + 1)
    assert f"the footer @ offset {len(IMAGE)} disagrees with the header" in rig.info()[-1]
    assert PARTIAL in rig.files()


def test_a_hole_is_named_and_finished_gets_no_ack_until_it_is_filled(rig: Rig) -> None:
    session = rig.open()
    parts = frames(IMAGE, 2)
    rig.say(session, *parts[:5], *parts[6:40], *parts[41:], kdh(900, HEADER))
    assert rig.say(session, finished(901)) == []
    assert rig.info()[-1] == (
        "Dump incomplete: client finished; 2 holes, 2896 bytes: 0x1c48-0x21f0, 0xe240-0xe7e8"
    )
    assert rig.core.refused["finished-incomplete"] == 1
    assert rig.say(session, parts[5], parts[40]) == [7, 42]
    assert rig.say(session, finished(901)) == [901]
    assert rig.read(FINAL) == IMAGE
    assert rig.info()[-1] == "Dump complete"
    assert sum("Dump" in line and "complete" in line for line in rig.info()) == 1


@pytest.mark.parametrize("difference", [-4096, 4096, 511, 513])
def test_a_dump_must_be_as_long_as_its_header_says(rig: Rig, difference: int) -> None:
    header = KernelDumpHeader(dumplength=len(IMAGE) - difference)
    assert not rig.dump(rig.open(), IMAGE, header, DRAWN + 1)
    expected = "hole" if difference < 0 else f"data reaches to {len(IMAGE)}"
    assert expected in rig.info()[-1]
    assert PARTIAL in rig.files()


def test_finished_right_after_the_herald_is_not_acknowledged(rig: Rig) -> None:
    session = rig.open(KERNEL)
    assert rig.say(session, finished(2)) == []
    assert rig.files() == []
    assert rig.core.refused["finished-without-dump"] == 1


def test_finished_without_a_header_is_not_acknowledged(rig: Rig) -> None:
    session = rig.open()
    rig.say(session, *frames(IMAGE, 2))
    assert rig.say(session, finished(901)) == []
    assert "the dump header is missing" in rig.info()[-1]


def test_stock_acks_show_the_historic_defect(tmp_path: Path) -> None:
    rig = Rig(tmp_path, strict_finish=False)
    session = rig.open()
    rig.say(session, frames(IMAGE, 2)[0], frames(IMAGE, 2)[9])
    assert rig.say(session, finished(3)) == [3]
    assert rig.info()[-1] == "Dump complete"  # it is not
    assert FINAL in rig.files()
    empty = rig.open(KERNEL)
    assert rig.say(empty, finished(2)) == [2]
    assert rig.info(1)[-1] == "Dump complete"


def test_a_damaged_header_is_not_acknowledged_so_that_it_comes_again(rig: Rig) -> None:
    session = rig.open()
    damaged = bytearray(HEADER.pack())
    damaged[200] ^= 1
    assert rig.say(session, kdh(5, bytes(damaged)), kdh(5, HEADER.pack()[:511])) == []
    assert rig.core.refused["kdh-parity"] == 1
    assert rig.core.refused["kdh-length"] == 1
    assert rig.files() == []  # nor does it prove a session
    assert rig.dump(session, IMAGE, HEADER, 6)


def test_a_dump_that_lacks_only_its_finished_is_complete(rig: Rig) -> None:
    session = rig.open()
    rig.say(session, *frames(IMAGE, 2), kdh(900, HEADER))
    rig.now = 600.0
    assert rig.core.tick(rig.now) == []
    assert rig.info()[-2:] == ["No FINISHED came: client timed out", "Dump complete"]
    assert rig.read(FINAL) == IMAGE


# -- repetition changes nothing --------------------------------------------------------------------


def test_everything_twice_changes_nothing_also_after_the_end(rig: Rig) -> None:
    session = rig.open()
    parts = [*frames(IMAGE, 2), kdh(900, HEADER)]
    assert rig.say(session, *parts, *parts) == seqnos(parts) * 2
    assert rig.say(session, finished(901), finished(901)) == [901, 901]
    before = rig.files(), rig.info()
    everything = [*parts, finished(901)]
    assert rig.say(session, *everything) == seqnos(everything)
    assert (rig.files(), rig.info()) == before
    assert rig.read(FINAL) == IMAGE


def test_of_two_copies_with_different_bytes_the_last_is_kept(rig: Rig) -> None:
    session = rig.open()
    rig.say(session, *frames(IMAGE, 2), kdh(900, HEADER))
    assert rig.say(session, vmcore(2, 0, b"!" * 1448)) == [2]
    assert "rewritten" in rig.events
    assert rig.core.sessions[session].vmcore.rewritten == 1
    assert rig.say(session, finished(901)) == [901]
    assert rig.read(FINAL) == b"!" * 1448 + IMAGE[1448:]


def test_after_the_end_a_copy_with_different_bytes_gets_silence(rig: Rig) -> None:
    session = rig.open()
    parts = frames(IMAGE, 2)
    assert rig.dump(session, IMAGE, HEADER, 2)
    other = vmcore(4, 2896, b"!" * 1448)
    copies = [*parts[:2], other, *parts[3:9]]
    assert rig.say(session, *copies) == [2, 3, *range(5, 11)]
    assert rig.core.refused["after-the-end"] == 1
    assert rig.read(FINAL) == IMAGE
    beyond = [vmcore(5, offset, b"x" * 9) for offset in (len(IMAGE) - 8, 1 << 63, (1 << 64) - 9)]
    assert rig.say(session, *beyond) == []


def test_a_second_different_header_is_refused(rig: Rig) -> None:
    session = rig.open()
    assert rig.say(session, kdh(2, HEADER), kdh(3, KernelDumpHeader(dumplength=1))) == [2]
    assert rig.core.refused["second-header"] == 1


def test_a_repeated_herald_before_data_is_the_same_session(rig: Rig) -> None:
    session = rig.open(KERNEL)
    for _ in range(50):
        reply = rig.core.herald(CLIENT, herald(), rig.now)
        assert reply is not None
        assert (reply.session_id, reply.fresh) == (session, False)
    assert len(rig.core.sessions) == 1


def test_a_drawn_herald_repeated_in_mid_dump_is_the_same_session(rig: Rig) -> None:
    session = rig.open()
    rig.say(session, *frames(IMAGE, 2))
    assert rig.open() == session


def test_a_herald_in_mid_dump_disturbs_nothing_until_data_follows_it(rig: Rig) -> None:
    session = rig.open(KERNEL)
    parts = frames(IMAGE, 2)
    rig.say_in_batches(session, parts[:92], 46)
    offer = rig.open(KERNEL)
    assert offer != session
    rig.say_in_batches(session, parts[92:], 46)
    assert rig.say(session, kdh(900, HEADER)) == [900]
    assert rig.say(session, finished(901)) == [901]
    assert rig.read(FINAL) == IMAGE
    rig.now = 600.0
    assert offer in rig.core.tick(rig.now)
    assert rig.files() == sorted(
        [f"bounds.{HOST}", f"info.{HOST}.0", f"info.{HOST}.last", FINAL, f"vmcore.{HOST}.last"]
    )


def test_a_machine_that_boots_and_dies_again_ends_its_first_dump(rig: Rig) -> None:
    first = rig.open(KERNEL)
    rig.say_in_batches(first, frames(IMAGE, 2)[:92], 46)
    second = rig.open(KERNEL)
    assert rig.dump(second, IMAGE, HEADER)
    assert rig.core.sessions[first].state is State.INCOMPLETE
    assert rig.info(0)[-1].startswith("Dump incomplete: client started again; the dump header")
    assert PARTIAL in rig.files()
    assert rig.read(f"vmcore.{HOST}.1") == IMAGE


def test_heralds_of_one_address_are_bounded(rig: Rig) -> None:
    for seqno in range(100, 200):
        rig.open(seqno)
    assert [session.seqno for session in rig.core.sessions.values()] == [196, 197, 198, 199]
    assert len(rig.core.tick(rig.now)) == 96
    assert not rig.core.refused
    assert "incomplete" not in rig.events  # a forger fills no log


# -- bounds ----------------------------------------------------------------------------------------


def test_sessions_are_bounded_and_running_dumps_are_never_evicted(tmp_path: Path) -> None:
    rig = Rig(tmp_path, max_clients=3)
    running = rig.open()
    rig.say(running, *frames(IMAGE, 2))
    others = [rig.open(DRAWN, (f"198.18.0.{last}", 20024)) for last in (3, 4)]
    third = rig.open(DRAWN, ("198.18.0.5", 20024))
    assert rig.core.tick(rig.now) == others[:1]
    assert set(rig.core.sessions) == {running, others[1], third}
    for session in (others[1], third):
        rig.say(session, frames(IMAGE, 2)[0])
    assert rig.core.herald(("198.18.0.6", 20024), herald(), rig.now) is None
    assert rig.core.refused["too-many-clients"] == 1


@pytest.mark.parametrize("offset", [1 << 20, (1 << 20) - 1447, 1 << 42, 1 << 63, (1 << 64) - 1448])
def test_nothing_beyond_the_largest_dump_is_taken(tmp_path: Path, offset: int) -> None:
    rig = Rig(tmp_path, max_dump=1 << 20)
    session = rig.open()
    assert rig.say(session, vmcore(2, offset, bytes(1448))) == []
    assert rig.files() == []
    fits = vmcore(4, (1 << 20) - 1448, bytes(1448))
    assert rig.say(session, vmcore(3, offset, bytes(1448)), fits) == [4]
    assert rig.core.refused["beyond-max-dump"] == 2
    assert rig.say(session, kdh(5, KernelDumpHeader(dumplength=(1 << 20) + 1))) == []
    assert rig.events.count("refused") == 1  # the operator is told once


def test_a_dump_in_crumbs_is_refused_beyond_a_bound(tmp_path: Path) -> None:
    rig = Rig(tmp_path, max_intervals=10)
    session = rig.open()
    crumbs = [vmcore(2 + n, n * 1000, b"x") for n in range(20)]
    assert rig.say(session, *crumbs) == list(range(2, 12))
    assert rig.core.refused["too-fragmented"] == 10
    assert rig.say(session, vmcore(90, 1, b"y" * 999)) == [90]  # closes a gap: always welcome


def test_keys_are_bounded(rig: Rig) -> None:
    session = rig.open()
    assert rig.say(session, key(2, (1 << 64) - 1, b"k"), key(3, 65536, b"k")) == []
    assert rig.core.refused["key-too-long"] == 2


@pytest.mark.parametrize(
    ("datagram", "reason"),
    [
        (b"", "runt"),
        (b"\0" * 23, "runt"),
        (herald() + b"x", "length-mismatch"),
        (b"\0\0\0\x09" + herald()[4:], "unknown-type"),
        (finished(1), "not-a-herald"),
    ],
)
def test_what_is_no_herald_gets_silence(rig: Rig, datagram: bytes, reason: str) -> None:
    assert rig.core.herald(CLIENT, datagram, 0.0) is None
    assert rig.core.refused == {reason: 1}


def test_rubbish_among_good_frames_costs_only_itself(rig: Rig) -> None:
    session = rig.open()
    parts = frames(IMAGE[:4096], 2)
    batch = [parts[0], b"", parts[1][:-1], herald(9), parts[1], b"\xff" * 9300, parts[2]]
    assert rig.say(session, *batch) == [2, 3, 4]
    assert rig.core.refused == {
        "runt": 1,
        "length-mismatch": 1,
        "datagram-too-long": 1,
        "unexpected-in-receiving": 1,
    }


def test_an_unknown_session_gets_nothing(rig: Rig) -> None:
    assert rig.say(77, finished(1)) == []


# -- folders ---------------------------------------------------------------------------------------


def test_a_client_may_ask_for_a_folder_that_exists(rig: Rig) -> None:
    (rig.folder / "lab" / "one").mkdir(parents=True)
    session = rig.open(path="lab/./one/")
    assert rig.dump(session, IMAGE, HEADER, 2)
    assert FINAL in rig.files("lab/one")


@pytest.mark.parametrize("path", ["missing", "file", "link", "up/../..", "/etc", "a/" * 65, "x\n"])
def test_any_other_folder_is_replaced_by_the_dump_folder(rig: Rig, path: str) -> None:
    (rig.folder / "file").touch()
    (rig.folder / "link").symlink_to("/tmp")
    assert rig.dump(rig.open(path=path), IMAGE, HEADER, 2)
    assert rig.read(FINAL) == IMAGE
    assert rig.core.refused["herald-path"] == 1
    assert rig.events.count("refused") == 1
    assert any(line.startswith("Refused: the folder that") for line in rig.info())


def test_a_herald_path_without_its_nul_is_ignored(rig: Rig) -> None:
    datagram = Message(MessageType.HERALD, 1, 0, b"lab").pack()
    assert rig.core.herald(CLIENT, datagram, 0.0) is not None


def test_without_a_folder_there_is_no_ack(rig: Rig) -> None:
    core = ServerCore(rig.core.config, NoDisk())
    assert core.herald(CLIENT, herald(path="lab"), 0.0) is None
    assert core.refused["store"] == 1


def test_symbolic_links_in_the_way_are_not_followed(rig: Rig, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in (f"info.{HOST}.0", f"vmcore.{HOST}.1.partial", f"bounds.{HOST}"):
        (rig.folder / name).symlink_to(outside / name)
    assert rig.dump(rig.open(), IMAGE, HEADER, 2)
    assert rig.read(f"vmcore.{HOST}.2") == IMAGE
    assert list(outside.iterdir()) == []


def test_a_strange_host_name_stays_in_the_folder(rig: Rig) -> None:
    session = rig.open(client=("../../x\0y", 20024))
    assert rig.dump(session, IMAGE, HEADER, 2)
    assert "vmcore..._.._x_y.0" in rig.files()


def test_strings_from_the_wire_are_escaped(rig: Rig) -> None:
    header = KernelDumpHeader(
        dumplength=len(IMAGE), panicstring="a\x1b[2Jb\nDump complete", versionstring="v1\n"
    )
    rig.say(rig.open(), kdh(2, header))
    info = rig.info()
    assert "Panic String: a\\x1b[2Jb\\nDump complete" in info
    assert "Version String: v1" in info
    assert "Dump complete" not in info


# -- disks -----------------------------------------------------------------------------------------


def test_a_full_disk_ends_the_dump_and_nothing_lost_was_acknowledged(tmp_path: Path) -> None:
    disk = Disk(tmp_path, room=100_000)
    rig = Rig(tmp_path, disk)
    session = rig.open()
    acks = rig.say_in_batches(session, frames(IMAGE, 0), 10)
    stored = rig.read(PARTIAL)
    assert len(acks) == 60  # six batches and no part of the seventh
    assert stored[: acks[-1] * 1448] == IMAGE[: acks[-1] * 1448]
    assert rig.info()[-1] == (
        "Dump unsuccessful: write error @ offset 100000: No space left on device"
    )
    assert rig.core.sessions[session].state is State.FAILED
    assert rig.say(session, kdh(900, HEADER), finished(901)) == []
    # The disk is cleared, the machine dies again: a new dump may begin.
    disk.room = 1 << 30
    assert rig.dump(rig.open(KERNEL), IMAGE, HEADER)


def test_short_writes_are_continued(tmp_path: Path) -> None:
    rig = Rig(tmp_path, Disk(tmp_path, bite=1000))
    assert rig.dump(rig.open(), IMAGE, HEADER, 2)
    assert rig.read(FINAL) == IMAGE


def test_a_disk_that_takes_nothing_is_an_error_and_no_endless_loop(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    rig = Rig(tmp_path, disk)
    session = rig.open()
    rig.say(session, kdh(2, HEADER))
    disk.bite = 0
    assert rig.say(session, *frames(IMAGE, 3)) == []
    assert rig.core.sessions[session].outcome.endswith("@ offset 0: Input/output error")


def test_a_disk_that_fails_from_the_start_refuses_the_data(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    rig = Rig(tmp_path, disk)
    session = rig.open()
    disk.fails = errno.EIO
    assert rig.say(session, *frames(IMAGE, 3)) == []
    assert rig.core.sessions[session].state is State.FAILED


def test_an_eio_at_the_key_ends_the_dump(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    rig = Rig(tmp_path, disk)
    session = rig.open()
    rig.say(session, *frames(IMAGE, 3))
    disk.fails = errno.EIO
    assert rig.say(session, key(2, 0, b"k")) == []
    assert "can't write the key file" in rig.core.sessions[session].outcome


# -- time ------------------------------------------------------------------------------------------


def test_a_silent_client_is_given_up_and_its_session_lingers_then_goes(rig: Rig) -> None:
    session = rig.open()
    rig.say(session, *frames(IMAGE, 2)[:10])
    rig.now = 599.0
    assert rig.core.tick(rig.now) == []
    rig.now = 600.0
    assert rig.core.tick(rig.now) == []
    assert rig.info()[-1].startswith(
        "Dump incomplete: client timed out; the dump header is missing"
    )
    assert rig.say(session, *frames(IMAGE, 2)[:1]) == []
    rig.now = 700.0
    assert rig.core.tick(rig.now) == [session]
    assert not rig.core.sessions


def test_a_complete_session_answers_late_copies_for_the_hold_time(rig: Rig) -> None:
    session = rig.open()
    assert rig.dump(session, IMAGE, HEADER, 2)
    rig.now = 59.0
    assert rig.core.tick(rig.now) == []
    assert rig.say(session, finished(12)) == [12]
    rig.now = 118.0
    assert rig.core.tick(rig.now) == []
    rig.now = 119.0
    assert rig.core.tick(rig.now) == [session]


def test_a_stopping_server_finishes_its_info_files(rig: Rig) -> None:
    session = rig.open()
    rig.say(session, *frames(IMAGE, 2)[:10])
    rig.open(KERNEL)
    rig.core.stop()
    assert rig.info()[-1].startswith("Dump incomplete: server stopped")


# -- the rescue, end to end ------------------------------------------------------------------------


# --- selective acks -------------------------------------------------------------------------------

OFFER = 0x4E443201


def offered(rig: Rig, seqno: int = DRAWN, offer: int = OFFER) -> tuple[int, bytes]:
    reply = rig.core.herald(CLIENT, herald(seqno, offer=offer), rig.now)
    assert reply is not None
    return reply.session_id, reply.ack


def told(rig: Rig, session: int, *datagrams: bytes) -> list[list[int]]:
    """The acks of one batch as words, read by hand."""
    acks = rig.core.receive(session, *block(datagrams), rig.now)
    return [np.frombuffer(row.tobytes(), ">u4").tolist() for row in acks]


def test_a_client_that_offers_it_gets_one_ack_for_a_batch(rig: Rig) -> None:
    session, ack = offered(rig, seqno=100)
    assert ack.hex(" ", 4) == "4e443201 00000065"
    image = image_of(10 * 1448)
    parts = frames(image, 101)
    assert told(rig, session, *parts[:4]) == [[OFFER, 105]]
    assert told(rig, session, *parts[6:8], parts[9]) == [[OFFER, 105, 107, 109, 110, 111]]
    assert told(rig, session, parts[5], parts[6]) == [[OFFER, 105, 106, 109, 110, 111]]
    assert told(rig, session, finished(112)) == [], "there are holes: silence"
    assert told(rig, session, parts[4], parts[8]) == [[OFFER, 111]]
    assert told(rig, session, kdh(111, KernelDumpHeader(dumplength=len(image)))) == [[OFFER, 112]]
    assert told(rig, session, finished(112)) == [[OFFER, 113]]
    assert rig.read("vmcore.198.18.0.2.0") == image
    assert told(rig, session, finished(112)) == [[OFFER, 113]], "late copies too"


def test_a_boot_that_begins_anew_hears_of_its_new_dump_only(rig: Rig) -> None:
    """What the old session would say of messages, the client has not sent (again) yet."""
    first, ack = offered(rig, seqno=100)
    assert offered(rig, seqno=100) == (first, ack), "before data it is the same"
    image = image_of(5 * 1448)
    told(rig, first, *frames(image, 101))
    second, again = offered(rig, seqno=100)
    assert second != first
    assert again == ack == bytes.fromhex("4e443201 00000065")
    assert told(rig, second, *frames(image, 101)) == [[OFFER, 106]]
    assert rig.info()[-1].startswith("Dump incomplete: client started again")


def test_a_stray_frame_far_ahead_is_kept_and_stops_nobody(rig: Rig) -> None:
    """The client has not sent it, and believes the rest."""
    session, _ = offered(rig, seqno=100)
    board = Scoreboard(100)
    parts = frames(image_of(20 * 1448), 101)
    board.sent(list(range(100, 111)))
    told(rig, session, vmcore(300, 40 * 1448, b"stray"))
    (words,) = told(rig, session, *parts[:10])
    assert words == [OFFER, 111, 300, 301]
    assert board.read(Sack(words[1], ((300, 301),))).tolist() == list(range(100, 111))


def test_what_is_not_kept_is_not_in_a_selective_ack(tmp_path: Path) -> None:
    disk = Disk(tmp_path, room=3 * 1448)
    rig = Rig(tmp_path, disk)
    session, _ = offered(rig, seqno=100)
    parts = frames(image_of(10 * 1448), 101)
    assert told(rig, session, *parts[:2]) == [[OFFER, 103]]
    assert told(rig, session, *parts[2:]) in ([], [[OFFER, 104]])


@pytest.mark.parametrize("offer", [0, 1, OFFER ^ 1, OFFER - 1, 0x2515F095])
def test_any_other_word_in_a_herald_means_stock_acks(rig: Rig, offer: int) -> None:
    session, ack = offered(rig, seqno=7777, offer=offer)
    assert ack == (7777).to_bytes(4, "big")
    assert rig.say(session, vmcore(7778, 0, b"x" * 10), vmcore(7779, 10, b"y")) == [7778, 7779]


def test_a_server_with_stock_acks_does_not_read_the_offer(tmp_path: Path) -> None:
    _, ack = offered(Rig(tmp_path, strict_finish=False), seqno=7777)
    assert ack == (7777).to_bytes(4, "big")


def test_a_client_that_offers_it_needs_no_rescue_whatever_its_first_seqno(rig: Rig) -> None:
    session, _ = offered(rig, seqno=KERNEL)
    (first, *_) = frames(image_of(1 << 16), KERNEL + 1)
    assert told(rig, session, first) == [[OFFER, 3]], "not held"


def test_a_forged_offer_costs_a_stock_client_nothing(rig: Rig) -> None:
    """Anybody can send a HERALD with the seqno that every FreeBSD kernel begins with."""
    forged, _ = offered(rig, seqno=KERNEL)
    session, ack = offered(rig, seqno=KERNEL, offer=0)
    assert ack == b"\0\0\0\1", "in the only form that it knows"
    assert session != forged
    assert offered(rig, seqno=KERNEL, offer=0) == (session, ack)
    image = image_of(100_000)
    assert rig.dump(session, image, KernelDumpHeader(dumplength=len(image)))


def test_seqnos_may_begin_anew_in_mid_dump(rig: Rig) -> None:
    session, _ = offered(rig, seqno=0xFFFFFFFD)
    parts = [
        vmcore(n & 0xFFFFFFFF, k, b"x") for k, n in enumerate(range(0xFFFFFFFE, (1 << 32) + 4))
    ]
    assert told(rig, session, *parts[:3]) == [[OFFER, 1]]
    assert told(rig, session, *parts[4:]) == [[OFFER, 1, 2, 4]]


def test_only_the_kernels_acks_are_held(rig: Rig) -> None:
    parts = frames(IMAGE, 2)[:46]
    for seqno, held in ((KERNEL, True), (USERLAND, False), (DRAWN, False)):
        session = rig.open(seqno, ("198.18.0.9", 20000 + seqno % 100))
        assert rig.say(session, *parts[:40], *parts[41:]) == (
            [] if held else seqnos(parts[:40] + parts[41:])
        )
    assert Rig(rig.folder, rescue=False).core.config.rescue is False


def test_the_info_file_names_acks_that_were_still_held(rig: Rig) -> None:
    session = rig.open(KERNEL)
    assert rig.say(session, *frames(IMAGE, 2)[:40]) == []
    rig.core.stop()
    assert rig.info()[-1].endswith("40 acks of an unfinished chunk were held (see --no-rescue)")


def test_without_rescue_a_kernel_gets_its_acks_at_once(tmp_path: Path) -> None:
    rig = Rig(tmp_path, rescue=False)
    session = rig.open(KERNEL)
    parts = frames(IMAGE, 2)[:40]
    assert rig.say(session, *parts) == seqnos(parts)
