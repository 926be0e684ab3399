"""Acks held back save a stock client from its own bitmap; a small model of it is the judge.

The model is debugnet_send of FreeBSD's sys/net/debugnet.c, bug for bug, in Python ints: the ack of
fragment i sets the bit 1 << (i mod 32), sign-extended for bit 31. A chunk is sent, then its unacked
fragments are sent again, 12 transmissions in all; a chunk that isn't acked by then fails the dump.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from netdump.kdh import KernelDumpHeader
from server.rescue import CHUNK_BYTES, AckHold
from tests.server_rig import (
    DRAWN,
    HOST,
    KERNEL,
    USERLAND,
    Rig,
    finished,
    frames,
    image_of,
    kdh,
    seqnos,
)

TRANSMISSIONS = 12
MAX_IN_FLIGHT = 64
MASK = (1 << 64) - 1

#: lost(what, seqno, transmission) -> is this datagram lost?
Lost = Callable[[str, int, int], bool]
#: The acks that a server sends for a burst of fragments.
Answer = Callable[[list[tuple[int, int]]], list[int]]


def bit(index: int) -> int:
    """What ``1 << index`` is on amd64 when 1 is an int and the result goes to a uint64_t."""
    shifted = 1 << (index % 32)
    return shifted | (MASK << 31 & MASK) if index % 32 == 31 else shifted


@dataclass
class StockClient:
    """Sends chunks; remembers what it believes."""

    payload: int
    seqno: int = 2
    transmissions: list[int] = field(default_factory=list)

    def fragments(self, chunk: int) -> list[int]:
        return [min(self.payload, chunk - at) for at in range(0, chunk, self.payload)]

    def send(self, chunk: int, answer: Answer, lost: Lost) -> bool:
        """debugnet_send of ``chunk`` bytes: does the client believe that all arrived?"""
        sizes = self.fragments(chunk)
        wanted = 0
        for index in range(len(sizes)):
            wanted |= bit(index)
        acked = 0
        for attempt in range(TRANSMISSIONS):
            burst = [
                (self.seqno + index, size)
                for index, size in enumerate(sizes)
                if not acked & bit(index)
            ]
            arrived = [frame for frame in burst if not lost("data", frame[0], attempt)]
            for ack in answer(arrived):
                index = ack - self.seqno
                if 0 <= index < MAX_IN_FLIGHT and not lost("ack", ack, attempt):
                    acked |= bit(index)
            if acked & wanted == wanted:
                self.transmissions.append(attempt + 1)
                self.seqno += len(sizes)
                return True
        return False


class HoldingServer:
    """A server that keeps all that arrives and acknowledges by ``AckHold``, in small batches."""

    def __init__(self, batch: int = 256, reorder: bool = False) -> None:
        self.hold = AckHold(2)
        self.kept: set[int] = set()
        self.batch = batch
        self.reorder = reorder

    def answer(self, frames: list[tuple[int, int]]) -> list[int]:
        if self.reorder:
            frames = frames[::-1]
        acks: list[int] = []
        for at in range(0, len(frames), self.batch):
            part = frames[at : at + self.batch]
            self.kept.update(seqno for seqno, _ in part)
            acks += self.hold.kept(
                np.array([seqno for seqno, _ in part], np.int64),
                np.array([size for _, size in part], np.int64),
            ).tolist()
        assert set(acks) <= self.kept
        return acks


def never(what: str, seqno: int, attempt: int) -> bool:
    return False


def test_without_the_rescue_one_lost_fragment_is_a_silent_hole() -> None:
    kept: set[int] = set()

    def at_once(frames: list[tuple[int, int]]) -> list[int]:
        kept.update(seqno for seqno, _ in frames)
        return [seqno for seqno, _ in frames]

    client = StockClient(1448)
    assert client.send(CHUNK_BYTES, at_once, lambda what, seqno, _: (what, seqno) == ("data", 7))
    assert kept == set(range(2, 48)) - {7}  # and the client is sure that all is well


@pytest.mark.parametrize("victim", range(46))
def test_any_single_lost_fragment_of_a_chunk_is_sent_again(victim: int) -> None:
    server, client = HoldingServer(), StockClient(1448)
    lost: Lost = lambda what, seqno, attempt: (  # noqa: E731
        what == "data" and seqno == 2 + victim and attempt == 0
    )
    assert client.send(CHUNK_BYTES, server.answer, lost)
    assert server.kept == set(range(2, 48))
    assert client.transmissions == [2]


@pytest.mark.parametrize("victim", range(46))
def test_any_single_lost_ack_costs_no_byte(victim: int) -> None:
    server, client = HoldingServer(), StockClient(1448)
    lost: Lost = lambda what, seqno, attempt: (  # noqa: E731
        what == "ack" and seqno == 2 + victim and attempt == 0
    )
    assert client.send(CHUNK_BYTES, server.answer, lost)
    assert client.send(CHUNK_BYTES, server.answer, never)
    assert server.kept == set(range(2, 94))


def test_a_loss_free_dump_is_sent_once() -> None:
    server, client = HoldingServer(), StockClient(1448)
    for chunk in [CHUNK_BYTES] * 5 + [4096, 12288, 512]:
        assert client.send(chunk, server.answer, never)
    assert client.transmissions == [1] * 8
    assert server.hold.held == 0


def test_no_ack_leaves_before_the_chunk_is_whole() -> None:
    server, client = HoldingServer(), StockClient(1448)
    frames = list(enumerate(client.fragments(CHUNK_BYTES), 2))
    assert server.answer(frames[:20] + frames[21:]) == []
    assert server.hold.held == 45
    assert server.answer([frames[20]]) == [seqno for seqno, _ in frames]


def test_a_late_copy_from_below_the_base_is_acked_at_once() -> None:
    server, client = HoldingServer(), StockClient(1448)
    assert client.send(CHUNK_BYTES, server.answer, never)
    assert server.answer([(9, 1448), (48, 1448)]) == [9]


@pytest.mark.parametrize("payload", [2048, 4096, 8948])
def test_fragments_too_large_to_alias_are_not_held(payload: int) -> None:
    server = HoldingServer()
    assert server.answer([(4, payload), (2, payload)]) == [4, 2]
    # The first chunk's short tail may have come before anything told how large fragments are.
    server = HoldingServer()
    assert server.answer([(9, 376)]) == []
    assert sorted(server.answer([(2, payload)])) == [2, 9]


@pytest.mark.parametrize("last", [512, 4096, 1448 * 2 + 100, 1447, 8192])
def test_the_last_chunk_may_have_any_length(last: int) -> None:
    server, client = HoldingServer(), StockClient(1448)
    assert client.send(CHUNK_BYTES, server.answer, never)
    assert client.send(last, server.answer, never)
    assert client.transmissions[-1] == 1


@pytest.mark.parametrize(("payload", "chunk"), [(1408, 45056), (1024, 32768), (1448, 1448)])
def test_an_undecidable_end_is_found_by_the_retransmission_rounds(payload: int, chunk: int) -> None:
    """32 x 1408 could be the whole of the last chunk, or what has come of 47 fragments."""
    server, client = HoldingServer(), StockClient(payload)
    assert client.send(CHUNK_BYTES, server.answer, never)
    if chunk % 512:
        # No dump write has this length; the rest is still to come, and nothing is given away.
        assert not client.send(chunk, server.answer, never)
        return
    assert client.send(chunk, server.answer, never)
    assert client.transmissions == [1, 3]


def test_duplicated_frames_are_no_retransmission_rounds() -> None:
    server, client = HoldingServer(), StockClient(1024)
    frames = list(enumerate(client.fragments(CHUNK_BYTES), 2))
    # Half of the chunk arrives, each frame as a pair or a triplet: no reason to believe in its end.
    for frame in frames[:32]:
        assert server.answer([frame] * 3) == []
    assert server.answer(frames[32:]) == [seqno for seqno, _ in frames]


def test_messages_of_other_kinds_use_up_their_seqnos() -> None:
    hold = AckHold(2)
    assert hold.passed(np.array([2, 3, 4], np.int64)).tolist() == []  # the key block
    assert hold.base == 5
    sizes = StockClient(1448).fragments(4096)
    assert hold.kept(np.arange(5, 8), np.array(sizes, np.int64)).tolist() == [5, 6, 7]
    assert hold.passed(np.array([8], np.int64)).tolist() == []  # the header
    assert hold.base == 9


def test_seqnos_that_no_stock_client_uses_are_not_acked() -> None:
    hold = AckHold(2)
    assert hold.kept(np.array([1 << 31], np.int64), np.array([1448], np.int64)).tolist() == []
    assert hold.held == 0


@pytest.mark.parametrize(("rescue", "seed"), [(True, 1), (True, 2), (True, 3), (False, 1)])
def test_a_whole_dump_through_loss_is_exact_with_the_rescue_and_not_without(
    tmp_path: Path, rescue: bool, seed: int
) -> None:
    """5 % loss each way, the server as it is: files, header, FINISHED."""
    rig = Rig(tmp_path, rescue=rescue)
    session = rig.open(KERNEL)
    image = image_of(16 * 65536 + 3 * 4096)
    sent = {int.from_bytes(frame[4:8], "big"): frame for frame in frames(image, 2)}
    draw = np.random.default_rng(seed)
    client = StockClient(1448)

    def answer(burst: list[tuple[int, int]]) -> list[int]:
        return rig.say(session, *[sent[seqno] for seqno, _ in burst])

    for at in range(0, len(image), CHUNK_BYTES):
        chunk = min(CHUNK_BYTES, len(image) - at)
        assert client.send(chunk, answer, lambda what, seqno, attempt: draw.random() < 0.05)
    rig.say(session, kdh(client.seqno, KernelDumpHeader(dumplength=len(image))))
    # Without the rescue the client is as sure of its dump; the missing ack is what tells it.
    assert bool(rig.say(session, finished(client.seqno + 1))) == rescue
    assert rig.core.sessions[session].dump.vmcore.coverage.holes(len(image)) == [] or not rescue
    if rescue:
        assert rig.read(f"vmcore.{HOST}.0") == image


DECIDABLE = [1448, 1447, 1400, 1076 - 52 + 1, 1480, 1000, 2048, 4096]
losses = st.sets(
    st.tuples(st.sampled_from(["data", "ack"]), st.integers(0, 70), st.integers(0, 9)), max_size=250
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(
    payload=st.sampled_from(DECIDABLE),
    blocks=st.lists(st.integers(1, 16), min_size=1, max_size=4),
    footer=st.booleans(),
    pattern=losses,
    batch=st.integers(1, 64),
    reorder=st.booleans(),
    tail=st.integers(0, 60),
    deaf=st.integers(0, 9),
)
def test_no_loss_pattern_leaves_a_hole_or_a_deadlock(
    payload: int,
    blocks: Sequence[int],
    footer: bool,
    pattern: set[tuple[str, int, int]],
    batch: int,
    reorder: bool,
    tail: int,
    deaf: int,
) -> None:
    """``pattern`` loses single datagrams of each chunk's first transmissions, ``tail`` and ``deaf``
    everything behind a fragment for many rounds; the last two transmissions get through.
    """
    server, client = HoldingServer(batch, reorder), StockClient(payload)
    sent = 2
    for chunk in [4096 * count for count in blocks] + [512] * footer:
        base = client.seqno

        def lost(what: str, seqno: int, attempt: int, base: int = base) -> bool:
            if attempt >= TRANSMISSIONS - 2:
                return False
            behind = attempt < deaf and seqno - base >= tail
            return behind or (what, seqno - base, attempt) in pattern

        assert client.send(chunk, server.answer, lost), "the client is stuck"
        sent += len(client.fragments(chunk))
        assert server.kept == set(range(2, sent)), "the client went on over a hole"


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(
    payload=st.sampled_from([1024, 1280, 1408, 1472, 1536, 1792]),
    blocks=st.lists(st.integers(1, 16), min_size=1, max_size=3),
    pattern=losses,
    batch=st.integers(1, 64),
)
def test_where_an_end_is_undecidable_scattered_loss_still_leaves_no_hole(
    payload: int, blocks: Sequence[int], pattern: set[tuple[str, int, int]], batch: int
) -> None:
    """Losses in the first two transmissions; deciding takes two clean rounds after them."""
    server, client = HoldingServer(batch), StockClient(payload)
    sent = 2
    for chunk in [4096 * count for count in blocks]:
        base = client.seqno

        def lost(what: str, seqno: int, attempt: int, base: int = base) -> bool:
            return attempt < 2 and (what, seqno - base, attempt) in pattern

        assert client.send(chunk, server.answer, lost), "the client is stuck"
        sent += len(client.fragments(chunk))
        assert server.kept == set(range(2, sent)), "the client went on over a hole"


# -- in a server --------------------------------------------------------------------------------

CHUNK = frames(image_of(CHUNK_BYTES), 2)


def test_only_the_kernels_acks_are_held(rig: Rig) -> None:
    parts = CHUNK
    for seqno, held in ((KERNEL, True), (USERLAND, False), (DRAWN, False)):
        session = rig.open(seqno, ("198.18.0.9", 20000 + seqno % 100))
        assert rig.say(session, *parts[:40], *parts[41:]) == (
            [] if held else seqnos(parts[:40] + parts[41:])
        )
    assert Rig(rig.folder, rescue=False).core.config.rescue is False


def test_the_info_file_names_acks_that_were_still_held(rig: Rig) -> None:
    session = rig.open(KERNEL)
    assert rig.say(session, *CHUNK[:40]) == []
    rig.core.stop()
    assert rig.info()[-1].endswith("40 acks of an unfinished chunk were held (see --no-rescue)")


def test_without_rescue_a_kernel_gets_its_acks_at_once(tmp_path: Path) -> None:
    rig = Rig(tmp_path, rescue=False)
    session = rig.open(KERNEL)
    parts = CHUNK[:40]
    assert rig.say(session, *parts) == seqnos(parts)
