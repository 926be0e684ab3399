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

The parity makes the XOR of all 128 words zero. It covers the header alone and misses every even
number of flips in a column: it tells a header from rubbish, no more.

A disk has two equal headers, one at each end, and savecore compares them. Over the network there
is one, sent last, because only then is the length of a compressed dump known.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from netdump.errors import KdhLength, KdhMagic, KdhParity, KdhVersion, LocalError

KDH_SIZE = 512
KDH_VERSION = 4
KERNEL_MAGIC = "FreeBSD Kernel Dump"
TEXT_MAGIC = "FreeBSD Text Dump"

COMPRESSION_NONE = 0
COMPRESSION_GZIP = 1
COMPRESSION_ZSTD = 2

_LAYOUT = struct.Struct(">20s12sIIQQII64s192s175sBQ4sI")
assert _LAYOUT.size == KDH_SIZE

_VERSIONSTRING_SIZE = 192


@dataclass(frozen=True, slots=True)
class KernelDumpHeader:
    """A version 4 header. Lengths in octets, ``dumptime`` in seconds since the epoch.

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

    def pack(self) -> bytes:
        """The 512 octets, parity and all. Raises LocalError where a number does not fit."""
        try:
            head = _LAYOUT.pack(
                _text(self.magic, 20),
                _text(self.architecture, 12),
                KDH_VERSION,
                self.architectureversion,
                self.dumplength,
                self.dumptime,
                self.dumpkeysize,
                self.blocksize,
                _text(self.hostname, 64),
                _versionstring(self.versionstring),
                _text(self.panicstring, 175),
                self.compression,
                self.dumpextent,
                b"",
                0,
            )
        except struct.error as error:
            raise LocalError(
                f"{self!r} does not fit a kernel dump header: {error}; lengths and times are u64, "
                "architectureversion, dumpkeysize and blocksize u32, compression u8"
            ) from error
        return head[:-4] + _xor_words(head).to_bytes(4, "big")


def parse_kdh(data: bytes) -> KernelDumpHeader:
    """The header in ``data``, which must be exactly 512 octets.

    Raises KdhLength, KdhMagic, KdhVersion or KdhParity. Octets of a text that are not UTF-8 come
    out as backslash escapes, so that a hostile host name can still be printed and stored.
    """
    if len(data) != KDH_SIZE:
        raise KdhLength(f"kernel dump header of {len(data)} octets: it has {KDH_SIZE}", data)
    (
        magic,
        architecture,
        version,
        architectureversion,
        dumplength,
        dumptime,
        dumpkeysize,
        blocksize,
        hostname,
        versionstring,
        panicstring,
        compression,
        dumpextent,
        _unused,
        _parity,
    ) = _LAYOUT.unpack(data)
    name = _string(magic)
    if name not in (KERNEL_MAGIC, TEXT_MAGIC):
        raise KdhMagic(f"magic {name!r} is neither {KERNEL_MAGIC!r} nor {TEXT_MAGIC!r}", data)
    if version != KDH_VERSION:
        raise KdhVersion(
            f"kernel dump header version {version}: only {KDH_VERSION} is understood", data
        )
    if not parity_ok(data):
        raise KdhParity("the words of the kernel dump header do not XOR to zero: damaged", data)
    return KernelDumpHeader(
        dumplength=dumplength,
        dumptime=dumptime,
        hostname=_string(hostname),
        versionstring=_string(versionstring),
        panicstring=_string(panicstring),
        dumpextent=dumpextent,
        compression=compression,
        dumpkeysize=dumpkeysize,
        blocksize=blocksize,
        architecture=_string(architecture),
        architectureversion=architectureversion,
        magic=name,
    )


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


def _versionstring(text: str) -> bytes:
    """The one field that shows that it was cut: the kernel ends it with a newline then."""
    whole = _octets(text)
    if len(whole) < _VERSIONSTRING_SIZE:
        return whole
    return whole[: _VERSIONSTRING_SIZE - 2] + b"\n"


def _string(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "backslashreplace")
