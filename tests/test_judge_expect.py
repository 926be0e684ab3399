"""What a case expected, held against what came."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.judge.expect import unmet
from bench.judge.oracles import ORACLES, Ruling, broken, not_applicable
from bench.scenario import Expect
from bench.scenario.values import parse_count
from bench.verdict import CaseResult


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
