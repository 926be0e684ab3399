"""A bzImage opened: the vmlinux that is compressed in it.

A bzImage is a real-mode setup part of ``setup_sects`` + 1 sectors, then a small 64-bit program that
carries the compressed kernel and unpacks it (Linux' Documentation/arch/x86/boot.rst, "The Real-Mode
Kernel Header"). From boot protocol 2.08 on the header says where the compressed kernel lies:

    0x1f1  setup_sects      u8    sectors of setup after the first; 0 means 4
    0x1fe  boot_flag        u16   0xaa55
    0x202  header           "HdrS"
    0x206  version          u16   of the boot protocol; 0x0208 or later
    0x20e  kernel_version   u16   where its version's text lies, less 0x200; 0: nowhere
    0x248  payload_offset   u32   from the end of the setup part
    0x24c  payload_length   u32

Two rules. The last 4 octets of the payload are the size of what was compressed: gzip ends so by
itself, to the other formats Linux' build appends it (scripts/Makefile.lib, ``size_append``); so it
is both the limit of what is unpacked and a check. And the result must be bootable as it is: QEMU's
``-kernel vmlinux`` enters an ELF file only at the address in its note XEN_ELFNOTE_PHYS32_ENTRY,
which a kernel has with CONFIG_PVH.
"""

from __future__ import annotations

import bz2
import lzma
import struct
import zlib
from collections.abc import Callable
from typing import Final, Protocol

from guest.linux.elf import EM_X86_64, BadElf, Elf

XEN_ELFNOTE_PHYS32_ENTRY: Final = 18

_SECTOR: Final = 512
_HEADER_END: Final = 0x250
_VERSION_TEXT_MAX: Final = 256
#: Ten times what a distribution's kernel has. A damaged size must not eat all memory.
_VMLINUX_MAX: Final = 1 << 30
_LZMA_MEMORY: Final = 256 << 20


class BadKernel(Exception):
    """This is no bzImage, or one that can't be opened here, or no kernel that QEMU could enter."""


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


#: First octets, name, and who unpacks it: None where Python's library can't.
_FORMATS: Final[tuple[tuple[bytes, str, Callable[[], _Decompressor] | None], ...]] = (
    (b"\xfd7zXZ\0", "xz", lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, _LZMA_MEMORY)),
    (b"\x1f\x8b\x08", "gzip", lambda: zlib.decompressobj(16 + zlib.MAX_WBITS)),
    (b"BZh", "bzip2", bz2.BZ2Decompressor),
    (b"\x5d\0\0", "lzma", lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE, _LZMA_MEMORY)),
    (b"\x28\xb5\x2f\xfd", "zstd", None),
    (b"\x02\x21\x4c\x18", "lz4", None),
    (b"\x89LZO", "lzo", None),
)


def vmlinux(bzimage: bytes) -> bytes:
    """The ELF kernel in a bzImage.

    Raises:
        BadKernel: it is damaged, compressed in a way that is not known here, or has no PVH entry.
    """
    payload = _payload(bzimage)
    kernel = _unpacked(payload)
    pvh_entry(kernel)
    return kernel


def release(bzimage: bytes) -> str:
    """What ``uname -r`` will say: "6.1.0-41-amd64".

    Raises:
        BadKernel: it is no bzImage, or says nothing of its version.
    """
    _check_header(bzimage)
    (at,) = struct.unpack_from("<H", bzimage, 0x20E)
    if at:
        text = bzimage[at + 0x200 : at + 0x200 + _VERSION_TEXT_MAX].partition(b"\0")[0]
        words = text.split()
        if words and text.isascii():
            return words[0].decode()
    raise BadKernel("the bzImage does not say which version it is")


def pvh_entry(kernel: bytes) -> int:
    """The physical address where QEMU enters a vmlinux, from its PVH note.

    Raises:
        BadKernel: this is no x86-64 ELF file, or it has no such note.
    """
    try:
        elf = Elf(kernel)
        if elf.machine != EM_X86_64:
            raise BadKernel(f"the kernel is for ELF machine {elf.machine}, not for x86-64")
        for note in elf.notes():
            if (note.owner, note.type) == (b"Xen", XEN_ELFNOTE_PHYS32_ENTRY):
                return int.from_bytes(note.desc[:8], "little")
    except BadElf as error:
        raise BadKernel(f"what was compressed in the bzImage is no kernel: {error}") from error
    raise BadKernel("the kernel has no PVH entry (built without CONFIG_PVH): QEMU can't enter it")


def _check_header(bzimage: bytes) -> None:
    if len(bzimage) < _HEADER_END or bzimage[0x1FE:0x200] != b"\x55\xaa":
        raise BadKernel("this is no bzImage: there is no boot sector")
    if bzimage[0x202:0x206] != b"HdrS":
        raise BadKernel("this is no bzImage: there is no setup header")
    (version,) = struct.unpack_from("<H", bzimage, 0x206)
    if version < 0x208:
        raise BadKernel(
            f"the bzImage speaks boot protocol {version >> 8}.{version & 0xFF:02d};"
            " where its payload lies is told from 2.08 on (Linux 2.6.26)"
        )


def _payload(bzimage: bytes) -> bytes:
    _check_header(bzimage)
    sectors = bzimage[0x1F1] or 4
    offset, length = struct.unpack_from("<II", bzimage, 0x248)
    start = (sectors + 1) * _SECTOR + offset
    if start + length > len(bzimage):
        raise BadKernel(
            f"the bzImage is cut short: its payload is octets {start} to {start + length}"
            f" of a file of {len(bzimage)}"
        )
    return bzimage[start : start + length]


def _unpacked(payload: bytes) -> bytes:
    name, open_ = _format(payload)
    if open_ is None:
        raise BadKernel(f"the kernel is compressed with {name}, which Python's library can't read")
    size = int.from_bytes(payload[-4:], "little")
    if size > _VMLINUX_MAX:
        raise BadKernel(f"the bzImage is damaged: it says that its kernel has {size} octets")
    try:
        stream = open_()
        kernel = stream.decompress(payload, size + 1)
    except (lzma.LZMAError, zlib.error, OSError, EOFError, MemoryError) as error:
        raise BadKernel(f"the bzImage is damaged: {name}: {error}") from error
    # What follows the stream is the size, if the format does not end with it.
    if len(kernel) != size or not stream.eof or stream.unused_data not in (b"", payload[-4:]):
        raise BadKernel(
            f"the bzImage is damaged: {len(kernel)} octets came out of its {name} payload,"
            f" {size} went in"
        )
    return kernel


def _format(payload: bytes) -> tuple[str, Callable[[], _Decompressor] | None]:
    for magic, name, open_ in _FORMATS:
        if payload.startswith(magic):
            return name, open_
    raise BadKernel(f"the kernel is compressed in an unknown way: it begins {payload[:6].hex(' ')}")
