"""Every oracle seen held, broken and not applicable, from evidence made by hand."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from bench.judge.compare import MAX_RANGES, Image
from bench.judge.oracles import ORACLES, Evidence, Ruling, outcome, rule
from tests.judge_rig import HOLED, MEMORY, WRONG, compared, octets, on_disk

NOTHING = np.empty(0, np.int64)


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
    (
        "bytes-equal",
        evidence(not_undone="gzip: it breaks off before its end"),
        "broken",
        "can't be undone: gzip: it breaks off before its end; all of it came out before that",
    ),
    (
        "bytes-equal",
        evidence(HOLED, not_undone="zstd: no"),
        "broken",
        "can't be undone: zstd: no; right up to offset 0x5a8",
    ),
    (
        "ack-means-kept",
        evidence(acked_key=3, missing_key=1),
        "broken",
        "1 of 3 acknowledged pieces of the key block are not on the disk as sent",
    ),
    ("ack-means-kept", evidence(acked_key=3), "held", ""),
    (
        "bytes-equal",
        evidence(HOLED, not_undone="zstd: no", is_final=False),
        "not-applicable",
        "partial",
    ),
    ("no-false-success", evidence(not_undone="gzip: no"), "broken", "does not equal memory"),
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
