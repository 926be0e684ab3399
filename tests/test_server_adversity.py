"""Forgers, full tables, moved files, forged complaints: what they do to a server, and what not."""

from __future__ import annotations

import errno
import os
import re
import resource
import select
import socket
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from netdump.checksum import checksum
from netdump.kdh import COMPRESSION_ZSTD, KernelDumpHeader
from netdump.messages import Message, MessageType, pack_acks
from server.core import STOCK_DATAGRAM
from server.life import State
from server.packets import AckSender
from server.readers import OUR_ERRORS
from server.shell import MAX_COMPLAINTS, Shell
from tests.fakes import AckSocket, ErringReader
from tests.patience import HANG_S
from tests.server_rig import (
    CLIENT,
    DRAWN,
    FINAL,
    HOST,
    KERNEL,
    PARTIAL,
    Disk,
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
from tests.socket_rig import HOST as LOOPBACK
from tests.socket_rig import Client, serving

IMAGE = image_of(2 * 65536 + 4096)
HEADER = KernelDumpHeader(dumplength=len(IMAGE))
DOCS = Path(__file__).parent.parent / "docs" / "server.md"


# -- complaints of sockets -------------------------------------------------------------------------

#: ICMP types and codes; ICMP_PORT_UNREACH (3, 3) is what a client sends that is gone.
COMPLAINTS = [
    (3, 2),
    (3, 3),
    (3, 1),
    (3, 0),
    (3, 4),
    (3, 5),
    (3, 6),
    (3, 8),
    (3, 13),
    (11, 0),
    (12, 0),
]


def test_no_icmp_message_ends_the_server_or_the_dump(tmp_path: Path) -> None:
    try:
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    except PermissionError:
        pytest.skip("no right to raw sockets (CAP_NET_RAW): can't forge ICMP")
    with raw, serving(tmp_path) as process, Client(process.address) as client:
        client.herald()
        parts = frames(IMAGE, 2)
        for (kind, code), part in zip(COMPLAINTS, parts, strict=False):
            raw.sendto(icmp(kind, code, client), (LOOPBACK, 0))
            client.send(part)
            assert client.acks(1) == seqnos([part])
        assert process.popen.poll() is None
        assert process.stop()[-1] == "stopped"


def icmp(kind: int, code: int, client: Client) -> bytes:
    """A complaint about an ack that the server sent to the client."""
    address, port = socket.inet_aton(LOOPBACK), client.sock.getsockname()[1]
    udp = struct.pack(">HHHHI", client.peer[1], port, 12, 0, DRAWN)
    ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 32, 1, 0x4000, 64, 17, 0, address, address)
    ip = ip[:10] + checksum(ip).to_bytes(2, "big") + ip[12:]
    message = struct.pack(">BBHHH", kind, code, 0, 0, 1000) + ip + udp
    return message[:2] + checksum(message).to_bytes(2, "big") + message[4:]


def listening(rig: Rig, code: int) -> tuple[Shell, Client]:
    """A shell whose sessions' sockets err, and a client whose HERALD it has answered."""
    shell = Shell(rig.core, LOOPBACK, 0, reader=ErringReader(code))
    client = Client(shell.address)
    client.sock.sendto(herald(), shell.address)
    assert select.select([shell._herald], [], [], HANG_S)[0]
    shell._hear_heralds()
    return shell, client


@pytest.mark.parametrize("code", sorted(set(errno.errorcode) - OUR_ERRORS))
def test_an_error_of_a_sessions_socket_passes_whatever_it_is(rig: Rig, code: int) -> None:
    shell, client = listening(rig, code)
    with client:
        shell._hear(1)
        assert 1 in rig.core.sessions
        shell._close()


@pytest.mark.parametrize("code", sorted(OUR_ERRORS))
def test_a_mistake_of_ours_is_not_hidden(rig: Rig, code: int) -> None:
    shell, client = listening(rig, code)
    with client, pytest.raises(OSError, match="injected"):
        shell._hear(1)
    shell._close()


def test_a_socket_that_errs_for_ever_costs_its_session_and_no_other(rig: Rig) -> None:
    shell, client = listening(rig, errno.EPROTO)
    with client, Client(shell.address) as other:
        rig.say(1, frames(IMAGE, 2)[0])
        for _ in range(MAX_COMPLAINTS - 1):
            shell._hear(1)
        assert rig.core.sessions[1].state is State.RECEIVING
        shell._hear(1)
        assert not rig.core.sessions
        assert not shell._sockets
        info = rig.info(0, LOOPBACK)[-1] if (rig.folder / f"info.{LOOPBACK}.0").exists() else ""
        assert f"{MAX_COMPLAINTS} socket errors and no data, the last EPROTO" in info
        other.sock.sendto(herald(DRAWN), shell.address)
        assert select.select([shell._herald], [], [], HANG_S)[0]
        shell._hear_heralds()
        assert len(rig.core.sessions) == 1
        shell._close()


@pytest.mark.parametrize(
    "code", [errno.ENOPROTOOPT, errno.EPROTO, errno.EMSGSIZE, errno.ECONNRESET]
)
def test_a_complaint_about_an_earlier_ack_leaves_segments_alone(code: int) -> None:
    sender, sock = AckSender(), AckSocket(complaints=2, complaint=code)
    for _ in range(3):
        sender.send(sock, pack_acks(np.arange(100)))  # type: ignore[arg-type]
    assert sender.segments
    assert sender.lost == 100


# -- no descriptors left ---------------------------------------------------------------------------


def test_without_descriptors_a_herald_gets_silence_and_the_server_lives(rig: Rig) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        assert rig.core.herald(CLIENT, herald(), 0.0) is None
        assert rig.core.herald(CLIENT, herald(path="lab"), 0.0) is None
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert rig.core.refused["store"] == 2
    assert rig.events.count("refused") == 2
    assert rig.dump(rig.open(), IMAGE, HEADER, 2)


def test_a_server_that_ran_out_of_descriptors_serves_again(tmp_path: Path) -> None:
    with serving(tmp_path) as process, Client(process.address) as client:
        client.herald()
        pid = process.popen.pid
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        for spare in (0, 1):  # none for the folder; none for the socket
            count = len(os.listdir(f"/proc/{pid}/fd")) + spare
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (count, limits[1]))
            with Client(process.address) as another:
                another.sock.sendto(herald(), process.address)
                assert another.silence()
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        with Client(process.address) as another:
            another.herald()
        client.send(frames(IMAGE, 2)[0])
        assert client.acks(1) == [2]
        assert process.stop()[-1] == "stopped"


# -- files that are moved --------------------------------------------------------------------------


def test_a_dump_whose_files_were_moved_leaves_the_next_one_alone(rig: Rig) -> None:
    first = rig.open(KERNEL)
    rig.say_in_batches(first, [*frames(IMAGE, 2), kdh(900, HEADER)], 46)
    saved = rig.folder / "saved"
    saved.mkdir()
    for name in (PARTIAL, f"info.{HOST}.0", f"bounds.{HOST}"):
        (rig.folder / name).rename(saved / name)
    other = ("198.18.0.2", 1024)
    second = rig.open(KERNEL, other)
    rig.say(second, *frames(b"Z" * 65536, 2))
    assert PARTIAL in rig.files()
    assert rig.say(first, finished(901)) == []
    assert rig.core.sessions[first].state is State.FAILED
    assert FINAL not in rig.files()
    said = (saved / f"info.{HOST}.0").read_text().splitlines()[-1]
    assert said == (
        f"Dump unsuccessful: {PARTIAL} was moved, another file has its name now: File exists"
    )
    assert (saved / PARTIAL).read_bytes() == IMAGE
    assert rig.say(second, kdh(48, KernelDumpHeader(dumplength=65536)), finished(49)) == [48, 49]
    assert rig.read(FINAL) == b"Z" * 65536


def test_a_dump_that_was_moved_away_is_no_complete_one(rig: Rig) -> None:
    session = rig.open()
    rig.say(session, *frames(IMAGE, 2), kdh(900, HEADER))
    (rig.folder / PARTIAL).rename(rig.folder / "mine")
    assert rig.say(session, finished(901)) == []
    assert rig.info()[-1] == (
        f"Dump unsuccessful: {PARTIAL} was moved or removed: No such file or directory"
    )


def test_a_file_that_took_the_final_name_is_not_overwritten(rig: Rig) -> None:
    session = rig.open()
    rig.say(session, *frames(IMAGE, 2), kdh(900, HEADER))
    (rig.folder / FINAL).write_text("precious")
    assert rig.say(session, finished(901)) == []
    assert rig.read(FINAL) == b"precious"
    assert rig.read(PARTIAL) == IMAGE


def test_the_key_of_a_moved_dump_does_not_become_anothers(rig: Rig) -> None:
    session = rig.open()
    rig.say(session, *frames(IMAGE, 2))
    (rig.folder / PARTIAL).rename(rig.folder / "mine")
    assert rig.say(session, key(900, 0, b"k")) == []
    assert f"key.{HOST}.0" not in rig.files()


def test_the_last_info_is_never_another_dumps(rig: Rig) -> None:
    session = rig.open()
    rig.say(session, *frames(IMAGE, 2), kdh(900, HEADER))
    info = rig.folder / f"info.{HOST}.0"
    info.rename(rig.folder / "mine")
    info.write_text("another")
    assert rig.say(session, finished(901)) == [901]
    assert f"info.{HOST}.last" not in rig.files()
    assert info.read_text() == "another"
    assert rig.read("mine").splitlines()[-1] == b"Dump complete"


# -- the last links --------------------------------------------------------------------------------


def in_the_way(rig: Rig, patch: pytest.MonkeyPatch) -> None:
    (rig.folder / f"vmcore.{HOST}.last").mkdir()
    (rig.folder / f"info.{HOST}.last").mkdir()


def no_space(rig: Rig, patch: pytest.MonkeyPatch) -> None:
    def symlink(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "injected")

    patch.setattr(os, "symlink", symlink)


def no_fsync(rig: Rig, patch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def fails(fd: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{fd}"):
            raise OSError(errno.EIO, "injected")
        fsync(fd)

    patch.setattr(os, "fsync", fails)


@pytest.mark.parametrize(
    ("trouble", "note"),
    [
        (in_the_way, f"can't point vmcore.{HOST}.last to {FINAL}: Is a directory"),
        (no_space, f"can't point vmcore.{HOST}.last to {FINAL}: No space left on device"),
        (no_fsync, "can't fsync the dump folder: Input/output error"),
    ],
)
def test_after_its_final_name_nothing_fails_a_dump(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trouble: Callable[[Rig, pytest.MonkeyPatch], None],
    note: str,
) -> None:
    rig = Rig(tmp_path)
    rig.core._stores._fsync = "finish"  # type: ignore[attr-defined]
    trouble(rig, monkeypatch)
    assert rig.dump(rig.open(), IMAGE, HEADER, 2)
    assert rig.read(FINAL) == IMAGE
    assert rig.info()[-2:] == [f"Latest dump not marked: {note}", "Dump complete"]
    assert not [name for name in rig.files() if name.endswith(".new")]


# -- full tables -----------------------------------------------------------------------------------


def test_a_hundred_quick_dumps_in_a_row_are_all_served(rig: Rig) -> None:
    image = IMAGE[:5000]
    header = KernelDumpHeader(dumplength=len(image))
    for number in range(100):
        client = (f"198.18.1.{number}", 20024)
        assert rig.dump(rig.open(KERNEL, client), image, header)
        rig.now += 0.01
    assert len(rig.core.sessions) == rig.core.config.max_clients
    assert not rig.core.refused


def test_what_is_least_worth_gives_way_first(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    rig = Rig(tmp_path, disk, max_clients=6)
    image = IMAGE[:5000]
    header = KernelDumpHeader(dumplength=len(image))

    def client(last: int) -> tuple[str, int]:
        return f"198.18.0.{last}", 20024

    old = rig.open(DRAWN, client(1))
    assert rig.dump(old, image, header)
    rig.now = 30.0
    young = rig.open(DRAWN, client(2))
    assert rig.dump(young, image, header)
    running = rig.open(DRAWN, client(3))
    rig.say(running, frames(image, 2)[0])
    offers = [rig.open(DRAWN, client(last)) for last in (4, 5)]
    failed = rig.open(DRAWN, client(6))
    disk.fails = errno.EIO
    rig.say(failed, frames(image, 2)[0])
    disk.fails = 0
    newcomers = []
    for last, gone in enumerate([failed, old, *offers, young], 7):
        rig.now += 0.1
        newcomers.append(rig.open(DRAWN, client(last)))
        rig.say(newcomers[-1], frames(image, 2)[0])
        assert rig.core.tick(rig.now) == [gone]
    assert set(rig.core.sessions) == {running, *newcomers}


def test_forged_heralds_of_a_machine_do_not_lock_it_out(rig: Rig) -> None:
    for second in range(60):
        rig.now = float(second)
        if second % 10 == 0:
            for seqno in (100, 101, 102, 103):
                rig.open(seqno, (HOST, 9))
        assert rig.open(KERNEL) in rig.core.sessions
    assert rig.dump(rig.open(KERNEL), IMAGE, HEADER)


def test_forged_heralds_of_many_machines_lock_nobody_out(rig: Rig) -> None:
    for second in range(60):
        rig.now = float(second)
        for last in range(64):
            rig.open(KERNEL, (f"198.18.9.{last}", 20024))
        assert rig.open(KERNEL) in rig.core.sessions
    assert rig.dump(rig.open(KERNEL), IMAGE, HEADER)


def test_a_repeated_herald_keeps_no_offer_alive(rig: Rig) -> None:
    offer = rig.open()
    for second in range(0, 600, 10):
        rig.now = float(second)
        assert rig.open() == offer
    assert rig.core.tick(600.0) == [offer]


# -- bytes that come again -------------------------------------------------------------------------

SIZE = 4000
pieces = st.lists(
    st.lists(
        st.tuples(st.integers(0, SIZE - 1), st.integers(0, 700), st.sampled_from(b"ABC")),
        min_size=1,
        max_size=6,
    ),
    min_size=1,
    max_size=6,
)


@settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(batches=pieces)
def test_whatever_overlaps_what_was_acknowledged_last_is_kept(
    rig: Rig, batches: list[list[tuple[int, int, int]]]
) -> None:
    session = rig.open(len(rig.core.sessions) + 100 + rig.core._next_id)
    want = bytearray()
    for batch in batches:
        said = []
        for number, (start, length, letter) in enumerate(batch):
            # Some follow each other without a gap, as frames of a dump do.
            at = start if number % 2 == 0 else batch[number - 1][0] + batch[number - 1][1]
            said.append(vmcore(number, at, bytes([letter]) * length))
            if length:
                want += bytes(max(0, at + length - len(want)))
                want[at : at + length] = bytes([letter]) * length
        assert rig.say(session, *said) == list(range(len(batch)))
    name = rig.core.sessions[session].dump.name
    assert rig.read(f"{name}.partial") == want
    rig.core.abandon(session)


def test_a_chunk_that_comes_again_is_read_at_once_and_not_written(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[tuple[int, int]] = []
    writes: list[int] = []
    session = rig.open(KERNEL)
    parts = frames(IMAGE[:65536], 2)
    rig.say(session, *parts[:20], *parts[21:])
    pread, pwritev = os.pread, os.pwritev

    def counting_pread(fd: int, count: int, offset: int) -> bytes:
        reads.append((offset, count))
        return pread(fd, count, offset)

    def counting_pwritev(fd: int, views: list[memoryview], offset: int) -> int:
        writes.append(offset)
        return pwritev(fd, views, offset)

    monkeypatch.setattr(os, "pread", counting_pread)
    monkeypatch.setattr(os, "pwritev", counting_pwritev)
    assert rig.say(session, *parts) == seqnos(parts)
    assert reads == [(0, 20 * 1448), (21 * 1448, 65536 - 21 * 1448)]
    assert writes == [20 * 1448]
    assert rig.core.sessions[session].dump.vmcore.duplicates == 45
    assert rig.core.sessions[session].dump.vmcore.rewritten == 0


def test_a_key_that_comes_again_with_other_bytes_is_refused_and_the_first_stays(rig: Rig) -> None:
    """One forged message would cost all of a dump that can't be decrypted without it."""
    session = rig.open()
    header = KernelDumpHeader(dumplength=len(IMAGE), dumpkeysize=4, compression=COMPRESSION_ZSTD)
    assert rig.say(session, key(2, 0, b"kkkk"), key(3, 1, b"ee"), key(2, 1, b"kk")) == [2, 2]
    assert rig.core.refused["second-key"] == 1
    assert rig.dump(session, IMAGE, header, 4)
    assert rig.read(f"key.{HOST}.0") == b"kkkk"
    assert "Refused: another key block came and was refused" in rig.info()
    assert rig.say(session, key(2, 0, b"kkkk"), key(3, 1, b"ee")) == [2]
    assert rig.core.refused["after-the-end"] == 1


def test_a_key_file_that_is_not_what_came_makes_no_complete_dump(rig: Rig) -> None:
    session = rig.open()
    header = KernelDumpHeader(dumplength=len(IMAGE), dumpkeysize=4, compression=COMPRESSION_ZSTD)
    assert rig.say(session, key(2, 0, b"kkkk")) == [2]
    (rig.folder / f"key.{HOST}.0").chmod(0o600)
    (rig.folder / f"key.{HOST}.0").write_bytes(b"kklk")
    assert not rig.dump(session, IMAGE, header, 4)
    assert rig.info()[-1].endswith("what was read back of the key block is not what came")


def test_a_dump_that_waits_to_be_forgotten_holds_two_files_and_their_folder_open(rig: Rig) -> None:
    """The dump, which late copies are compared with, and the journal."""
    before = len(os.listdir("/proc/self/fd"))
    session = rig.open()
    rig.core.has_socket(session, ("198.18.0.1", 40123))
    assert rig.dump(session, IMAGE, HEADER, 2)
    assert len(os.listdir("/proc/self/fd")) == before + 3
    rig.core.tick(600.0)
    assert len(os.listdir("/proc/self/fd")) == before


# -- what is no dump -------------------------------------------------------------------------------


def test_a_header_that_promises_no_bytes_makes_no_complete_dump(rig: Rig) -> None:
    session = rig.open()
    assert rig.say(session, kdh(2, KernelDumpHeader(dumplength=0)), finished(3)) == [2]
    assert rig.info()[-1] == "Dump incomplete: client finished; the header promises no bytes"
    rig.core.stop()
    assert rig.files() == [f"bounds.{HOST}", f"info.{HOST}.0", f"manifest.{HOST}.0", PARTIAL]


@pytest.mark.parametrize("excess", [0, 1, 4852])
def test_stock_acks_understand_no_longer_datagrams_than_netdumpd(
    tmp_path: Path, excess: int
) -> None:
    frame = vmcore(2, 0, bytes(STOCK_DATAGRAM - 24 + excess))
    stock = Rig(tmp_path, strict_finish=False)
    assert stock.say(stock.open(), frame) == ([] if excess else [2])
    assert stock.core.refused == ({"datagram-too-long": 1} if excess else {})
    ours = Rig(tmp_path)
    assert ours.say(ours.open(), frame) == [2]


# -- what the manual says --------------------------------------------------------------------------


def test_the_manuals_table_has_the_words_of_the_info_files(tmp_path: Path) -> None:
    said: list[str] = []
    short, parts = KernelDumpHeader(dumplength=4096), frames(IMAGE, 2)

    def tell(seqno: int, end: Callable[[Rig, int], object], *datagrams: bytes) -> None:
        folder = tmp_path / str(len(said))
        folder.mkdir()
        disk = Disk(folder)
        rig = Rig(folder, disk)
        session = rig.open(seqno)
        rig.say(session, *datagrams)
        if end is full:
            disk.room = 100
        end(rig, session)
        said.append(rig.info()[-1])
        rig.core.stop()

    def full(rig: Rig, session: int) -> None:
        rig.say(session, parts[9])

    def silence(rig: Rig, session: int) -> None:
        rig.core.tick(600.0)

    def stop(rig: Rig, session: int) -> None:
        rig.core.stop()

    def finish(rig: Rig, session: int) -> None:
        rig.say(session, finished(9))

    def again(rig: Rig, session: int) -> None:
        rig.say(rig.open(DRAWN), parts[0])

    def move(rig: Rig, session: int) -> None:
        (rig.folder / PARTIAL).rename(rig.folder / "mine")
        finish(rig, session)

    def wait(rig: Rig, session: int) -> None:
        """Goes on."""

    tell(DRAWN, silence, parts[0], parts[2], parts[4], kdh(9, HEADER))
    tell(KERNEL, again, parts[0])
    tell(KERNEL, stop, *parts[:3])
    tell(DRAWN, finish, *parts[:4], kdh(9, short))
    tell(DRAWN, finish, kdh(9, KernelDumpHeader(dumplength=0)))
    tell(DRAWN, full, parts[0])
    tell(DRAWN, move, *parts, kdh(9, HEADER))
    tell(DRAWN, wait, parts[0])
    tell(DRAWN, wait, kdh(9, HEADER))
    tell(KERNEL, silence, *parts, kdh(9, replace(HEADER, version=2)))
    tell(KERNEL, silence, *parts, kdh(9, replace(HEADER, magic="OtherBSD Dump")))
    tell(KERNEL, silence, parts[0], vmcore(9, 1448, bytes(9300)))
    tell(KERNEL, silence, parts[0], vmcore(9, 70 << 30, b"x"))
    folder = tmp_path / "digest"
    folder.mkdir()
    rig = Rig(folder)
    reply = rig.core.herald(CLIENT, herald(100, offer=0x4E443205), 0.0)
    assert reply is not None
    wrong = struct.pack(">IIQ32x", 1, 32, 1448)
    closing = Message(MessageType.FINISHED, 103, 0, wrong).pack()
    header = kdh(102, KernelDumpHeader(dumplength=1448))
    rig.core.receive(reply.session_id, *block([vmcore(101, 0, bytes(1448)), header, closing]), 0.0)
    said.append(rig.info()[-1])
    night = DOCS.read_text().split("## It is night")[1].split("\n## ")[0]
    rows = [line.split(" | ")[0] for line in night.splitlines() if line.startswith("| `")]
    assert len(rows) == 17
    for words in re.findall(r"`([^`]+)`", "\n".join(rows)):
        pattern = re.escape(words.replace("...", "")).replace("HOST", re.escape(HOST))
        pattern = re.sub(r"(?<![A-Z])N(?![a-z])", "[0-9a-f]+", pattern)
        assert any(re.search(pattern.strip(r"\ "), line) for line in said), words
