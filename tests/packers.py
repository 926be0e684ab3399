"""Kernels packed as Linux' build packs them, by writers of the tests' own.

``repacked`` puts another payload into a real bzImage. QEMU boots what we take out of it, so the
program in front of the payload need not be able to unpack it, and could not: it was built for one
format.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Final

import lz4.block
import lzallright
import zstandard

LZ4_BLOCK: Final = 8 << 20
LZO_BLOCK: Final = 256 << 10


def sized(packed: bytes, original: bytes) -> bytes:
    """What ``size_append`` of Linux' scripts/Makefile.lib makes."""
    return packed + struct.pack("<I", len(original))


def zstd_frame(data: bytes) -> bytes:
    """As from a pipe: the frame has a checksum, and does not tell its size."""
    packer = zstandard.ZstdCompressor(level=3, write_checksum=True, write_content_size=False)
    return packer.compress(data)


def packed_zstd(data: bytes) -> bytes:
    return sized(zstd_frame(data), data)


def packed_zstd_in_frames(data: bytes) -> bytes:
    half = len(data) // 2
    return sized(zstd_frame(data[:half]) + zstd_frame(data[half:]), data)


def packed_lz4(data: bytes) -> bytes:
    """The legacy frame of ``lz4 -l``."""
    out = [b"\x02\x21\x4c\x18"]
    for at in range(0, len(data), LZ4_BLOCK):
        block = lz4.block.compress(data[at : at + LZ4_BLOCK], store_size=False)
        out.append(struct.pack("<I", len(block)) + block)
    return sized(b"".join(out), data)


def packed_lzo(data: bytes) -> bytes:
    """What ``lzop`` writes: blocks with an Adler-32 of what was packed."""
    name = b"vmlinux.bin"
    header = struct.pack(">HHHBBIIIIB", 0x1040, 0x20A0, 0x0940, 3, 9, 1, 0o100644, 0, 0, len(name))
    header += name
    out = [b"\x89LZO\0\r\n\x1a\n", header, struct.pack(">I", zlib.adler32(header))]
    packer = lzallright.LZOCompressor()
    for at in range(0, len(data), LZO_BLOCK):
        plain = data[at : at + LZO_BLOCK]
        block = min(packer.compress(plain), plain, key=len)
        out.append(struct.pack(">III", len(plain), len(block), zlib.adler32(plain)) + block)
    return sized(b"".join([*out, bytes(4)]), data)


def repacked(bzimage: bytes, packer: Callable[[bytes], bytes], vmlinux: bytes) -> bytes:
    """The same bzImage, but for its payload."""
    start = (bzimage[0x1F1] + 1) * 512
    (offset,) = struct.unpack_from("<I", bzimage, 0x248)
    payload = packer(vmlinux)
    made = bytearray(bzimage[: start + offset] + payload)
    struct.pack_into("<I", made, 0x24C, len(payload))
    return bytes(made)


def sealed(bzimage: bytes) -> bytes:
    """A bzImage that can't be opened and boots all the same: its header tells a wrong place."""
    made = bytearray(bzimage)
    offset, length = struct.unpack_from("<II", made, 0x248)
    struct.pack_into("<II", made, 0x248, offset + 16, length - 16)
    return bytes(made)
