"""A dump on its way out: compressed, then encrypted, then digested, in the order of its offsets.

    memory -> pieces of 64 KiB -> [compressor -> whole blocks] -> [cipher] -> octets as stored

What comes out is what goes out in VMCORE messages, from offset 0 upwards without a gap. Its last
block is padded with zeros if it is compressed, and that padding is encrypted with the rest. The
digest is of the octets that the server will have when it has cut the padding off.

Nothing that changes here may be asked for twice: a compressor and a cipher go one way. So what has
come out is kept by who sends it until it is acknowledged: in the 64 KiB that are sent and waited
for, or in a ring (``ring.py``).
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Final

from netdump import compress
from netdump.compress import Compression
from netdump.dumper import BLOCK_SIZE, MAX_IO_SIZE, DumpRefused
from netdump.dumpon import KernelCrypto
from netdump.ekcd import Encryption
from netdump.kdh import KernelDumpHeader

_CANT: Final = (
    "AES-256-CBC can't encrypt a compressed dump: it does not end with a whole block; ChaCha20 can"
)


def check_together(compression: Compression | None, encryption: Encryption | None) -> None:
    """Raise DumpRefused with EOPNOTSUPP if they can't be, as dumpon's ioctl does."""
    if compression is not None and encryption == "aes-256-cbc":
        raise DumpRefused(errno.EOPNOTSUPP, _CANT)


class Outbound:
    """One dump, once. ``octets`` must be taken to their end before ``length`` and ``header``."""

    def __init__(
        self,
        compression: Compression | None,
        crypto: KernelCrypto | None,
        digests: Callable[[memoryview], None] | None = None,
    ) -> None:
        """``crypto``: this attempt's. ``digests`` is given each octet of the dump as it is stored.

        Raises DumpRefused if the two can't be together.
        """
        check_together(compression, None if crypto is None else crypto.encryption)
        self._compression = compression
        self._compressor = None if compression is None else compress.compressor(compression)
        self._crypto = crypto
        self._cipher = None if crypto is None else crypto.encryptor()
        self._digests = digests
        self.extent = 0
        """Octets that went in."""
        self.length = 0
        """Octets that came out, without padding."""

    def octets(self, pieces: Iterable[memoryview]) -> Iterator[bytes]:
        """What is to be sent of a dump's pieces: whole blocks, none of them empty, 64 KiB at the
        most."""
        for piece in pieces if self._compressor is None else self._compressed(pieces):
            yield self._out(bytes(piece))

    def _compressed(self, pieces: Iterable[memoryview]) -> Iterator[bytes]:
        """As FreeBSD's subr_compressor.c writes: gzip when its buffer, as large as a piece, is
        full; zstd after each piece all whole blocks that it has, a piece at the most at once."""
        assert self._compressor is not None, "it was asked"
        step = MAX_IO_SIZE if self._compression == "gzip" else BLOCK_SIZE
        rest = b""
        for piece in pieces:
            self.extent += len(piece)
            rest += self._compressor.compress(piece)
            whole = len(rest) - len(rest) % step
            for at in range(0, whole, MAX_IO_SIZE):
                yield rest[at : min(at + MAX_IO_SIZE, whole)]
            rest = rest[whole:]
        rest += self._compressor.flush()
        for at in range(0, len(rest), MAX_IO_SIZE):
            yield rest[at : at + MAX_IO_SIZE]

    def _out(self, octets: bytes) -> bytes:
        """``octets`` are whole blocks, but for the end of what was compressed."""
        counted = len(octets)
        if self._compressor is not None:
            octets += bytes(-counted % BLOCK_SIZE)
        if self._cipher is not None:
            octets = self._cipher.update(octets)
        self.length += counted
        if self._digests is not None:
            self._digests(memoryview(octets)[:counted])
        return octets

    def header(self, plain: KernelDumpHeader) -> KernelDumpHeader:
        """The kernel dump header, of the one of the same dump as it is in memory."""
        known = plain
        if self._crypto is not None:
            known = replace(known, dumpkeysize=len(self._crypto.block.pack()))
        if self._compression is not None:
            known = replace(
                known,
                dumplength=self.length,
                dumpextent=self.extent,
                compression=compress.NUMBERS[self._compression],
            )
        return known
