"""Frames are told apart by their octets alone, a batch at a time."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP, IPOption, fragment
from scapy.layers.l2 import Ether

from bench.wire.kinds import KINDS, are_acks, are_messages, are_pieces, classify
from nic_models.frames import Frames
from tests import wire_frames as wf


def kinds_of(frames: list[bytes]) -> list[str]:
    return [KINDS[code] for code in classify(Frames.of(frames)).tolist()]


def test_each_message_of_the_protocol_has_its_kind() -> None:
    story = {
        "arp": wf.arp_request(),
        "herald": wf.datagram(wf.message(wf.HERALD, 1)),
        "vmcore": wf.vmcore(2),
        "kdh": wf.datagram(wf.message(wf.KDH, 3, bytes(512)), dport=40000),
        "key": wf.datagram(wf.message(wf.KEY, 4, bytes(100)), dport=40000),
        "finished": wf.datagram(wf.message(wf.FINISHED, 5), dport=40000),
        "ack": wf.ack(5),
    }
    assert kinds_of(list(story.values())) == list(story)


def test_each_packet_of_tftp_has_its_kind() -> None:
    story = {
        "wrq": wf.datagram(b"\0\2vmcore\0octet\0blksize\x001428\0", sport=50001, dport=69),
        "oack": wf.datagram(b"\0\6blksize\x001428\0", sport=40000, dport=50001),
        "data": wf.datagram(b"\0\3\0\1" + bytes(1428), sport=50001, dport=40000),
        "ack": wf.datagram(b"\0\4\0\1", sport=40000, dport=50001),
        "error": wf.datagram(b"\0\5\0\3disk full\0", sport=40000, dport=50001),
    }
    assert kinds_of(list(story.values())) == list(story)
    last = wf.datagram(b"\0\3\0\2", sport=50001, dport=40000)
    assert kinds_of([last]) == ["data"], "a last block may be empty"


@pytest.mark.parametrize(
    "frame",
    [
        wf.datagram(b"\0\3\0\1" + bytes(99), sport=50001, dport=9),
        wf.datagram(b"\0\4\0\1\0", sport=50001, dport=40000),
        wf.datagram(b"\0\2vmcore\0octet\0", sport=50001, dport=70),
        wf.datagram(b"\0\7\0\1", sport=50001, dport=40000),
        wf.datagram(b"\0\3\0", sport=50001, dport=40000),
    ],
    ids=["to-discard", "long-ack", "wrq-elsewhere", "opcode-7", "runt-data"],
)
def test_what_is_not_of_tftp_is_other(frame: bytes) -> None:
    assert kinds_of([frame]) == ["other"]


@pytest.mark.parametrize(
    "frame",
    [
        wf.datagram(b"hello", sport=53),
        wf.datagram(wf.message(9, 1)),
        wf.datagram(wf.message(0x10003, 1)),
        wf.datagram(wf.message(wf.VMCORE, 1), frag=3),
        wf.datagram(b"\0\0\0"),
        bytes(14),
        b"",
    ],
    ids=["other-port", "type-9", "type-65539", "fragment", "runt-payload", "zeros", "empty"],
)
def test_what_is_not_of_the_protocol_is_other(frame: bytes) -> None:
    assert kinds_of([frame]) == ["other"]


def test_udp_in_fragments_or_with_options_is_noticed() -> None:
    large = Ether() / IP(src=wf.CLIENT_IP, dst=wf.SERVER_IP) / UDP(sport=20024) / bytes(4096)
    pieces = [bytes(piece) for piece in fragment(large, 1480)]
    assert len(pieces) == 3
    options = wf.datagram(wf.message(wf.VMCORE, 1), options=[IPOption(b"\x94\x04\0\0")])
    ping = bytes(Ether() / IP(frag=9, proto=1) / bytes(50))
    others = [wf.vmcore(1), wf.ack(1), wf.arp_request(), ping, pieces[0][:30], bytes(60)]
    assert are_pieces(Frames.of([*pieces, options])).all()
    assert not are_pieces(Frames.of(others)).any()


def test_bytes_beyond_a_frames_length_are_not_believed() -> None:
    frames = Frames.of([wf.vmcore(1), wf.datagram(b"")])
    frames.data[1] = frames.data[0]  # what a row held before
    frames.lengths[1] = 44
    assert [KINDS[code] for code in classify(frames)] == ["vmcore", "other"]


@settings(max_examples=100)
@given(st.lists(st.binary(max_size=80), max_size=6))
def test_any_octets_are_classified(frames: list[bytes]) -> None:
    assert len(kinds_of(frames)) == len(frames)


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 60), st.binary(max_size=2)), max_size=6)
)
def test_the_quick_looks_say_what_classify_says(wounds: list[tuple[int, int, bytes]]) -> None:
    """Real frames with a wound each: whatever it makes of them, both come to the same."""
    sound = [
        *(wf.datagram(wf.message(kind, 1), dport=40000) for kind in (wf.HERALD, wf.KDH, wf.KEY)),
        *(wf.vmcore(2), wf.datagram(wf.message(wf.FINISHED, 5), dport=40000), wf.ack(5)),
        wf.arp_request(),
    ]
    frames = [
        sound[which][:at] + octets + sound[which][at + len(octets) :]
        for which, at, octets in wounds
    ]
    batch, kinds = Frames.of(frames), kinds_of(frames)
    assert are_acks(batch).tolist() == [kind == "ack" for kind in kinds]
    messages = [kind in ("herald", "vmcore", "kdh", "key", "finished") for kind in kinds]
    # A frame from a client's port to a client's port is both; by its direction it is told apart.
    both = (are_acks(batch) & are_messages(batch)).tolist()
    assert [one or two for one, two in zip(messages, both, strict=True)] == (
        are_messages(batch).tolist()
    )


def test_no_frames_are_nothing() -> None:
    nothing = Frames.of([])
    assert not len(classify(nothing))
    assert not are_acks(nothing).any()
    assert not are_messages(nothing).any()
    assert not are_pieces(nothing).any()
