"""The judge undoes a dump that is encrypted or compressed, and compares what comes out."""

from __future__ import annotations

import hashlib
from contextlib import closing
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.judge.compare import Comparison, Image, Range, Stored
from bench.judge.undo import Coding, Made, compare_undone
from bench.verdict import CaseResult
from netdump.compress import Compression
from netdump.ekcd import Encryption
from server.store import FileStore
from tests.ekcd_rig import PRIVATE, WAYS, crypto, program
from tests.judge_rig import octets
from tests.scenario_rig import made, played

#: The first 64 KiB are zeros, where a hole would not show in memory.
MEMORY = bytes(64 << 10) + hashlib.shake_256(b"memory").digest(136 << 10)
NAMES = {
    (False, None): "vmcore.h.0",
    (False, "gzip"): "vmcore.h.0.gz",
    (False, "zstd"): "vmcore.h.0.zst",
    (True, None): "vmcore_encrypted.h.0",
    (True, "gzip"): "vmcore_encrypted.h.0.gz",
    (True, "zstd"): "vmcore_encrypted.h.0.zst",
}


class Disk:
    """A folder with a stored dump, as it should be; ``file`` and ``key`` may be changed."""

    def __init__(
        self, folder: Path, encryption: Encryption | None, compression: Compression | None
    ) -> None:
        keys = crypto(encryption).next() if encryption else None
        self.coding = Coding(compression, keys, PRIVATE, folder)
        self.memory = Image([octets(MEMORY)])
        self.path = folder / NAMES[encryption is not None, compression]
        self.key = folder / "key.h.0"
        self.made = Made(self.memory, self.coding)
        self.file = bytearray(self.made.read(0, self.made.length).tobytes())
        if keys is not None:
            self.key.write_bytes(keys.block.pack())

    def judged(self) -> tuple[Comparison, str]:
        self.path.write_bytes(self.file)
        with closing(self.made), closing(Stored(self.path)) as stored:
            return compare_undone(self.memory, self.made, stored, self.path, self.coding)


@pytest.mark.parametrize(("encryption", "compression"), WAYS)
def test_what_is_stored_as_it_was_sent_is_memory(
    tmp_path: Path, encryption: Encryption | None, compression: Compression | None
) -> None:
    disk = Disk(tmp_path, encryption, compression)
    found, trouble = disk.judged()
    assert found.equal
    assert not trouble
    left = {disk.path.name, "key.h.0"} if encryption else {disk.path.name}
    assert {path.name for path in tmp_path.iterdir()} == left


def test_of_chacha20_a_hole_is_a_hole_in_the_same_place_also_where_memory_is_zero(
    tmp_path: Path,
) -> None:
    disk = Disk(tmp_path, "chacha20", None)
    disk.file[1448:2896] = bytes(1448)
    disk.file[100_000:101_448] = bytes(1448)
    found, trouble = disk.judged()
    assert not trouble
    assert found.only_holes
    # Here and there an octet of a cipher's is zero, as the hole is.
    assert [(round(r.start, -1), round(r.end, -1)) for r in found.ranges] == [
        (1450, 2900),
        (100_000, 101_450),
    ]


def test_of_aes_a_hole_takes_the_block_behind_it_along(tmp_path: Path) -> None:
    disk = Disk(tmp_path, "aes-256-cbc", None)
    disk.file[100_000:101_450] = bytes(1450)
    found, _ = disk.judged()
    assert found.ranges == [Range(100_000 - 100_000 % 16, 101_456 + 16, hole=True)]


@pytest.mark.parametrize(
    ("encryption", "start", "end"),
    [("chacha20", 120_007, 120_008), ("aes-256-cbc", 120_000, 120_024)],
)
def test_a_bit_that_flips_is_a_difference_and_no_hole(
    tmp_path: Path, encryption: Encryption, start: int, end: int
) -> None:
    """With CBC all of its block, and the same octet of the next."""
    disk = Disk(tmp_path, encryption, None)
    disk.file[120_007] ^= 1
    found, trouble = disk.judged()
    (one,) = found.ranges
    assert not one.hole
    assert not trouble
    assert (one.start, one.end) == (start, end)


@pytest.mark.parametrize("behind", [1, 15, 16])
@pytest.mark.parametrize("encryption", [None, "aes-256-cbc", "chacha20"])
def test_octets_behind_the_end_are_not_overlooked(
    tmp_path: Path, encryption: Encryption | None, behind: int
) -> None:
    disk = Disk(tmp_path, encryption, None)
    disk.file += b"x" * behind
    found, trouble = disk.judged()
    assert trouble or found.stored_length == len(MEMORY) + behind


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_no_more_is_made_of_a_compressed_file_than_memory_had(
    tmp_path: Path, compression: Compression
) -> None:
    disk = Disk(tmp_path, None, compression)
    disk.file[:] = program(compression, "-c", given=MEMORY + bytes(64 << 20))
    found, trouble = disk.judged()
    assert trouble == "more comes out of it than memory had"
    assert found.stored_length == len(MEMORY) + 1


@pytest.mark.parametrize("encryption", ["aes-256-cbc", "chacha20"])
def test_more_holes_than_are_listed_are_holes_all_the_same(
    tmp_path: Path, encryption: Encryption
) -> None:
    disk = Disk(tmp_path, encryption, None)
    holes = 1500
    for at in range(0, holes * 128, 128):
        disk.file[at : at + 32] = bytes(32)
    found, _ = disk.judged()
    assert found.ranges_left_out
    assert found.only_holes


def test_a_key_file_of_any_size_costs_no_more_than_a_key_block(tmp_path: Path) -> None:
    disk = Disk(tmp_path, "chacha20", None)
    with disk.key.open("r+b") as file:
        file.truncate(1 << 40)
    _, trouble = disk.judged()
    assert "it has 4097 octets" in trouble


@pytest.mark.parametrize("encryption", [None, "chacha20"])
@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_of_a_compressed_dump_all_is_lost_from_a_hole_on(
    tmp_path: Path, encryption: Encryption | None, compression: Compression
) -> None:
    disk = Disk(tmp_path, encryption, compression)
    whole = len(disk.file)
    disk.file[whole // 2 : whole // 2 + 1448] = bytes(1448)
    found, trouble = disk.judged()
    (lost,) = found.ranges
    assert lost.hole
    assert lost.end == len(MEMORY)
    assert 64 << 10 <= lost.start <= 160 << 10
    assert "breaks off before its end" in trouble


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_a_bit_that_flips_in_a_compressed_dump_is_told(
    tmp_path: Path, compression: Compression
) -> None:
    disk = Disk(tmp_path, None, compression)
    disk.file[len(disk.file) // 2] ^= 1
    _, trouble = disk.judged()
    assert compression in trouble


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_octets_behind_a_compressed_dump_are_told(tmp_path: Path, compression: Compression) -> None:
    disk = Disk(tmp_path, None, compression)
    disk.file += b"footer"
    found, trouble = disk.judged()
    assert found.equal
    assert "octets follow its end" in trouble


def test_a_dump_that_is_cut_or_too_long_is_told(tmp_path: Path) -> None:
    disk = Disk(tmp_path, "chacha20", None)
    disk.file += b"12345"
    assert disk.judged()[0].stored_length == len(MEMORY) + 5
    disk = Disk(tmp_path, "aes-256-cbc", None)
    del disk.file[150_001:]
    assert disk.judged()[0].ranges == [Range(150_000, len(MEMORY), hole=True)]


def test_without_its_key_file_or_with_a_wrong_one_nothing_comes_out(tmp_path: Path) -> None:
    disk = Disk(tmp_path, "chacha20", None)
    block = disk.key.read_bytes()
    for key, says in (
        (None, "no key file lies beside vmcore_encrypted.h.0"),
        (block[:-1], "4095 octets"),
        (b"\3" + block[1:], "cipher 3"),
        (block[:37] + bytes(256) + block[293:], "does not open the key block"),
    ):
        disk.key.unlink()
        if key is not None:
            disk.key.write_bytes(key)
        found, trouble = disk.judged()
        assert says in trouble
        assert found.stored_length == 0
        if key is None:
            disk.key.touch()


@settings(max_examples=60)
@given(st.sampled_from(WAYS), st.binary(max_size=300), st.binary(max_size=4096), st.booleans())
def test_whatever_is_stored_is_judged(
    tmp_path_factory: pytest.TempPathFactory,
    way: tuple[Encryption | None, Compression | None],
    file: bytes,
    key: bytes,
    behind: bool,
) -> None:
    disk = Disk(tmp_path_factory.mktemp("disk"), *way)
    disk.file[:] = disk.file[:1000] + file if behind else file
    if len(key) == 4096:
        disk.key.write_bytes(key)
    found, _ = disk.judged()
    assert not found.equal


# --- in a run -------------------------------------------------------------------------------------

ALIAS = """
server = { rescue = false, strict_finish = false }
wire   = { fault = [{ does = "drop", kind = "vmcore", index = 33 }] }
[case.expect]
outcome = "silent-hole"
"""


def run_of(client: str, more: str, tmp_path: Path) -> CaseResult:
    profile = '[[case]]\nprofile = "freebsd-14"\n'
    machine = '[machine]\nmemory = "1 MiB"\nload = "none"\n'
    (case,) = played(made(f"{machine}{profile}client = {client}\n{more}"), "sim", tmp_path).cases
    return case


@pytest.mark.parametrize("encryption", ["aes-256-cbc", "chacha20"])
def test_a_hole_of_the_stock_clients_is_told_in_memorys_offsets(
    tmp_path: Path, encryption: Literal["aes-256-cbc", "chacha20"]
) -> None:
    case = run_of(f'{{ encryption = "{encryption}" }}', ALIAS, tmp_path)
    assert case.met, case.unmet
    (hole,) = case.holes
    assert hole.start // 16 * 16 == 33 * 1448 // 16 * 16
    behind = 32 if encryption == "aes-256-cbc" else 0
    assert 34 * 1448 <= hole.end <= 34 * 1448 + behind
    told = any("was sent once, and never acknowledged" in note for note in case.notes)
    assert told == (encryption == "chacha20"), "of AES it begins in the frame before"


@pytest.mark.parametrize(("compression", "frame"), [("gzip", 33), ("zstd", 51)])
def test_a_hole_in_a_compressed_dump_says_that_the_rest_is_lost(
    tmp_path: Path, compression: str, frame: int
) -> None:
    """zstd's first chunk has no 33 frames: there is nothing to be mistaken for."""
    alias = ALIAS.replace("index = 33", f"index = {frame}")
    case = run_of(f'{{ compression = "{compression}" }}', alias, tmp_path)
    assert case.met, case.unmet
    (hole,) = case.holes
    assert hole.end == case.dump_bytes
    why = case.oracle_reasons["bytes-equal"]
    assert f"can't be undone: {compression}: it breaks off before its end" in why
    assert f"right up to offset {hole.start:#x}" in why
    assert case.oracles["ack-means-kept"] == "held"


def test_a_run_is_the_same_octet_for_octet_when_it_is_played_again(tmp_path: Path) -> None:
    client = '{ encryption = "chacha20", compression = "zstd" }'
    expect = '[case.expect]\noutcome = "complete"\n'
    captures = []
    for name in ("one", "two"):
        assert run_of(client, expect, tmp_path / name).met
        (capture,) = (tmp_path / name).rglob("wire.pcapng")
        captures.append(capture.read_bytes())
    assert captures[0] == captures[1]


def test_what_a_run_leaves_is_undone_by_programs_that_are_not_ours(tmp_path: Path) -> None:
    client = '{ compression = "gzip" }'
    case = run_of(client, '[case.expect]\noutcome = "complete"\n', tmp_path)
    (dump,) = (path for path in tmp_path.rglob("vmcore.*.0.gz"))
    assert len(program("gzip", "-dc", str(dump))) == case.dump_bytes


def test_a_key_block_that_was_acknowledged_and_is_not_there_is_no_kept_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dump may be partial for that: without the key nothing of it can be decrypted."""
    monkeypatch.setattr(FileStore, "write_key", lambda *_: None)
    expect = '[case.expect]\noutcome = "failed"\n'
    case = run_of('{ encryption = "chacha20" }', expect, tmp_path)
    assert case.oracles["ack-means-kept"] == "broken"
    assert "3 of 3 acknowledged pieces of the key block" in case.oracle_reasons["ack-means-kept"]
