"""The event log: one JSON object a line, the same bytes for the same run, and never too many."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.events import EventLog


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_event_is_a_line_with_sorted_keys_and_plain_values(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log:
        log.emit(
            "step", 250_000, step="send memory", poll=np.int64(12), mac=b"\x02\x00", odd={3, 1}
        )
    assert path.read_text() == (
        '{"kind": "step", "mac": "0200", "odd": [1, 3], "poll": 12, '
        '"step": "send memory", "time_ns": 250000}\n'
    )


def test_too_many_events_of_a_kind_are_counted_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventLog(path, limit=3) as log:
        for i in range(10):
            log.emit("doorbell", i, tdt=i)
        log.emit("step", 11, step="done")
    seen = lines(path)
    assert [event["kind"] for event in seen] == ["doorbell"] * 3 + ["step", "suppressed"]
    assert seen[-1] == {"kind": "suppressed", "of": "doorbell", "suppressed": 7, "time_ns": 11}
    assert log.counts == {"doorbell": 10, "step": 1}


def test_a_batch_is_its_events_one_by_one(tmp_path: Path) -> None:
    with EventLog(tmp_path / "a") as log:
        log.emit_batch("frame", 5, [{"slot": 1}, {"slot": 2}])
    with EventLog(tmp_path / "b") as log:
        log.emit("frame", 5, slot=1)
        log.emit("frame", 5, slot=2)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_log_can_be_closed_twice_and_is_whole_after_an_exception(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    log.emit("step", 1)
    log.close()
    log.close()
    assert lines(path) == [{"kind": "step", "time_ns": 1}]


@settings(max_examples=50)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 1 << 62)), max_size=40))
def test_the_same_run_gives_the_same_bytes(
    tmp_path_factory: Any, events: list[tuple[str, int]]
) -> None:
    folder: Path = tmp_path_factory.mktemp("log")
    for name in ("one", "two"):
        with EventLog(folder / name, limit=5) as log:
            for kind, time_ns in events:
                log.emit(kind, time_ns, z=1, a=kind)
    assert (folder / "one").read_bytes() == (folder / "two").read_bytes()
    assert len(lines(folder / "one")) <= 3 * 5 + 3
