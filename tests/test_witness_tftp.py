"""The witness of TFTP: what it makes of a transfer that it only overhears."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.judge.sent import SentBytes
from bench.judge.watch_tftp import TftpWatch
from bench.judge.witness import WITNESSES
from nic_models.frames import Frames
from tests import tftp_frames as tf
from tests import wire_frames as wf

MACS = bytes.fromhex(wf.CLIENT_MAC.replace(":", "")), bytes.fromhex(wf.SERVER_MAC.replace(":", ""))
OTHER_MAC = "02:00:5e:00:99:01"


def tell(watch: TftpWatch, *frames: bytes) -> TftpWatch:
    for frame in frames:
        to_client = frame[:6] == MACS[0]
        watch.observe("to-client" if to_client else "to-server", Frames.of([frame]), {})
    return watch


def witness(*frames: bytes) -> TftpWatch:
    return tell(TftpWatch(*MACS), *frames)


def pairs(watch: TftpWatch) -> list[tuple[int, int]]:
    offsets, lengths = watch.acknowledged()
    return list(zip(offsets.tolist(), lengths.tolist(), strict=True))


def test_a_server_that_says_tftp_gets_this_witness() -> None:
    assert WITNESSES["tftp"] is TftpWatch


def test_a_transfer_is_told_by_offset_and_length() -> None:
    watch = witness(
        tf.wrq(blksize=1428),
        tf.oack(blksize=1428),
        tf.data(1, bytes(1428)),
        tf.ack(1),
        tf.data(2, bytes(100)),
    )
    assert pairs(watch) == [(0, 1428)]
    assert (watch.frames, watch.data_bytes) == (5, 1528)
    tell(watch, tf.ack(2))
    assert pairs(watch) == [(0, 1428), (1428, 100)]
    assert watch.latest_acks.tolist() == [0], "of the latest the next ACK tells"
    assert [watch.extent(n) for n in (0, 1)] == [(0, 1428), (1428, 100)]
    assert watch.never_sent == 0


@pytest.mark.parametrize(
    ("asked", "answer", "blksize"),
    [
        ({"blksize": 1428}, tf.oack(blksize=1024), 1024),
        ({"blksize": 1428}, tf.oack(BlkSize=1400), 1400),
        ({"blksize": 1428}, tf.ack(0), 512),
        ({"blksize": 1428}, tf.oack(tsize=9), 512),
        ({"blksize": 1428}, tf.oack(blksize="many"), 512),
        ({}, tf.ack(0), 512),
    ],
    ids=["lowered", "in-capitals", "no-oack", "not-in-the-oack", "no-number", "not-asked"],
)
def test_what_the_server_says_is_how_long_a_block_is(
    asked: dict[str, int], answer: bytes, blksize: int
) -> None:
    watch = witness(tf.wrq(**asked), answer, tf.data(1, bytes(blksize)), tf.data(2, b"x"))
    assert watch.extent(1) == (blksize, 1)


def test_an_ack_stands_for_all_blocks_of_its_window_up_to_it() -> None:
    watch = witness(tf.wrq(windowsize=4), tf.oack(windowsize=4))
    tell(watch, *(tf.data(n, bytes(512)) for n in (1, 2, 3, 4)), tf.ack(2))
    assert pairs(watch) == [(0, 512), (512, 512)]
    tell(watch, *(tf.data(n, bytes(512)) for n in (3, 4, 5, 6)), tf.ack(6))
    assert len(pairs(watch)) == 6
    assert watch.latest_acks.tolist() == [1, 2, 3, 4]
    tell(watch, tf.ack(6))
    assert watch.latest_acks.tolist() == [], "asked already"
    assert "8 blocks were sent, 2 of them again" in watch.notes()[0]


@pytest.mark.parametrize("after_65535", [0, 1])
def test_blocks_are_numbered_on_where_their_numbers_come_again(after_65535: int) -> None:
    """A window of 5,000 at a time; the numbers go on at 0 or at 1."""
    period = 65_536 if after_65535 == 0 else 65_535
    watch = witness(tf.wrq(blksize=8), tf.oack(blksize=8))
    (row,) = [Frames.of([tf.data(1, bytes(8))])]
    for start in range(0, 200_000, 5_000):
        numbers = (np.arange(start, start + 5_000) % period + 1) & 0xFFFF
        frames = row.take(np.zeros(5_000, np.intp))
        frames.data[:, 44], frames.data[:, 45] = numbers >> 8, numbers & 0xFF
        watch.observe("to-server", frames, {})
        tell(watch, tf.ack(int(numbers[-1])))
        assert watch.latest_acks[-1] == start + 4_998
    assert watch.acknowledged()[0][-1] == 199_999 * 8
    assert watch.never_sent == 0
    assert "200,000 blocks were sent, 0 of them again" in watch.notes()[0]


def test_an_ack_of_what_was_never_sent_is_counted_and_acknowledges_nothing() -> None:
    watch = witness(tf.wrq(), tf.ack(0), tf.data(1, bytes(512)), tf.ack(2))
    assert watch.never_sent == 1
    assert pairs(watch) == []


def test_only_the_server_of_this_transfer_acknowledges() -> None:
    watch = witness(
        tf.wrq(),
        tf.ack(0),
        tf.data(1, bytes(512)),
        tf.ack(1, sport=40001),
        tf.ack(1, src=OTHER_MAC),
    )
    assert pairs(watch) == []
    tell(watch, tf.ack(1))
    assert pairs(watch) == [(0, 512)]


def test_of_several_ports_that_answer_one_wrq_the_one_that_the_client_goes_on_with_counts() -> None:
    watch = witness(
        tf.wrq(blksize=1000),
        tf.oack(blksize=1000),
        tf.oack(sport=40001, blksize=900),
        tf.data(1, bytes(900), dport=40001),
        tf.ack(1, sport=40001),
    )
    assert pairs(watch) == [(0, 900)]
    assert "2 ports of the server's answered one WRQ" in watch.notes()[0]


def test_a_transfer_that_is_begun_anew_leaves_nothing_of_the_one_before() -> None:
    watch = witness(tf.wrq(), tf.ack(0), tf.data(1, bytes(512)), tf.ack(1))
    tell(watch, tf.wrq(sport=50002, blksize=600))
    assert pairs(watch) == []
    assert "2 WRQs began 2 transfers" in watch.notes()[0]


def test_an_error_of_the_servers_is_told() -> None:
    watch = witness(tf.wrq(), tf.ack(0), tf.data(1, bytes(512)), tf.error(3, "Disk full"))
    assert 'the server said ERROR 3, "Disk full"' in watch.notes()[0]
    assert pairs(watch) == []


def test_what_became_of_a_byte_is_told_in_words() -> None:
    watch = witness(tf.wrq(), tf.ack(0), *[tf.data(1, bytes(512))] * 2, tf.ack(1))
    tell(watch, tf.data(2, bytes(512)))
    assert watch.history(511) == (
        "its block, number 1, was sent 2 times, and acknowledged by the server"
    )
    assert "sent once, and never acknowledged" in watch.history(512)
    assert watch.history(1024) == "no frame ever carried it"


def test_the_wrq_is_what_a_replay_sends_again_and_any_port_may_answer_it() -> None:
    watch = witness(tf.wrq(), tf.ack(0), tf.data(1, b"x"), tf.ack(1))
    assert watch.sample() == {-1: tf.wrq()}
    assert watch.answered(Frames.of([tf.oack(sport=40009, tsize=0)]), {-1}) == {-1}
    assert watch.answered(Frames.of([tf.error(0, "no")]), {-1}) == set()
    assert witness(tf.wrq()).sample() == {}, "nobody answered it"


# --- what a client that nobody can look into has sent ---------------------------------------------


@pytest.fixture
def sent(tmp_path: Path) -> Iterator[SentBytes]:
    made = SentBytes(tmp_path, "tftp")
    yield made
    made.close()


def test_blocks_lie_where_the_servers_oack_puts_them(sent: SentBytes) -> None:
    sent.observe(Frames.of([tf.wrq(blksize=1428)]))
    sent.heard(Frames.of([tf.oack(blksize=8)]))
    sent.observe(Frames.of([tf.data(1, b"01234567"), tf.data(3, b"end"), tf.data(1, b"01234567")]))
    assert sent.read(0, 99).tobytes() == b"01234567" + bytes(8) + b"end"
    assert (sent.messages, sent.repeats) == (3, 1)
    assert sent.never_sent(19) == [(8, 16)]
    assert not sent.has_headers


def test_a_damaged_block_was_not_sent(sent: SentBytes) -> None:
    sent.observe(Frames.of([tf.wrq()]))
    sent.heard(Frames.of([tf.ack(0)]))
    damaged = bytearray(tf.data(1, b"hello"))
    damaged[47] ^= 1
    sent.observe(Frames.of([bytes(damaged)]))
    assert sent.messages == 0


@settings(max_examples=100)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(12, 60), st.binary(max_size=3)), max_size=8)
)
def test_whatever_is_said_is_read_without_a_fault(wounds: list[tuple[int, int, bytes]]) -> None:
    sound = [tf.wrq(blksize=9), tf.oack(blksize=9), tf.data(1, bytes(9)), tf.ack(1)]
    sound.append(tf.error(3, "x"))
    watch = witness(*sound)
    for which, at, octets in wounds:
        frame = sound[which]
        tell(watch, frame[:at] + octets + frame[at + len(octets) :])
    offsets, lengths = watch.acknowledged()
    assert len(offsets) == len(lengths)
    assert (lengths >= 0).all()
    assert watch.frames == len(sound) + len(wounds)
