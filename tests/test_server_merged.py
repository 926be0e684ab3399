"""Datagrams that the kernel has kept together come out as they went in, whoever reads them."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.merged import LONGEST, SOL_UDP, Cutter, keep_merged
from server.packets import AckSender
from server.readers import BatchReader, LoopReader, Reader

STRIDE = 700
SEGMENT = 103


@st.composite
def messages(draw: st.DrawFn) -> list[list[bytes]]:
    """Each a run of datagrams of one length, but for the last; or one datagram of any."""
    runs = []
    for _ in range(draw(st.integers(1, 6))):
        each = draw(st.integers(1, 1500))
        count = draw(st.integers(0, min(64, LONGEST // each) - 1))
        last = draw(st.integers(1, each) if count else st.integers(0, 2000))
        runs.append([draw(st.binary(min_size=1, max_size=1)) * each] * count + [bytes(last)])
    return runs


@given(messages())
def test_a_message_is_cut_as_it_was_put_together(runs: list[list[bytes]]) -> None:
    slots = np.full((len(runs), LONGEST), 0xEE, np.uint8)
    for slot, run in zip(slots, runs, strict=True):
        whole = b"".join(run)
        slot[: len(whole)] = np.frombuffer(whole, np.uint8)
    lengths = np.array([sum(map(len, run)) for run in runs], np.int64)
    each = np.array([len(run[0]) if len(run) > 1 else 0 for run in runs], np.int64)
    rows, sizes = Cutter(4, STRIDE).cut(slots, lengths, each)
    sent = [datagram for run in runs for datagram in run]
    assert sizes.tolist() == list(map(len, sent)), "also of those that are cut"
    for row, datagram in zip(rows, sent, strict=True):
        assert row[: len(datagram)].tobytes() == datagram[:STRIDE][: rows.shape[1]]
    assert rows.shape[1] == min(STRIDE, max(map(len, sent)))
    assert rows.flags.c_contiguous


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """One that sends, and one that keeps merged what comes."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as two,
    ):
        two.setblocking(False)
        keep_merged(two)
        two.bind(("127.0.0.1", 0))
        one.connect(two.getsockname())
        yield one, two


@pytest.mark.parametrize("make", [BatchReader, LoopReader])
def test_what_left_as_one_is_many_again(
    pair: tuple[socket.socket, socket.socket], make: type[BatchReader] | type[LoopReader]
) -> None:
    one, two = pair
    reader: Reader = make(stride=100)
    sent = [bytes([n]) * 90 for n in range(7)] + [b"the last is shorter"]
    said = [(SOL_UDP, SEGMENT, struct.pack("@H", 90))]
    one.sendmsg([b"".join(sent)], said)
    one.send(b"alone")
    one.send(b"too long" * 100)
    one.send(b"")
    data, lengths = reader.read(two)
    assert lengths.tolist() == [90] * 7 + [19, 5, 800, 0]
    found = [row[:n].tobytes() for row, n in zip(data, lengths.tolist(), strict=True)]
    assert found[:9] == [*sent, b"alone"]
    assert found[9] == (b"too long" * 100)[:100]
    assert len(reader.read(two)[1]) == 0


@pytest.mark.parametrize("make", [BatchReader, LoopReader])
def test_no_call_brings_many_more_datagrams_than_were_wanted(
    pair: tuple[socket.socket, socket.socket], make: type[BatchReader] | type[LoopReader]
) -> None:
    """A turn is bounded: the others wait."""
    one, two = pair
    reader: Reader = make(rows=64, stride=100)
    sender = AckSender()
    came: list[int] = []
    for _ in range(20):
        sender.send(one, np.zeros((64, 4), np.uint8))
    while len(lengths := reader.read(two)[1]):
        came.append(len(lengths))
    assert sum(came) == 20 * 64
    assert set(came[1:]) == {64}, "what one message held says how many to ask for"
