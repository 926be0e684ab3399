"""Key blocks and ciphers of encrypted dumps: as FreeBSD has them, and as openssl reads them."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import replace
from itertools import pairwise

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from hypothesis import given
from hypothesis import strategies as st

from netdump.dumpon import configure, load_private, opened, wrap
from netdump.ekcd import (
    ChaCha20Stream,
    Encryption,
    KeyBlock,
    decryptor,
    encryptor,
    parse_key_block,
)
from netdump.errors import (
    EkcdCipher,
    EkcdKeySize,
    EkcdLength,
    EkcdPadding,
    EkcdWrongKey,
    LocalError,
    MalformedKey,
)
from tests.ekcd_rig import DREW, PEM, PRIVATE, crypto, openssl_decrypts, openssl_unwraps

CIPHERS = ("aes-256-cbc", "chacha20")
IV = bytes(range(100, 132))
KEY_BLOCK = KeyBlock("chacha20", IV, b"w" * 256)
DUMP = hashlib.shake_256(b"a dump").digest(3 * 4096)


# --- the block ------------------------------------------------------------------------------------


def test_a_key_block_octet_by_octet() -> None:
    packed = KEY_BLOCK.pack()
    assert packed[:37] == b"\2" + IV + bytes((0, 0, 1, 0))
    assert packed[37:] == b"w" * 256 + bytes(4096 - 37 - 256)
    assert replace(KEY_BLOCK, encryption="aes-256-cbc").pack()[0] == 1


@given(
    st.builds(
        KeyBlock,
        st.sampled_from(CIPHERS),
        st.binary(min_size=32, max_size=32),
        st.binary(min_size=1, max_size=2048),
    )
)
def test_what_is_packed_is_read_again(block: KeyBlock) -> None:
    packed = block.pack()
    assert len(packed) == 4096
    assert parse_key_block(packed) == block


@given(st.one_of(st.binary(max_size=80), st.binary(min_size=37, max_size=80)), st.booleans())
def test_any_octets_are_a_key_block_or_refused(octets: bytes, filled: bool) -> None:
    octets = octets.ljust(4096, b"\0") if filled else octets
    try:
        block = parse_key_block(octets)
    except MalformedKey:
        return  # any other error ends the test
    assert block.pack() == octets


@pytest.mark.parametrize(
    ("octets", "error"),
    [
        (b"", EkcdLength),
        (KEY_BLOCK.pack()[:-1], EkcdLength),
        (KEY_BLOCK.pack() * 2, EkcdLength),
        (b"\0" + KEY_BLOCK.pack()[1:], EkcdCipher),
        (b"\3" + KEY_BLOCK.pack()[1:], EkcdCipher),
        (KEY_BLOCK.pack()[:33] + bytes(4063), EkcdKeySize),
        (KEY_BLOCK.pack()[:33] + (2049).to_bytes(4, "big") + bytes(4059), EkcdKeySize),
        (KEY_BLOCK.pack()[:33] + b"\xff" * 4 + bytes(4059), EkcdKeySize),
        (KEY_BLOCK.pack()[:-1] + b"\1", EkcdPadding),
    ],
)
def test_what_is_wrong_with_a_block_has_a_name(octets: bytes, error: type[MalformedKey]) -> None:
    with pytest.raises(error):
        parse_key_block(octets)


@pytest.mark.parametrize(
    "block",
    [
        replace(KEY_BLOCK, iv=IV[:-1]),
        replace(KEY_BLOCK, encrypted_key=b""),
        replace(KEY_BLOCK, encrypted_key=bytes(2049)),
    ],
)
def test_no_block_is_made_that_could_not_be_read(block: KeyBlock) -> None:
    with pytest.raises(LocalError):
        block.pack()


# --- dumpon and decryptcore -----------------------------------------------------------------------


def test_openssl_unwraps_what_we_wrap() -> None:
    secret = bytes(range(64))
    assert openssl_unwraps(wrap(PRIVATE.public_key(), secret, b"s" * 20)) == secret


def test_all_that_is_drawn_is_given_and_counts() -> None:
    public = PRIVATE.public_key()
    one = configure("chacha20", public, DREW)
    assert one == configure("chacha20", public, DREW)
    assert (one.secret, one.iv) == (DREW[:64], DREW[64:96])
    another_seed = configure("chacha20", public, DREW[:-1] + b"x")
    assert another_seed.encrypted_key != one.encrypted_key
    assert openssl_unwraps(another_seed.encrypted_key) == one.secret
    with pytest.raises(LocalError):
        configure("chacha20", public, DREW[:-1])


def test_each_attempt_has_the_hash_of_the_last_ones_iv() -> None:
    at_boot = crypto("chacha20")
    attempts = [at_boot.next(), at_boot.next().next()]
    for before, after in pairwise([at_boot, *attempts]):
        assert after.iv == hashlib.sha256(before.iv).digest()
        assert after.encrypted_key == before.encrypted_key


def test_a_key_that_is_too_short_is_refused() -> None:
    short = generate_private_key(65537, 1024).public_key()
    with pytest.raises(LocalError, match="1024 bits"):
        wrap(short, bytes(64), bytes(20))


def test_another_private_key_opens_nothing() -> None:
    other = generate_private_key(65537, 2048)
    with pytest.raises(EkcdWrongKey):
        opened(crypto("chacha20").block, other)
    of_another_size = replace(crypto("chacha20").block, encrypted_key=bytes(128))
    with pytest.raises(EkcdWrongKey):
        opened(of_another_size, PRIVATE)


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        b"-----BEGIN EC PARAMETERS-----\n",
    ],
)
def test_what_is_no_private_key_is_refused(pem: bytes) -> None:
    with pytest.raises(MalformedKey):
        load_private(pem)


# --- ciphers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("encryption", CIPHERS)
def test_openssl_decrypts_what_we_encrypt(encryption: Encryption) -> None:
    attempt = crypto(encryption).next()
    sent = attempt.encryptor().update(DUMP)
    assert sent != DUMP
    assert openssl_decrypts(attempt.block.pack(), sent) == DUMP
    assert opened(attempt.block, load_private(PEM.read_bytes())).update(sent) == DUMP


@given(st.sampled_from(CIPHERS), st.lists(st.integers(0, len(DUMP) // 16), max_size=5))
def test_pieces_are_one_message_to_the_cipher(encryption: Encryption, cuts: list[int]) -> None:
    args = encryption, DREW[:32], IV
    edges = [0, *(16 * cut for cut in sorted(cuts)), len(DUMP)]
    stream = encryptor(*args)
    sent = b"".join(stream.update(DUMP[a:b]) for a, b in pairwise(edges))
    assert sent == encryptor(*args).update(DUMP)
    assert decryptor(*args).update(sent) == DUMP


def test_chacha20_takes_pieces_of_any_length_and_aes_whole_blocks() -> None:
    stream = encryptor("chacha20", DREW[:32], IV)
    pieces = stream.update(DUMP[:5]) + stream.update(DUMP[5:100])
    assert pieces == encryptor("chacha20", DREW[:32], IV).update(DUMP[:100])
    with pytest.raises(LocalError):
        encryptor("aes-256-cbc", DREW[:32], IV).update(DUMP[:17])


def chacha20_block(key: bytes, counter: int, nonce: bytes) -> bytes:
    """RFC 8439's block function, with the 64 bits of counter that ChaCha20 had at first."""
    words = [*struct.unpack("<4I", b"expand 32-byte k"), *struct.unpack("<8I", key)]
    words += [*struct.unpack("<2I", counter.to_bytes(8, "little")), *struct.unpack("<2I", nonce)]
    state = list(words)

    def turn(at: int, other: int, rotated: int, by: int) -> None:
        state[at] = (state[at] + state[other]) & 0xFFFF_FFFF
        mixed = state[rotated] ^ state[at]
        state[rotated] = (mixed << by | mixed >> 32 - by) & 0xFFFF_FFFF

    columns = [(n, 4 + n, 8 + n, 12 + n) for n in range(4)]
    diagonals = [(n, 4 + (n + 1) % 4, 8 + (n + 2) % 4, 12 + (n + 3) % 4) for n in range(4)]
    for a, b, c, d in [*columns, *diagonals] * 10:
        turn(a, b, d, 16)
        turn(c, d, b, 12)
        turn(a, b, d, 8)
        turn(c, d, b, 7)
    mixed = (one + other & 0xFFFF_FFFF for one, other in zip(words, state, strict=True))
    return struct.pack("<16I", *mixed)


@pytest.mark.parametrize("first", [0, (1 << 32) - 2, (5 << 32) - 3])
def test_chacha20_counts_on_beyond_256_gib(first: int) -> None:
    """The library counts 2**32 blocks."""
    key, iv = bytes(range(32)), bytes(range(100, 132))
    stream = ChaCha20Stream(key, iv, 64 * first)
    came = b"".join(stream.update(bytes(size)) for size in (64, 100, 0, 28, 300, 20))
    blocks = [chacha20_block(key, first + n, iv[:8]) for n in range(8)]
    assert came == b"".join(blocks)


@pytest.mark.parametrize("size", [512, 1024, 3584])
def test_a_key_block_from_a_disk_has_whole_sectors(size: int) -> None:
    block = KeyBlock("chacha20", bytes(32), bytes(range(256)))
    assert parse_key_block(block.pack()[:size]) == block
    with pytest.raises(EkcdLength):
        parse_key_block(block.pack()[: size - 1])


def test_a_key_block_that_ends_in_its_key_is_refused() -> None:
    with pytest.raises(EkcdLength, match="549 are in use"):
        parse_key_block(KeyBlock("chacha20", bytes(32), bytes(512)).pack()[:512])
