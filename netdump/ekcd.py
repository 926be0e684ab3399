"""EKCD, encrypted kernel crash dumps: the key block, and what the cipher does with a dump.

Theory. A kernel that panics has no passphrase and nobody to ask. So dumpon(8) draws a one-time key
at boot, hands it to the kernel, and hands it over once more, wrapped with an RSA public key whose
private half is elsewhere (``dumpon.py``). The kernel encrypts the dump with the one and stores the
other beside it. Beside it lies the *key block*, ``struct kerneldumpkey``::

     0             1        33                  37
     | encryption  | iv     | encryptedkeysize  | encrypted key ... | zeros to a whole block
     | u8          | 32     | u32, big-endian   |

Over netdump it goes in EKCD_KEY messages, behind the HERALD and before the first data; the kernel
dump header's ``dumpkeysize`` is its size, padding and all.

    number  cipher       of the key    of the IV                         dump's length
    1       AES-256-CBC  32 octets     16: the vector                    in whole blocks of 16
    2       ChaCha20     32 octets     8: the nonce; the counter, 64     any
                                       bits of it, begins at 0

Rules:

1. The IV of the block is the SHA-256 of the one before, once for each attempt to dump: from ddb(4)
   somebody may dump several times, with one key.
2. The dump is one message to the cipher: CBC's chain, and ChaCha20's stream, go on across the
   pieces in which it is written. So pieces are encrypted once, and in order.
3. Nothing is authenticated. An octet that is changed on the way is changed in what is decrypted,
   and no one can tell; with CBC it changes all of its block, and the same octet of the next one.
   Who wants to know needs netdump2's digest, of the dump; the key block is in no digest of the
   client's. So a second one that says something else must not take the place of the first.
4. With compression it is ChaCha20 alone: what is compressed does not end with a whole AES block.

Source: FreeBSD sys/sys/kerneldump.h, sys/kern/kern_shutdown.c (``kerneldumpcrypto_init``,
``kerneldump_encrypt``), sbin/decryptcore/decryptcore.c.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Literal, Protocol

from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES256, ChaCha20
from cryptography.hazmat.primitives.ciphers.modes import CBC

from netdump.errors import EkcdCipher, EkcdKeySize, EkcdLength, EkcdPadding, LocalError

#: A cipher, as a scenario calls it; its number in the key block is in ``NUMBERS``.
Encryption = Literal["aes-256-cbc", "chacha20"]
NUMBERS: Final[dict[Encryption, int]] = {"aes-256-cbc": 1, "chacha20": 2}
_NAMES: Final = {number: name for name, number in NUMBERS.items()}

IV_SIZE: Final = 32
#: Of the wrapped key, octets: RSA of up to 16,384 bits (KERNELDUMP_ENCKEY_MAX_SIZE).
MOST_ENCRYPTED_KEY: Final = 2048
CIPHER_KEY_SIZE: Final = 32
#: Of a key block, octets: it is padded to netdump's blocksize, and the longest fits in one.
BLOCK: Final = 4096
_SECTOR: Final = 512
_HEAD: Final = struct.Struct(f">B{IV_SIZE}sI")
AES_BLOCK: Final = 16
_NONCE_SIZE: Final = 8
#: Octets of a dump under one value of the upper half of ChaCha20's counter.
LAP: Final = 64 << 32


@dataclass(frozen=True, slots=True)
class KeyBlock:
    """``struct kerneldumpkey``. All in octets, as they lie in the file ``key.HOST.N``."""

    encryption: Encryption
    iv: bytes
    encrypted_key: bytes

    def pack(self) -> bytes:
        """The block, whole. Raises LocalError where a field has not its size."""
        if len(self.iv) != IV_SIZE or not 1 <= len(self.encrypted_key) <= MOST_ENCRYPTED_KEY:
            raise LocalError(
                f"an IV of {len(self.iv)} octets and an encrypted key of {len(self.encrypted_key)}:"
                f" {IV_SIZE}, and 1 to {MOST_ENCRYPTED_KEY} are wanted"
            )
        head = _HEAD.pack(NUMBERS[self.encryption], self.iv, len(self.encrypted_key))
        filled = len(head) + len(self.encrypted_key)
        return head + self.encrypted_key + bytes(-filled % BLOCK)


def parse_key_block(octets: bytes) -> KeyBlock:
    """The key block in ``octets``, which must be all of a file: of a dump over the network
    ``BLOCK`` of them, of one from a disk whole sectors.

    Raises EkcdLength, EkcdCipher, EkcdKeySize or EkcdPadding.
    """
    if not 0 < len(octets) <= BLOCK or len(octets) % _SECTOR:
        raise EkcdLength(
            f"it has {len(octets)} octets: a key block has {BLOCK}, or less in whole sectors",
            octets,
        )
    number, iv, size = _HEAD.unpack_from(octets)
    if number not in _NAMES:
        raise EkcdCipher(f"cipher {number} is not known, only 1 and 2 are", octets)
    if not 1 <= size <= MOST_ENCRYPTED_KEY:
        raise EkcdKeySize(
            f"its encrypted key has {size} octets: 1 to {MOST_ENCRYPTED_KEY} can be", octets
        )
    end = _HEAD.size + size
    if end > len(octets):
        raise EkcdLength(f"it has {len(octets)} octets: {end} are in use", octets)
    if any(octets[end:]):
        raise EkcdPadding("behind its encrypted key there are other octets than zeros", octets)
    return KeyBlock(_NAMES[number], iv, octets[_HEAD.size : end])


def next_iv(iv: bytes) -> bytes:
    """That of the next attempt."""
    return sha256(iv).digest()


class Stream(Protocol):
    """A dump on its way through a cipher, in order."""

    def update(self, octets: bytes) -> bytes:
        """The next piece; as many octets come out. Of AES they must be whole blocks of 16."""
        ...


class _Aes:
    """``Stream`` over a context of the library."""

    def __init__(self, context: CipherContext) -> None:
        self._context = context

    def update(self, octets: bytes) -> bytes:
        if len(octets) % AES_BLOCK:
            raise LocalError(f"a piece of {len(octets)} octets: multiples of {AES_BLOCK} go")
        return self._context.update(octets)


class ChaCha20Stream:
    """``Stream`` of ChaCha20, both ways the same.

    The library counts 2**32 blocks of 64, 256 GiB, and no further. So after each such *lap* there
    is a new context, with the upper half of the counter set: its nonce of 16 octets is the counter,
    little-endian, and the nonce behind it.
    """

    def __init__(self, key: bytes, iv: bytes, at: int = 0) -> None:
        """``at``: the octet to begin with, a multiple of 64."""
        self._key = key[:CIPHER_KEY_SIZE]
        self._nonce = iv[:_NONCE_SIZE]
        self._at = at
        self._context = self._from(at)

    def update(self, octets: bytes) -> bytes:
        parts = []
        while left := LAP - self._at % LAP:
            part, octets = octets[:left], octets[left:]
            parts.append(self._context.update(part))
            self._at += len(part)
            if len(part) == left:
                self._context = self._from(self._at)
            if not octets:
                break
        return b"".join(parts)

    def _from(self, at: int) -> CipherContext:
        counter = (at // 64).to_bytes(_NONCE_SIZE, "little")
        return Cipher(ChaCha20(self._key, counter + self._nonce), None).encryptor()


def encryptor(encryption: Encryption, key: bytes, iv: bytes) -> Stream:
    """``key``: 32 octets, or dumpon's 64, of which the first 32 count; ``iv``: the block's."""
    if encryption == "chacha20":
        return ChaCha20Stream(key, iv)
    return _Aes(_aes(key, iv).encryptor())


def decryptor(encryption: Encryption, key: bytes, iv: bytes) -> Stream:
    """The other side; as ``encryptor``."""
    if encryption == "chacha20":
        return ChaCha20Stream(key, iv)
    return _Aes(_aes(key, iv).decryptor())


def _aes(key: bytes, iv: bytes) -> Cipher[CBC]:
    return Cipher(AES256(key[:CIPHER_KEY_SIZE]), CBC(iv[:AES_BLOCK]))
