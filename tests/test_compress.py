"""Compressed dumps: whole blocks of what gzip and zstd read, and what can't be read."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netdump.compress import Compression, Decompressor
from netdump.dumper import DumpRefused
from netdump.errors import MalformedStream
from netdump.kdh import KernelDumpHeader
from netdump.outbound import Outbound
from tests.ekcd_rig import crypto, openssl_decrypts, program

NOISE = hashlib.shake_256(b"memory").digest(300_000)
MEMORY = bytes(500_000) + NOISE + b"text " * 10_000
METHODS = ("gzip", "zstd")


def blocks(outbound: Outbound, memory: bytes = MEMORY, step: int = 65536) -> list[bytes]:
    pieces = (memoryview(memory[at : at + step]) for at in range(0, len(memory), step))
    return list(outbound.octets(pieces))


def restored(method: Compression, octets: bytes, step: int = 4096) -> bytes:
    reading = Decompressor(method)
    parts = []
    for at in range(0, len(octets), step):
        parts += list(reading.update(octets[at : at + step]))
    reading.finish()
    return b"".join(parts)


@pytest.mark.parametrize("method", METHODS)
def test_whole_blocks_come_out_and_the_programs_read_them(method: Compression) -> None:
    digested = []
    outbound = Outbound(method, None, lambda octets: digested.append(bytes(octets)))
    pieces = blocks(outbound)
    assert all(len(piece) % 4096 == 0 and 0 < len(piece) <= 65536 for piece in pieces)
    file = b"".join(pieces)
    assert len(file) - 4096 < outbound.length <= len(file)
    assert not any(file[outbound.length :])
    stored = file[: outbound.length]
    assert b"".join(digested) == stored
    assert program(method, "-dc", given=stored) == MEMORY
    assert restored(method, stored) == MEMORY


@pytest.mark.parametrize(("method", "number"), [("gzip", 1), ("zstd", 2)])
def test_the_header_has_both_lengths(method: Compression, number: int) -> None:
    outbound = Outbound(method, crypto("chacha20"))
    blocks(outbound)
    header = outbound.header(KernelDumpHeader(len(MEMORY), hostname="victim"))
    assert (header.dumplength, header.dumpextent) == (outbound.length, len(MEMORY))
    assert (header.compression, header.dumpkeysize, header.hostname) == (number, 4096, "victim")


def test_of_an_encrypted_dump_the_length_stays() -> None:
    outbound = Outbound(None, crypto("aes-256-cbc"))
    whole = MEMORY[: len(MEMORY) // 4096 * 4096]
    assert len(b"".join(blocks(outbound, whole))) == len(whole)
    header = outbound.header(KernelDumpHeader(len(whole), dumpextent=len(whole)))
    assert (header.dumplength, header.dumpextent) == (len(whole), len(whole))
    assert (header.compression, header.dumpkeysize) == (0, 4096)


@pytest.mark.parametrize("method", METHODS)
def test_it_is_compressed_and_then_encrypted(method: Compression) -> None:
    attempt = crypto("chacha20").next()
    outbound = Outbound(method, attempt)
    file = b"".join(blocks(outbound))[: outbound.length]
    assert program(method, "-dc", given=openssl_decrypts(attempt.block.pack(), file)) == MEMORY


@pytest.mark.parametrize("method", METHODS)
def test_aes_with_compression_is_refused(method: Compression) -> None:
    with pytest.raises(DumpRefused, match="EOPNOTSUPP: AES-256-CBC can't encrypt a compressed"):
        Outbound(method, crypto("aes-256-cbc"))


@given(st.sampled_from(METHODS), st.binary(max_size=5000), st.integers(1, 200))
def test_what_comes_in_any_pieces_is_restored(
    method: Compression, octets: bytes, step: int
) -> None:
    outbound = Outbound(method, None)
    file = b"".join(blocks(outbound, octets, step))[: outbound.length]
    assert restored(method, file, step) == octets


@pytest.mark.parametrize("method", METHODS)
def test_what_is_damaged_is_told(method: Compression) -> None:
    outbound = Outbound(method, None)
    good = b"".join(blocks(outbound))[: outbound.length]
    flipped = bytearray(good)
    flipped[-2] ^= 1  # in the checksum
    for bad, says in (
        (good[:-1], "breaks off"),
        (b"", "breaks off"),
        (good + b"x", "follow its end"),
        (bytes(len(good)), method),
        (bytes(flipped), method),
    ):
        with pytest.raises(MalformedStream, match=says):
            restored(method, bad)


@given(st.sampled_from(METHODS), st.binary(max_size=200))
def test_any_octets_with_more_behind_them_are_refused(method: Compression, octets: bytes) -> None:
    heads = {"gzip": b"\x1f\x8b\x08" + bytes(6) + b"\x03", "zstd": b"\x28\xb5\x2f\xfd"}
    for candidate in (octets, heads[method] + octets):
        with pytest.raises(MalformedStream):
            restored(method, candidate + b"no end", 7)
