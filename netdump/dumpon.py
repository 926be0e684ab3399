"""What is done with an encrypted dump's key outside the kernel: dumpon(8) and decryptcore(8).

Theory. At boot dumpon draws 64 octets. The kernel gets them, keeps the first 32 as the cipher's
key, and draws an IV of 32 itself. The 64 are also encrypted with the operator's public key, RSA
with PKCS #1 OAEP; that goes to the kernel too, and with each dump to the server. Only who has the
private key can undo it, and only then can the dump be decrypted.

    EM = 00 | seed xor mask(DB) | DB xor mask(seed)        as many octets as the modulus has
    DB = SHA-1("") | zeros | 01 | the 64 octets
    mask is MGF1 over SHA-1: SHA-1(x | counter, 32 bits), one behind the other

The seed, 20 octets, is random. Here it is given, as all that is drawn: a library that draws it by
itself would make two runs of one seed differ. Hence OAEP is written out, for encrypting. Decrypting
draws nothing, and is the library's.

Not here: PKCS #1 v1.5, which the dumpon of FreeBSD 12.0 had.

Source: FreeBSD sbin/dumpon/dumpon.c (``genkey``), sbin/decryptcore/decryptcore.c; RFC 8017, 7.1.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from hashlib import sha1
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from netdump.ekcd import IV_SIZE, Encryption, KeyBlock, Stream, decryptor, encryptor, next_iv
from netdump.errors import EkcdWrongKey, LocalError, MalformedKey

#: Octets that dumpon draws for the key, the first 32 of which are the cipher's.
SECRET_SIZE: Final = 64
SEED_SIZE: Final = 20
#: Of all that is drawn: secret, IV and OAEP's seed.
DRAWN: Final = SECRET_SIZE + IV_SIZE + SEED_SIZE
#: dumpon refuses less than 112 bits of security.
LEAST_BITS: Final = 2048
_EMPTY: Final = sha1(b"").digest()


@dataclass(frozen=True, slots=True)
class KernelCrypto:
    """What the kernel has from boot on: of dumpon (``struct diocskerneldump_arg``), but for the IV,
    which it has drawn (``kerneldumpcrypto_create``)."""

    encryption: Encryption
    secret: bytes = field(repr=False)
    """64 octets."""
    iv: bytes
    encrypted_key: bytes

    def next(self) -> KernelCrypto:
        """The same for the next attempt, the first one too: another IV."""
        return replace(self, iv=next_iv(self.iv))

    @property
    def block(self) -> KeyBlock:
        return KeyBlock(self.encryption, self.iv, self.encrypted_key)

    def encryptor(self) -> Stream:
        return encryptor(self.encryption, self.secret, self.iv)


def configure(encryption: Encryption, public: RSAPublicKey, drawn: bytes) -> KernelCrypto:
    """What dumpon and the kernel do at boot. ``drawn``: ``DRAWN`` octets, random.

    Raises LocalError.
    """
    if len(drawn) != DRAWN:
        raise LocalError(f"{len(drawn)} octets were drawn: {DRAWN} are wanted")
    secret, rest = drawn[:SECRET_SIZE], drawn[SECRET_SIZE:]
    iv, seed = rest[:IV_SIZE], rest[IV_SIZE:]
    return KernelCrypto(encryption, secret, iv, wrap(public, secret, seed))


def wrap(public: RSAPublicKey, secret: bytes, seed: bytes) -> bytes:
    """RSA-OAEP with SHA-1 of ``secret``; as many octets as the modulus has.

    ``seed``: 20 octets, random. Raises LocalError if the key is too short.
    """
    if public.key_size < LEAST_BITS:
        raise LocalError(f"an RSA key of {public.key_size} bits: {LEAST_BITS} at least are wanted")
    numbers = public.public_numbers()
    size = -(-public.key_size // 8)
    zeros = bytes(size - len(secret) - 2 * len(_EMPTY) - 2)
    data = _EMPTY + zeros + b"\x01" + secret
    masked = _xor(data, _mask(seed, len(data)))
    message = b"\0" + _xor(seed, _mask(masked, len(seed))) + masked
    return pow(int.from_bytes(message, "big"), numbers.e, numbers.n).to_bytes(size, "big")


def _mask(seed: bytes, size: int) -> bytes:
    """MGF1 (RFC 8017, B.2.1)."""
    count = -(-size // len(_EMPTY))
    return b"".join(sha1(seed + n.to_bytes(4, "big")).digest() for n in range(count))[:size]


def _xor(a: bytes, b: bytes) -> bytes:
    return bytes(x ^ y for x, y in zip(a, b, strict=True))


def load_private(pem: bytes) -> RSAPrivateKey:
    """A private RSA key in PEM, without a passphrase. Raises MalformedKey."""
    try:
        key = load_pem_private_key(pem, password=None)
    except TypeError as error:
        raise MalformedKey("the private key has a passphrase: give one without") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise MalformedKey("it is no private key in PEM") from error
    if not isinstance(key, RSAPrivateKey):
        raise MalformedKey("it is no RSA key")
    return key


def opened(block: KeyBlock, private: RSAPrivateKey) -> Stream:
    """What decrypts the dump of this key block. Raises EkcdWrongKey."""
    wrong = (
        f"the private key, RSA of {private.key_size} bits, does not open the key block: it is"
        " another's, or the block is damaged, or was made by PKCS #1 v1.5 (FreeBSD 12.0)"
    )
    try:
        secret = private.decrypt(block.encrypted_key, OAEP(MGF1(SHA1()), SHA1(), None))
    except ValueError as error:
        raise EkcdWrongKey(wrong) from error
    if len(secret) != SECRET_SIZE:
        raise EkcdWrongKey(f"the key block has a key of {len(secret)} octets: {SECRET_SIZE} go")
    return decryptor(block.encryption, secret, block.iv)
