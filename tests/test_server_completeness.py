"""A dump arrives and is called complete: when it is, and what is not called so."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from netdump.kdh import COMPRESSION_GZIP, COMPRESSION_ZSTD, KernelDumpHeader
from server.life import State
from tests.server_rig import (
    DRAWN,
    FINAL,
    HEADER,
    HOST,
    IMAGE,
    KERNEL,
    PARTIAL,
    USERLAND,
    Rig,
    finished,
    frames,
    image_of,
    kdh,
    key,
    seqnos,
    vmcore,
)

# -- the good story ------------------------------------------------------------------------------


@pytest.mark.parametrize("seqno", [KERNEL, USERLAND, DRAWN])
def test_a_dump_arrives_whole_and_gets_its_final_name(rig: Rig, seqno: int) -> None:
    session = rig.open(seqno)
    assert rig.files() == []  # a HERALD alone, which is easily forged, creates nothing
    assert rig.dump(session, IMAGE, HEADER, seqno + 1)
    assert rig.files() == [
        f"bounds.{HOST}",
        f"info.{HOST}.0",
        f"info.{HOST}.last",
        f"manifest.{HOST}.0",
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
    (rig.folder / f"vmcore.{HOST}.1.gz").touch()  # its info file was removed
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
