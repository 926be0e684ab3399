"""Compressed dumps, as the kernel makes them: pieces go in, whole blocks come out.

Theory. The kernel compresses while it dumps, into a buffer that was set aside when dumpon(8)
configured it. A piece of memory yields nothing, or much: what comes out is gathered to blocks of
4096 octets, which are written one behind the other, from offset 0 on. At the end the last block is
filled with zeros. So nobody knows how long the dump is before it has an end:

    kernel dump header   dumplength    octets that came out of the compressor, without the zeros
                         dumpextent    octets of memory that went in
                         compression   1 gzip, 2 zstd

The server cuts the file off at dumplength, and its name ends with ``.gz`` or ``.zst``.

    method   level             the octets end with
    gzip     6 of zlib's       a CRC-32 and the length, 32 bits, of what went in
    zstd     6 of zstandard's  a checksum (XXH64, 32 bits of it) of what went in

Both checks are of what memory held when it was read: the only ones of a stock dump that go from end
to end. They are seen by who decompresses it, not by the server.

Source: FreeBSD sys/kern/kern_shutdown.c (``kerneldumpcomp_write_cb``, ``dump_finish``),
sys/kern/subr_compressor.c.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Final, Literal, Protocol

import zstandard

from netdump.errors import MalformedStream
from netdump.kdh import COMPRESSION_GZIP, COMPRESSION_ZSTD

#: A method, as a scenario calls it; its number in the kernel dump header, and how names end.
Compression = Literal["gzip", "zstd"]
NUMBERS: Final[dict[Compression, int]] = {"gzip": COMPRESSION_GZIP, "zstd": COMPRESSION_ZSTD}
SUFFIXES: Final[dict[str, Compression]] = {".gz": "gzip", ".zst": "zstd"}

#: kern.kerneldump_gzlevel, for both methods.
LEVEL: Final = 6
_GZIP: Final = 16 + zlib.MAX_WBITS
#: The most that is decompressed at once, octets: of gzip what comes out, of zstd what goes in, for
#: there 4 octets make 128 KiB at the most.
_AT_ONCE: Final = 1 << 20
_ZSTD_PIECE: Final = 1 << 10


#: How a stream of each begins.
_MAGIC: Final[dict[Compression, bytes]] = {"gzip": b"\x1f\x8b\x08", "zstd": b"\x28\xb5\x2f\xfd"}


def method_of(octets: bytes) -> Compression | None:
    """By what a dump that begins so is compressed; None: by neither."""
    for method, magic in _MAGIC.items():
        if octets.startswith(magic):
            return method
    return None


class Compressor(Protocol):
    """Of the library: octets in, octets out."""

    def compress(self, data: bytes | memoryview, /) -> bytes: ...

    def flush(self) -> bytes: ...


def compressor(method: Compression) -> Compressor:
    """One for one dump."""
    if method == "gzip":
        return zlib.compressobj(LEVEL, zlib.DEFLATED, _GZIP)
    frame = zstandard.ZstdCompressor(LEVEL, write_checksum=True, write_content_size=False)
    return frame.compressobj()


class Decompressor:
    """The other side; its memory is bounded, whatever the octets say."""

    def __init__(self, method: Compression) -> None:
        self._method = method
        self._parts = self._gunzip if method == "gzip" else self._unzstd
        self._inflate = zlib.decompressobj(_GZIP)
        self._zstd = zstandard.ZstdDecompressor().decompressobj()

    def update(self, octets: bytes) -> Iterator[bytes]:
        """What comes out of the next piece, in parts. Raises MalformedStream, behind the last."""
        try:
            yield from self._parts(octets)
        except (zlib.error, zstandard.ZstdError) as error:
            raise MalformedStream(f"{self._method}: {error}") from error

    def _gunzip(self, octets: bytes) -> Iterator[bytes]:
        inflate = self._inflate
        while octets and not inflate.eof:
            yield inflate.decompress(octets, _AT_ONCE)
            octets = inflate.unconsumed_tail or inflate.unused_data
        self._require_none(octets)

    def _unzstd(self, octets: bytes) -> Iterator[bytes]:
        at = 0
        while at < len(octets) and not self._zstd.eof:
            yield self._zstd.decompress(octets[at : at + _ZSTD_PIECE])
            at += _ZSTD_PIECE
        self._require_none(octets[at:] + self._zstd.unused_data)

    def _require_none(self, behind: bytes) -> None:
        if behind:
            raise MalformedStream(f"{self._method}: octets follow its end")

    def finish(self) -> None:
        """There are no more. Raises MalformedStream if its end has not come."""
        if not (self._inflate.eof or self._zstd.eof):
            raise MalformedStream(f"{self._method}: it breaks off before its end")
