"""A TFTP transfer over a wire that loses, doubles and turns round whatever it likes.

Whatever happens: what the server has is the front of the file; "done" is said of nothing else than
the file; a block is sent again only when something was silent or lost; and it ends.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Literal

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bench.servers.tftp.config import TftpConfig
from netdump.tftp.rules import TftpRules
from netdump.tftp.transfer import State
from tests.tftp_pair import Pair

BLKSIZE = 8
TURN = 65536
Rollover = Literal[0, 1]
ROLLOVERS: tuple[Rollover, ...] = (0, 1)


class TftpMachine(RuleBasedStateMachine):
    """Every step is the wire's, or the clock's."""

    pair: Pair

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="tftp-"))
        self.rounds = 0
        """Of silence, or of a window that was opened again."""

    def teardown(self) -> None:
        try:
            if hasattr(self, "pair"):
                self.the_end_comes()
        finally:
            shutil.rmtree(self.folder)

    @initialize(
        length=st.integers(1, 40 * BLKSIZE),
        windowsize=st.integers(1, 9),
        servers=st.integers(1, 9),
        near_the_turn=st.booleans(),
        ours=st.sampled_from(ROLLOVERS),
        theirs=st.sampled_from(ROLLOVERS),
        before=st.integers(0, 12),
    )
    def a_transfer_begins(
        self,
        length: int,
        windowsize: int,
        servers: int,
        near_the_turn: bool,
        ours: Rollover,
        theirs: Rollover,
        before: int,
    ) -> None:
        rules = TftpRules(windowsize=windowsize, rollover=ours, retries=6)
        config = TftpConfig(blksize=BLKSIZE, windowsize=servers, rollover=theirs)
        start = TURN - 1 - before if near_the_turn else 0
        length += start * BLKSIZE
        self.pair = Pair(self.folder, length, rules, config)
        self.agree_on_numbers = ours == theirs or not near_the_turn
        if start:
            self.pair.skip_to(start)

    @rule(room=st.integers(0, 9))
    def the_nic_takes_what_is_due(self, room: int) -> None:
        self.pair.send(room)

    @precondition(lambda self: self.pair.to_server)
    @rule(which=st.integers(0, 1 << 16), again=st.booleans())
    def the_server_hears_one(self, which: int, again: bool) -> None:
        self.pair.server_hears(which % len(self.pair.to_server), keep=again)

    @precondition(lambda self: self.pair.to_client)
    @rule(which=st.integers(0, 1 << 16), again=st.booleans())
    def the_client_hears_one(self, which: int, again: bool) -> None:
        self.pair.client_hears(which % len(self.pair.to_client), keep=again)

    @precondition(lambda self: self.pair.to_server)
    @rule(which=st.integers(0, 1 << 16))
    def one_is_lost_on_its_way_to_the_server(self, which: int) -> None:
        del self.pair.to_server[which % len(self.pair.to_server)]

    @precondition(lambda self: self.pair.to_client)
    @rule(which=st.integers(0, 1 << 16))
    def one_is_lost_on_its_way_back(self, which: int) -> None:
        del self.pair.to_client[which % len(self.pair.to_client)]

    @precondition(lambda self: not self.pair.transfer.over)
    @rule()
    def it_has_been_silent(self) -> None:
        self.rounds += 1
        self.pair.transfer.silence()

    @precondition(lambda self: self.pair.transfer.gap)
    @rule()
    def a_gap_is_certain(self) -> None:
        self.rounds += 1
        self.pair.transfer.open_window()

    @invariant()
    def what_the_server_has_is_the_front_of_the_file(self) -> None:
        if not hasattr(self, "pair"):
            return
        so_far = self.pair.so_far()
        assert so_far == self.pair.file[: len(so_far)].tobytes()

    @invariant()
    def done_is_said_of_the_file_alone(self) -> None:
        if not hasattr(self, "pair"):
            return
        pair, stored = self.pair, self.pair.stored()
        if pair.transfer.state is State.DONE:
            assert stored is not None
        if stored is not None:
            assert stored == pair.file.tobytes()

    @invariant()
    def nothing_but_silence_and_gaps_sends_a_block_again(self) -> None:
        if hasattr(self, "pair") and self.pair.sendings:
            assert max(self.pair.sendings.values()) <= 1 + self.rounds

    def the_end_comes(self) -> None:
        """From now on the wire does nothing more, and time passes."""
        pair = self.pair
        tired = pair.transfer.state is State.FAILED or pair.transfer._rounds > 3
        for _ in range(2000):
            if pair.transfer.over:
                break
            pair.send()
            while pair.to_server:
                pair.server_hears(0)
            moved = False
            while pair.to_client:
                moved |= pair.client_hears(0)
            if pair.transfer.gap:
                pair.transfer.open_window()
            elif not moved:
                pair.transfer.silence()
        assert pair.transfer.over
        self.done_is_said_of_the_file_alone()
        if not tired and self.agree_on_numbers:
            assert pair.transfer.state is State.DONE, pair.transfer.failure


TestTftpMachine = TftpMachine.TestCase
TestTftpMachine.settings = settings(max_examples=50, stateful_step_count=50, deadline=None)
