"""Faults strike the frames that their table names, and a run can be repeated to the bit."""

from __future__ import annotations

from dataclasses import fields
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.clock import VirtualClock
from bench.wire.actions import ACTIONS, HOLD_CALLS, SETTINGS
from bench.wire.faults import Faults, Rule
from nic_models.frames import Frames
from tests import wire_frames as wf
from tests.fakes import FakeWire, Seen

pytestmark = pytest.mark.sim


def faulty(*rules: Rule, seed: int = 1) -> tuple[Faults, FakeWire, Seen, VirtualClock]:
    inner, story, clock = FakeWire(), Seen(), VirtualClock()
    return Faults(inner, rules, seed=seed, clock=clock, observer=story), inner, story, clock


DUMP = [wf.vmcore(seqno, 64) for seqno in range(46)]


def test_without_rules_everything_passes_and_is_told() -> None:
    wire, inner, story, _ = faulty()
    wire.send(Frames.of(DUMP))
    inner.to_receive = [Frames.of([wf.ack(1)])]
    assert wire.receive().bytes_of(0) == wf.ack(1)
    wire.close()
    assert inner.sent == DUMP
    assert story.frames == [*DUMP, wf.ack(1)]
    assert story.notes == {}
    assert inner.closed


def test_exactly_frames_5_and_40_of_the_vmcore_are_lost_whatever_else_passes() -> None:
    wire, inner, story, _ = faulty(Rule("drop", "to-server", "vmcore", index=(5, 40)))
    wire.send(Frames.of([wf.arp_request(), wf.datagram(wf.message(wf.HERALD, 1))]))
    wire.send(Frames.of(DUMP[:20]))
    wire.send(Frames.of(DUMP[20:]))
    assert inner.sent[2:] == [frame for i, frame in enumerate(DUMP) if i not in (5, 40)]
    assert story.notes == {
        7: "dropped (rule 1: number 5, 40 of vmcore to-server)",
        42: "dropped (rule 1: number 5, 40 of vmcore to-server)",
    }
    assert [(c.met, c.struck) for c in wire.counts] == [(46, 2)]


def test_a_rule_for_both_directions_counts_each_by_itself() -> None:
    wire, inner, _, _ = faulty(Rule("drop", "both", "any", index=(0,)))
    wire.send(Frames.of([b"a" * 60, b"b" * 60]))
    inner.to_receive = [Frames.of([b"c" * 60, b"d" * 60])]
    heard = wire.receive()
    assert inner.sent == [b"b" * 60]
    assert [heard.bytes_of(i) for i in range(len(heard))] == [b"d" * 60]


def test_a_duplicate_follows_its_original() -> None:
    wire, inner, _, _ = faulty(Rule("duplicate", index=(1,)))
    wire.send(Frames.of(DUMP[:3]))
    assert inner.sent == [DUMP[0], DUMP[1], DUMP[1], DUMP[2]]


def test_corruption_flips_one_bit_and_leaves_the_senders_frame_alone() -> None:
    wire, inner, story, _ = faulty(Rule("corrupt", probability=1.0))
    batch = Frames.of(DUMP)
    wire.send(batch)
    for i, (before, after) in enumerate(zip(DUMP, inner.sent, strict=True)):
        flipped = int.from_bytes(before, "big") ^ int.from_bytes(after, "big")
        assert flipped.bit_count() == 1
        bit = len(before) * 8 - flipped.bit_length()
        assert story.notes[i].startswith(f"bit {bit} flipped")
    assert story.frames == DUMP
    assert [batch.bytes_of(i) for i in range(len(batch))] == DUMP


def test_truncation_keeps_the_front_of_the_frame() -> None:
    wire, inner, _, _ = faulty(
        Rule("truncate", kind="vmcore", probability=1.0), Rule("truncate", index=(46,), length=20)
    )
    wire.send(Frames.of([*DUMP, wf.arp_request()]))
    for before, after in zip(DUMP, inner.sent[:46], strict=True):
        assert before.startswith(after)
        assert 14 <= len(after) < len(before)
    assert inner.sent[46] == wf.arp_request()[:20]


def test_a_frame_with_nothing_to_cut_off_is_left_alone_and_not_counted() -> None:
    wire, inner, story, _ = faulty(Rule("truncate", probability=1.0, length=60))
    long, short, exact = DUMP[0], wf.arp_request(), b"x" * 60
    wire.send(Frames.of([long, short, exact]))
    assert inner.sent == [long[:60], short, exact]
    assert list(story.notes) == [0]
    assert [(c.met, c.struck) for c in wire.counts] == [(3, 1)]


def test_every_action_of_the_table_is_told_in_words_of_its_own() -> None:
    for name, row in ACTIONS.items():
        wanted: dict[str, Any] = {}
        if row.needs_setting:
            wanted[row.setting] = SETTINGS[row.setting].least
        wire, inner, story, _ = faulty(Rule(name, index=(0,), **wanted))
        frames = [DUMP[0][:80] + bytes(2) + DUMP[0][82:], DUMP[1]]  # with a word of zeros
        wire.send(Frames.of(frames))
        assert story.notes[0].startswith(row.note)
        others = [other.note for other in ACTIONS.values() if other is not row]
        assert not story.notes[0].startswith(tuple(others))
        assert inner.sent != frames


def test_a_reordered_frame_arrives_after_those_that_overtake_it() -> None:
    wire, inner, _, _ = faulty(Rule("reorder", index=(1,), by_frames=3))
    wire.send(Frames.of(DUMP[:3]))
    assert inner.sent == [DUMP[0], DUMP[2]]
    wire.send(Frames.of(DUMP[3:6]))
    assert inner.sent == [DUMP[i] for i in (0, 2, 3, 4, 1, 5)]


def test_a_reordered_frame_that_nothing_overtakes_is_not_held_for_ever() -> None:
    wire, inner, _, _ = faulty(Rule("reorder", "to-server", index=(0,), by_frames=3))
    wire.send(Frames.of(DUMP[:1]))
    calls = 0
    while not inner.sent:
        wire.receive()
        calls += 1
        assert calls <= HOLD_CALLS
    assert inner.sent == DUMP[:1]


def test_a_delayed_frame_arrives_when_its_time_has_come() -> None:
    wire, inner, _, clock = faulty(Rule("delay", kind="ack", index=(0,), delay_us=2_000))
    inner.to_receive = [Frames.of([wf.ack(1), wf.ack(2)])]
    assert wire.receive().bytes_of(0) == wf.ack(2)
    clock.delay_us(1_999)
    assert len(wire.receive()) == 0
    clock.delay_us(1)
    late = wire.receive()
    assert late.bytes_of(0) == wf.ack(1)
    assert late.time_ns.tolist() == [2_000_000]


def test_loss_is_about_as_frequent_as_asked_for() -> None:
    wire, inner, _, _ = faulty(Rule("drop", probability=0.05))
    for _ in range(10):
        wire.send(
            Frames(np.zeros((1000, 60), np.uint8), np.full(1000, 60), np.zeros(1000, np.int64))
        )
    assert 400 <= 10_000 - len(inner.sent) <= 600


def test_another_seed_is_another_run() -> None:
    outcomes = set()
    for seed in (1, 2):
        wire, inner, _, _ = faulty(Rule("drop", probability=0.5), seed=seed)
        wire.send(Frames.of(DUMP))
        outcomes.add(tuple(inner.sent))
    assert len(outcomes) == 2


RULES = [
    Rule("drop", probability=0.1),
    Rule("duplicate", kind="vmcore", probability=0.1),
    Rule("corrupt", probability=0.1),
    Rule("truncate", probability=0.1),
    Rule("reorder", probability=0.2, by_frames=2),
    Rule("drop", kind="ack", index=(3, 7)),
]


@settings(max_examples=100)
@given(st.lists(st.integers(0, 46), max_size=5), st.integers(0, 2**32))
def test_a_frames_fate_does_not_depend_on_how_frames_are_batched(
    cuts: list[int], seed: int
) -> None:
    frames = Frames.of([wf.ack(i) if i % 3 == 0 else DUMP[i] for i in range(46)])
    whole, inner, told, _ = faulty(*RULES, seed=seed)
    whole.send(frames)
    parts, inner_parts, told_parts, _ = faulty(*RULES, seed=seed)
    edges = [0, *sorted(cuts), 46]
    for start, stop in pairwise(edges):
        parts.send(frames.take(slice(start, stop)))
    assert inner_parts.sent == inner.sent
    assert told_parts.notes == told.notes
    assert parts.counts == whole.counts


@settings(max_examples=100)
@given(st.lists(st.integers(0, 5), max_size=8), st.integers(0, 2**32))
def test_what_is_only_reordered_or_delayed_arrives_exactly_once(
    sizes: list[int], seed: int
) -> None:
    wire, inner, _, clock = faulty(
        Rule("reorder", probability=0.5, by_frames=4),
        Rule("delay", probability=0.5, delay_us=300),
        seed=seed,
    )
    sent: list[bytes] = []
    for size in sizes:
        batch = [len(sent + [b""] * i).to_bytes(60, "big") for i in range(size)]
        wire.send(Frames.of(batch, clock.now_ns()))
        sent += batch
        clock.delay_us(100)
    for _ in range(HOLD_CALLS):
        wire.receive()
        clock.delay_us(100)
    assert sorted(inner.sent) == sent


@pytest.mark.parametrize(
    ("fields", "advice"),
    [
        ({"action": "explode", "probability": 1.0}, "action is one of"),
        ({"action": "drop"}, "give probability or index"),
        ({"action": "drop", "probability": 1.0, "index": (1,)}, "give probability or index"),
        ({"action": "drop", "probability": 1.5}, "from 0 to 1"),
        ({"action": "drop", "probability": 1.0, "kind": "acks"}, "kind is one of"),
        ({"action": "drop", "probability": 1.0, "direction": "up"}, "direction"),
        ({"action": "drop", "index": (-1,)}, "counts from 0"),
        ({"action": "delay", "probability": 1.0}, "delay_us"),
        ({"action": "delay", "probability": 1.0, "delay_us": 0}, "delay_us is from 1"),
        ({"action": "reorder", "probability": 1.0, "by_frames": 0}, "by_frames"),
        ({"action": "reorder", "probability": 1.0, "by_frames": 4097}, "by_frames is from 1"),
        ({"action": "truncate", "probability": 1.0, "length": 13}, "length is from 14"),
        ({"action": "drop", "probability": 1.0, "length": 20}, "length is not for drop"),
        ({"action": "drop", "probability": 1.0, "by_frames": 2}, "by_frames is not for drop"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(fields: dict[str, Any], advice: str) -> None:
    with pytest.raises(ValueError, match=advice):
        Rule(**fields)


def test_every_setting_of_the_grammar_is_a_field_of_a_rule() -> None:
    """The stage hands them over by their names."""
    assert set(SETTINGS) <= {field.name for field in fields(Rule)}
