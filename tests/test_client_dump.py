"""What a dump is on the wire: its messages, their order, their sizes, its seqnos."""

from __future__ import annotations

from dataclasses import replace

import pytest

from netdump.kdh import parse_kdh
from netdump.profiles import PROFILES
from tests.client_rig import FINISHED, HERALD, KDH, NAMES, VMCORE, Peer, play


@pytest.mark.parametrize("name", NAMES)
def test_a_dump_is_memory_behind_an_elf_header(name: str) -> None:
    done = play(PROFILES[name], Peer())
    assert done.report.claims_success
    assert (done.report.error, done.report.failed_in, done.report.detail) == (None, None, "")
    assert done.stored()[: len(done.image)] == done.image
    assert done.report.dump_length == len(done.image)
    assert done.report.stats.retransmissions == 0
    assert not done.report.stats.refused
    assert done.nic.events == ["start", "end"]
    assert done.pool.out == 0
    assert done.report.stats.frames_sent == done.nic.frames
    assert {sent.ttl for sent in done.peer.sent} == {32 if name == "patch-2010" else 255}


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("netdump2", [HERALD, VMCORE, KDH, FINISHED]),
        ("freebsd-14", [HERALD, VMCORE, KDH, FINISHED]),
        ("patch-2010", [HERALD, KDH, VMCORE, FINISHED]),
    ],
)
def test_the_header_comes_last_since_freebsd_12_and_came_first_before(
    name: str, order: list[int]
) -> None:
    done = play(PROFILES[name], Peer())
    assert done.peer.kinds() == order
    (header,) = done.peer.of_kind(KDH)
    assert parse_kdh(header.payload).dumplength == len(done.image)
    assert header.offset == 0


@pytest.mark.parametrize("name", NAMES)
def test_only_the_patch_of_2010_sends_the_header_again_behind_the_data(name: str) -> None:
    done = play(PROFILES[name], Peer())
    beyond = [s for s in done.peer.of_kind(VMCORE) if s.offset + len(s.payload) > len(done.image)]
    if name == "patch-2010":
        (footer,) = beyond
        assert footer.offset == len(done.image)
        assert footer.payload == done.peer.of_kind(KDH)[0].payload
    else:
        assert not beyond


def test_a_herald_names_its_folder_and_its_nul() -> None:
    peer = Peer()
    play(PROFILES["freebsd-14"], peer, path="lab")
    assert peer.sent[0].payload == b"lab\0"
    assert peer.sent[0].to_port == 20023
    peer = Peer()
    play(PROFILES["freebsd-14"], peer)
    assert peer.sent[0].payload == b""


@pytest.mark.parametrize(("name", "first"), [("freebsd-14", 1), ("netdump2", 2 + 1000)])
def test_seqnos_run_without_a_gap_from_the_herald_on(name: str, first: int) -> None:
    done = play(PROFILES[name], Peer(), draw=1000)
    seqnos = [sent.seqno for sent in done.peer.sent]
    assert seqnos == list(range(first, first + len(seqnos)))


def test_a_stock_chunk_is_64_kib_and_46_frames() -> None:
    frames = play(PROFILES["freebsd-14"], Peer()).peer.of_kind(VMCORE)
    sizes = [len(sent.payload) for sent in frames[:46]]
    assert sizes == [1448] * 45 + [376]
    assert frames[46].offset == 65536


@pytest.mark.parametrize("mtu", [576, 1500, 4148, 9000])
@pytest.mark.parametrize("name", NAMES)
def test_no_frame_is_larger_than_the_mtu(name: str, mtu: int) -> None:
    # Below 1076 a stock chunk has more frames than the stock bitmap bits.
    done = play(replace(PROFILES[name], ack_bits="exact"), Peer(), mtu=mtu)
    largest = max(len(sent.payload) for sent in done.peer.of_kind(VMCORE)) + 24 + 28
    assert largest <= mtu
    if mtu >= 1076:
        assert done.report.claims_success
        assert done.stored()[: len(done.image)] == done.image
