"""More than 65,535 blocks: the two ends agree on what comes after, or the report says so."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.servers.tftp.config import TftpConfig
from netdump.tftp.numbers import TURN, ahead, on_wire
from netdump.tftp.options import agree, asked
from netdump.tftp.rules import TftpRules
from netdump.tftp.transfer import State
from tests.tftp_pair import Pair

Rollover = Literal[0, 1]
BLKSIZE = 8


@given(acknowledged=st.integers(0, 1 << 40), step=st.integers(0, 1024), first=st.integers(0, 1))
def test_an_ack_names_the_block_that_it_is_for(acknowledged: int, step: int, first: int) -> None:
    block = acknowledged + step
    number = int(on_wire(np.array([block]), first)[0]) if block else 0
    assert ahead(number, acknowledged, first) == step
    if step:
        again = int(on_wire(np.array([acknowledged]), first)[0]) if acknowledged else 0
        assert ahead(again, block, first) == -step


def near_the_turn(folder: Path, rules: TftpRules, config: TftpConfig) -> Pair:
    """A file of 70,000 blocks of which 65,500 are there, and it goes on."""
    pair = Pair(folder, 70_000 * BLKSIZE, rules, config)
    pair.skip_to(65_500)
    while not pair.transfer.over:
        pair.send()
        while pair.to_server:
            pair.server_hears(0)
        if not pair.to_client:
            pair.transfer.silence()
        while pair.to_client:
            pair.client_hears(0)
    return pair


@pytest.mark.parametrize("rollover", [0, 1])
@pytest.mark.parametrize("windowsize", [1, 16, 64])
def test_block_numbers_go_round(tmp_path: Path, rollover: Rollover, windowsize: int) -> None:
    rules = TftpRules(windowsize=windowsize, rollover=rollover)
    pair = near_the_turn(tmp_path, rules, TftpConfig(blksize=BLKSIZE, rollover=rollover))
    assert pair.transfer.state is State.DONE, pair.transfer.failure
    assert pair.stored() == pair.file.tobytes()
    assert on_wire(np.array([TURN - 1, TURN, TURN + 1]), rollover).tolist() == [
        65535,
        rollover,
        rollover + 1,
    ]


@pytest.mark.parametrize("windowsize", [1, 7, 64])
@pytest.mark.parametrize(("ours", "theirs"), [(0, 1), (1, 0)])
def test_a_server_that_goes_on_elsewhere_gets_no_wrong_block_and_is_named(
    tmp_path: Path, ours: Rollover, theirs: Rollover, windowsize: int
) -> None:
    """With a window, number 1 behind a number 0 that was dropped would be taken for it."""
    rules = TftpRules(windowsize=windowsize, rollover=ours, retries=4)
    pair = near_the_turn(tmp_path, rules, TftpConfig(blksize=BLKSIZE, rollover=theirs))
    assert str(pair.transfer.failure) == (
        "ETIMEDOUT: no ACK in 5 rounds, with 65535 of 70001 blocks acknowledged; after 65535 block"
        f" numbers went on at {ours}, which this server may not do"
    )
    assert pair.stored() is None
    assert pair.so_far() == pair.file[: 65535 * BLKSIZE].tobytes()


def test_a_server_that_can_count_no_further_says_so(tmp_path: Path) -> None:
    pair = near_the_turn(tmp_path, TftpRules(), TftpConfig(blksize=BLKSIZE, rollover=None))
    assert 'ERROR 0 (not defined): "Undefined error code"' in str(pair.transfer.failure)
    assert "with 65535 of 70001 blocks acknowledged" in str(pair.transfer.failure)


def test_it_is_asked_for_where_it_may_come_to_it_and_the_servers_word_counts() -> None:
    rules = TftpRules(rollover=1)
    assert "rollover" not in asked(rules, 16 << 20, 1500)
    wanted = asked(rules, 64 << 20, 1500)
    assert wanted["rollover"] == "1"
    assert agree(rules, wanted, {"blksize": "1428"}, 1500).rollover == 1
    assert agree(rules, wanted, {"rollover": "0"}, 1500).rollover == 0
