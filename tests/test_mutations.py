"""An oracle is worth what it notices: each story plants a defect, and names who must see it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.progress import Silent
from bench.runner import run_scenario
from bench.scenario import load_scenario, only_profile
from bench.verdict import CaseResult
from netdump.messages import MessageType
from netdump.sack import Sack
from nic_models.e1000 import bringup
from nic_models.e1000.registers import Reg
from server.coverage import Coverage
from server.dump import Dump
from server.life import State
from server.session import RULES
from server.store import FileStore

pytestmark = pytest.mark.sim


def play(tmp_path: Path, name: str = "clean-dump") -> CaseResult:
    scenario = only_profile(load_scenario(name), "netdump2")
    result = run_scenario(
        scenario, tier="sim", why_this_tier="", seed=1, run_folder=tmp_path, progress=Silent()
    )
    return result.cases[0]


def test_without_a_defect_nothing_is_broken(tmp_path: Path) -> None:
    case = play(tmp_path)
    assert case.met
    assert "broken" not in case.oracles.values()


def test_a_takeover_that_does_not_stop_the_nic_is_seen_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer that does not know that the machine is dead writes into what is being dumped."""

    def only_wait(
        read: Callable[[int], int], write: Callable[[int, int], None], delay: Callable[[int], None]
    ) -> int:
        delay(bringup.QUIESCE_US)
        return read(Reg.RCTL)

    real = bringup.stop
    calls: list[str] = []

    def stop(*arguments: Any) -> int:
        calls.append("stop")
        return (real if len(calls) % 2 else only_wait)(*arguments)  # attach() comes first

    monkeypatch.setattr(bringup, "stop", stop)
    case = play(tmp_path)
    assert len(calls) % 2 == 0
    assert case.oracles["panic-hygiene"] == "broken"
    assert "outside the arena changed" in case.oracle_reasons["panic-hygiene"]
    assert case.oracles["ack-means-kept"] == "not-applicable", "the server kept what it was sent"


def test_a_server_that_acknowledges_before_it_writes_is_caught_in_the_act(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late: list[tuple[int, list[NDArray[np.uint8]]]] = []
    write, read_back = FileStore.write, FileStore.read_back

    def keep(_store: FileStore, offset: int, blocks: Sequence[NDArray[np.uint8]]) -> None:
        late.append((offset, [block.copy() for block in blocks]))

    def flush_and_read(store: FileStore, *arguments: Any) -> bytes:
        for offset, blocks in late:
            write(store, offset, blocks)
        late.clear()
        return read_back(store, *arguments)

    monkeypatch.setattr(FileStore, "write", keep)
    monkeypatch.setattr(FileStore, "read_back", flush_and_read)
    case = play(tmp_path)
    assert case.outcome == "complete", "in the end all is well"
    assert case.oracles["ack-means-kept"] == "broken"
    assert "not on the disk when" in case.oracle_reasons["ack-means-kept"]


def test_a_server_that_acknowledges_what_it_has_not_kept_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its selective acks pass over a gap, as those of a server that only counts would."""
    monkeypatch.setattr(
        Coverage, "first", lambda coverage, _count: [(0, coverage.intervals()[-1][1])]
    )
    case = play(tmp_path, "lossy-wire")
    assert case.outcome == "failed", "FINISHED is refused for the holes"
    assert case.oracles["ack-means-kept"] == "broken"


def test_a_server_that_keeps_the_last_frame_of_each_batch_in_its_pocket_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the time of some batches: an ack needs as long to reach who looks."""
    pocket: list[tuple[int, NDArray[np.uint8]]] = []
    write, read_back = FileStore.write, FileStore.read_back

    def empty(store: FileStore, down_to: int = 0) -> None:
        while len(pocket) > down_to:
            offset, row = pocket.pop(0)
            write(store, offset, [row])

    def all_but_one(store: FileStore, offset: int, blocks: Sequence[NDArray[np.uint8]]) -> None:
        empty(store, 8)
        end = offset + sum(block.size for block in blocks)
        pocket.append((end - blocks[-1].shape[1], blocks[-1][-1:].copy()))
        write(store, offset, [*blocks[:-1], blocks[-1][:-1]])

    def empty_and_read(store: FileStore, *arguments: Any) -> bytes:
        empty(store)
        return read_back(store, *arguments)

    monkeypatch.setattr(FileStore, "write", all_but_one)
    monkeypatch.setattr(FileStore, "read_back", empty_and_read)
    case = play(tmp_path)
    assert case.outcome == "complete", "in the end all is well"
    assert case.oracles["ack-means-kept"] == "broken"


def test_a_server_that_acknowledges_what_was_never_sent_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = Sack.pack
    monkeypatch.setattr(Sack, "pack", lambda sack: pack(Sack(sack.next + 1, sack.ranges)))
    case = play(tmp_path)
    assert case.outcome == "failed"
    assert case.oracles["server-safety"] == "broken", "and not only the client's bad luck"
    assert "never sent" in case.oracle_reasons["server-safety"]


@pytest.mark.parametrize("kind", list(MessageType)[1:4])
def test_a_server_that_is_deaf_to_late_copies_of_one_kind_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: MessageType
) -> None:
    """A selective ack of any other message would cover them."""
    monkeypatch.delitem(RULES, (State.COMPLETE, kind))
    case = play(tmp_path)
    assert case.outcome == "complete"
    assert case.oracles["idempotence"] == "broken"
    told = re.match(r"([0-9]+) of ([0-9]+) messages", case.oracle_reasons["idempotence"])
    assert told is not None
    assert 1 <= int(told[1]) < int(told[2]) < 20, "those that were sent again, and no others"


def test_a_server_that_is_deaf_once_it_has_finished_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in [key for key in RULES if key[0] is State.COMPLETE]:
        monkeypatch.delitem(RULES, key)
    case = play(tmp_path)
    assert case.oracles["idempotence"] == "broken"
    assert "were not acknowledged" in case.oracle_reasons["idempotence"]


def test_a_server_that_raises_is_judged_and_does_not_end_the_bench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def boom(*_: object) -> None:
        raise RuntimeError("boom")

    for key in [key for key in RULES if key[0] is State.COMPLETE]:
        monkeypatch.setitem(RULES, key, boom)
    case = play(tmp_path)
    assert case.oracles["server-safety"] == "broken"
    assert "RuntimeError: boom" in case.oracle_reasons["server-safety"]


def test_a_server_that_leaves_strange_files_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = FileStore.finish

    def litter(store: FileStore, *arguments: Any) -> str:
        (tmp_path / "cases" / "netdump2" / "dumps" / "core.1234").write_text("oops")
        return finish(store, *arguments)

    monkeypatch.setattr(FileStore, "finish", litter)
    case = play(tmp_path)
    assert case.oracles["server-safety"] == "broken"
    assert "core.1234" in case.oracle_reasons["server-safety"]


@pytest.mark.parametrize("compares", [True, False])
def test_a_dump_with_one_wrong_bit_is_no_complete_dump(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compares: bool
) -> None:
    """The server sees it by the digest; the bench sees it where the server does not compare."""
    write = FileStore.write
    flipped: list[int] = []

    def flip(store: FileStore, offset: int, blocks: Sequence[NDArray[np.uint8]]) -> None:
        if offset > 1 << 20 and not flipped:
            flipped.append(offset)
            blocks = [blocks[0].copy(), *blocks[1:]]
            blocks[0][0, 0] ^= 1
        write(store, offset, blocks)

    monkeypatch.setattr(FileStore, "write", flip)
    if not compares:
        monkeypatch.setattr(Dump, "damage", [])
    case = play(tmp_path)
    assert case.outcome == ("failed" if compares else "silent-hole")
    assert case.oracles["bytes-equal"] == "broken"
    assert (case.oracles["no-false-success"] == "broken") is not compares
    assert case.oracles["ack-means-kept"] == "broken"
    assert case.first_difference is not None
    assert case.first_difference.offset == flipped[0]


def test_a_finished_that_is_never_acknowledged_is_a_false_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = RULES[State.RECEIVING, MessageType.FINISHED]

    def silently(*arguments: Any) -> Any:
        return judge(*arguments)[:0]

    for key in [key for key in RULES if key[0] is State.COMPLETE]:
        monkeypatch.delitem(RULES, key)
    monkeypatch.setitem(RULES, (State.RECEIVING, MessageType.FINISHED), silently)
    case = play(tmp_path)
    assert case.outcome == "failed"
    assert case.oracles["no-false-failure"] == "broken"


def test_a_late_copy_that_rewrites_the_info_file_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = RULES[State.COMPLETE, MessageType.KDH]

    def scribble(session: Any, *arguments: Any) -> Any:
        info = tmp_path / "cases" / "netdump2" / "dumps" / "info.198.18.0.2.0"
        info.write_text("once more\n")
        return again(session, *arguments)

    monkeypatch.setitem(RULES, (State.COMPLETE, MessageType.KDH), scribble)
    case = play(tmp_path)
    assert case.oracles["idempotence"] == "broken"
    assert "info.198.18.0.2.0" in case.oracle_reasons["idempotence"]
