"""The keys of a run whose client encrypts: dumpon's part, which the bench plays at boot.

All that dumpon draws comes from the run's seed, so a run can be played again octet for octet. The
RSA key pair lies beside this file, ``everybodys-key.pem``: it was made once, for the bench alone.
Everybody has it, so it keeps nothing secret.
"""

from __future__ import annotations

from functools import cache
from hashlib import shake_256
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from netdump.dumpon import DRAWN, KernelCrypto, configure, load_private
from netdump.ekcd import Encryption

PEM: Final = Path(__file__).with_name("everybodys-key.pem")


@cache
def private_key() -> RSAPrivateKey:
    """What decrypts every dump of the bench."""
    return load_private(PEM.read_bytes())


def configured(encryption: Encryption | None, seed: int, name: str) -> KernelCrypto | None:
    """Of the run with that seed and name; None if it does not encrypt."""
    if encryption is None:
        return None
    drawn = shake_256(f"dumpon {seed} {name}".encode()).digest(DRAWN)
    return configure(encryption, private_key().public_key(), drawn)
