"""The judge: every oracle seen held, broken and not applicable, from evidence made by hand."""

from __future__ import annotations

import re
import tempfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bench.judge import compare as compare_module
from bench.judge.compare import MAX_RANGES, Comparison, Image, Range, Stored, compare
from bench.judge.expect import unmet
from bench.judge.oracles import ORACLES, Evidence, Ruling, broken, not_applicable, outcome, rule
from bench.judge.watch import WireWatch
from bench.scenario import Expect
from bench.scenario.values import parse_count
from bench.verdict import CaseResult
from nic_models.frames import Frames
from tests import wire_frames as wf

CLIENT_MAC = bytes.fromhex(wf.CLIENT_MAC.replace(":", ""))
SERVER_MAC = bytes.fromhex(wf.SERVER_MAC.replace(":", ""))
STRANGER = "02:00:5e:00:99:01"

MEMORY = bytes(range(1, 251)) * 40
"""10,000 bytes without a zero: a hole in it shows."""


def octets(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8)


def compared(stored: bytes, memory: bytes = MEMORY) -> Comparison:
    return compare(Image([octets(memory)]), on_disk(stored))


def on_disk(data: bytes) -> Stored:
    """A file of these bytes, without a name."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        return Stored(Path(file.name))


def evidence(stored: bytes | None = MEMORY, **changes: object) -> Evidence:
    """A dump that went well, but for the changes."""
    seen = Evidence(
        claims_success=True,
        stored=None if stored is None else on_disk(stored),
        stored_as="vmcore.victim.0",
        is_final=stored is not None,
        comparison=None if stored is None else compared(stored),
        acked=(np.array([0, 5000]), np.array([5000, 5000])),
        expected=Image([octets(MEMORY)]),
        replayed=12,
    )
    return replace(seen, **changes)  # type: ignore[arg-type]


def with_hole(start: int, end: int) -> bytes:
    return MEMORY[:start] + bytes(end - start) + MEMORY[end:]


HOLED = with_hole(1448, 2896)
WRONG = MEMORY[:100] + b"\xff\xfe" + MEMORY[102:]
NOTHING = np.empty(0, np.int64)

# --- the oracles ----------------------------------------------------------------------------------

#: (oracle, evidence, state, what the reason says).
SEEN: list[tuple[str, Evidence, str, str]] = [
    ("bytes-equal", evidence(), "held", ""),
    ("bytes-equal", evidence(is_final=False), "held", ""),
    ("bytes-equal", evidence(HOLED), "broken", "1448 bytes are holes, the first at offset 0x5a8"),
    ("bytes-equal", evidence(WRONG), "broken", "2 bytes differ, the first at offset 0x64"),
    ("bytes-equal", evidence(WRONG, is_final=False), "broken", "2 bytes differ"),
    ("bytes-equal", evidence(MEMORY + b"12345"), "broken", "5 bytes too long"),
    ("bytes-equal", evidence(MEMORY + b"x", is_final=False), "broken", "1 bytes too long"),
    ("bytes-equal", evidence(MEMORY[:9000]), "broken", "1000 bytes are holes"),
    ("bytes-equal", evidence(None), "not-applicable", "nothing was stored"),
    ("bytes-equal", evidence(HOLED, is_final=False), "not-applicable", "partial, and says so"),
    ("bytes-equal", evidence(MEMORY[:9000], is_final=False), "not-applicable", "partial"),
    ("no-false-success", evidence(), "held", ""),
    ("no-false-success", evidence(HOLED), "broken", "both sides call the dump complete"),
    ("no-false-success", evidence(None), "broken", "nothing is stored"),
    (
        "no-false-success",
        evidence(is_final=False, stored_as="vmcore.victim.0.partial"),
        "broken",
        "the server keeps only vmcore.victim.0.partial",
    ),
    ("no-false-success", evidence(HOLED, claims_success=False), "not-applicable", "claim"),
    ("no-false-failure", evidence(), "held", ""),
    (
        "no-false-failure",
        evidence(claims_success=False, gave_up="ETIMEDOUT: FINISHED"),
        "broken",
        "complete and equal; the client reports: ETIMEDOUT: FINISHED",
    ),
    ("no-false-failure", evidence(HOLED, claims_success=False), "not-applicable", "no complete"),
    ("no-false-failure", evidence(is_final=False), "not-applicable", "no complete"),
    ("no-false-failure", evidence(None), "not-applicable", "no complete"),
    ("ack-means-kept", evidence(), "held", ""),
    # What was lost had never been acknowledged: sad, but no broken promise.
    ("ack-means-kept", evidence(HOLED, acked=(np.array([0]), np.array([1448]))), "held", ""),
    # The patch of 2010 sends a footer behind the dump; the server may keep it elsewhere.
    ("ack-means-kept", evidence(HOLED, acked=(np.array([10_000]), np.array([512]))), "held", ""),
    ("ack-means-kept", evidence(HOLED), "broken", "1 of 2 acknowledged frames"),
    ("ack-means-kept", evidence(MEMORY[:4000]), "broken", "2 of 2 acknowledged frames"),
    ("ack-means-kept", evidence(None), "broken", "2 frames were acknowledged; nothing is stored"),
    ("ack-means-kept", evidence(None, other_files=["tmp-0"]), "not-ruled-on", "it left tmp-0"),
    ("ack-means-kept", evidence(acked=None), "not-applicable", "no data was acknowledged"),
    ("ack-means-kept", evidence(None, acked=(NOTHING, NOTHING)), "not-applicable", "no data"),
    # Another's client may send something else than memory: the server is to keep what it was sent.
    ("ack-means-kept", evidence(WRONG, sent=Image([octets(WRONG)])), "held", ""),
    ("ack-means-kept", evidence(sent=Image([octets(WRONG)])), "broken", "1 of 2 acknowledged"),
    ("ack-means-kept", evidence(sent=Image([octets(MEMORY[:9000])])), "held", ""),
    ("panic-hygiene", evidence(), "held", ""),
    ("panic-hygiene", evidence(violations=["sleep: 3 times"]), "broken", "sleep: 3 times"),
    (
        "panic-hygiene",
        evidence(memory_changes=[(0x1000, 0x1010), (0x2000, 0x2001)]),
        "broken",
        "17 bytes outside the arena changed, first 0x1000..0x1010",
    ),
    ("liveness", evidence(), "held", ""),
    ("liveness", evidence(out_of_time="the budget ended"), "broken", "the budget ended"),
    ("server-safety", evidence(), "held", ""),
    ("server-safety", evidence(server_trouble=["it raised", "it died"]), "broken", "raised; it di"),
    ("server-safety", evidence(server_present=False), "not-applicable", "no server"),
    (
        "server-safety",
        evidence(not_counted="not ours"),
        "not-ruled-on",
        "^not ours",
    ),
    ("server-safety", evidence(not_counted="x", server_trouble=["it died"]), "broken", "died"),
    ("server-safety", evidence(in_pieces="in pieces"), "not-ruled-on", "^in pieces"),
    ("bytes-equal", evidence(in_pieces="in pieces", unknown=100), "not-ruled-on", "^in pieces"),
    ("bytes-equal", evidence(HOLED, in_pieces="in pieces", unknown=100), "broken", "holes"),
    ("idempotence", evidence(not_idempotent="stock"), "not-ruled-on", "^stock"),
    ("idempotence", evidence(), "held", ""),
    ("idempotence", evidence(replay_changed=["info.0", "a"]), "broken", "12 messages .* info.0, a"),
    ("idempotence", evidence(replay_unanswered=3), "broken", "3 of 12 .* not acknowledged"),
    ("ack-means-kept", evidence(live_looks=9, live_missing=2), "broken", "2 of 9 frames"),
    ("idempotence", evidence(replayed=0), "not-applicable", "no complete dump"),
    ("device-truth", evidence(), "not-applicable", "no second device"),
]


@pytest.mark.parametrize(("oracle", "seen", "state", "why"), SEEN)
def test_an_oracle_rules(oracle: str, seen: Evidence, state: str, why: str) -> None:
    ruling = ORACLES[oracle](seen)
    assert ruling.state == state
    assert re.search(why, ruling.why)
    assert bool(ruling.why) == (state != "held"), "who is not held says why"


def test_the_table_above_shows_every_oracle_in_every_state_it_has() -> None:
    shown = {(oracle, state) for oracle, _, state, _ in SEEN}
    always_judged = {"panic-hygiene", "liveness"}
    for oracle in set(ORACLES) - {"device-truth"}:
        for state in {"held", "broken", "not-applicable"}:
            if state != "not-applicable" or oracle not in always_judged:
                assert (oracle, state) in shown


def test_what_nobody_saw_is_not_ruled_on_whatever_the_evidence_says() -> None:
    unseen = {"panic-hygiene": "no guard sees it", "bytes-equal": "no witness"}
    for seen in (evidence(unseen=unseen), evidence(WRONG, violations=["sleep"], unseen=unseen)):
        ruled = rule(seen)
        assert tuple(ruled) == tuple(ORACLES)
        for name, why in unseen.items():
            assert ruled[name] == Ruling("not-ruled-on", why)
        assert ruled["liveness"].state == "held"
    assert rule(evidence(violations=["sleep"]))["panic-hygiene"].state == "broken"


@pytest.mark.parametrize(
    ("seen", "word"),
    [
        (evidence(), "complete"),
        (evidence(HOLED), "silent-hole"),
        (evidence(None), "false-success"),
        (evidence(is_final=False), "false-success"),
        (evidence(claims_success=False), "failed"),
        (evidence(out_of_time="late"), "hung"),
        (evidence(claims_success=False, deadlock="em0:tx"), "deadlock"),
    ],
)
def test_an_outcome_is_one_word(seen: Evidence, word: str) -> None:
    assert outcome(seen) == word


# --- comparing ------------------------------------------------------------------------------------


def test_what_is_equal_has_no_ranges() -> None:
    found = compared(MEMORY)
    assert found.equal
    assert found.only_holes
    assert (found.ranges, found.expected_at_first, found.stored_at_first) == ([], b"", b"")


def test_a_hole_is_where_the_store_has_zeros_and_memory_had_none() -> None:
    found = compared(HOLED)
    assert found.ranges == [Range(1448, 2896, hole=True)]
    assert found.only_holes
    assert found.expected_at_first == MEMORY[1448:1464]
    assert found.stored_at_first == bytes(16)


def test_any_other_byte_that_disagrees_is_a_difference() -> None:
    found = compared(WRONG)
    assert found.ranges == [Range(100, 102, hole=False)]
    assert not found.only_holes
    assert not found.holes


def test_a_store_that_ends_early_has_a_hole_to_the_end_even_where_memory_is_zero() -> None:
    assert compared(MEMORY[:-1]).ranges == [Range(9999, 10_000, hole=True)]
    zeros = compared(bytes(100), memory=bytes(200))
    assert zeros.ranges == [Range(100, 200, hole=True)]
    assert compared(b"").ranges == [Range(0, 10_000, hole=True)]


def test_a_store_that_is_too_long_is_not_equal_though_no_byte_differs() -> None:
    found = compared(MEMORY + b"tail")
    assert not found.equal
    assert (found.ranges, found.stored_length, found.expected_length) == ([], 10_004, 10_000)


def test_what_can_not_be_right_is_a_hole_whatever_is_stored_there() -> None:
    found = compared(MEMORY)
    found.add_holes([])
    assert found.ranges == []
    found.add_holes([(100, 200), (5000, 6000)])
    assert found.holes == [Range(100, 200, hole=True), Range(5000, 6000, hole=True)]
    found = compared(MEMORY[:9000])
    found.add_holes([(8000, 9500)])
    assert found.holes == [Range(8000, 10_000, hole=True)], "what overlaps is one"
    found = compared(WRONG)
    found.add_holes([(5000, 6000)])
    assert [r.start for r in found.ranges] == [100, 5000]
    assert found.expected_at_first == MEMORY[100:116]
    found.add_holes([(0, 10)])
    assert [r.start for r in found.ranges] == [0, 100, 5000]
    assert found.expected_at_first == b"", "it would be that of another place"


def test_zeros_that_memory_held_do_not_split_a_hole() -> None:
    memory = MEMORY[:1000] + bytes(60) + MEMORY[1060:]
    assert compared(with_hole(500, 2000), memory).ranges == [Range(500, 2000, hole=True)]


def test_two_holes_with_a_few_good_bytes_between_them_are_no_difference() -> None:
    stored = MEMORY[:500] + bytes(100) + MEMORY[600:620] + bytes(100) + MEMORY[720:]
    found = compared(stored)
    assert found.ranges == [Range(500, 720, hole=True)]


def test_ranges_are_bounded_and_the_rest_is_counted() -> None:
    apart = 2 * 64 + 2
    count = MAX_RANGES + 200
    memory = b"\x01" * (apart * count)
    stored = bytearray(memory)
    for at in range(0, len(stored), apart):
        stored[at] = 0
    found = compared(bytes(stored), memory)
    assert len(found.ranges) == MAX_RANGES
    assert found.ranges_left_out == 200
    assert found.ranges[0] == Range(0, 1, hole=True)
    assert found.only_holes


def test_a_difference_beyond_the_listed_ranges_is_still_a_difference() -> None:
    """Or a damaged partial dump would pass for one that only lacks something."""
    apart = 2 * 64 + 2
    count = MAX_RANGES + 200
    memory = b"\x01" * (apart * count)
    stored = bytearray(memory)
    for at in range(0, len(stored), apart):
        stored[at] = 0
    stored[-1] = 0xFF
    found = compared(bytes(stored), memory)
    assert not found.only_holes
    damaged = evidence(is_final=False, comparison=found)
    assert ORACLES["bytes-equal"](damaged).state == "broken"


def test_a_stored_file_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with closing(Stored(tmp_path / "empty")) as empty:
        assert (empty.length, len(empty.read(0, 10))) == (0, 0)
    (tmp_path / "some").write_bytes(MEMORY)
    with closing(Stored(tmp_path / "some")) as some:
        assert some.read(0, len(MEMORY)).tobytes() == MEMORY
        assert some.read(9_990, 20_000).tobytes() == MEMORY[9_990:]
        assert len(some.read(10_000, 20_000)) == len(some.read(20_000, 20_001)) == 0
        some.length = 5_000
        assert some.read(4_990, 6_000).tobytes() == MEMORY[4_990:5_000]


def test_a_stored_file_that_becomes_shorter_while_it_is_read_is_told(tmp_path: Path) -> None:
    path = tmp_path / "some"
    path.write_bytes(MEMORY)
    with closing(Stored(path)) as stored:
        path.write_bytes(MEMORY[:100])
        with pytest.raises(OSError, match="became shorter"):
            compare(Image([octets(MEMORY)]), stored)


@settings(max_examples=200)
@given(
    parts=st.lists(st.binary(max_size=20), max_size=6),
    start=st.integers(0, 130),
    size=st.integers(0, 130),
)
def test_an_image_reads_as_its_parts_end_to_end(parts: list[bytes], start: int, size: int) -> None:
    image = Image([octets(part) for part in parts])
    whole = b"".join(parts)
    assert image.length == len(whole)
    assert image.read(start, start + size).tobytes() == whole[start : start + size]


BYTE = st.sampled_from([0, 0, 1, 2])


@settings(max_examples=200)
@given(
    memory=st.lists(BYTE, max_size=600).map(bytes),
    edits=st.lists(
        st.tuples(st.integers(0, 599), st.integers(1, 90), st.sampled_from([0, 0, 7])), max_size=6
    ),
    length=st.integers(-90, 5),
    cut=st.integers(0, 600),
    block=st.sampled_from([64, 100, 1 << 20]),
)
def test_ranges_tell_exactly_what_a_walk_over_the_bytes_finds(
    memory: bytes, edits: list[tuple[int, int, int]], length: int, cut: int, block: int
) -> None:
    stored = bytearray(memory)
    for at, count, value in edits:
        stored[at : at + count] = bytes([value]) * len(stored[at : at + count])
    stored = stored[: len(stored) + length] if length < 0 else stored + bytes(length)
    parts = [octets(memory[:cut]), octets(memory[cut:])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare_module, "_BLOCK", block)
        found = compare(Image(parts), on_disk(bytes(stored)))

    def differs(at: int) -> bool:
        return at >= len(stored) or stored[at] != memory[at]

    def hole(at: int) -> bool:
        return at >= len(stored) or stored[at] == 0

    different = {at for at in range(len(memory)) if differs(at)}
    told = [set(range(r.start, r.end)) & different for r in found.ranges]
    assert found.equal == (bytes(stored) == memory)
    assert set().union(*told) == different, "nothing is left out"
    assert sum(map(len, told)) == len(different), "nothing is told twice"
    for one, inside in zip(found.ranges, told, strict=True):
        assert {one.start, one.end - 1} <= different, "a range is no longer than it must be"
        assert one.hole == all(map(hole, inside))
    assert found.ranges == sorted(found.ranges, key=lambda r: r.start)
    assert found.ranges_left_out == 0


# --- the witness ----------------------------------------------------------------------------------


def witness(*frames: bytes) -> WireWatch:
    """One that saw these frames: those to the client's port came from the server."""
    watch = WireWatch(CLIENT_MAC, SERVER_MAC)
    for frame in frames:
        to_client = frame[36:38] == (20024).to_bytes(2, "big")
        watch.observe("to-client" if to_client else "to-server", Frames.of([frame]), {})
    return watch


def pairs(watch: WireWatch) -> list[tuple[int, int]]:
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
    watch = WireWatch(CLIENT_MAC, SERVER_MAC)
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
    watch = WireWatch(CLIENT_MAC, SERVER_MAC)
    watch.observe("to-server", Frames(frames.data, short, frames.time_ns), {})
    acks = Frames.of([wf.ack(1), wf.ack(2), wf.ack(3)])
    short = acks.lengths.copy()
    short[2] = 44
    watch.observe("to-client", Frames(acks.data, short, acks.time_ns), {})
    assert pairs(watch) == [(1448, 1448)]


def test_the_sample_to_play_again_is_of_acknowledged_messages_from_both_ends_of_the_dump() -> None:
    frames = [wf.vmcore(seqno, 10) for seqno in range(100)]
    watch = WireWatch(CLIENT_MAC, SERVER_MAC)
    for at in range(0, 100, 20):
        watch.observe("to-server", Frames.of(frames[at : at + 20]), {})
    assert watch.sample() == {}
    acked = [seqno for seqno in range(100) if seqno != 7]
    watch.observe("to-client", Frames.of([wf.ack(seqno) for seqno in acked]), {})
    sample = watch.sample()
    assert len(sample) <= 64
    assert all(sample[seqno] == frames[seqno] for seqno in (0, 31, 99))
    assert 7 not in sample, "the server never had it: to send it is no repetition"


# --- what was expected ----------------------------------------------------------------------------


def rulings(**changes: Ruling) -> dict[str, Ruling]:
    named = {key.replace("_", "-"): ruling for key, ruling in changes.items()}
    return {name: named.get(name, Ruling("held")) for name in ORACLES}


def result(word: str = "complete", /, **changes: object) -> CaseResult:
    case = CaseResult("case", "netdump2", "polled", word, "", met=False, why="its own account")
    return replace(case, **changes)  # type: ignore[arg-type]


SILENT = {"bytes_equal": broken("a hole"), "no_false_success": broken("both say complete")}


def test_what_came_as_expected_leaves_nothing_to_say() -> None:
    assert unmet(Expect(outcome="complete"), result(), rulings()) == []
    na = rulings(device_truth=not_applicable("no second device"))
    assert unmet(Expect(outcome="complete"), result(), na) == []


def test_another_outcome_is_told_with_the_clients_own_account() -> None:
    assert unmet(Expect(outcome="complete"), result("failed"), rulings()) == [
        "expected complete, came failed: its own account"
    ]


@pytest.mark.parametrize(
    ("word", "implied"),
    [
        ("silent-hole", SILENT),
        ("deadlock", {"panic_hygiene": broken("em0:tx")}),
    ],
)
def test_what_an_outcome_implies_need_not_be_named(word: str, implied: dict[str, Ruling]) -> None:
    assert unmet(Expect(outcome=word), result(word), rulings(**implied)) == []
    elsewhere = unmet(Expect(outcome="complete"), result(), rulings(**implied))
    assert len(elsewhere) == len(implied), "of another outcome they are no part"


def test_an_outcome_excuses_no_other_oracle() -> None:
    worse = rulings(**SILENT, server_safety=broken("it raised"))
    assert unmet(Expect(outcome="silent-hole"), result("silent-hole"), worse) == [
        "oracle server-safety is broken: it raised"
    ]


def test_nobody_may_expect_a_run_that_hangs() -> None:
    late = rulings(liveness=broken("the budget ended"))
    told = unmet(Expect(oracle_broken=("panic-hygiene",)), result("hung"), late)
    assert told == [
        "oracle liveness is broken: the budget ended",
        "oracle panic-hygiene was to be broken, and is held",
    ]


@pytest.mark.parametrize("state", ["held", "not-applicable"])
def test_an_oracle_that_was_to_be_broken_must_be(state: str) -> None:
    seen = rulings(idempotence=Ruling(state, "so"))  # type: ignore[arg-type]
    told = unmet(Expect(oracle_broken=("idempotence",)), result(), seen)
    assert told == [f"oracle idempotence was to be broken, and is {state}"]
    seen = rulings(idempotence=broken("info.0"))
    assert unmet(Expect(oracle_broken=("idempotence",)), result(), seen) == []


def test_an_oracle_that_nobody_saw_is_no_excuse_and_no_breach() -> None:
    seen = rulings(panic_hygiene=Ruling("not-ruled-on", "no guard sees it"))
    assert unmet(Expect(outcome="complete"), result(), seen) == []
    assert unmet(Expect(oracle_broken=("panic-hygiene",)), result(), seen) == [
        "oracle panic-hygiene was to be broken, and is not ruled on: no guard sees it"
    ]


def test_an_error_must_be_the_one_that_was_named() -> None:
    wanted = Expect(outcome="failed", error="ETIMEDOUT")
    assert unmet(wanted, result("failed", error="ETIMEDOUT"), rulings()) == []
    assert unmet(wanted, result("failed", error="ENOBUFS"), rulings()) == [
        "expected the error ETIMEDOUT, came ENOBUFS"
    ]
    assert unmet(wanted, result("failed"), rulings()) == ["expected the error ETIMEDOUT, came none"]


@pytest.mark.parametrize(
    ("field", "key", "name"),
    [
        ("foreign_frames_accepted", "foreign_frames_accepted", "foreign frames accepted"),
        ("retransmissions", "retransmissions", "retransmissions"),
    ],
)
@pytest.mark.parametrize(
    ("wanted", "fits", "fails"), [(0, [0], [1, 7]), (">0", [1, 7], [0]), (3, [3], [0, 4])]
)
def test_counts_are_held_against_what_was_seen(
    field: str, key: str, name: str, wanted: object, fits: list[int], fails: list[int]
) -> None:
    count = parse_count(wanted)
    expect = Expect(outcome="complete").model_copy(update={key: count})
    for seen in fits:
        assert unmet(expect, result(**{field: seen}), rulings()) == []
    for seen in fails:
        assert unmet(expect, result(**{field: seen}), rulings()) == [
            f"expected {count} {name}, came {seen}"
        ]


def test_a_refusal_that_was_asked_for_must_have_happened() -> None:
    wanted = Expect(outcome="complete", refused=("destination-mac", "ack-port"))
    seen = result(refused={"destination-mac": 2, "ack-port": 0})
    assert unmet(wanted, seen, rulings()) == ["no frame was refused for ack-port"]
