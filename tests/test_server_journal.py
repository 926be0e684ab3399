"""What outlives a server that is killed: its journal, and the one that comes up in its place."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netdump.kdh import KernelDumpHeader
from netdump.keys import Opening
from netdump.opening import Facts
from server import dump as server_dump
from server.config import ServerConfig
from server.folder import DumpFolder
from server.journal import HEAD_SIZE, RECORD, BadJournal, Head, Kind, Pages, Past, parse
from server.journal_file import JournalFile
from server.life import State
from server.shell import Shell
from tests.journal_rig import JOURNAL, LOCAL, OFFER, Lives, messages
from tests.server_rig import (
    CLIENT,
    DRAWN,
    FINAL,
    HOST,
    IMAGE,
    KERNEL,
    PARTIAL,
    finished,
    frames,
    kdh,
    key,
    seqnos,
)

OPENING = Opening(bytes(4), b"herald", b"word", b"nonce" * 3)
HEAD = Head(
    CLIENT, 1, 7, LOCAL, 99, "boot", True, OPENING, Facts(5, "amd64", "lab\x1b1", "\N{SKULL}")
)


# --- the file -------------------------------------------------------------------------------------


def journal() -> bytes:
    pages = Pages()
    pages.span(Kind.DATA, 0, 10)
    pages.span(Kind.DATA, 10, 30)
    pages.span(Kind.ACKED, 1, 4)
    pages.longest(1448)
    pages.header(bytes(range(256)) * 2)
    pages.span(Kind.KEY, 0, 4096)
    pages.span(Kind.DATA, 40, 50)
    return HEAD.pack() + pages.take()


def test_what_is_written_is_read() -> None:
    octets = journal()
    assert octets[HEAD_SIZE : HEAD_SIZE + 24] == RECORD.pack(1, 0, 30), "what follows is one record"
    assert parse(octets) == Past(
        HEAD, [(0, 30), (40, 50)], [(0, 4096)], [(1, 4)], 1448, bytes(range(256)) * 2
    )


@given(cut=st.integers(0, len(journal())), noise=st.binary(max_size=100))
def test_of_a_journal_that_breaks_off_all_before_that_is_believed(cut: int, noise: bytes) -> None:
    octets = journal()[:cut]
    try:
        past = parse(octets)
    except BadJournal:
        assert cut < HEAD_SIZE
        return
    whole = parse(journal())
    assert whole.data[: len(past.data)] == past.data
    assert past.header in (b"", whole.header)
    parse(octets + noise)


@given(st.binary(max_size=300))
def test_whatever_is_no_journal_is_refused_in_a_sentence(octets: bytes) -> None:
    with pytest.raises(BadJournal):
        parse(octets)


# --- a server that is killed, again and again -----------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 46, 200])
def test_a_stock_client_goes_on_chunk_by_chunk(tmp_path: Path, size: int) -> None:
    """It sends a chunk again until all of it is acknowledged. Killed before each batch, and after
    each, a server has kept what it had acknowledged."""
    lives = Lives(tmp_path)
    session = lives.open(KERNEL)
    parts = messages(2)
    chunks = [parts[at : at + 46] for at in range(0, len(parts) - 2, 46)]
    chunks = [parts[at : at + 46] for at in (0, 46, 92)] + [parts[138:-2], parts[-2:-1], parts[-1:]]
    deaths = 0
    for chunk in chunks:
        wanted = set(seqnos(chunk))
        acked: set[int] = set()
        rounds = 0
        while acked != wanted:
            for at in range(0, len(chunk), size):
                acks = lives.say(session, *chunk[at : at + size])
                acked |= {int.from_bytes(ack, "big") for ack in acks}
                begun = lives.core.sessions[session].state is not State.OFFERED
                if begun and rounds == 0 and acks:
                    lives.kill()
                    (session,) = lives.start()
                    deaths += 1
            rounds += 1
            assert rounds < 5
    assert deaths >= len(chunks)
    assert (tmp_path / FINAL).read_bytes() == IMAGE
    assert "The server was killed, and came up again" in lives.info()
    assert lives.info()[-1] == "Dump complete"
    lives.core.tick(lives.now + 100)
    assert not (tmp_path / JOURNAL).exists(), "nobody will go on with it"
    lives.kill()


def test_selective_acks_go_on_where_they_were(tmp_path: Path) -> None:
    """What a client was told is kept, a server never takes back: the client has forgotten it."""
    lives = Lives(tmp_path)
    session = lives.open(DRAWN, OFFER)
    parts = messages(DRAWN + 1)
    (before,) = lives.say(session, *parts[:20], *parts[30:40])
    assert np.frombuffer(before, ">u4").tolist()[1:] == [DRAWN + 21, DRAWN + 31, DRAWN + 41]
    for again in range(3):
        lives.kill()
        (session,) = lives.start()
        (ack,) = lives.say(session, parts[50 + 2 * again])
        words = np.frombuffer(ack, ">u4").tolist()
        assert words[1:4] == [DRAWN + 21, DRAWN + 31, DRAWN + 41]
        assert words[4:] == [
            edge for n in range(again + 1) for edge in (DRAWN + 51 + 2 * n, DRAWN + 52 + 2 * n)
        ]
    lives.say(session, *parts[20:-1])
    lives.kill()
    (session,) = lives.start()
    assert lives.say(session, parts[-1]), "the header is remembered"
    assert (tmp_path / FINAL).read_bytes() == IMAGE
    lives.kill()


def test_a_dump_that_was_finished_before_its_last_ack_came_through(tmp_path: Path) -> None:
    lives = Lives(tmp_path)
    session = lives.open(DRAWN, OFFER)
    parts = messages(DRAWN + 1)
    lives.say(session, *parts)
    lives.kill()
    (session,) = lives.start()
    assert lives.core.sessions[session].state is State.COMPLETE
    assert lives.say(session, parts[-1]), "FINISHED is acknowledged again"
    assert lives.say(session, parts[0])
    assert lives.info()[-1] == "Dump complete"
    lives.kill()


def test_a_key_block_and_its_dump_go_on(tmp_path: Path) -> None:
    lives = Lives(tmp_path)
    session = lives.open(DRAWN)
    header = KernelDumpHeader(dumplength=len(IMAGE), dumpkeysize=4096)
    octets = bytes(range(256)) * 16
    lives.say(session, key(DRAWN + 1, 0, octets[:2000]))
    lives.kill()
    (session,) = lives.start()
    lives.say(session, key(DRAWN + 2, 2000, octets[2000:]), *frames(IMAGE, DRAWN + 3))
    lives.kill()
    (session,) = lives.start()
    assert lives.say(session, kdh(900, header), finished(901))
    assert (tmp_path / f"vmcore_encrypted.{HOST}.0").read_bytes() == IMAGE
    assert (tmp_path / f"key.{HOST}.0").read_bytes() == octets
    lives.kill()


def test_the_journal_is_written_anew_when_it_has_grown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames that come one by one, every other one first: each is a record, and most become one."""
    monkeypatch.setattr(server_dump, "JOURNAL_GROWS", -6000)
    lives = Lives(tmp_path)
    session = lives.open(DRAWN, OFFER)
    parts = messages(DRAWN + 1)
    most = 0
    for part in [*parts[:-2:2], *parts[1:-2:2]]:
        lives.say(session, part)
        most = max(most, (tmp_path / JOURNAL).stat().st_size)
    assert (tmp_path / JOURNAL).stat().st_size < most, "it was larger once"
    lives.kill()
    (session,) = lives.start()
    assert lives.say(session, *parts[-2:])
    assert (tmp_path / FINAL).read_bytes() == IMAGE
    lives.kill()


def test_messages_that_come_again_leave_the_journal_as_it_is(tmp_path: Path) -> None:
    for offer in (0, OFFER):
        lives = Lives(tmp_path)
        session = lives.open(DRAWN + offer, offer)
        parts = messages(DRAWN + offer + 1)
        lives.say(session, *parts[:50])
        (name,) = (path for path in tmp_path.iterdir() if path.name.startswith("journal"))
        before = name.read_bytes()
        assert lives.say(session, *parts[:50])
        assert name.read_bytes() == before
        lives.core.stop()
        assert not name.exists(), "who ends in good order has said how the dump ended"
        lives.kill()


# --- what is not gone on with ---------------------------------------------------------------------


def begun(folder: Path) -> Lives:
    lives = Lives(folder)
    lives.say(lives.open(DRAWN), *messages(DRAWN + 1)[:-2])
    return lives


def test_a_living_server_s_dump_is_its_own(tmp_path: Path) -> None:
    lives = begun(tmp_path)
    with closing(DumpFolder(str(tmp_path), "none")) as folder:
        assert list(folder.left_behind(lives.core.not_resumed)) == []
    assert lives.say(1, *messages(DRAWN + 1)[-2:]), "and goes on"
    lives.kill()


def test_after_a_crash_of_the_machine_what_was_acknowledged_may_be_lost(tmp_path: Path) -> None:
    lives = begun(tmp_path)
    lives.kill()
    assert lives.start(boot="another") == []
    assert "the machine crashed" in lives.info()[-1]
    assert (tmp_path / PARTIAL).exists()
    assert not (tmp_path / JOURNAL).exists()
    lives.kill()


@pytest.mark.parametrize("name", [PARTIAL, f"info.{HOST}.0"])
def test_without_its_files_a_journal_is_left_alone(tmp_path: Path, name: str) -> None:
    lives = begun(tmp_path)
    lives.kill()
    (tmp_path / name).unlink()
    assert lives.start() == []
    lives.kill()


def test_a_file_that_has_become_shorter_is_not_gone_on_with(tmp_path: Path) -> None:
    lives = begun(tmp_path)
    lives.kill()
    os.truncate(tmp_path / PARTIAL, 1000)
    assert lives.start() == []
    assert lives.info()[-1].startswith("Dump incomplete: its file is shorter than what was kept")
    lives.kill()


def test_a_client_that_must_have_a_key_now_does_not_go_on_without(tmp_path: Path) -> None:
    lives = begun(tmp_path)
    lives.kill()
    lives.config = ServerConfig(require_key=True, keys={"*": bytes(32)})
    assert lives.start() == []
    assert "wants a key" in lives.info()[-1]
    lives.kill()


def test_a_journal_of_another_version_is_told(tmp_path: Path) -> None:
    lives = begun(tmp_path)
    lives.kill()
    path = tmp_path / JOURNAL
    told = json.loads(path.read_bytes()[:HEAD_SIZE]) | {"journal": 2}
    path.write_bytes(json.dumps(told).encode().ljust(HEAD_SIZE))
    assert lives.start() == []
    assert "not-resumed" in lives.told.kinds()
    lives.kill()


def test_a_machine_that_comes_again_meanwhile_begins_anew(tmp_path: Path) -> None:
    lives = begun(tmp_path)
    lives.kill()
    (old,) = lives.start()
    new = lives.open(DRAWN + 5000)
    lives.say(new, *messages(DRAWN + 5001)[:3])
    assert lives.core.sessions[old].state is State.COMPLETE or old != new
    assert "client started again" in lives.info()[-1]
    lives.kill()


def test_who_behaves_as_netdumpd_keeps_no_journal(tmp_path: Path) -> None:
    lives = Lives(tmp_path, strict_finish=False)
    lives.say(lives.open(KERNEL), *messages(2)[:50])
    assert not (tmp_path / JOURNAL).exists()
    lives.kill()
    assert lives.start() == []
    lives.kill()


def test_a_port_that_another_program_has_taken_ends_the_dump(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        lives = Lives(tmp_path)
        session = lives.open(DRAWN)
        lives.core.has_socket(session, taken.getsockname())
        lives.say(session, *messages(DRAWN + 1)[:20])
        lives.kill()
        lives.start()
        shell = Shell(lives.core, "127.0.0.1", 0)
        shell.take_up(lives.core.sessions.values())
        shell.stop()
        shell.run()
    assert "can't have its port again: EADDRINUSE" in lives.info()[-1]
    assert not lives.core.sessions
    lives.kill()


def test_where_no_journal_can_be_written_the_dump_goes_on_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system that has no locks; or one that fills up in mid-dump."""
    real = JournalFile.append
    monkeypatch.setattr(JournalFile, "append", raises(errno.ENOSPC))
    lives = Lives(tmp_path)
    session = lives.open(DRAWN)
    parts = messages(DRAWN + 1)
    assert lives.say(session, *parts[:20])
    assert (tmp_path / JOURNAL).exists()
    assert lives.say(session, *parts[20:40])
    assert not (tmp_path / JOURNAL).exists(), "it would tell less than what was acknowledged"
    monkeypatch.setattr(JournalFile, "append", real)
    assert lives.say(session, *parts[40:])
    assert lives.info()[-1] == "Dump complete"
    assert any(line.startswith("If the server is killed, this dump ends:") for line in lives.info())
    lives.kill()
    monkeypatch.setattr(fcntl, "flock", raises(errno.ENOLCK))
    lives.start()
    session = lives.open(DRAWN + 7000)
    assert lives.say(session, *messages(DRAWN + 7001))
    lives.kill()


def raises(code: int) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def test_what_was_finished_and_not_told_is_told(tmp_path: Path) -> None:
    """Killed between the final name and the manifest."""
    lives = Lives(tmp_path)
    lives.say(lives.open(DRAWN), *messages(DRAWN + 1))
    lives.kill()
    for name in (f"manifest.{HOST}.0", f"vmcore.{HOST}.last"):
        (tmp_path / name).unlink()
    (tmp_path / f"info.{HOST}.0").write_text("\n".join(lives.info()[:-1]))
    (tmp_path / f"{JOURNAL}.new").write_bytes(b"")
    assert len(lives.start()) == 1
    told = json.loads((tmp_path / f"manifest.{HOST}.0").read_text())
    assert (told["status"], told["length"]) == ("complete", len(IMAGE))
    assert (tmp_path / f"vmcore.{HOST}.last").read_bytes() == IMAGE
    assert not (tmp_path / f"{JOURNAL}.new").exists()
    lives.kill()
