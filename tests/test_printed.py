"""What a server prints: bounded, and searched for defects that are its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench.servers.printed import HEAD_BYTES, TAIL_BYTES, Printed, PrintedLog, raised

PANIC = "thread 'swapper' panicked at kernel/mm.rs:7"
TRACE = "Traceback (most recent call last):\n  File x\nValueError: bad\n"


@pytest.mark.parametrize(
    "output",
    [
        TRACE,
        f"listening\n{TRACE}",
        "  + Exception Group Traceback (most recent call last):\n",
        "==123==ERROR: AddressSanitizer: heap-use-after-free\n",
        "==123==WARNING: MemorySanitizer: use-of-uninitialized-value\n",
        "WARNING: ThreadSanitizer: data race (pid=1)\n",
        "src/net.c:12:3: runtime error: signed integer overflow\n",
        "\nthread 'main' panicked at src/main.rs:2:5:\n",
        "\nthread 'main' (4711) panicked at src/main.rs:2:5:\n",
        f"{PANIC}\nthread 'main' panicked at src/main.rs:2:5:\n",
    ],
)
def test_a_runtimes_report_is_a_defect(output: str) -> None:
    (line,) = raised(output, ["victim", PANIC])
    assert line.startswith("the server raised: ")
    assert "swapper" not in line


@pytest.mark.parametrize(
    "output",
    [
        f"panic: {PANIC}\n",
        f"{PANIC}\n",
        f"dump of victim\n{PANIC} (from its header)\n",
        f"{PANIC[:30]}\n",
        f"header: b'{TRACE!r}'\n",
        "panic: mm.c:7: runtime error: none\n",
        "no ERROR: AddressSanitizer here\n",
        "",
    ],
)
def test_what_a_server_quotes_is_none(output: str) -> None:
    assert raised(output, ["victim", PANIC]) == []


def test_up_to_a_mib_all_is_kept() -> None:
    printed = Printed()
    assert printed.add(b"x" * HEAD_BYTES) == b"x" * HEAD_BYTES
    assert printed.add(b"end") == b""
    assert printed.text() == "x" * HEAD_BYTES + "end"
    assert (printed.text(HEAD_BYTES - 1), printed.text(HEAD_BYTES + 1)) == ("xend", "nd")


def test_of_more_the_first_the_last_and_the_defects_between_are_kept() -> None:
    printed = Printed()
    for i in range(200_000):
        printed.add(f"line {i} is a line\n".encode())
        if i == 100_000:
            printed.add(TRACE.encode())
    text = printed.text()
    assert len(text) < HEAD_BYTES + 3 * TAIL_BYTES
    assert text.startswith("line 0 is")
    assert text.endswith("line 199999 is a line\n")
    assert "bytes are left out here]" in text
    (defect,) = raised(text)
    assert "ValueError: bad" in defect


def test_a_log_over_two_lives_is_bounded_and_ends_with_the_end(tmp_path: Path) -> None:
    log = PrintedLog(tmp_path / "log")
    for word in (b"first", b"second"):
        before = log.total
        fd = log.open()
        for _ in range(300):
            os.write(fd, word * 1000)
        os.write(fd, b"\nready\n")
        last = f"{word.decode() * 1000}\nready\n"
        assert log.text(before).endswith(last), "at once, while it lives"
        os.close(fd)
        log.close()
        log.close()
        assert log.total == before + 300 * len(word) * 1000 + 7
    kept = (tmp_path / "log").read_text()
    assert kept == log.text()
    assert HEAD_BYTES < len(kept) < HEAD_BYTES + 3 * TAIL_BYTES


def test_a_log_closes_though_another_has_the_pipe_too(tmp_path: Path) -> None:
    log = PrintedLog(tmp_path / "log")
    fd = log.open()
    os.write(fd, b"here")
    log.close()
    assert (tmp_path / "log").read_text() == log.text() == "here"
    os.close(fd)
