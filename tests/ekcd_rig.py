"""Keys for the tests of encrypted dumps, and programs that we did not write to undo them with."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

from netdump.compress import Compression
from netdump.dumpon import DRAWN, KernelCrypto, configure, load_private
from netdump.ekcd import Encryption

#: The bench's own, which everybody has.
PEM = Path(__file__).parents[1] / "bench" / "story" / "everybodys-key.pem"
PRIVATE = load_private(PEM.read_bytes())
DREW = bytes(range(DRAWN))
#: All that can be together.
WAYS: list[tuple[Encryption | None, Compression | None]] = [
    ("aes-256-cbc", None),
    ("chacha20", None),
    (None, "gzip"),
    (None, "zstd"),
    ("chacha20", "gzip"),
    ("chacha20", "zstd"),
]


@cache
def crypto(encryption: Encryption) -> KernelCrypto:
    return configure(encryption, PRIVATE.public_key(), DREW)


def program(*argv: str, given: bytes = b"") -> bytes:
    """What a program prints, which the tests need."""
    if shutil.which(argv[0]) is None:
        pytest.skip(f"no {argv[0]}; cure: scripts/debian-packages test")
    return subprocess.run(argv, input=given, capture_output=True, check=True).stdout


def openssl_unwraps(encrypted_key: bytes) -> bytes:
    """As decryptcore does it."""
    oaep = ("-pkeyopt", "rsa_padding_mode:oaep")
    return program("openssl", "pkeyutl", "-decrypt", "-inkey", str(PEM), *oaep, given=encrypted_key)


def openssl_decrypts(block: bytes, dump: bytes) -> bytes:
    """By a key block's octets, which are taken apart here by hand."""
    size = int.from_bytes(block[33:37], "big")
    key = openssl_unwraps(block[37 : 37 + size])[:32].hex()
    if block[0] == 1:
        cipher, iv = "-aes-256-cbc", block[1:17]
    else:
        cipher, iv = "-chacha20", bytes(8) + block[1:9]
    argv = ("openssl", "enc", "-d", cipher, "-nopad", "-K", key, "-iv", iv.hex())
    return program(*argv, given=dump)
