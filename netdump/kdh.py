"""The kernel dump header (KDH): 512 octets that say what a dump is.

Version 4, all integers big-endian ("dump byte order"), from FreeBSD sys/sys/kerneldump.h::

      0  magic[20]           64  hostname[64]          496  dumpextent u64
     20  architecture[12]   128  versionstring[192]    504  unused[4]
     32  version u32        320  panicstring[175]      508  parity u32
     36  archversion u32    495  compression u8
     40  dumplength u64
     48  dumptime u64
     56  dumpkeysize u32
     60  blocksize u32

Version 4 is FreeBSD 12's and later. Version 1 is that of FreeBSD 5 to 11; versions 2 (encryption)
and 3 (compression) came between 11 and 12. Up to ``dumplength`` and in the parity all are alike,
between them they differ: the table is ``LAYOUTS``. Each is read as what it is; what an older one
does not have (key, compression, extent) reads as none.

The parity makes the XOR of all 128 words zero. It covers the header alone and misses every even
number of flips in a column: it tells a header from rubbish, no more.

A disk has two equal headers, one at each end, and savecore compares them. Over the network there
is one, sent last, because only then is the length of a compressed dump known.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from netdump.errors import KdhLength, KdhMagic, KdhParity, KdhVersion, LocalError

KDH_SIZE = 512
KDH_VERSION = 4
KERNEL_MAGIC = "FreeBSD Kernel Dump"
TEXT_MAGIC = "FreeBSD Text Dump"

COMPRESSION_NONE = 0
COMPRESSION_GZIP = 1
COMPRESSION_ZSTD = 2

_HEAD = "magic:20s architecture:12s version:I architectureversion:I dumplength:Q"
#: Fields in order, ``name:format`` (struct's), by version.
_FIELDS: Final = {
    1: f"{_HEAD} dumptime:Q blocksize:I hostname:64s versionstring:192s panicstring:192s parity:I",
    2: f"{_HEAD} dumptime:Q dumpkeysize:I blocksize:I hostname:64s versionstring:192s "
    "panicstring:188s parity:I",
    3: f"{_HEAD} dumpextent:Q dumptime:Q dumpkeysize:I blocksize:I compression:B hostname:64s "
    "versionstring:192s panicstring:179s parity:I",
    4: f"{_HEAD} dumptime:Q dumpkeysize:I blocksize:I hostname:64s versionstring:192s "
    "panicstring:175s compression:B dumpextent:Q unused:4s parity:I",
}
_VERSION_AT = 32
_NOT_OURS = ("unused", "parity")


class _Layout:
    """One version's fields."""

    def __init__(self, fields: str) -> None:
        pairs = [field.split(":") for field in fields.split()]
        self.names = [name for name, _ in pairs]
        self.struct = struct.Struct(">" + "".join(kind for _, kind in pairs))
        self.widths = {name: int(kind[:-1]) for name, kind in pairs if kind.endswith("s")}
        assert self.struct.size == KDH_SIZE


LAYOUTS: Final = {version: _Layout(fields) for version, fields in _FIELDS.items()}


@dataclass(frozen=True, slots=True)
class KernelDumpHeader:
    """A header. Lengths in octets, ``dumptime`` in seconds since the epoch.

    Texts that are too long for their field are cut when packed, as the kernel's strlcpy() does.
    """

    dumplength: int
    dumptime: int = 0
    hostname: str = ""
    versionstring: str = ""
    panicstring: str = ""
    dumpextent: int = 0
    compression: int = COMPRESSION_NONE
    dumpkeysize: int = 0
    blocksize: int = 4096
    architecture: str = "amd64"
    architectureversion: int = 2
    magic: str = KERNEL_MAGIC
    version: int = KDH_VERSION

    def pack(self) -> bytes:
        """The 512 octets, parity and all. Raises LocalError where a number does not fit."""
        layout = LAYOUTS.get(self.version)
        if layout is None:
            raise LocalError(f"{self!r}: there is no header of version {self.version}")
        values = [self._octets_of(name, layout) for name in layout.names]
        try:
            head = layout.struct.pack(*values)
        except struct.error as error:
            raise LocalError(
                f"{self!r} does not fit a kernel dump header: {error}; lengths and times are u64, "
                "architectureversion, dumpkeysize and blocksize u32, compression u8"
            ) from error
        return head[:-4] + _xor_words(head).to_bytes(4, "big")

    def _octets_of(self, name: str, layout: _Layout) -> bytes | int:
        if name in _NOT_OURS:
            return b"" if name in layout.widths else 0
        value: str | int = getattr(self, name)
        if isinstance(value, int):
            return value
        cut = _versionstring if name == "versionstring" else _text
        return cut(value, layout.widths[name])


def parse_kdh(data: bytes) -> KernelDumpHeader:
    """The header of version 1 to 4 in ``data``, which must be exactly 512 octets.

    Raises KdhLength, KdhMagic, KdhVersion or KdhParity. Octets of a text that are not UTF-8 come
    out as backslash escapes, so that a hostile host name can still be printed and stored.
    """
    if len(data) != KDH_SIZE:
        raise KdhLength(f"it has {len(data)} octets, not {KDH_SIZE}", data)
    magic = _string(data[: LAYOUTS[KDH_VERSION].widths["magic"]])
    if magic not in (KERNEL_MAGIC, TEXT_MAGIC):
        raise KdhMagic(f"magic {magic!r} is neither {KERNEL_MAGIC!r} nor {TEXT_MAGIC!r}", data)
    version = int.from_bytes(data[_VERSION_AT : _VERSION_AT + 4], "big")
    layout = LAYOUTS.get(version)
    if layout is None:
        raise KdhVersion(f"version {version} is not known, only 1 to 4 are", data)
    if not parity_ok(data):
        raise KdhParity("bad parity: its words do not XOR to zero, it is damaged", data)
    found: dict[str, Any] = dict(zip(layout.names, layout.struct.unpack(data), strict=True))
    for name in _NOT_OURS:
        found.pop(name, None)
    for name in layout.widths.keys() & found.keys():
        found[name] = _string(found[name])
    return KernelDumpHeader(**found)


def parity_ok(data: bytes) -> bool:
    """Is ``data`` whole 32-bit words that XOR to zero?"""
    return len(data) % 4 == 0 and _xor_words(data) == 0


def _xor_words(data: bytes) -> int:
    return int(np.bitwise_xor.reduce(np.frombuffer(data, ">u4"), initial=0))


def _octets(text: str) -> bytes:
    """A C string's octets: up to the first NUL."""
    return text.encode("utf-8", "backslashreplace").partition(b"\0")[0]


def _text(text: str, size: int) -> bytes:
    """strlcpy(): at least one NUL at the end; struct pads with the others."""
    return _octets(text)[: size - 1]


def _versionstring(text: str, size: int) -> bytes:
    """The one field that shows that it was cut: the kernel ends it with a newline then."""
    whole = _octets(text)
    return whole if len(whole) < size else whole[: size - 2] + b"\n"


def _string(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "backslashreplace")
