"""CRC32C and digest, as the server checks them; the manifest, and ``verify``."""

from __future__ import annotations

import errno
import json
import os
import struct
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from netdump.kdh import KernelDumpHeader
from server import readback
from server.beside import at_once, one_thread
from server.cli import main
from server.folder import DumpFolder
from server.store import StoreError
from server.verify import verify
from tests.by_hand import crc_by_hand
from tests.server_rig import (
    CLIENT,
    DRAWN,
    HEADER,
    HOST,
    IMAGE,
    KERNEL,
    Disk,
    Rig,
    block,
    finished,
    frames,
    herald,
    image_of,
    kdh,
    key,
    vmcore,
)

MARK = 0x4E443200
SMALL = image_of(20 * 1448)
SMALL_HEADER = KernelDumpHeader(dumplength=len(SMALL), hostname="lab1", panicstring="\x1b[2Jpage")
MANIFEST = f"manifest.{HOST}.0"


def signed(message: bytes) -> bytes:
    """A message with its CRC in its word."""
    crc = crc_by_hand(message[:20] + bytes(4) + message[24:])
    return message[:20] + crc.to_bytes(4, "big") + message[24:]


def closing(seqno: int, image: bytes, digest: bytes | None = None) -> bytes:
    """FINISHED with a digest: the image's, or another one."""
    payload = struct.pack(">IIQ", 1, 32, len(image)) + (digest or blake3(image).digest())
    return struct.pack(">IIQII", 2, seqno, 0, len(payload), 0) + payload


class Peer:
    """A client that has offered all three."""

    def __init__(self, rig: Rig, bits: int = 7) -> None:
        self.rig = rig
        reply = rig.core.herald(CLIENT, herald(100, offer=MARK | bits), rig.now)
        assert reply is not None
        assert reply.ack == struct.pack(">II", MARK | bits, 101)
        self.session = reply.session_id

    def say(self, *messages: bytes) -> list[int]:
        """``next`` of each ack."""
        acks = self.rig.core.receive(self.session, *block(messages), self.rig.now)
        return [int(row.view(">u4")[1]) for row in np.ascontiguousarray(acks)]

    def dump(self, image: bytes = SMALL, header: KernelDumpHeader = SMALL_HEADER) -> int:
        """All but FINISHED; the seqno that it has."""
        parts = frames(image, 101)
        for at in range(0, len(parts), 46):
            self.say(*map(signed, parts[at : at + 46]))
        last = 101 + len(parts)
        assert self.say(signed(kdh(last, header))) == [last + 1]
        return last + 1


def manifest(rig: Rig, number: int = 0) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(rig.read(f"manifest.{HOST}.{number}"))
    return told


# -- CRC -------------------------------------------------------------------------------------------


def test_a_message_whose_crc_is_wrong_is_refused_and_its_copy_is_taken(rig: Rig) -> None:
    peer = Peer(rig)
    parts = [signed(part) for part in frames(SMALL, 101)]
    damaged = bytearray(parts[3])
    damaged[900] ^= 1
    assert peer.say(*parts[:3], bytes(damaged), *parts[4:]) == [104]
    assert rig.core.refused == {"crc": 1}
    assert any(kind == "refused" and f["reason"] == "crc" for kind, f in rig.told.events)
    assert rig.info()[-1] == (
        "Refused: messages whose CRC32C is wrong came, damaged on their way, and were refused"
    )
    assert peer.say(parts[3]) == [121]
    assert peer.say(signed(kdh(121, SMALL_HEADER))) == [122]
    assert peer.say(signed(closing(122, SMALL))) == [123]
    assert rig.read(f"vmcore.{HOST}.0") == SMALL
    assert "messages whose CRC32C" in manifest(rig)["refused"]["crc"]


@given(bit=st.integers(0, 8 * (24 + 1448) - 1), later=st.integers(0, 3))
@settings(max_examples=60)
def test_no_single_bit_of_a_message_can_flip_unnoticed(
    tmp_path_factory: pytest.TempPathFactory, bit: int, later: int
) -> None:
    rig = Rig(tmp_path_factory.mktemp("dumps"))
    peer = Peer(rig)
    parts = [signed(part) for part in frames(SMALL, 101)[:4]]
    damaged = bytearray(parts[later])
    damaged[bit // 8] ^= 0x80 >> bit % 8
    peer.say(*parts[:later], bytes(damaged), *parts[later + 1 :])
    assert rig.core.refused.total() == 1


def test_a_stock_clients_words_are_not_read(rig: Rig) -> None:
    session = rig.open(DRAWN)
    (part, *_) = frames(SMALL, DRAWN + 1)
    odd = part[:20] + b"\xde\xad\xbe\xef" + part[24:]
    assert rig.say(session, odd) == [DRAWN + 1]


# -- digest ----------------------------------------------------------------------------------------


def test_a_dump_that_is_what_the_client_sent_is_complete(rig: Rig) -> None:
    peer = Peer(rig)
    last = peer.dump(IMAGE, HEADER)
    assert peer.say(signed(closing(last, IMAGE))) == [last + 1]
    assert rig.info()[-1] == "Dump complete"
    told = manifest(rig)
    assert told["digest"] == {
        "algorithm": "BLAKE3",
        "value": blake3(IMAGE).hexdigest(),
        "length": len(IMAGE),
    }
    assert told["verified"] == [
        "it has no hole and the length that its header promises",
        "the CRC32C of each message",
        "the digest of the file is the client's",
    ]
    assert [said.split()[:3] for said in told["not_verified"]] == [
        ["the", "client", "has"],  # not proved who it is
        ["the", "file", "was"],  # read back, with --fsync none perhaps from the page cache
    ]


@pytest.mark.parametrize("what", ["digest", "length"])
def test_a_dump_that_is_not_what_the_client_sent_has_failed(rig: Rig, what: str) -> None:
    peer = Peer(rig)
    last = peer.dump()
    wrong = closing(last, SMALL, bytes(32)) if what == "digest" else closing(last, SMALL[:-1])
    for _ in range(3):
        assert peer.say(signed(wrong)) == []
    said = {"digest": "is not what the client sent: BLAKE3", "length": "client has digested 28959"}
    assert said[what] in rig.info()[-1]
    assert rig.events.count("finish-refused") == 1
    assert rig.files() == [f"bounds.{HOST}", f"info.{HOST}.0", f"vmcore.{HOST}.0.partial"]
    rig.now = 600.0
    rig.core.tick(rig.now)
    assert said[what] in rig.info()[-1]
    assert manifest(rig)["status"] == "incomplete"
    assert f"vmcore.{HOST}.0.partial" in rig.files()


def test_what_the_disk_does_to_a_dump_is_noticed(rig: Rig) -> None:
    """Every CRC was right; the file changed after it was written, before it was read back."""
    peer = Peer(rig)
    last = peer.dump()
    with (rig.folder / f"vmcore.{HOST}.0.partial").open("r+b") as file:
        file.seek(12345)
        octet = file.read(1)[0]
        file.seek(12345)
        file.write(bytes([octet ^ 4]))
    assert peer.say(signed(closing(last, SMALL))) == []
    assert "not what the client sent" in rig.info()[-1]


def test_a_finished_without_the_digest_is_refused(rig: Rig) -> None:
    peer = Peer(rig)
    last = peer.dump()
    assert peer.say(signed(finished(last))) == []
    assert rig.core.refused["finished-digest"] == 1
    assert peer.say(signed(closing(last, SMALL))) == [last + 1]


def test_a_digest_client_without_its_finished_is_complete_and_unverified(rig: Rig) -> None:
    Peer(rig).dump()
    rig.now = 600.0
    rig.core.tick(rig.now)
    assert rig.info()[-1] == "Dump complete"
    assert "the client's digest did not come" in manifest(rig)["not_verified"]


def test_a_long_dump_is_read_back_in_slices(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readback, "SLICE", 10_000)
    peer = Peer(rig)
    last = peer.dump()
    answers = [peer.say(signed(closing(last, SMALL))) for _ in range(3)]
    assert answers == [[], [], [last + 1]]
    assert rig.core.refused == {"finished-early": 2}


def test_it_is_read_back_behind_the_writer(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readback, "LAG", 30_000)
    monkeypatch.setattr(readback, "STRETCH", 4096)
    peer = Peer(rig)
    parts = [signed(part) for part in frames(IMAGE, 101)]
    dump = rig.core.sessions[peer.session].dump
    for at in range(len(parts) // 2):
        peer.say(parts[at])
        end = dump.vmcore.coverage.prefix
        assert dump.readback.done <= max(0, end - 30_000)
    assert end - dump.readback.done < 30_000 + 4096
    # What is written again with other bytes makes it begin again.
    peer.say(signed(vmcore(101, 0, b"other")), signed(vmcore(101, 0, IMAGE[:5])))
    assert dump.readback.done <= 4096
    for part in parts[len(parts) // 2 :]:
        peer.say(part)
    last = 101 + len(parts)
    peer.say(signed(kdh(last, HEADER)))
    assert peer.say(signed(closing(last + 1, IMAGE))) == [last + 2]


class Beside:
    """A thread that does what it was asked to when it is told so."""

    def __init__(self) -> None:
        self.asked: list[tuple[Callable[[], int], Future[int]]] = []

    def later(self, read: Callable[[], int]) -> Future[int]:
        self.asked.append((read, Future()))
        return self.asked[-1][1]

    def go(self) -> None:
        for read, future in self.asked:
            future.set_result(read())
        self.asked.clear()


@pytest.mark.parametrize("rewritten", [None, 0, 5000, 9000])
def test_a_stretch_that_is_read_beside_the_loop_counts_when_it_is_there_and_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rewritten: int | None
) -> None:
    """What is written again while it is being read is read again, all from the beginning."""
    monkeypatch.setattr(readback, "LAG", 1000)
    monkeypatch.setattr(readback, "STRETCH", 4096)
    beside = Beside()
    folder = DumpFolder(str(tmp_path), "none", beside.later)
    store = folder(CLIENT, "")
    store.begin()
    store.write(0, [np.frombuffer(IMAGE[:20_000], np.uint8)])
    reading = readback.ReadBack(store)
    reading.follow(5000)
    assert (len(beside.asked), reading.done) == (0, 0), "not far enough behind"
    reading.follow(20_000)
    reading.follow(20_000)
    assert (len(beside.asked), reading.done) == (1, 0), "one at a time"
    beside.go()
    reading.follow(20_000)
    assert (len(beside.asked), reading.done) == (1, 4096)
    if rewritten is not None:
        store.write(rewritten, [np.frombuffer(b"other", np.uint8)])
        reading.rewritten(rewritten)
        assert reading.done == (4096 if rewritten >= 8192 else 0)
    beside.go()
    monkeypatch.setattr(store, "later", at_once)
    assert reading.reach(20_000)
    assert reading.digest().value == blake3(store.read(0, 20_000)).digest()
    reading.close()
    store.close()
    folder.close()


def test_without_a_thread_to_be_had_it_is_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with one_thread() as later:
        assert later(threading.get_ident).result() != threading.get_ident()

    def none_left(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none_left)
    with one_thread() as later:
        assert later(threading.get_ident).result() == threading.get_ident()


def test_a_disk_that_can_not_be_read_back_makes_no_complete_dump(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = Peer(rig)
    last = peer.dump()
    os.truncate(rig.folder / f"vmcore.{HOST}.0.partial", 1000)
    assert peer.say(signed(closing(last, SMALL))) == []
    assert "can't read back @ offset 0: Input/output error" in rig.info()[-1]


def test_with_fsync_it_is_read_back_from_the_disk(tmp_path: Path) -> None:
    store = DumpFolder(str(tmp_path), "finish")(CLIENT, "")
    store.begin()
    store.write(0, [np.frombuffer(IMAGE, np.uint8)])
    assert store.reads_disk
    assert store.read_back(4096, 100_000) == IMAGE[4096:104_096]
    with pytest.raises(StoreError, match="can't read back @ offset 0: Input/output error"):
        store.read_back(0, len(IMAGE) + 1)
    store.close()


# -- manifest and verify ---------------------------------------------------------------------------


def test_a_stock_clients_dump_gets_a_manifest_that_says_what_nobody_knows(rig: Rig) -> None:
    assert rig.dump(rig.open(KERNEL), SMALL, SMALL_HEADER)
    told = manifest(rig)
    assert (told["status"], told["length"], told["holes"]) == ("complete", len(SMALL), [])
    assert told["digest"]["value"] == blake3(SMALL).hexdigest()
    assert told["client"]["hostname"] == "lab1"
    assert told["protocol"] == {
        "name": "netdump",
        "crc32c": False,
        "digest": False,
        "authenticated": False,
    }
    assert told["announced"] is None
    assert len(told["not_verified"]) == 4
    assert b"\x1b" not in rig.read(MANIFEST)
    status, line = verify(str(rig.folder / f"vmcore.{HOST}.last"))
    assert (status, line.split()[0]) == (0, "ok")


def test_the_manifest_is_private_and_there_is_no_half_of_it(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    rig = Rig(tmp_path, disk)
    session = rig.open(KERNEL)
    rig.say_in_batches(session, frames(SMALL, 2), 46)
    rig.say(session, kdh(90, SMALL_HEADER))
    dump = rig.core.sessions[session].dump
    disk.fails = errno.ENOSPC
    with pytest.raises(StoreError, match="can't write manifest"):
        dump.write_manifest("{}")
    assert not [name for name in rig.files() if name.startswith("manifest")]
    disk.fails = 0
    assert rig.say(session, finished(91)) == [91]
    assert (tmp_path / MANIFEST).stat().st_mode & 0o777 == 0o600


def test_an_incomplete_dump_has_a_manifest_with_its_holes(rig: Rig) -> None:
    session = rig.open(KERNEL)
    parts = frames(SMALL, 2)
    rig.say(session, *parts[:5], *parts[7:], kdh(90, SMALL_HEADER))
    rig.core.stop()
    told = manifest(rig)
    assert told["status"] == "incomplete"
    assert told["holes"] == [[5 * 1448, 7 * 1448]]
    path = rig.folder / f"vmcore.{HOST}.0.partial"
    assert told["digest"]["value"] == blake3(path.read_bytes()).hexdigest()
    status, line = verify(str(path))
    assert (status, line.split()[0]) == (1, "incomplete")
    assert "1 hole, 2896 bytes" in line


def test_verify_tells_a_copy_that_decayed(rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    assert rig.dump(rig.open(KERNEL), SMALL, SMALL_HEADER)
    dump = rig.folder / f"vmcore.{HOST}.0"
    assert main(["verify", str(dump)]) == 0
    octets = bytearray(SMALL)
    octets[777] ^= 0x10
    dump.write_bytes(octets)
    assert main(["verify", str(dump)]) == 1
    dump.write_bytes(SMALL[:-1])
    assert main(["verify", str(dump)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["ok", "damaged", "damaged"]


def test_verify_tells_of_a_key_file_that_is_missing_or_changed(rig: Rig) -> None:
    session = rig.open()
    header = replace(SMALL_HEADER, dumpkeysize=4096)
    block = image_of(4096, 2)
    assert rig.say(session, key(2, 0, block[:2048]), key(3, 2048, block[2048:])) == [2, 3]
    assert rig.dump(session, SMALL, header, 4)
    file = rig.folder / f"key.{HOST}.0"
    told = manifest(rig)
    assert told["key"]["value"] == blake3(block).hexdigest()
    assert any("key block" in phrase for phrase in told["not_verified"])
    dump = str(rig.folder / f"vmcore_encrypted.{HOST}.0")
    assert verify(dump)[0] == 0
    file.chmod(0o600)
    file.write_bytes(block[:-1] + b"x")
    status, line = verify(dump)
    assert (status, "not as it was stored" in line) == (1, True)
    file.unlink()
    status, line = verify(dump)
    assert (status, "No such file" in line) == (1, True)


@pytest.mark.parametrize(
    "text",
    [
        *("", "null", "[]", "{}", '{"manifest": 1}', '{"manifest": 2}', "{" * 100_000),
        '{"manifest": 1, "length": "x", "digest": null, "status": 1, "outcome": ""}',
    ],
)
def test_verify_without_a_manifest_that_can_be_used(rig: Rig, text: str) -> None:
    assert rig.dump(rig.open(KERNEL), SMALL, SMALL_HEADER)
    dump = str(rig.folder / f"vmcore.{HOST}.0")
    (rig.folder / MANIFEST).write_text(text)
    status, line = verify(dump)
    assert (status, line.split()[0], "\n" in line) == (2, "unverified", False)
    (rig.folder / MANIFEST).unlink()
    assert verify(dump)[0] == 2
    assert verify(str(rig.folder / "nothing\n"))[0] == 2
