"""Dumps that are not stored as memory has them: encrypted, or compressed, or both.

The judge compares memory with what somebody gets out of the stored file who has the private key:

    file + key file -> [decrypt] -> [decompress] -> compared with memory, in memory's own offsets

and what was acknowledged with what the client was to send, which is made here once more, of memory
(``Made``). Where the file has a hole, zeros instead of that, there is nothing to undo:

    stored as                what of memory is lost by a hole
    ChaCha20                 the same octets
    AES-256-CBC              the same, in whole blocks of 16, and the block behind them
    compressed               all from there on: a decompressor can't begin in the middle

A file that can't be undone, or not to its end, is told with the reason: the comparison has what
came out until then, and the rest is a hole. So is one with octets behind its end, or one of which
more comes out than memory had: no more than that is made of it, whatever its octets say.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Final

import numpy as np
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from numpy.typing import NDArray

from bench.judge.compare import Comparison, Expected, Stored, compare
from netdump.compress import Compression
from netdump.dumpon import KernelCrypto, opened
from netdump.ekcd import AES_BLOCK, BLOCK, Stream, parse_key_block
from netdump.errors import MalformedKey, MalformedStream
from netdump.inbound import restored
from netdump.outbound import Outbound
from server.verify import beside

_PIECE: Final = 64 << 10
#: More holes are not known one by one. No window leaves so many.
_MOST_HOLES: Final = 1 << 16
_ODD: Final = "behind its last whole block of AES there are {} octets"


@dataclass(frozen=True, slots=True)
class Coding:
    """How a client's dump is stored, if not as memory has it."""

    compression: Compression | None
    crypto: KernelCrypto | None
    """Of this attempt; None: it is not encrypted."""
    private: RSAPrivateKey
    folder: Path
    """Where a file may lie for a while; it has no name there."""

    @property
    def block(self) -> int:
        """Octets that can be decrypted only together."""
        aes = self.crypto is not None and self.crypto.encryption == "aes-256-cbc"
        return AES_BLOCK if aes else 1

    @property
    def keeps_places(self) -> bool:
        """An octet of memory is stored where it would be without all that, by itself."""
        return self.compression is None and self.block == 1


class Made:
    """An ``Expected``: the octets that the client is to send, without padding.

    They are made at the first look: until the NIC is taken over, memory may change.
    """

    def __init__(self, memory: Expected, coding: Coding) -> None:
        self._memory = memory
        self._coding = coding
        self._made: Stored | None = None

    @property
    def length(self) -> int:
        return self._file.length

    def read(self, start: int, end: int) -> NDArray[np.uint8]:
        return self._file.read(start, end)

    @property
    def _file(self) -> Stored:
        if self._made is None:
            outbound = Outbound(self._coding.compression, self._coding.crypto)
            file = TemporaryFile(buffering=0, dir=self._coding.folder)  # noqa: SIM115
            for octets in outbound.octets(self._pieces()):
                _write(file, octets)
            self._made = Stored(file)
            self._made.length = outbound.length
        return self._made

    def _pieces(self) -> Iterator[memoryview]:
        for at in range(0, self._memory.length, _PIECE):
            yield self._memory.read(at, min(at + _PIECE, self._memory.length)).data

    def close(self) -> None:
        """Let the file go; who looks again has it made again."""
        if self._made is not None:
            self._made.close()
            self._made = None


def compare_undone(
    memory: Expected, made: Expected, stored: Stored, path: Path, coding: Coding
) -> tuple[Comparison, str]:
    """``stored``, the dump at ``path``, against memory; and why it could not be undone, or ""."""
    with TemporaryFile(buffering=0, dir=coding.folder) as file:
        lost = [(hole.start, hole.end) for hole in compare(made, stored, _MOST_HOLES).holes]
        end = min(lost[0][0], stored.length) if coding.compression and lost else stored.length
        rest = stored.length % coding.block
        trouble = _ODD.format(rest) if rest and stored.length > made.length else ""
        try:
            for octets in _undone(stored, end, path, coding):
                room = memory.length + 1 - file.tell()
                if coding.compression and len(octets) >= room:
                    _write(file, octets[:room])
                    raise MalformedStream("more comes out of it than memory had")
                _write(file, octets)
        except (MalformedKey, MalformedStream) as error:
            trouble = error.args[0]
        spans = [] if coding.compression else _with_blocks(lost, memory.length, coding.block)
        there = os.fstat(file.fileno()).st_size
        for start, stop in spans:
            file.seek(start)
            for at in range(start, min(stop, there), _PIECE):
                _write(file, bytes(min(_PIECE, stop - at, there - at)))
        plain = Stored(file)
        found = compare(memory, plain)
        found.add_holes(spans)
        return found, trouble


def _with_blocks(lost: list[tuple[int, int]], length: int, block: int) -> list[tuple[int, int]]:
    """With what is decrypted by what is lost."""
    if block == 1:
        return lost
    return [(start - start % block, min(end + -end % block + block, length)) for start, end in lost]


def _undone(stored: Stored, end: int, path: Path, coding: Coding) -> Iterator[bytes]:
    """The octets of memory that the file's first ``end`` stand for. Raises MalformedKey or
    MalformedStream behind the last of them."""
    stream = None if coding.crypto is None else _opened(path, coding.private)
    pieces = _read(stored, end - end % coding.block)
    yield from restored(pieces, stream, coding.compression)


def _read(stored: Stored, end: int) -> Iterator[bytes]:
    for at in range(0, end, _PIECE):
        yield stored.read(at, min(at + _PIECE, end)).tobytes()


def _opened(path: Path, private: RSAPrivateKey) -> Stream:
    octets = key_file(path)
    if octets is None:
        raise MalformedKey(f"no key file lies beside {path.name}, or it can't be read")
    return opened(parse_key_block(octets), private)


def key_file(dump: Path) -> bytes | None:
    """What lies beside a dump as its key block, and one octet more at the most."""
    path = beside(dump, "key")
    try:
        if path is None or not path.is_file():
            return None
        with path.open("rb") as file:
            return file.read(BLOCK + 1)
    except OSError:
        return None


def _write(file: IO[bytes], octets: bytes) -> None:
    view = memoryview(octets)
    while view:
        view = view[file.write(view) :]
