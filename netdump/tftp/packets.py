"""TFTP's packets (RFC 1350) and options (RFC 2347): pure, what is parsed and what is built.

    op  packet  what follows, all integers big-endian u16, all texts end with NUL
    1   RRQ     file, mode, then option and value, option and value ...
    2   WRQ     the same
    3   DATA    block, up to blksize octets
    4   ACK     block
    5   ERROR   code, text
    6   OACK    option and value, option and value ...

Rules of the parser:

* An option's name is the same in upper and lower case; here it is lower. One that comes twice makes
  the packet malformed: RFC 2347 lets it come once.
* A text whose NUL is missing makes a request or an OACK malformed. An ERROR's is taken as it is:
  there are servers that forget its NUL, and what they say is worth more than the octet.
* An OACK may have no option: atftpd with all of them switched off sends two octets. It says what an
  ACK of block 0 says, that none holds.
* What follows a complete ACK or ERROR is left alone, as by every implementation.

A DATA packet's payload is never in a header here: ``data_headers`` makes the four octets before it,
for a whole window.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from netdump.errors import LocalError, MalformedTftp

SERVER_PORT: Final = 69
DATA_HEADER_SIZE: Final = 4
#: Without the option, and its bounds with it (RFC 2348).
DEFAULT_BLKSIZE: Final = 512
BLKSIZES: Final = range(8, 65464 + 1)
#: RFC 7440; without the option it is 1.
WINDOWSIZES: Final = range(1, 65535 + 1)
#: RFC 2349, seconds.
TIMEOUTS: Final = range(1, 255 + 1)
#: Where block numbers go on after 65535: tftp-hpa's option, in no RFC.
ROLLOVERS: Final = range(2)


class Opcode(IntEnum):
    RRQ = 1
    WRQ = 2
    DATA = 3
    ACK = 4
    ERROR = 5
    OACK = 6


class Code(IntEnum):
    """Of an ERROR: RFC 1350 appendix, and 8 of RFC 2347."""

    UNDEFINED = 0
    NOT_FOUND = 1
    ACCESS = 2
    DISK_FULL = 3
    ILLEGAL = 4
    UNKNOWN_TRANSFER = 5
    EXISTS = 6
    NO_USER = 7
    OPTIONS = 8


#: A code in words, for people.
CODE_WORDS: Final[Mapping[int, str]] = MappingProxyType(
    {
        Code.UNDEFINED: "not defined",
        Code.NOT_FOUND: "file not found",
        Code.ACCESS: "access violation",
        Code.DISK_FULL: "disk full",
        Code.ILLEGAL: "illegal operation",
        Code.UNKNOWN_TRANSFER: "unknown transfer id",
        Code.EXISTS: "file already exists",
        Code.NO_USER: "no such user",
        Code.OPTIONS: "options refused",
    }
)


@dataclass(frozen=True, slots=True)
class Request:
    """RRQ or WRQ. Names of options are lower case; ``mode`` is too."""

    opcode: Opcode
    file: bytes
    mode: str
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Data:
    block: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Ack:
    block: int


@dataclass(frozen=True, slots=True)
class Error:
    code: int
    text: str

    def __str__(self) -> str:
        words = CODE_WORDS.get(self.code, "a code that no RFC has")
        said = f': "{self.text}"' if self.text else ""
        return f"ERROR {self.code} ({words}){said}"


@dataclass(frozen=True, slots=True)
class Oack:
    options: Mapping[str, str]


Packet = Request | Data | Ack | Error | Oack


# --- building -------------------------------------------------------------------------------------


def pack_request(file: bytes, options: Mapping[str, str], opcode: Opcode = Opcode.WRQ) -> bytes:
    """A request in mode octet."""
    return _u16(opcode) + _texts(file, b"octet", *_flat(options))


def pack_oack(options: Mapping[str, str]) -> bytes:
    return _u16(Opcode.OACK) + _texts(*_flat(options))


def pack_ack(block: int) -> bytes:
    return _u16(Opcode.ACK) + _u16(block)


def pack_error(code: int, text: str) -> bytes:
    return _u16(Opcode.ERROR) + _u16(code) + _texts(text.encode())


def pack_data(block: int, payload: bytes) -> bytes:
    return _u16(Opcode.DATA) + _u16(block) + payload


def data_headers(blocks: ArrayLike) -> NDArray[np.uint8]:
    """What goes before the payloads of a window: uint8 (n, 4), contiguous."""
    numbers = np.asarray(blocks)
    rows = np.empty((len(numbers), 2), ">u2")
    rows[:, 0] = Opcode.DATA
    rows[:, 1] = numbers
    return rows.view(np.uint8).reshape(-1, DATA_HEADER_SIZE)


def _u16(value: int) -> bytes:
    return value.to_bytes(2, "big")


def _flat(options: Mapping[str, str]) -> list[bytes]:
    return [word.encode() for pair in options.items() for word in pair]


def _texts(*texts: bytes) -> bytes:
    for text in texts:
        if b"\0" in text:
            raise LocalError(f"{text!r} has a NUL in it, which ends a text in TFTP")
    return b"".join(text + b"\0" for text in texts)


# --- parsing --------------------------------------------------------------------------------------


def parse(datagram: bytes) -> Packet:
    """What a datagram is. Raises MalformedTftp."""
    if datagram == pack_oack({}):
        return Oack({})
    if len(datagram) < 4:
        raise MalformedTftp(f"{len(datagram)} octets: the shortest TFTP packet has 4", datagram)
    number = int.from_bytes(datagram[:2], "big")
    block = int.from_bytes(datagram[2:4], "big")
    if number == Opcode.DATA:
        return Data(block, datagram[4:])
    if number == Opcode.ACK:
        return Ack(block)
    if number == Opcode.ERROR:
        return Error(block, _printable(datagram[4:].partition(b"\0")[0]))
    if number == Opcode.OACK:
        return Oack(_options(_split(datagram), datagram))
    if number in (Opcode.RRQ, Opcode.WRQ):
        file, mode, *rest = _split(datagram, least=2)
        return Request(Opcode(number), file, _printable(mode).lower(), _options(rest, datagram))
    raise MalformedTftp(f"opcode {number} is none of TFTP's, 1 to 6", datagram)


def _split(datagram: bytes, least: int = 1) -> list[bytes]:
    texts = datagram[2:].split(b"\0")
    if texts.pop() or len(texts) < least:
        raise MalformedTftp("a text in it does not end with NUL", datagram)
    return texts


def _options(texts: list[bytes], datagram: bytes) -> Mapping[str, str]:
    if len(texts) % 2:
        raise MalformedTftp("its last option has no value", datagram)
    names = [_printable(name).lower() for name in texts[::2]]
    if len(set(names)) < len(names):
        raise MalformedTftp("an option comes twice in it (RFC 2347)", datagram)
    return dict(zip(names, map(_printable, texts[1::2]), strict=True))


def _printable(text: bytes) -> str:
    """For a report, and for one line of it: what is no printable ASCII is escaped."""
    return "".join(chr(c) if 32 <= c < 127 else f"\\x{c:02x}" for c in text)


def decimal(text: str) -> int | None:
    """An option's value: ASCII decimal (RFC 2348), None if it is anything else."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else None
