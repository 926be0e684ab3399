"""``netdump-bench decrypt``: the other side of an encrypted dump, as decryptcore(8) is it.

    DUMP, vmcore_encrypted.HOST.N[.gz|.zst] -> [decrypt] -> [decompress] -> OUT
    DUMP, vmcore.HOST.N.partial             -> the same, as far as it goes

What the name says is compressed is decompressed too, unless it is to be kept so. A dump that broke
off has no such name: its first octets, decrypted, say it. Of it comes out what there is: of AES
whole blocks, of what is compressed all before the first hole, else zeros where it has holes; its
manifest, beside it, knows them.

OUT is written under another name beside it, and gets its own when all of it is there and on the
disk; so what went wrong leaves nothing, and nothing that is there is replaced. It holds a machine's
memory: only its owner may read it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Final

from bench.errors import BadInput
from netdump.compress import SUFFIXES, Compression, method_of
from netdump.dumpon import load_private, opened
from netdump.ekcd import AES_BLOCK, KeyBlock, Stream, parse_key_block
from netdump.errors import MalformedKey, MalformedStream
from netdump.inbound import restored
from server.verify import beside, read_manifest

_PIECE: Final = 64 << 10
#: A PEM of an RSA key of 16,384 bits has some 13 KiB.
_MOST_KEY: Final = 64 << 10
#: How FreeBSD's dumps begin: ELF, and a minidump's header.
_BEGINNINGS: Final = (b"\x7fELF", b"minidump FreeBSD/")

Holes = list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Decrypted:
    """What came of it."""

    line: str
    whole: bool
    """Not of a dump that broke off."""


def decrypt(
    dump: Path, out: Path, private_key: Path, key: Path | None, *, keep_compressed: bool
) -> Decrypted:
    """Do it. ``key``: the key file, if it does not lie beside the dump. Raises BadInput, in one
    line, and then there is no ``out``.
    """
    try:
        dump = dump.resolve(strict=True)
        os.stat(out.parent)
        if os.path.lexists(out):
            raise BadInput(f"{out}: it is there already, and is left as it is")
    except OSError as error:
        raise BadInput(f"{error.filename}: {error.strerror}") from None
    stream, block = _open(dump, private_key, key)
    partial = dump.suffix == ".partial"
    reading = _Reading(dump, block, _holes(dump) if partial else [], partial)
    compression = SUFFIXES.get(dump.suffix)
    with reading:
        pieces: Iterator[bytes] = reading.pieces(stream)
        first = next(pieces, b"")
        if partial:
            compression = method_of(first)
            reading.compressed = compression is not None
        decompresses = None if keep_compressed else compression
        plain = _as_far_as_it_goes if partial else _whole
        parts = plain(restored(chain([first], pieces), None, decompresses), dump)
        beginning, size = _make(out, parts)
    line = f"{out}: {size:,} bytes, {_how(block, decompresses)}"
    if partial:
        line += ", of a dump that broke off"
    if (decompresses or not compression) and not beginning.startswith(_BEGINNINGS):
        line += "; it begins as no FreeBSD dump does: is that its key file?"
    return Decrypted(line, not partial)


def _how(block: KeyBlock, compression: Compression | None) -> str:
    return f"decrypted ({block.encryption})" + (
        f" and decompressed ({compression})" if compression else ""
    )


def _open(dump: Path, private_key: Path, key: Path | None) -> tuple[Stream, KeyBlock]:
    key = key or beside(dump, "key")
    if key is None:
        raise BadInput(f"{dump}: its name is no dump's, so name its key file: --key")
    try:
        private = load_private(_read(private_key))
    except MalformedKey as error:
        raise BadInput(f"{private_key}: {error.args[0]}") from None
    try:
        block = parse_key_block(_read(key))
        return opened(block, private), block
    except MalformedKey as error:
        raise BadInput(f"{key}: {error.args[0]}") from None


def _read(path: Path) -> bytes:
    """A small file; of a large one the beginning, which is none of ours then."""
    try:
        with path.open("rb") as file:
            return file.read(_MOST_KEY)
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from None


def _holes(dump: Path) -> Holes:
    """Of a dump that broke off, as its manifest has them; without one nobody knows of any."""
    manifest = beside(dump, "manifest")
    try:
        found = [] if manifest is None else read_manifest(manifest)["holes"]
        return [(int(start), int(end)) for start, end in found]
    except (OSError, ValueError, KeyError, TypeError, json.JSONDecodeError):
        return []


class _Reading:
    """The dump's file, from its beginning to its end, decrypted."""

    def __init__(self, dump: Path, block: KeyBlock, holes: Holes, partial: bool) -> None:
        self._dump = dump
        self._block = AES_BLOCK if block.encryption == "aes-256-cbc" else 1
        # With CBC the block behind a hole is decrypted by what the hole lacks.
        wide = self._block if self._block > 1 else 0
        self._holes = [(s - s % self._block, e + -e % self._block + wide) for s, e in holes]
        self._partial = partial
        self.compressed = False
        """Behind a hole there is nothing to be had."""
        self._file: IO[bytes] | None = None

    def __enter__(self) -> _Reading:
        self._call(self._begin)
        return self

    def _begin(self) -> bytes:
        self._file = self._dump.open("rb")
        return b""

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def pieces(self, stream: Stream) -> Iterator[bytes]:
        """Raises BadInput, as ``decrypt`` does, where it can't be read, or is cut off."""
        at = 0
        while octets := self._call(self._next):
            over = len(octets) % self._block
            if over and not self._partial:
                size = at + len(octets)
                raise BadInput(f"{self._dump}: {size} bytes are no whole blocks of AES: cut off?")
            plain = bytearray(stream.update(octets[: len(octets) - over]))
            end = at + len(plain)
            for start, stop in self._holes:
                start, stop = max(start, at), min(stop, end)
                if start < stop:
                    if self.compressed:
                        yield bytes(plain[: start - at])
                        return
                    plain[start - at : stop - at] = bytes(stop - start)
            yield bytes(plain)
            at = end

    def _next(self) -> bytes:
        """A piece that is full, but for the last: a pipe gives less at once."""
        assert self._file is not None, "it is open"
        return self._file.read(_PIECE)

    def _call(self, reads: Callable[[], bytes]) -> bytes:
        try:
            return reads()
        except OSError as error:
            raise BadInput(f"{self._dump}: {error.strerror}") from None


def _whole(parts: Iterator[bytes], dump: Path) -> Iterator[bytes]:
    try:
        yield from parts
    except MalformedStream as error:
        why = error.args[0]
        raise BadInput(f"{dump}: decrypted, it can't be decompressed: {why}") from None


def _as_far_as_it_goes(parts: Iterator[bytes], _dump: Path) -> Iterator[bytes]:
    try:
        yield from parts
    except MalformedStream:
        return


def _make(out: Path, parts: Iterator[bytes]) -> tuple[bytes, int]:
    """Write ``out``: how it begins, and its size."""
    try:
        with NamedTemporaryFile(dir=out.parent, delete=False) as made:
            try:
                beginning, size = b"", 0
                for part in parts:
                    beginning = (beginning + part)[:32] if size < 32 else beginning
                    size += made.write(part)
                made.flush()
                os.fsync(made.fileno())
                # It must be ours before it is replaced: whoever came first keeps it.
                os.close(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
                os.rename(made.name, out)
            except BaseException:
                os.unlink(made.name)
                raise
    except FileExistsError:
        raise BadInput(f"{out}: it is there already, and is left as it is") from None
    except OSError as error:
        raise BadInput(f"{out}: {error.strerror}") from None
    return beginning, size
