"""What a server that comes up again may not believe: of its journal, its files and the machine."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from netdump.kdh import COMPRESSION_GZIP, KernelDumpHeader
from server import folder
from server.config import ServerConfig
from server.core import ServerCore
from server.folder import DumpFolder
from server.journal import HEAD_SIZE, RECORD, Kind
from server.journal_file import VOID_SIZE, JournalFile
from server.machine import SILENT
from server.store import FileStore
from server.verify import verify
from tests.journal_rig import JOURNAL, LOCAL, OFFER, Lives, messages
from tests.server_rig import (
    CLIENT,
    DRAWN,
    FINAL,
    HOST,
    IMAGE,
    KERNEL,
    PARTIAL,
    block,
    finished,
    frames,
    herald,
    kdh,
    key,
    vmcore,
)

KEY = bytes(range(256)) * 16


# --- the key block --------------------------------------------------------------------------------


@pytest.fixture
def forced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what is forced to the disk."""
    names: list[str] = []

    def force(fd: int) -> None:
        names.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name)

    monkeypatch.setattr(os, "fsync", force)
    monkeypatch.setattr(os, "fdatasync", force)
    return names


def test_a_key_is_on_the_disk_before_its_ack(tmp_path: Path, forced: list[str]) -> None:
    """With --fsync always. Without its key an encrypted dump is lost."""
    core = ServerCore(ServerConfig(), DumpFolder(str(tmp_path), "always"))
    reply = core.herald(CLIENT, herald(DRAWN), 0.0)
    assert reply is not None
    core.has_socket(reply.session_id, LOCAL)
    core.receive(reply.session_id, *block(frames(IMAGE, DRAWN + 1)[:3]), 0.0)
    forced.clear()
    assert len(core.receive(reply.session_id, *block([key(DRAWN + 4, 0, KEY)]), 0.0))
    assert forced == [f"key.{HOST}.0", tmp_path.name, f"journal.{HOST}.0"], (
        "the journal rests on it"
    )
    core.stop()


def test_a_key_file_that_has_become_shorter_is_not_gone_on_with(tmp_path: Path) -> None:
    lives = Lives(tmp_path)
    session = lives.open(DRAWN)
    header = KernelDumpHeader(dumplength=len(IMAGE), dumpkeysize=len(KEY))
    lives.say(session, key(DRAWN + 1, 0, KEY), *frames(IMAGE, DRAWN + 2))
    lives.kill()
    os.truncate(tmp_path / f"key.{HOST}.0", 100)
    for session in lives.start():
        lives.say(session, kdh(900, header), finished(901))
    assert "key.198.18.0.2.0 is shorter than what was kept" in lives.info()[-1]
    lives.kill()


# --- killed while a dump is being finished --------------------------------------------------------


class Killed(BaseException):
    """As by kill -9: nobody catches it."""


def dies(*_: object, **__: object) -> None:
    raise Killed


def killed(lives: Lives, what: Callable[[], object]) -> None:
    """The server, in the midst of that."""
    with pytest.raises(Killed):
        what()
    lives.kill()


def test_killed_when_the_padding_is_cut_off_and_the_name_not_yet_final(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the two all of the dump is forced to the disk: that takes long."""
    lives = Lives(tmp_path)
    session = lives.open(KERNEL)
    header = KernelDumpHeader(
        dumplength=len(IMAGE) - 100, compression=COMPRESSION_GZIP, blocksize=512
    )
    parts = frames(IMAGE, 2)
    for at in range(0, len(parts), 46):
        lives.say(session, *parts[at : at + 46])
    last = 2 + len(parts)
    lives.say(session, kdh(last, header))
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", dies)
        killed(lives, lambda: lives.say(session, finished(last + 1)))
    (session,) = lives.start()
    assert lives.say(session, finished(last + 1))
    assert (tmp_path / f"vmcore.{HOST}.0.gz").read_bytes() == IMAGE[:-100]
    lives.kill()


def test_killed_when_the_name_is_final_and_nothing_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What came in one batch with FINISHED is known, too."""
    lives = Lives(tmp_path)
    session = lives.open(DRAWN)
    parts = messages(DRAWN + 1)
    lives.say(session, *parts[:50])
    with monkeypatch.context() as patch:
        patch.setattr(FileStore, "write_manifest", dies)
        killed(lives, lambda: lives.say(session, *parts[50:]))
    assert len(lives.start()) == 1
    told = json.loads((tmp_path / f"manifest.{HOST}.0").read_text())
    assert (told["length"], told["promised"]) == (len(IMAGE), len(IMAGE))
    assert "Panic String: page fault" in lives.info()
    lives.kill()


def test_killed_when_a_silent_client_s_dump_is_found_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its header came first, and its last chunk's acks were held."""
    lives = Lives(tmp_path)
    session = lives.open(KERNEL)
    image = IMAGE[: 32 * 1408]
    lives.say(session, kdh(2, KernelDumpHeader(dumplength=len(image))))
    assert not lives.say(session, *frames(image, 3, 1408))
    with monkeypatch.context() as patch:
        patch.setattr(FileStore, "write_manifest", dies)
        killed(lives, lambda: lives.core.tick(1000.0))
    assert len(lives.start()) == 1
    assert json.loads((tmp_path / f"manifest.{HOST}.0").read_text())["holes"] == []
    lives.kill()


def test_the_latest_dump_stays_the_latest(tmp_path: Path) -> None:
    """The journals of some that were complete before are there, too: 10 comes before 9."""
    lives = Lives(tmp_path)
    for number in range(11):
        first = DRAWN + 1000 * number
        assert lives.say(lives.open(first), *messages(first + 1))
    lives.kill()
    assert len(lives.start()) == 11
    assert os.readlink(tmp_path / f"vmcore.{HOST}.last") == f"vmcore.{HOST}.10"
    assert os.readlink(tmp_path / f"info.{HOST}.last") == f"info.{HOST}.10"
    lives.kill()


# --- the machine's crash --------------------------------------------------------------------------


@pytest.mark.parametrize("told", [True, False])
def test_a_crash_makes_nothing_of_a_finished_dump_verified(tmp_path: Path, told: bool) -> None:
    """It had its name, but its data and its manifest were not on the disk yet; or nor was its end
    in the info file."""
    lives = Lives(tmp_path)
    lives.say(lives.open(DRAWN), *messages(DRAWN + 1))
    lives.kill()
    (tmp_path / f"manifest.{HOST}.0").unlink()
    if not told:
        (tmp_path / f"info.{HOST}.0").write_text("\n".join(lives.info()[:-1]))
    (tmp_path / FINAL).write_bytes(bytes(len(IMAGE)))
    assert lives.start(boot="another") == []
    assert any(line.startswith("No manifest: the machine crashed") for line in lives.info())
    status, _ = verify(str(tmp_path / FINAL), None)
    assert status == 2, "unverified"
    assert not lives.core.sessions
    assert not (tmp_path / JOURNAL).exists()
    lives.kill()


def test_what_an_earlier_life_left_in_the_cache_is_forced_to_the_disk(
    tmp_path: Path, forced: list[str]
) -> None:
    """Else the journal of one that comes up with --fsync always would say that it is there."""
    lives = Lives(tmp_path)
    lives.say(lives.open(DRAWN), key(DRAWN + 1, 0, KEY), *frames(IMAGE, DRAWN + 2))
    lives.kill()
    forced.clear()
    with closing(DumpFolder(str(tmp_path), "always")) as again:
        for store, _ in again.left_behind(lives.core.not_resumed):
            store.close()
    assert forced == [PARTIAL, f"key.{HOST}.0", tmp_path.name]


def test_a_journal_that_a_crash_left_empty_is_told(tmp_path: Path) -> None:
    """Its name was on the disk, but not what it had: a dump that had ended looks otherwise."""
    lives = Lives(tmp_path)
    lives.say(lives.open(DRAWN), *messages(DRAWN + 1)[:20])
    lives.kill()
    os.truncate(tmp_path / JOURNAL, 0)
    assert lives.start(boot="another") == []
    assert lives.told.kinds()[-1] == "not-resumed"
    assert (tmp_path / JOURNAL).exists(), "it is left alone"
    lives.kill()


def test_a_journal_that_is_given_up_stays_so_after_a_crash(
    tmp_path: Path, forced: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --fsync always. What is acknowledged from there on, the old one would not tell."""
    lives = Lives(tmp_path, fsync="always")
    session = lives.open(DRAWN)
    parts = messages(DRAWN + 1)
    lives.say(session, *parts[:20])
    forced.clear()
    monkeypatch.setattr(JournalFile, "append", refuses)
    assert lives.say(session, *parts[20:40])
    assert forced[-1] == f"journal.{HOST}.0", "its end"
    lives.kill()


def test_a_complete_dump_that_is_another_file_now_is_told(tmp_path: Path) -> None:
    lives = Lives(tmp_path)
    lives.say(lives.open(DRAWN), *messages(DRAWN + 1))
    lives.kill()
    (tmp_path / FINAL).rename(tmp_path / "moved")
    (tmp_path / FINAL).write_bytes(IMAGE)
    assert lives.start() == []
    assert lives.told.kinds()[-1] == "not-resumed"
    lives.kill()


def test_a_dump_that_is_not_gone_on_with_is_not_told_as_if_it_were(tmp_path: Path) -> None:
    lives = Lives(tmp_path)
    lives.say(lives.open(DRAWN), *messages(DRAWN + 1)[:20])
    lives.kill()
    assert lives.start(boot="another") == []
    assert "resumed" not in lives.told.kinds()
    lives.kill()


def test_a_machine_that_does_not_tell_its_boots_may_have_crashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No /proc, or no Linux."""
    monkeypatch.setattr(folder, "this_machine", lambda: SILENT)
    lives = Lives(tmp_path)
    lives.say(lives.open(DRAWN), *messages(DRAWN + 1)[:20])
    lives.kill()
    assert lives.start() == []
    assert "the machine crashed" in lives.info()[-1]
    lives.kill()


# --- other options --------------------------------------------------------------------------------


def test_who_behaves_as_netdumpd_goes_on_with_nothing(tmp_path: Path) -> None:
    """It writes no journal: the old one would tell less than what it acknowledges."""
    lives = Lives(tmp_path)
    lives.say(lives.open(DRAWN), *messages(DRAWN + 1)[:20])
    lives.kill()
    lives.config = ServerConfig(strict_finish=False)
    assert lives.start() == []
    assert "does as netdumpd does now" in lives.info()[-1]
    assert not (tmp_path / JOURNAL).exists()
    lives.kill()


# --- a disk that refuses the journal --------------------------------------------------------------


def refuses(*_: object, **__: object) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_dump_without_a_journal_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the server is killed, nobody can say it any more."""
    monkeypatch.setattr(JournalFile, "begin", refuses)
    lives = Lives(tmp_path)
    assert lives.say(lives.open(DRAWN), *messages(DRAWN + 1)[:20])
    assert lives.info()[-1].startswith("If the server is killed, this dump ends:")
    assert lives.told.kinds()[-1] == "no-journal"
    lives.kill()


def test_a_journal_that_can_t_be_removed_is_emptied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would tell less than what was acknowledged without it."""
    lives = Lives(tmp_path)
    session = lives.open(DRAWN, OFFER)
    parts = messages(DRAWN + 1)
    lives.say(session, *parts[:20])
    with monkeypatch.context() as patch:
        patch.setattr(JournalFile, "append", refuses)
        patch.setattr(os, "unlink", refuses)
        assert lives.say(session, *parts[20:40])
    assert (tmp_path / JOURNAL).stat().st_size == VOID_SIZE
    lives.kill()
    assert lives.start() == []
    assert not (tmp_path / JOURNAL).exists()
    lives.kill()


def test_a_journal_whose_name_is_not_on_the_disk_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no other server takes it for a dead one's."""
    core = ServerCore(ServerConfig(), DumpFolder(str(tmp_path), "always"))
    reply = core.herald(CLIENT, herald(DRAWN), 0.0)
    assert reply is not None
    core.has_socket(reply.session_id, LOCAL)
    real = os.fsync

    def force(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            refuses()
        real(fd)

    monkeypatch.setattr(os, "fsync", force)
    assert len(core.receive(reply.session_id, *block(messages(DRAWN + 1)[:20]), 0.0))
    assert not (tmp_path / JOURNAL).exists()
    core.stop()


# --- a journal that somebody, or the disk, has changed --------------------------------------------


@pytest.mark.parametrize(
    "changed",
    [
        {"client": ["198.18.0.2", 70000]},
        {"client": ["198.18.0.2", -5]},
        {"client": ["nobody.example", 20024]},
        {"local": ["127.0.0.1", 70000]},
        {"local": ["a\0b", 1]},
        {"seqno": float("inf")},
        {"seqno": 1 << 70},
        {"seqno": 1.5},
        {"taken": -1},
        {"taken": True},
        {"announced": [1, None, 3, 4, 5]},
        {"announced": [-1, "", "", ""]},
        {"began": "yesterday"},
        {"began": 1e300},
        {"opening": ["zz"]},
    ],
    ids=str,
)
def test_a_head_that_can_t_be_so_is_told_and_the_server_comes_up(
    tmp_path: Path, changed: dict[str, object]
) -> None:
    lives = Lives(tmp_path)
    lives.say(lives.open(DRAWN, OFFER), *messages(DRAWN + 1)[:20])
    lives.kill()
    path = tmp_path / JOURNAL
    octets = path.read_bytes()
    told = json.loads(octets[:HEAD_SIZE]) | changed
    path.write_bytes(json.dumps(told).encode().ljust(HEAD_SIZE) + octets[HEAD_SIZE:])
    assert lives.start() == []
    assert "not-resumed" in lives.told.kinds()
    lives.kill()


@pytest.mark.parametrize("offer", [0, OFFER])
@pytest.mark.parametrize("record", [(Kind.ACKED, 1, 1 << 63), (Kind.DATA, 0, (1 << 64) - 1)])
def test_a_record_of_what_no_dump_has_is_none(
    tmp_path: Path, offer: int, record: tuple[int, int, int]
) -> None:
    lives = Lives(tmp_path)
    parts = messages(2)
    lives.say(lives.open(KERNEL, offer), *parts[:46])
    lives.kill()
    with (tmp_path / JOURNAL).open("ab") as file:
        file.write(RECORD.pack(*record))
    (session,) = lives.start()
    lives.say(session, *parts)
    assert lives.info()[-1] == "Dump complete"
    lives.kill()


# --- what a client can make it remember -----------------------------------------------------------


def test_a_client_that_gets_no_ack_makes_no_endless_journal(tmp_path: Path) -> None:
    """Its seqnos are beyond all that a stock client has, its octets come one by one, the last
    first: each is a record, none goes out with an ack, and all of them are one stretch."""
    lives = Lives(tmp_path, max_intervals=100)
    session = lives.open(KERNEL)
    image = IMAGE[:5000]
    for at in range(len(image) - 500, -1, -500):
        octets = [vmcore(1 << 20, at + n, image[at + n : at + n + 1]) for n in range(499, -1, -1)]
        assert not lives.say(session, *octets)
    pages = lives.core.sessions[session].dump.pages
    assert pages.lost, "there were more than a hundred"
    assert lives.say(session, kdh(2, KernelDumpHeader(dumplength=len(image))))
    lives.kill()
    (session,) = lives.start()
    assert lives.say(session, finished(3)), "all of it is known"
    assert (tmp_path / FINAL).read_bytes() == image
    lives.kill()


def test_where_no_journal_is_kept_no_acks_are_remembered_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(JournalFile, "begin", refuses)
    lives = Lives(tmp_path)
    session = lives.open(DRAWN, OFFER)
    for message in messages(DRAWN + 1)[:50]:
        lives.say(session, message)
    assert lives.core.sessions[session].acks.fresh() == []
    lives.kill()


# --- files that people have moved -----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["file", "link", "folder"])
def test_a_dump_s_file_that_is_another_one_is_not_gone_on_with(tmp_path: Path, kind: str) -> None:
    """Of the same length: nothing else would tell them apart, for a stock client."""
    lives = Lives(tmp_path)
    lives.say(lives.open(DRAWN), *messages(DRAWN + 1)[:-2])
    lives.kill()
    path = tmp_path / PARTIAL
    path.rename(tmp_path / "moved")
    if kind == "file":
        path.write_bytes(bytes(len(IMAGE)))
    elif kind == "link":
        path.symlink_to("moved")
    else:
        path.mkdir()
    assert lives.start() == []
    if kind == "file":
        assert "another file has its name" in lives.info()[-1]
    assert (tmp_path / "moved").read_bytes() == IMAGE
    lives.kill()


def test_another_host_s_journal_is_not_believed(tmp_path: Path) -> None:
    lives = Lives(tmp_path)
    lives.say(lives.open(DRAWN), *messages(DRAWN + 1)[:20])
    lives.kill()
    for path in list(tmp_path.iterdir()):
        path.rename(tmp_path / path.name.replace(HOST, "198.18.0.77"))
    assert lives.start() == []
    assert lives.told.kinds()[-1] == "not-resumed"
    lives.kill()


def test_a_journal_whose_dump_is_gone_is_told(tmp_path: Path) -> None:
    lives = Lives(tmp_path)
    lives.say(lives.open(DRAWN), *messages(DRAWN + 1)[:20])
    lives.kill()
    (tmp_path / PARTIAL).unlink()
    told = []
    with closing(DumpFolder(str(tmp_path), "none")) as again:
        assert not list(again.left_behind(lambda *lost: told.append(lost)))
    assert told == [(FINAL, f"can't go on with {FINAL}: No such file or directory")]


def test_a_folder_that_is_deeper_than_any_client_s_path_does_no_harm(tmp_path: Path) -> None:
    """And none of what is there is a dump's."""
    depth = 1200
    at = os.open(tmp_path, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("below", dir_fd=at)
        below = os.open("below", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)
    try:
        with closing(DumpFolder(str(tmp_path), "none")) as again:
            assert not list(again.left_behind(lambda *_: None))
    finally:
        subprocess.run(["rm", "-rf", tmp_path / "below"], check=True)  # rmtree recurses, too
