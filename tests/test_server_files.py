"""The files of a server: the folder that a client asks for, and disks that fail."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from netdump.kdh import KernelDumpHeader
from netdump.messages import Message, MessageType
from server.core import ServerCore
from server.life import State
from tests.server_rig import (
    CLIENT,
    FINAL,
    HEADER,
    HOST,
    IMAGE,
    KERNEL,
    PARTIAL,
    Disk,
    NoDisk,
    Rig,
    finished,
    frames,
    herald,
    kdh,
    key,
)

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
    assert rig.core.sessions[session].record.outcome.endswith("@ offset 0: Input/output error")


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
    assert "can't write the key file" in rig.core.sessions[session].record.outcome
