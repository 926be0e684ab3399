"""The witness: what it saw sent, and acknowledged, on the wire."""

from __future__ import annotations

import numpy as np

from bench.judge.watch import NetdumpWatch
from nic_models.frames import Frames
from tests import wire_frames as wf

CLIENT_MAC = bytes.fromhex(wf.CLIENT_MAC.replace(":", ""))
SERVER_MAC = bytes.fromhex(wf.SERVER_MAC.replace(":", ""))
STRANGER = "02:00:5e:00:99:01"


def witness(*frames: bytes) -> NetdumpWatch:
    """One that saw these frames: those to the client's port came from the server."""
    watch = NetdumpWatch(CLIENT_MAC, SERVER_MAC)
    for frame in frames:
        to_client = frame[36:38] == (20024).to_bytes(2, "big")
        watch.observe("to-client" if to_client else "to-server", Frames.of([frame]), {})
    return watch


def pairs(watch: NetdumpWatch) -> list[tuple[int, int]]:
    offsets, lengths = watch.acknowledged()
    assert offsets.dtype == lengths.dtype == np.int64
    return list(zip(offsets.tolist(), lengths.tolist(), strict=True))


def forged(seqno: int, **changes: str) -> bytes:
    addresses = {"src": wf.SERVER_MAC, "dst": wf.CLIENT_MAC, **changes}
    return wf.datagram(
        seqno.to_bytes(4, "big"),
        sport=40000,
        dport=20024,
        src_ip=wf.SERVER_IP,
        dst_ip=wf.CLIENT_IP,
        **addresses,
    )


def test_what_was_sent_and_acknowledged_is_told_by_offset_and_length() -> None:
    watch = witness(wf.vmcore(5), wf.vmcore(6, 376), wf.vmcore(7), wf.ack(6), wf.ack(5))
    assert pairs(watch) == [(5 * 1448, 1448), (6 * 376, 376)]
    assert watch.frames == 5
    assert watch.data_bytes == 1448 + 376 + 1448


def test_what_the_machine_sent_from_the_clients_port_before_the_panic_is_no_message() -> None:
    # Any program may have had port 20024. Its payload is no seqno, and no server acknowledged it.
    ordinary = wf.datagram(b"\x25" * 600, sport=20024, dport=9)
    watch = witness(ordinary, wf.vmcore(5), wf.ack(5), wf.ack(6))
    assert pairs(watch) == [(5 * 1448, 1448)]
    assert watch.never_sent == 1
    assert list(watch.sample()) == [5]


def test_what_the_server_tells_another_port_is_no_ack() -> None:
    # Four octets to the discard service, as the load of a live machine has them now and then.
    ordinary = forged(9).replace((20024).to_bytes(2, "big"), (9).to_bytes(2, "big"))
    watch = NetdumpWatch(CLIENT_MAC, SERVER_MAC)
    watch.observe("to-server", Frames.of([wf.vmcore(5)]), {})
    watch.observe("to-client", Frames.of([ordinary, forged(5)]), {})
    assert watch.never_sent == 0
    assert pairs(watch) == [(5 * 1448, 1448)]


def test_nothing_seen_is_nothing_acknowledged() -> None:
    assert pairs(witness()) == []
    assert pairs(witness(wf.vmcore(5))) == []
    assert pairs(witness(wf.ack(5))) == []


def test_a_forged_ack_to_another_mac_does_not_count() -> None:
    assert pairs(witness(wf.vmcore(5), forged(5, dst=STRANGER))) == []


def test_a_forged_ack_from_another_mac_does_not_count() -> None:
    assert pairs(witness(wf.vmcore(5), forged(5, src=STRANGER))) == []
    assert pairs(witness(wf.vmcore(5), forged(5))) == [(5 * 1448, 1448)]


def test_a_frame_sent_again_counts_once() -> None:
    watch = witness(wf.vmcore(5), wf.vmcore(5), wf.ack(5), wf.vmcore(5), wf.ack(5))
    assert pairs(watch) == [(5 * 1448, 1448)]
    assert watch.data_bytes == 3 * 1448, "yet all of them were sent"


def test_acks_of_herald_header_key_and_end_are_no_data() -> None:
    kinds = (wf.HERALD, wf.KDH, wf.KEY, wf.FINISHED)
    sent = [wf.datagram(wf.message(kind, 10 + kind, b"x" * 30)) for kind in kinds]
    assert pairs(witness(*sent, wf.vmcore(99), *(wf.ack(10 + kind) for kind in kinds))) == []


def from_server(payload: bytes) -> bytes:
    return wf.datagram(
        payload,
        sport=40000,
        dport=20024,
        src=wf.SERVER_MAC,
        dst=wf.CLIENT_MAC,
        src_ip=wf.SERVER_IP,
        dst_ip=wf.CLIENT_IP,
    )


def selective(*words: int) -> bytes:
    """A selective ack (``netdump/sack.py``) from the server."""
    return from_server(b"".join(word.to_bytes(4, "big") for word in (0x4E443201, *words)))


def test_a_selective_ack_counts_for_all_that_was_sent_before_it_and_that_it_covers() -> None:
    watch = witness(*map(wf.vmcore, range(2, 12)), selective(4, 6, 8))
    assert [offset // 1448 for offset, _ in pairs(watch)] == [2, 3, 6, 7]
    assert watch.latest_acks.tolist() == [2, 3, 6, 7]
    watch = witness(wf.vmcore(2), selective(3), wf.vmcore(3), selective(3))
    assert [offset // 1448 for offset, _ in pairs(watch)] == [2]
    assert watch.latest_acks.tolist() == [], "said already"
    watch = witness(wf.vmcore(2), selective(9), wf.vmcore(3))
    assert [offset // 1448 for offset, _ in pairs(watch)] == [2], "the future is nobody's"


def test_what_was_answered_is_told_of_either_form() -> None:
    watch = witness(*map(wf.vmcore, range(2, 12)))
    heard = Frames.of([wf.ack(9), selective(4, 6, 8), wf.arp_reply()])
    assert watch.answered(heard, set(range(2, 12))) == {2, 3, 6, 7, 9}
    assert watch.answered(Frames.empty(), {2}) == set()


def test_what_is_not_an_ack_is_no_ack() -> None:
    for payload in (b"", b"\0\0\0", b"\0\0\0\5\0", b"\0\0\0\5" * 10):
        assert pairs(witness(wf.vmcore(5), from_server(payload))) == []
    assert pairs(witness(wf.vmcore(5), wf.arp_reply(), wf.arp_request())) == []


def test_a_batch_is_seen_frame_by_frame_whatever_lies_beyond_their_ends() -> None:
    """Bytes past a frame's end mean nothing, even if they look like a message."""
    frames = Frames.of([wf.vmcore(1), wf.vmcore(2), wf.vmcore(3), wf.arp_request()])
    short = frames.lengths.copy()
    short[1] = 60  # the header is cut off in the middle
    watch = NetdumpWatch(CLIENT_MAC, SERVER_MAC)
    watch.observe("to-server", Frames(frames.data, short, frames.time_ns), {})
    acks = Frames.of([wf.ack(1), wf.ack(2), wf.ack(3)])
    short = acks.lengths.copy()
    short[2] = 44
    watch.observe("to-client", Frames(acks.data, short, acks.time_ns), {})
    assert pairs(watch) == [(1448, 1448)]


def test_the_sample_to_play_again_is_of_acknowledged_messages_from_both_ends_of_the_dump() -> None:
    frames = [wf.vmcore(seqno, 10) for seqno in range(100)]
    watch = NetdumpWatch(CLIENT_MAC, SERVER_MAC)
    for at in range(0, 100, 20):
        watch.observe("to-server", Frames.of(frames[at : at + 20]), {})
    assert watch.sample() == {}
    acked = [seqno for seqno in range(100) if seqno != 7]
    watch.observe("to-client", Frames.of([wf.ack(seqno) for seqno in acked]), {})
    sample = watch.sample()
    assert len(sample) <= 64
    assert all(sample[seqno] == frames[seqno] for seqno in (0, 31, 99))
    assert 7 not in sample, "the server never had it: to send it is no repetition"


def test_a_broken_copy_of_a_message_is_not_played_again() -> None:
    """A NIC that read its buffer late sent one: no server answers it, and none is to be blamed."""
    right = wf.vmcore(5, 100)
    broken = right[:80] + bytes([right[80] ^ 1]) + right[81:]
    unsummed = right[:40] + bytes(2) + right[42:]
    assert witness(right, broken, wf.ack(5)).sample() == {5: right}
    assert witness(broken, right, wf.ack(5)).sample() == {5: right}
    assert witness(right, unsummed, wf.ack(5)).sample() == {5: unsummed}, "RFC 768: no checksum"
    assert witness(right, right[:-1], wf.ack(5)).sample() == {5: right}


def test_a_copy_that_went_to_another_mac_is_not_played_again() -> None:
    """To somebody who said that he is the server; the server's host takes none of it."""
    right = wf.vmcore(5, 100)
    astray = bytes.fromhex("02005e009966") + right[6:]
    assert witness(right, astray, wf.ack(5)).sample() == {5: right}
    assert witness(astray, right, wf.ack(5)).sample() == {5: right}
