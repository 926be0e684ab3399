"""The stream of a QEMU netdev: whatever lengths, whatever pieces, the same frames come out."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.clock import RealClock
from bench.wire.contracts import WireError
from bench.wire.stream import BACKLOG, StreamWire
from nic_models.frames import Frames
from tests.patience import HANG_S

Pair = tuple[StreamWire, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    with theirs:
        wire = StreamWire(ours, RealClock())
        yield wire, theirs
        wire.close()


def told(frames: list[bytes]) -> bytes:
    return b"".join(struct.pack("!I", len(frame)) + frame for frame in frames)


frames_strategy = st.lists(st.binary(min_size=1, max_size=90), min_size=1, max_size=30)


@given(frames_strategy, st.lists(st.integers(1, 60), max_size=20))
def test_frames_come_out_whole_however_the_stream_is_cut(
    frames: list[bytes], cuts: list[int]
) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        wire = StreamWire(ours, RealClock())
        stream, heard = told(frames), []
        for size in [*cuts, len(stream)]:
            theirs.sendall(stream[:size])
            stream = stream[size:]
            got = wire.receive()
            heard += [got.bytes_of(i) for i in range(len(got))]
        wire.close()
    assert heard == frames


@given(frames_strategy)
def test_what_is_sent_is_read_back_by_the_other_side(frames: list[bytes]) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        wire = StreamWire(ours, RealClock())
        wire.send(Frames.of(frames))
        wire.close()
        theirs.settimeout(HANG_S)
        heard = b""
        while more := theirs.recv(1 << 16):
            heard += more
    assert heard == told(frames)


@given(st.lists(st.lists(st.binary(min_size=1, max_size=90), max_size=3), max_size=6))
def test_a_knock_between_frames_changes_nothing_that_is_heard(batches: list[list[bytes]]) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        wire = StreamWire(ours, RealClock())
        for batch in batches:
            wire.knock()
            wire.knock()
            assert not wire.flush()
            wire.send(Frames.of(batch))
        wire.close()
        theirs.settimeout(HANG_S)
        heard = b""
        while more := theirs.recv(1 << 16):
            heard += more
    frames = [frame for batch in batches for frame in batch]
    ahead = b"\0" if batches and not batches[-1] else b""
    assert heard == told(frames) + ahead


def test_a_reader_that_stops_costs_frames_but_never_blocks_us(pair: Pair) -> None:
    wire, theirs = pair
    batch = Frames.of([bytes(1400)] * 500)
    for _ in range(BACKLOG // (1400 * 500) + 3):
        wire.send(batch)
    assert wire.dropped
    assert wire.dropped % 500 == 0
    # Once it reads again, what waited arrives, whole.
    theirs.setblocking(False)
    heard = 0
    while True:
        wire.receive()
        try:
            heard += len(theirs.recv(1 << 20))
        except BlockingIOError:
            break
    assert heard % 1404 == 0
    assert heard >= BACKLOG


def test_a_side_that_hangs_up_is_noticed_and_raises_nothing(pair: Pair) -> None:
    wire, theirs = pair
    theirs.sendall(told([b"last words"]))
    theirs.close()
    assert wire.receive().bytes_of(0) == b"last words"
    assert not len(wire.receive())
    assert wire.ended
    wire.send(Frames.of([b"anybody?"]))


def test_what_is_no_such_stream_is_refused(pair: Pair) -> None:
    wire, theirs = pair
    theirs.sendall(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(WireError, match="no QEMU netdev"):
        wire.receive()
