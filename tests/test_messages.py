"""The wire format of the messages, by hand-written octets and by a slow second reading."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netdump.errors import (
    BadAck,
    BadHeraldPath,
    LengthMismatch,
    LocalError,
    MalformedMessage,
    Runt,
    UnknownType,
)
from netdump.messages import (
    HEADER,
    HEADER_SIZE,
    REASONS,
    Message,
    MessageType,
    herald_path,
    pack_acks,
    pack_headers,
    parse,
    parse_ack,
    parse_acks,
    parse_block,
)
from nic_models.frames import Frames

PROPERTY = settings(max_examples=150)

HERALD_LAB = bytes.fromhex("00000001 00000001 0000000000000000 00000004 00000000 6c616200")
SECOND_FRAGMENT = bytes.fromhex("00000003 00000003 00000000000005a8 000005a8 00000000")
LAST_FRAGMENT = bytes.fromhex("00000003 0000002f 000000000000fe88 00000178 00000000")
NEXT_BATCH = bytes.fromhex("00000003 00000030 0000000000010000 000005a8 00000000")


def datagrams() -> st.SearchStrategy[bytes]:
    """Rubbish, real messages, and real messages cut or stretched."""
    messages = st.builds(
        lambda kind, seqno, offset, payload, aux2, skew: (
            pack_headers(kind, [seqno], [offset], [(len(payload) + skew) % 2**32], aux2).tobytes()
            + payload
        ),
        st.integers(0, 7),
        st.integers(0, 2**32 - 1),
        st.sampled_from([0, 1448, 2**42, 2**63, 2**64 - 1]).map(np.uint64),
        st.binary(max_size=40),
        st.integers(0, 2**32 - 1),
        st.sampled_from([0, 0, 0, 1, -1, 2**31]),
    )
    return st.one_of(st.binary(max_size=60), messages)


def test_a_herald_with_a_path_reads_and_writes_as_on_the_wire() -> None:
    herald = Message(MessageType.HERALD, 1, 0, b"lab\0")
    assert herald.pack() == HERALD_LAB
    assert parse(HERALD_LAB) == herald
    assert herald_path(herald.payload) == "lab"


def test_finished_is_a_header_alone() -> None:
    wire = Message(MessageType.FINISHED, 0x12345678, 0).pack()
    assert wire == bytes.fromhex("00000002 12345678 0000000000000000 00000000 00000000")


def test_the_header_record_has_no_holes() -> None:
    assert HEADER.itemsize == HEADER_SIZE == 24


def test_the_46_fragments_of_a_64_kib_chunk_have_the_headers_of_a_stock_client() -> None:
    offsets = np.arange(0, 65536, 1448)
    lengths = np.minimum(1448, 65536 - offsets)
    rows = pack_headers(MessageType.VMCORE, np.arange(2, 48), offsets, lengths)
    assert rows.shape == (46, 24)
    assert rows[1].tobytes() == SECOND_FRAGMENT
    assert rows[45].tobytes() == LAST_FRAGMENT
    assert pack_headers(3, [48], [65536], [1448]).tobytes() == NEXT_BATCH


def test_an_offset_keeps_all_its_64_bits_through_the_batch_functions() -> None:
    offsets = np.array([2**64 - 1, 2**63, 2**53 + 1], np.uint64)
    rows = pack_headers(MessageType.VMCORE, [1, 2, 3], offsets, [0, 0, 0])
    block = parse_block(rows, np.full(3, 24))
    assert block.offsets.dtype == np.uint64
    assert block.offsets.tolist() == offsets.tolist()
    assert parse(rows[2].tobytes()).offset == 2**53 + 1


@pytest.mark.parametrize(
    ("octets", "error"),
    [
        (b"", Runt),
        (HERALD_LAB[:23], Runt),
        (HERALD_LAB[:-1], LengthMismatch),
        (HERALD_LAB + b"\0", LengthMismatch),
        (b"\0\0\0\0" + HERALD_LAB[4:], UnknownType),
        (b"\0\0\0\6" + HERALD_LAB[4:], UnknownType),
    ],
)
def test_a_malformed_message_is_refused_by_its_own_error(
    octets: bytes, error: type[MalformedMessage]
) -> None:
    with pytest.raises(error) as caught:
        parse(octets)
    assert caught.value.reason in REASONS
    assert caught.value.evidence == octets[:64]


def test_our_own_impossible_message_is_not_blamed_on_the_peer() -> None:
    with pytest.raises(LocalError, match="u64"):
        Message(MessageType.VMCORE, 1, 2**64).pack()


@given(octets=datagrams())
@PROPERTY
def test_whatever_arrives_is_parsed_or_refused_as_malformed(octets: bytes) -> None:
    try:
        message = parse(octets)
    except MalformedMessage:
        return
    assert message.pack() == octets


@given(batch=st.lists(datagrams(), max_size=8), spare=st.integers(0, 8))
@PROPERTY
def test_a_batch_is_judged_as_its_datagrams_one_by_one(batch: list[bytes], spare: int) -> None:
    frames = Frames.of(batch)
    data = np.full((len(batch), frames.data.shape[1] + spare), 0xEE, np.uint8)
    for row, octets in zip(data, batch, strict=True):  # what lies beyond a length must not matter
        row[: len(octets)] = np.frombuffer(octets, np.uint8)
    block = parse_block(data, frames.lengths)
    expected: dict[str, int] = {}
    reasons: list[str] = []
    for index, octets in enumerate(batch):
        try:
            message = parse(octets)
        except MalformedMessage as error:
            expected[error.reason] = expected.get(error.reason, 0) + 1
            reasons.append(error.reason)
            continue
        reasons.append("good")
        assert block.types[index] == message.type
        assert block.seqnos[index] == message.seqno
        assert int(block.offsets[index]) == message.offset
        assert block.lengths[index] == len(message.payload)
        assert block.aux2[index] == message.aux2
    assert [REASONS[code] for code in block.reasons] == reasons
    assert block.refused() == expected


def test_a_datagram_cut_by_the_receive_buffer_is_refused_as_too_long() -> None:
    wire = np.frombuffer(Message(MessageType.VMCORE, 2, 0, bytes(100)).pack(), np.uint8)
    block = parse_block(wire[None, :64], np.array([124]))
    assert block.refused() == {"datagram-too-long": 1}


def test_an_ack_is_four_octets_and_nothing_else() -> None:
    assert pack_acks([1, 2**32 - 1]).tobytes() == bytes.fromhex("00000001 ffffffff")
    assert parse_ack(bytes.fromhex("00000001")) == 1
    for octets in (b"", b"\0\0\1", b"\0\0\0\0\1"):
        with pytest.raises(BadAck):
            parse_ack(octets)


@given(
    rows=st.lists(st.tuples(st.binary(max_size=6), st.integers(-2, 12)), max_size=8),
    same=st.booleans(),
)
@PROPERTY
def test_acks_are_found_wherever_they_lie_in_their_rows(
    rows: list[tuple[bytes, int]], same: bool
) -> None:
    data = np.full((len(rows), 12), 0xEE, np.uint8)
    starts = np.array([5 if same else start for _, start in rows], np.int64)
    lengths = np.array([len(payload) for payload, _ in rows], np.int64)
    for row, start, (payload, _) in zip(data, starts.tolist(), rows, strict=True):
        if 0 <= start <= 12 - len(payload):
            row[start : start + len(payload)] = np.frombuffer(payload, np.uint8)
    seqnos, good = parse_acks(data, lengths, 5 if same else starts)
    for index, (payload, _) in enumerate(rows):
        if len(payload) == 4 and 0 <= starts[index] <= 8:
            assert good[index]
            assert seqnos[index] == parse_ack(payload)
        else:
            assert not good[index]
            assert seqnos[index] == 0


@pytest.mark.parametrize("path", ["lab", "lab/rack 3", "a/./b", "..x", "x" * 1023, "größe", ""])
def test_a_relative_path_is_taken_as_it_is(path: str) -> None:
    assert herald_path(path.encode() + b"\0") == path


@pytest.mark.parametrize(
    "payload",
    [
        b"lab",
        b"/lab\0",
        b"../lab\0",
        b"a/..\0",
        b"a/../b\0",
        b"a\0b\0",
        b"a\nb\0",
        b"\xff\xfe\0",
        b"x" * 1024 + b"\0",
    ],
)
def test_a_path_that_could_leave_the_folder_is_refused(payload: bytes) -> None:
    with pytest.raises(BadHeraldPath):
        herald_path(payload)


def test_a_herald_without_payload_asks_for_no_folder() -> None:
    assert herald_path(b"") == ""


@given(payload=st.one_of(st.binary(max_size=40), st.binary(max_size=40).map(lambda b: b + b"\0")))
@PROPERTY
def test_no_path_that_passes_leaves_the_folder(payload: bytes) -> None:
    try:
        path = herald_path(payload)
    except BadHeraldPath:
        return
    assert not path.startswith("/")
    assert ".." not in path.split("/")
    assert path.isprintable()
