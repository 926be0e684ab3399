"""``netdump-bench decrypt``: what it makes, and that it leaves nothing where it can't."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import threading
from pathlib import Path

import pytest

from bench.cli import main
from netdump.compress import Compression
from netdump.ekcd import Encryption
from netdump.outbound import Outbound
from server.manifest import VERSION
from tests.ekcd_rig import PEM, crypto, program

MEMORY = hashlib.shake_256(b"memory").digest(200 << 10) + bytes(1 << 20)
SUFFIX = {None: "", "gzip": ".gz", "zstd": ".zst"}
WAYS: list[tuple[Encryption, Compression | None]] = [
    ("aes-256-cbc", None),
    ("chacha20", None),
    ("chacha20", "gzip"),
    ("chacha20", "zstd"),
]


def stored(folder: Path, encryption: Encryption, compression: Compression | None) -> Path:
    """A dump as a server keeps it, its key beside it."""
    attempt = crypto(encryption).next()
    outbound = Outbound(compression, attempt)
    octets = b"".join(outbound.octets([memoryview(MEMORY)]))[: outbound.length]
    path = folder / f"vmcore_encrypted.10.0.0.1.0{SUFFIX[compression]}"
    path.write_bytes(octets)
    (folder / "key.10.0.0.1.0").write_bytes(attempt.block.pack())
    return path


def decrypted(dump: Path, out: Path, *more: str, pem: Path = PEM) -> int:
    return main(["decrypt", "--private-key", str(pem), *more, "--", str(dump), str(out)])


@pytest.mark.parametrize(("encryption", "compression"), WAYS)
def test_it_makes_what_memory_was(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    encryption: Encryption,
    compression: Compression | None,
) -> None:
    out = tmp_path / "vmcore"
    assert decrypted(stored(tmp_path, encryption, compression), out) == 0
    assert out.read_bytes() == MEMORY
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    said = capsys.readouterr().out
    assert said.startswith(f"{out}: 1,253,376 bytes, decrypted ({encryption})")
    assert (f"decompressed ({compression})" in said) == (compression is not None)
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_it_keeps_what_is_compressed_if_asked_to(tmp_path: Path, compression: Compression) -> None:
    out = tmp_path / "out"
    assert decrypted(stored(tmp_path, "chacha20", compression), out, "--keep-compressed") == 0
    assert program(compression, "-dc", given=out.read_bytes()) == MEMORY


def test_a_key_file_may_lie_elsewhere(tmp_path: Path) -> None:
    dump = stored(tmp_path, "chacha20", None)
    key = (tmp_path / "key.10.0.0.1.0").rename(tmp_path / "k")
    moved = dump.rename(tmp_path / "dump")
    assert decrypted(moved, tmp_path / "out", "--key", str(key)) == 0
    assert (tmp_path / "out").read_bytes() == MEMORY


def test_whatever_is_wrong_is_one_line_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = stored(tmp_path, "chacha20", "gzip")
    key = tmp_path / "key.10.0.0.1.0"
    octets, block = good.read_bytes(), key.read_bytes()
    other = tmp_path / "other.pem"
    other.write_bytes(program("openssl", "genpkey", "-algorithm", "RSA"))
    curve = tmp_path / "curve.pem"
    curve.write_bytes(program("openssl", "genpkey", "-algorithm", "ED25519"))
    cut = tmp_path / "vmcore_encrypted.10.0.0.1.0"
    out, there, nowhere = tmp_path / "out", tmp_path / "there", tmp_path / "no" / "out"
    there.write_text("mine")
    before = {path.name for path in tmp_path.iterdir()}
    aes = crypto("aes-256-cbc").next().block.pack()

    def wrong(
        says: str,
        dump: Path = good,
        to: Path = out,
        pem: Path = PEM,
        content: bytes = octets,
        key_is: bytes = block,
    ) -> None:
        if dump.name != "none":
            dump.write_bytes(content)
        key.write_bytes(key_is)
        assert decrypted(dump, to, pem=pem) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.count("\n") == 1
        assert says in said.err
        cut.unlink(missing_ok=True)
        good.write_bytes(octets)
        assert {path.name for path in tmp_path.iterdir()} == before

    wrong("does not open the key block", pem=other)
    wrong("no RSA key", pem=curve)
    wrong("no private key in PEM", pem=key)
    wrong("No such file", pem=tmp_path / "none")
    wrong("Is a directory", pem=tmp_path)
    wrong("cipher 9 is not known", key_is=b"\x09" + block[1:])
    wrong("4095 octets", key_is=block[:-1])
    wrong("File name too long", to=tmp_path / ("n" * 300))
    wrong("No such file", dump=tmp_path / "none")
    assert decrypted(curve, out) == 2
    assert "its name is no dump's" in capsys.readouterr().err
    wrong("it breaks off before its end", content=octets[:-1])
    wrong("gzip", content=bytes(len(octets)))
    wrong("octets follow its end", content=octets + b"x")
    wrong("no whole blocks of AES", dump=cut, content=bytes(4095), key_is=aes)
    wrong("it is there already", to=there)
    wrong("No such file", to=nowhere)
    assert there.read_text() == "mine"
    key.unlink()
    assert decrypted(good, out) == 2
    assert "key.10.0.0.1.0: No such file" in capsys.readouterr().err


def test_a_link_to_the_latest_dump_is_followed(tmp_path: Path) -> None:
    dump = stored(tmp_path, "chacha20", "zstd")
    link = tmp_path / "vmcore.10.0.0.1.last"
    link.symlink_to(dump.name)
    assert decrypted(link, tmp_path / "out") == 0
    assert (tmp_path / "out").read_bytes() == MEMORY


@pytest.mark.parametrize(("encryption", "compression"), WAYS)
def test_a_dump_that_broke_off_is_undone_as_far_as_it_goes(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    encryption: Encryption,
    compression: Compression | None,
) -> None:
    """101 messages of 1448 octets are no whole blocks of AES."""
    whole = stored(tmp_path, encryption, compression)
    dump = tmp_path / "vmcore.10.0.0.1.0.partial"
    dump.write_bytes(whole.read_bytes()[: 101 * 1448])
    out = tmp_path / "out"
    assert decrypted(dump, out) == 1
    came = out.read_bytes()
    assert MEMORY.startswith(came)
    assert len(came) >= (64 << 10 if compression else 101 * 1448 - 8)
    assert "of a dump that broke off" in capsys.readouterr().out


@pytest.mark.parametrize("encryption", ["aes-256-cbc", "chacha20"])
def test_the_holes_that_a_manifest_knows_are_zeros(tmp_path: Path, encryption: Encryption) -> None:
    hole = (50 * 1448, 52 * 1448)
    whole = bytearray(stored(tmp_path, encryption, None).read_bytes())
    whole[slice(*hole)] = bytes(hole[1] - hole[0])
    (tmp_path / "vmcore.10.0.0.1.0.partial").write_bytes(whole)
    told = {"manifest": VERSION, "holes": [list(hole)]}
    (tmp_path / "manifest.10.0.0.1.0").write_text(json.dumps(told))
    assert decrypted(tmp_path / "vmcore.10.0.0.1.0.partial", tmp_path / "out") == 1
    came = (tmp_path / "out").read_bytes()
    wide = hole if encryption == "chacha20" else (hole[0] // 16 * 16, -(-hole[1] // 16) * 16 + 16)
    assert came == MEMORY[: wide[0]] + bytes(wide[1] - wide[0]) + MEMORY[wide[1] :]


def test_of_a_compressed_dump_nothing_is_made_behind_its_first_hole(tmp_path: Path) -> None:
    whole = bytearray(stored(tmp_path, "chacha20", "gzip").read_bytes())
    whole[100 * 1448 : 101 * 1448] = bytes(1448)
    (tmp_path / "vmcore.10.0.0.1.0.partial").write_bytes(whole)
    told = {"manifest": VERSION, "holes": [[100 * 1448, 101 * 1448]]}
    (tmp_path / "manifest.10.0.0.1.0").write_text(json.dumps(told))
    assert decrypted(tmp_path / "vmcore.10.0.0.1.0.partial", tmp_path / "out") == 1
    came = (tmp_path / "out").read_bytes()
    assert MEMORY.startswith(came)
    assert 64 << 10 < len(came) <= 100 * 1448


def test_what_comes_out_of_another_dump_s_key_is_told_to_be_noise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dump = stored(tmp_path, "chacha20", None)
    assert decrypted(dump, tmp_path / "good") == 0
    # This memory begins with noise, too.
    assert "begins as no FreeBSD dump does" in capsys.readouterr().out
    attempt = crypto("chacha20").next()
    dump.write_bytes(b"".join(Outbound(None, attempt).octets([memoryview(b"\x7fELF" * 1024)])))
    assert decrypted(dump, tmp_path / "elf") == 0
    assert "begins as" not in capsys.readouterr().out


def test_who_comes_first_keeps_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Somebody else makes OUT while ours is being written."""
    out = tmp_path / "out"
    dump = stored(tmp_path, "chacha20", None)
    before = {path.name for path in tmp_path.iterdir()}
    real = os.fsync

    def meanwhile(fd: int) -> None:
        out.write_text("mine")
        real(fd)

    monkeypatch.setattr(os, "fsync", meanwhile)
    assert decrypted(dump, out) == 2
    assert "it is there already" in capsys.readouterr().err
    assert out.read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == before | {"out"}


def test_a_pipe_that_is_cut_off_in_a_block_of_aes_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    octets = stored(tmp_path, "aes-256-cbc", None).read_bytes()[:-1]
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(octets))
    writer.start()
    assert decrypted(pipe, tmp_path / "out", "--key", str(tmp_path / "key.10.0.0.1.0")) == 2
    writer.join()
    assert "no whole blocks of AES" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
