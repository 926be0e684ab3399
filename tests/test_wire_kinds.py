"""Frames are told apart by their octets alone, a batch at a time."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.wire.kinds import KINDS, classify
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


def test_bytes_beyond_a_frames_length_are_not_believed() -> None:
    frames = Frames.of([wf.vmcore(1), wf.datagram(b"")])
    frames.data[1] = frames.data[0]  # what a row held before
    frames.lengths[1] = 44
    assert [KINDS[code] for code in classify(frames)] == ["vmcore", "other"]


@settings(max_examples=100)
@given(st.lists(st.binary(max_size=80), max_size=6))
def test_any_octets_are_classified(frames: list[bytes]) -> None:
    assert len(kinds_of(frames)) == len(frames)
