"""Dumps of our client that are encrypted or compressed: on the wire, and in the ring they go by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from blake3 import blake3

from guest.synthetic import PhysicalMemory
from netdump.client import NetdumpClient, Step
from netdump.compress import Compression
from netdump.dumper import DumpImage, DumpRefused
from netdump.ekcd import Encryption
from netdump.errors import LocalError
from netdump.kdh import parse_kdh
from netdump.profiles import PROFILES, Profile
from netdump.ring import RING_SIZE, fragments
from netdump.window import FRAGMENT
from tests.client_rig import (
    FINISHED,
    HERALD,
    KDH,
    KEY,
    MEMORY,
    SEGMENTS,
    VMCORE,
    Peer,
    Played,
    Sent,
    ack,
    play,
    reply,
)
from tests.ekcd_rig import WAYS, crypto, openssl_decrypts, program

SENDERS = ("freebsd-14", "netdump2")
#: Four times the ring, and no whole number of chunks.
LARGE = [(4096, (1 << 20) + 8192)]


def profile_of(
    name: str, encryption: Encryption | None, compression: Compression | None
) -> Profile:
    return replace(PROFILES[name], encryption=encryption, compression=compression)


def dump(
    name: str,
    encryption: Encryption | None = None,
    compression: Compression | None = None,
    peer: Peer | None = None,
    segments: list[tuple[int, int]] = LARGE,
    **columns: object,
) -> Played:
    profile = replace(profile_of(name, encryption, compression), **columns)  # type: ignore[arg-type]
    keys = crypto(encryption) if encryption else None
    return play(profile, peer or Peer(), crypto=keys, segments=segments, memory_size=2 << 20)


def undone(done: Played) -> bytes:
    """The memory that was dumped, by programs that are not ours."""
    header = parse_kdh(done.peer.of_kind(KDH)[0].payload)
    octets = done.stored()[: header.dumplength]
    if header.dumpkeysize:
        key = {sent.offset: sent.payload for sent in done.peer.of_kind(KEY)}
        block = b"".join(key[offset] for offset in sorted(key))
        assert len(block) == header.dumpkeysize
        octets = openssl_decrypts(block, octets)
    if header.compression:
        octets = program("gzip" if header.compression == 1 else "zstd", "-dc", given=octets)
    return octets


@pytest.mark.parametrize(("encryption", "compression"), WAYS)
@pytest.mark.parametrize("name", SENDERS)
def test_programs_that_are_not_ours_undo_it(
    name: str, encryption: Encryption | None, compression: Compression | None
) -> None:
    done = dump(name, encryption, compression)
    assert done.report.claims_success, done.report.detail
    assert done.stored()[: len(done.image)] != done.image
    assert undone(done) == done.image
    header = parse_kdh(done.peer.of_kind(KDH)[0].payload)
    assert header.dumpextent == (len(done.image) if compression else 0)
    keys = [KEY] if encryption else []
    assert done.peer.kinds() == [HERALD, *keys, VMCORE, KDH, FINISHED]


def test_the_key_block_goes_in_three_messages_before_the_data() -> None:
    for name in SENDERS:
        key = dump(name, "chacha20").peer.of_kind(KEY)
        assert [(s.offset, len(s.payload)) for s in key] == [(0, 1448), (1448, 1448), (2896, 1200)]
        assert key[0].payload[:33] == b"\2" + crypto("chacha20").next().iv


@pytest.mark.parametrize(("encryption", "compression"), WAYS)
def test_compressed_data_are_whole_blocks_and_stock_chunks_full(
    encryption: Encryption | None, compression: Compression | None
) -> None:
    """A chunk ends with a short message. zstd writes what blocks it has after each piece, so a
    chunk is sent when the next ones don't fit (subr_compressor.c, netdump_client.c)."""
    done = dump("freebsd-14", encryption, compression)
    frames = done.peer.of_kind(VMCORE)
    ends = [sent.offset + len(sent.payload) for sent in frames if len(sent.payload) < 1448]
    chunks = np.diff([0, *ends]).tolist()
    full = [size == 65536 for size in chunks[:-1]]
    assert all(size % 4096 == 0 and size <= 65536 for size in chunks)
    assert full
    assert all(full) == (compression != "zstd")
    assert len(done.stored()) % 4096 == 0


@pytest.mark.parametrize(("encryption", "compression"), WAYS)
def test_a_sliding_window_cuts_only_the_last_message_short(
    encryption: Encryption | None, compression: Compression | None
) -> None:
    frames = dump("netdump2", encryption, compression).peer.of_kind(VMCORE)
    assert {len(sent.payload) for sent in frames[:-1]} == {1448}
    assert [sent.offset for sent in frames] == [1448 * i for i in range(len(frames))]


def test_no_place_of_the_ring_is_written_while_it_may_be_sent_again() -> None:
    """Each frame is lost at first, many twice: what is sent again is what was sent before."""
    seen: Counter[int] = Counter()

    def answer(sent: Sent) -> list[bytes]:
        seen[sent.seqno] += 1
        return [] if seen[sent.seqno] <= sent.seqno % 3 else [ack(sent.seqno)]

    done = dump("netdump2", "chacha20", "gzip", Peer(answer), polls=8)
    assert done.report.claims_success, done.report.detail
    versions: dict[int, set[bytes]] = {}
    for sent in done.peer.of_kind(VMCORE):
        versions.setdefault(sent.offset, set()).add(sent.payload)
    assert max(seen.values()) >= 3
    assert {len(payloads) for payloads in versions.values()} == {1}
    assert undone(done) == done.image


def test_no_more_is_in_flight_than_the_ring_holds() -> None:
    def answer(sent: Sent) -> list[bytes]:
        return [] if sent.kind == VMCORE and sent.offset == 0 else [ack(sent.seqno)]

    done = dump("netdump2", "chacha20", None, Peer(answer), polls=4, retries=2)
    assert (done.report.error, done.report.failed_in) == ("ETIMEDOUT", Step.DATA)
    offsets = {sent.offset for sent in done.peer.of_kind(VMCORE)}
    assert offsets == set(range(0, RING_SIZE // 1448 * 1448, 1448))


@pytest.mark.parametrize(("encryption", "compression"), WAYS)
def test_finished_digests_what_will_be_stored(
    encryption: Encryption | None, compression: Compression | None
) -> None:
    offered = 0x4E443207

    def answer(sent: Sent) -> list[bytes]:
        # All that was offered is taken: a selective ack that has everything up to here.
        return [reply(offered.to_bytes(4, "big") + (sent.seqno + 1).to_bytes(4, "big"))]

    done = dump("netdump2", encryption, compression, Peer(answer))
    assert done.report.claims_success, done.report.detail
    header = parse_kdh(done.peer.of_kind(KDH)[0].payload)
    said = done.peer.of_kind(FINISHED)[0].payload
    assert int.from_bytes(said[8:16], "big") == header.dumplength
    assert said[16:] == blake3(done.stored()[: header.dumplength]).digest()


def test_two_attempts_of_one_key_differ_and_two_runs_do_not() -> None:
    again = replace(PROFILES["freebsd-14"], encryption="chacha20")
    one = play(again, Peer(), crypto=crypto("chacha20")).stored()
    same = play(again, Peer(), crypto=crypto("chacha20")).stored()
    other = play(again, Peer(), crypto=crypto("chacha20").next()).stored()
    assert one == same
    assert one != other


# --- what can't be --------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
@pytest.mark.parametrize("name", SENDERS)
def test_aes_with_compression_is_refused_when_the_client_is_made(
    name: str, compression: Compression
) -> None:
    memory = PhysicalMemory(MEMORY, 2 << 20)
    image = DumpImage(memory, SEGMENTS)
    with pytest.raises(DumpRefused, match="EOPNOTSUPP"):
        NetdumpClient(profile_of(name, "aes-256-cbc", compression), memory, image)


@pytest.mark.parametrize("columns", [{"header": "first"}, {"footer": True}])
def test_header_first_and_footer_are_of_clients_that_transform_nothing(
    columns: dict[str, object],
) -> None:
    memory = PhysicalMemory(MEMORY, 2 << 20)
    profile = replace(profile_of("netdump2", None, "zstd"), **columns)  # type: ignore[arg-type]
    with pytest.raises(DumpRefused, match="header last"):
        NetdumpClient(profile, memory, DumpImage(memory, SEGMENTS))


def test_an_encrypting_client_needs_its_key_and_no_other_has_one() -> None:
    with pytest.raises(LocalError):
        play(profile_of("netdump2", "chacha20", None), Peer())
    with pytest.raises(LocalError):
        play(PROFILES["netdump2"], Peer(), crypto=crypto("chacha20"))


# --- the ring by itself ---------------------------------------------------------------------------


def test_the_ring_yields_nothing_while_it_is_full_and_goes_on_behind_what_is_kept() -> None:
    size, ring_at = 1000, 4096
    capacity = RING_SIZE // size * size
    memory = np.zeros(ring_at + RING_SIZE, np.uint8)
    dumped = np.random.default_rng(1).integers(0, 256, 2 * capacity + 17, np.uint8).tobytes()
    kept: list[int | None] = [0]
    pieces = (dumped[at : at + 65536] for at in range(0, len(dumped), 65536))
    source = fragments(pieces, memory, ring_at, size, lambda: kept[0])

    def taken() -> Iterator[np.void]:
        for table in source:
            assert table.dtype == FRAGMENT
            if not len(table):
                return
            yield from table

    first = list(taken())
    assert [int(row["offset"]) for row in first] == list(range(0, capacity, size))
    assert not list(taken())
    kept[0] = 3 * size
    more = list(taken())
    assert [int(row["offset"]) for row in more] == [capacity + i * size for i in range(3)]
    assert [int(row["address"]) for row in more] == [ring_at + i * size for i in range(3)]
    for row in (*first[3:], *more):
        at, offset, length = (int(row[name]) for name in ("address", "offset", "length"))
        assert memory[at : at + length].tobytes() == dumped[offset : offset + length]
    kept[0] = None  # all that was given is acknowledged
    rest = list(taken())
    kept[0] = int(rest[-1]["offset"])  # and all but one of those
    while some := list(taken()):
        for row in some:
            at, offset, length = (int(row[name]) for name in ("address", "offset", "length"))
            assert memory[at : at + length].tobytes() == dumped[offset : offset + length]
        rest += some
        kept[0] = None
    assert [int(row["offset"]) for row in rest] == list(
        range(capacity + 3 * size, len(dumped), size)
    )
    assert int(rest[-1]["length"]) == 17
