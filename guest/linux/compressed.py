"""How kernels and their modules are compressed: seven formats, known by their first octets.

Python's library reads the older ones; zstandard, lz4 and lzallright read the others. Two of these
are containers of the command's own, which the libraries do not know, so they are cut here:

    lz4, the legacy frame (lz4's doc/lz4_Frame_format.md, "Legacy frame")
        0x184c2102  u32, little-endian
        blocks      u32 length, and so much lz4; unpacked it has 8 MiB, the last one less
    lzop (the kernel's lib/decompress_unlzo.c, parse_header)
        magic, version, flags, times, a name, a checksum: big-endian
        blocks      u32 length unpacked, u32 length packed, checksums as the flags say, the data;
                    both lengths equal: it is not packed; a length of 0: the end

Two rules. What comes out is bounded by the caller: damage must not eat all memory, and a limit is
passed by no more than a block. And nothing is judged here but the format: what follows the data
(the kernel's build appends its size) is handed back. lz4 and lzma have no checksum, so damage may
give other octets; all other formats have one.
"""

from __future__ import annotations

import bz2
import lzma
import struct
import zlib
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

import lz4.block
import lzallright
import zstandard

_LZMA_MEMORY: Final = 256 << 20
#: zstd's own bound for its levels up to 22, with which kernels are built.
_ZSTD_WINDOW: Final = 1 << 27
_ZSTD_STEP: Final = 4096
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_LZ4_MAGIC: Final = b"\x02\x21\x4c\x18"
_LZ4_BLOCK: Final = 8 << 20
_LZOP_MAGIC: Final = b"\x89LZO\0\r\n\x1a\n"
#: lzop's own, and the most that the kernel takes.
_LZO_BLOCK: Final = 256 << 10
_FILTER, _ADLER_D, _ADLER_C, _CRC_D, _CRC_C = 0x800, 0x1, 0x2, 0x100, 0x200

_TROUBLE: Final = (
    *(lzma.LZMAError, zlib.error, zstandard.ZstdError, lz4.block.LZ4BlockError),
    *(lzallright.LZOError, OSError, EOFError, MemoryError, ValueError, struct.error),
)


class BadData(Exception):
    """This is damaged, or compressed in a way that is not known here."""


class UnknownFormat(BadData):
    """It is compressed in a way that is not known here."""


class Unpacked(NamedTuple):
    """What came of it."""

    data: bytes
    rest: bytes
    """What follows the compressed data."""
    whole: bool
    """It came to its end, within the limit."""
    format: str


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


_Unpack = Callable[[bytes, int], tuple[bytes, bytes, bool]]


def unpack(packed: bytes, limit: int) -> Unpacked:
    """Unpack as much as ``limit`` octets; what gives more is not whole.

    Raises:
        BadData: it is damaged, or of no known format.
    """
    for magic, name, unpacker in _FORMATS:
        if packed.startswith(magic):
            try:
                return Unpacked(*unpacker(packed, limit), name)
            except _TROUBLE as error:
                raise BadData(f"{name}: {error}") from error
    raise UnknownFormat(f"compressed in an unknown way: it begins {packed[:6].hex(' ')}")


def _by_library(open_: Callable[[], _Decompressor]) -> _Unpack:
    def unpacker(packed: bytes, limit: int) -> tuple[bytes, bytes, bool]:
        stream = open_()
        data = stream.decompress(packed, limit + 1)
        return data, stream.unused_data, stream.eof and len(data) <= limit

    return unpacker


def _zstd(packed: bytes, limit: int) -> tuple[bytes, bytes, bool]:
    """All frames. They need not tell their size, so they are fed in steps, and watched."""
    data, at = bytearray(), 0
    while packed.startswith(_ZSTD_MAGIC, at):
        stream = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).decompressobj()
        while not stream.eof:
            if at >= len(packed) or len(data) > limit:
                return bytes(data), b"", False
            data += stream.decompress(packed[at : at + _ZSTD_STEP])
            at += _ZSTD_STEP
        at = min(at, len(packed)) - len(stream.unused_data)
    return bytes(data), packed[at:], len(data) <= limit


def _lz4(packed: bytes, limit: int) -> tuple[bytes, bytes, bool]:
    """The legacy frame does not say where it ends: what is left is no block any more."""
    data, at = bytearray(), 4
    while len(packed) - at > 4:
        (length,) = struct.unpack_from("<I", packed, at)
        at += 4
        if packed.startswith(_LZ4_MAGIC, at - 4):
            continue  # one more frame
        if not 0 < length <= len(packed) - at:
            raise ValueError(f"a block of {length} octets, {len(packed) - at} are left")
        data += lz4.block.decompress(packed[at : at + length], uncompressed_size=_LZ4_BLOCK)
        at += length
        if len(data) > limit:
            return bytes(data), b"", False
    return bytes(data), packed[at:], True


def _lzo(packed: bytes, limit: int) -> tuple[bytes, bytes, bool]:
    data = bytearray()
    at, flags = _lzop_header(packed)
    while True:
        (size,) = struct.unpack_from(">I", packed, at)
        if not size:
            return bytes(data), packed[at + 4 :], True
        (length,) = struct.unpack_from(">I", packed, at + 4)
        at += 8
        sums = []
        for flag, function, of_packed in _LZOP_SUMS:
            if flags & flag and not (of_packed and length == size):
                sums.append((function, of_packed, *struct.unpack_from(">I", packed, at)))
                at += 4
        block = packed[at : at + length]
        if len(block) != length or not 0 < length <= size <= _LZO_BLOCK:
            raise ValueError(f"a block of {length} octets for {size}")
        plain = block if length == size else lzallright.LZOCompressor.decompress(block, size)
        if len(plain) != size:
            raise ValueError(f"a block gives {len(plain)} octets, not {size}")
        if any(
            function(block if of_packed else plain) != said for function, of_packed, said in sums
        ):
            raise ValueError("a block's checksum is wrong")
        data += plain
        at += length
        if len(data) > limit:
            return bytes(data), b"", False


#: Their order in front of a block: of what is unpacked, then of what is packed.
_LZOP_SUMS: Final = (
    (_ADLER_D, zlib.adler32, False),
    (_CRC_D, zlib.crc32, False),
    (_ADLER_C, zlib.adler32, True),
    (_CRC_C, zlib.crc32, True),
)


def _lzop_header(packed: bytes) -> tuple[int, int]:
    """Where the blocks begin, and the flags."""
    (version,) = struct.unpack_from(">H", packed, 9)
    new = version >= 0x0940
    # Versions of the library and of what is needed; the method, and its level.
    at = 9 + 2 + 2 + (2 if new else 0) + 1 + (1 if new else 0)
    (flags,) = struct.unpack_from(">I", packed, at)
    at += 8 if flags & _FILTER else 4
    at += 12 if new else 8  # mode, and time in one half or two
    (name,) = struct.unpack_from("B", packed, at)
    return at + 1 + name + 4, flags


_FORMATS: Final[tuple[tuple[bytes, str, _Unpack], ...]] = (
    (
        b"\xfd7zXZ\0",
        "xz",
        _by_library(lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, _LZMA_MEMORY)),
    ),
    (b"\x1f\x8b\x08", "gzip", _by_library(lambda: zlib.decompressobj(16 + zlib.MAX_WBITS))),
    (b"BZh", "bzip2", _by_library(bz2.BZ2Decompressor)),
    (
        b"\x5d\0\0",
        "lzma",
        _by_library(lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE, _LZMA_MEMORY)),
    ),
    (_ZSTD_MAGIC, "zstd", _zstd),
    (_LZ4_MAGIC, "lz4", _lz4),
    (_LZOP_MAGIC, "lzo", _lzo),
)
