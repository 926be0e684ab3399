"""A kernel's file made fit for QEMU's ``-kernel``: a bzImage opened, or taken as it is.

A bzImage is a real-mode setup part of ``setup_sects`` + 1 sectors, then a small 64-bit program that
carries the compressed kernel and unpacks it (Linux' Documentation/arch/x86/boot.rst, "The Real-Mode
Kernel Header"). From boot protocol 2.08 on the header says where the compressed kernel lies:

    0x1f1  setup_sects      u8    sectors of setup after the first; 0 means 4
    0x1fe  boot_flag        u16   0xaa55
    0x202  header           "HdrS"
    0x206  version          u16   of the boot protocol; 0x0208 or later
    0x20e  kernel_version   u16   where its version's text lies, less 0x200; 0: nowhere
    0x236  xloadflags       u16   bit 0: it is a 64-bit kernel; from 2.12 on
    0x248  payload_offset   u32   from the end of the setup part
    0x24c  payload_length   u32

Three rules. The last 4 octets of the payload are the size of what was compressed: gzip ends so by
itself, to the other formats Linux' build appends it (scripts/Makefile.lib, ``size_append``); so it
is both the limit of what is unpacked and a check. QEMU's ``-kernel vmlinux`` enters an ELF file
only at the address in its note XEN_ELFNOTE_PHYS32_ENTRY, which a kernel has with CONFIG_PVH. And a
bzImage that can't be opened here, or holds a kernel without that note, boots by itself, as on any
PC: later, since it unpacks itself under emulation, and where it likes unless it is told
``nokaslr``. What is damaged is refused.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Final

from guest.linux.compressed import BadData, UnknownFormat, unpack
from guest.linux.elf import EM_X86_64, BadElf, Elf

XEN_ELFNOTE_PHYS32_ENTRY: Final = 18

_SECTOR: Final = 512
_HEADER_END: Final = 0x250
_VERSION_TEXT_MAX: Final = 256
#: Ten times what a distribution's kernel has. A damaged size must not eat all memory.
_VMLINUX_MAX: Final = 1 << 30
_BANNER: Final = re.compile(rb"Linux version (\d[\w.+~-]*) ")


class BadKernel(Exception):
    """This is no bzImage, or one that can't be opened here, or no kernel that QEMU could enter."""


class Unopenable(BadKernel):
    """It can't be opened here, and yet it may boot."""


@dataclass(frozen=True, slots=True)
class Bootable:
    """What QEMU gets."""

    data: bytes
    release: str
    """What ``uname -r`` will say: "6.1.0-41-amd64"."""
    packed: bool
    """It is the bzImage, which unpacks itself; else it is a vmlinux."""


def bootable(file: bytes) -> Bootable:
    """Of a bzImage or a vmlinux.

    Raises:
        BadKernel: it is neither, or damaged, or not for x86-64.
    """
    if file.startswith(b"\x7fELF"):
        pvh_entry(file)
        return Bootable(file, release(file), packed=False)
    said = release(file)
    try:
        return Bootable(vmlinux(file), said, packed=False)
    except Unopenable as error:
        (version,) = struct.unpack_from("<H", file, 0x206)
        if version >= 0x20C and not file[0x236] & 1:
            raise BadKernel(f"the kernel is not for x86-64, and {error}") from error
        return Bootable(file, said, packed=True)


def vmlinux(bzimage: bytes) -> bytes:
    """The ELF kernel in a bzImage.

    Raises:
        Unopenable: it is compressed in a way that is not known here, or has no PVH entry.
        BadKernel: it is damaged, or not for x86-64.
    """
    kernel = _unpacked(_payload(bzimage))
    pvh_entry(kernel)
    return kernel


def release(file: bytes) -> str:
    """What ``uname -r`` will say, of a bzImage or a vmlinux.

    Raises:
        BadKernel: it is neither, or says nothing of its version.
    """
    if file.startswith(b"\x7fELF"):
        found = _BANNER.search(file)
        if not found:
            raise BadKernel("the vmlinux does not say which version it is: is it a Linux kernel?")
        return found[1].decode()
    bzimage = file
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
        Unopenable: it has no such note.
        BadKernel: this is no x86-64 ELF file.
    """
    try:
        elf = Elf(kernel)
        if elf.machine != EM_X86_64:
            raise BadKernel(f"the kernel is for ELF machine {elf.machine}, not for x86-64")
        for note in elf.notes():
            if (note.owner, note.type) == (b"Xen", XEN_ELFNOTE_PHYS32_ENTRY):
                return int.from_bytes(note.desc[:8], "little")
    except BadElf as error:
        raise BadKernel(f"what should be the kernel is no kernel: {error}") from error
    raise Unopenable("the kernel has no PVH entry (built without CONFIG_PVH): QEMU can't enter it")


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
    size = int.from_bytes(payload[-4:], "little")
    try:
        # A size that can't be is told after the format: what is not known may end as it likes.
        found = unpack(payload, min(size, _VMLINUX_MAX))
    except UnknownFormat as error:
        raise Unopenable(f"the kernel is {error}") from error
    except BadData as error:
        raise BadKernel(f"the bzImage is damaged: {error}") from error
    if size > _VMLINUX_MAX:
        raise BadKernel(f"the bzImage is damaged: it says that its kernel has {size} octets")
    # What follows the data is the size, if the format does not end with it.
    if len(found.data) != size or not found.whole or found.rest not in (b"", payload[-4:]):
        raise BadKernel(
            f"the bzImage is damaged: {len(found.data)} octets came out of its {found.format}"
            f" payload, {size} went in"
        )
    return found.data
