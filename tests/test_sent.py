"""The witness of what a client sends: it believes what a host would, and the latest for a byte."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.judge import sent as sent_module
from bench.judge.sent import SentBytes
from netdump.kdh import KernelDumpHeader
from nic_models.frames import Frames
from tests import wire_frames as wf


def vmcore(seqno: int, offset: int, payload: bytes) -> bytes:
    return wf.datagram(wf.message(wf.VMCORE, seqno, payload, offset), dport=40000)


def kdh(seqno: int, length: int) -> bytes:
    return wf.datagram(wf.message(wf.KDH, seqno, KernelDumpHeader(dumplength=length).pack()))


@pytest.fixture
def sent(tmp_path: Path) -> Iterator[SentBytes]:
    witness = SentBytes(tmp_path)
    yield witness
    witness.close()


def test_it_leaves_no_file(tmp_path: Path, sent: SentBytes) -> None:
    sent.observe(Frames.of([vmcore(1, 0, b"abc")]))
    assert list(tmp_path.iterdir()) == []


def test_bytes_lie_where_their_messages_say_in_whatever_order_they_come(sent: SentBytes) -> None:
    sent.observe(Frames.of([vmcore(2, 5, b"world"), vmcore(1, 0, b"hello")]))
    assert (sent.length, sent.read(0, 99).tobytes()) == (10, b"helloworld")
    assert sent.read(3, 7).tobytes() == b"lowo"
    assert (sent.messages, sent.repeats) == (2, 0)
    assert sent.never_sent(10) == []


def test_what_comes_later_for_a_byte_replaces_what_came_before(sent: SentBytes) -> None:
    sent.observe(Frames.of([vmcore(1, 0, b"0123456789"), vmcore(2, 3, b"abc")]))
    sent.observe(Frames.of([vmcore(2, 3, b"abc")]))
    assert sent.read(0, 10).tobytes() == b"012abc6789"
    assert (sent.messages, sent.repeats) == (3, 1)


def test_what_was_never_sent_reads_as_zeros_and_is_known(sent: SentBytes) -> None:
    sent.observe(Frames.of([vmcore(1, 4, b"abcd"), vmcore(2, 12, b"efgh")]))
    assert sent.read(0, 16).tobytes() == bytes(4) + b"abcd" + bytes(4) + b"efgh"
    assert sent.never_sent(20) == [(0, 4), (8, 12), (16, 20)]
    assert sent.never_sent(14) == [(0, 4), (8, 12)]
    assert sent.never_sent(10) == [(0, 4), (8, 10)]
    assert sent.never_sent(3) == [(0, 3)]
    assert sent.never_sent(0) == []


def test_nothing_sent_is_all_of_it_missing(sent: SentBytes) -> None:
    assert sent.never_sent(7) == [(0, 7)]
    assert (sent.promised, sent.header, sent.length, len(sent.read(0, 9))) == (None, b"", 0, 0)


def test_the_latest_header_says_how_long_the_dump_is(sent: SentBytes) -> None:
    sent.observe(Frames.of([kdh(1, 4096), kdh(2, 1 << 40)]))
    assert sent.promised == 1 << 40
    assert sent.header == KernelDumpHeader(dumplength=1 << 40).pack()
    sent.observe(Frames.of([wf.datagram(wf.message(wf.KDH, 3, b"short"))]))
    assert sent.promised == 1 << 40


def test_what_no_host_would_take_was_not_sent(sent: SentBytes) -> None:
    good = bytearray(vmcore(1, 0, b"hello"))
    damaged = [bytearray(good) for _ in range(5)]
    damaged[0][70] ^= 1  # payload
    damaged[1][24] ^= 1  # IP checksum
    damaged[2][38:40] = b"\xff\xff"  # UDP length
    damaged[3][61] ^= 4  # the message's own length
    damaged[4][16:18] = b"\0\x1c"  # IP length
    others = [wf.arp_request(), wf.ack(1), bytes(good[:50]), wf.datagram(b"\0\0\0\3")]
    stranger = wf.datagram(wf.message(wf.VMCORE, 1, b"hello"), sport=20025)
    sent.observe(Frames.of([*map(bytes, damaged), *others, stranger]))
    assert (sent.messages, sent.length) == (0, 0)
    sent.observe(Frames.of([bytes(good)]))
    assert sent.read(0, 5).tobytes() == b"hello"


def test_a_datagram_without_a_checksum_is_as_good_as_udp_allows(sent: SentBytes) -> None:
    frame = bytearray(vmcore(1, 0, b"hello"))
    frame[40:42] = bytes(2)
    sent.observe(Frames.of([bytes(frame)]))
    assert sent.length == 5


def test_it_keeps_no_more_than_it_may(sent: SentBytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sent_module, "MOST_OFFSET", 1000)
    monkeypatch.setattr(sent_module, "MOST_BYTES", 8)
    sent.observe(Frames.of([vmcore(1, 2000, b"x"), vmcore(2, 1000, b"yyyy")]))
    assert (sent.not_kept, sent.length) == (1, 1004)
    sent.observe(Frames.of([vmcore(3, 0, b"12345")]))
    assert sent.not_kept == 2
    sent.observe(Frames.of([vmcore(4, (1 << 64) - 1, b"far")]))
    assert sent.not_kept == 3


@given(
    st.lists(
        st.tuples(st.integers(0, 60), st.binary(min_size=1, max_size=20)), min_size=1, max_size=20
    )
)
def test_it_is_a_file_that_was_written_to(pieces: list[tuple[int, bytes]]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        sent = SentBytes(Path(folder))
        want = np.zeros(80, np.uint8)
        covered = np.zeros(80, np.bool_)
        for seqno, (offset, payload) in enumerate(pieces):
            sent.observe(Frames.of([vmcore(seqno, offset, payload)]))
            want[offset : offset + len(payload)] = np.frombuffer(payload, np.uint8)
            covered[offset : offset + len(payload)] = True
        assert np.array_equal(sent.read(0, 80), want[: sent.length])
        missing = np.zeros(80, np.bool_)
        for start, end in sent.never_sent(80):
            missing[start:end] = True
        assert np.array_equal(missing, ~covered)
        sent.close()
