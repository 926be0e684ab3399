"""Our TFTP server on real sockets, against clients that nobody here wrote: tftp-hpa's, and curl."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from bench.servers.tftp.config import TftpConfig
from bench.servers.tftp.shell import Shell, main


@contextmanager
def serving(folder: Path, config: TftpConfig | None = None) -> Iterator[tuple[str, int]]:
    """The server, in a thread of its own."""
    folder.mkdir()
    over = threading.Event()
    with Shell(folder, config or TftpConfig(), "127.0.0.1", 0) as shell:

        def serve() -> None:
            while not over.is_set():
                shell.turn()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield shell.address
        finally:
            over.set()
            thread.join(30)


def made(folder: Path, size: int) -> Path:
    file = folder / "dump"
    file.write_bytes(np.random.default_rng(size).bytes(size))
    return file


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"no {name}; cure: scripts/debian-packages test")
    return found


def tftp_put(file: Path, address: tuple[str, int], name: str) -> str:
    """tftp-hpa's put; what it printed. Its exit status says nothing."""
    host, port = address
    done = subprocess.run(
        [program("tftp"), "-m", "binary", host, str(port), "-c", "put", str(file), name],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.stdout + done.stderr


def curl_put(file: Path, address: tuple[str, int], name: str, *more: str) -> tuple[int, str]:
    """Its exit status, and what it printed."""
    host, port = address
    done = subprocess.run(
        [program("curl"), "-sS", *more, "-T", str(file), f"tftp://{host}:{port}/{name}"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("size", [0, 511, 512, 513, 1 << 20])
def test_tftp_hpa_puts_a_file(tmp_path: Path, size: int) -> None:
    file = made(tmp_path, size)
    with serving(tmp_path / "there") as address:
        said = tftp_put(file, address, "vmcore")
    assert "rror" not in said
    assert (tmp_path / "there" / "vmcore").read_bytes() == file.read_bytes()


@pytest.mark.parametrize("blksize", [512, 1428, 8192])
def test_curl_uploads_a_file(tmp_path: Path, blksize: int) -> None:
    file = made(tmp_path, 2_000_000)
    with serving(tmp_path / "there") as address:
        status, said = curl_put(file, address, "vmcore", "--tftp-blksize", str(blksize))
    assert status == 0, said
    assert (tmp_path / "there" / "vmcore").read_bytes() == file.read_bytes()


def test_curl_without_options_is_served_as_in_1992(tmp_path: Path) -> None:
    file = made(tmp_path, 300_000)
    with serving(tmp_path / "there", TftpConfig(options=False)) as address:
        status, said = curl_put(file, address, "vmcore", "--tftp-no-options")
    assert status == 0, said
    assert (tmp_path / "there" / "vmcore").read_bytes() == file.read_bytes()


def test_what_is_refused_is_told_in_their_words(tmp_path: Path) -> None:
    file = made(tmp_path, 100_000)
    with serving(tmp_path / "there", TftpConfig(existing="refuse", room=50_000)) as address:
        (tmp_path / "there" / "older").write_bytes(b"an older one")
        assert "older is there already" in tftp_put(file, address, "older")
        assert "No space left on device" in tftp_put(file, address, "vmcore")
        assert "no name that may be written here" in tftp_put(file, address, "../vmcore")
    left = {path.name for path in (tmp_path / "there").iterdir()}
    assert left == {"older", "vmcore.partial"}
    assert (tmp_path / "there" / "older").read_bytes() == b"an older one"


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none")]) == 2
    assert "there is no such folder" in capsys.readouterr().err
