"""``netdump-bench decrypt``: the other side of an encrypted dump, as decryptcore(8) is it.

    DUMP, vmcore_encrypted.HOST.N[.gz|.zst] -> [decrypt] -> [decompress] -> OUT

What the name says is compressed is decompressed too, unless it is to be kept so. OUT is written
under another name beside it, and gets its own when all of it is there; so what went wrong leaves
nothing. It holds a machine's memory: only its owner may read it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Final

from bench.errors import BadInput
from netdump.compress import SUFFIXES, Compression
from netdump.dumpon import load_private, opened
from netdump.ekcd import AES_BLOCK, KeyBlock, Stream, parse_key_block
from netdump.errors import MalformedKey, MalformedStream
from netdump.inbound import restored
from server.verify import beside

_PIECE: Final = 64 << 10
#: A PEM of an RSA key of 16,384 bits has some 13 KiB.
_MOST_KEY: Final = 64 << 10


def decrypt(
    dump: Path, out: Path, private_key: Path, key: Path | None, *, keep_compressed: bool
) -> str:
    """Do it; a line that says what came of it. ``key``: the key file, if it does not lie beside
    the dump. Raises BadInput, in one line, and then there is no ``out``.
    """
    stream, block = _open(dump, private_key, key)
    compression = None if keep_compressed else SUFFIXES.get(dump.suffix)
    if out.exists():
        raise BadInput(f"{out}: it is there already, and is left as it is")
    try:
        with dump.open("rb") as file, NamedTemporaryFile(dir=out.parent, delete=False) as made:
            try:
                _check_length(dump, os.fstat(file.fileno()).st_size, block)
                size = _write(made, restored(_pieces(file), stream, compression))
                os.rename(made.name, out)
            except BaseException:
                os.unlink(made.name)
                raise
    except MalformedStream as error:
        why = error.args[0]
        raise BadInput(f"{dump}: decrypted, it can't be decompressed: {why}") from None
    except OSError as error:
        where = dump if error.filename == str(dump) else out
        raise BadInput(f"{where}: {error.strerror}") from None
    how = _how(block, compression)
    return f"{out}: {size:,} bytes, {how}"


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


def _check_length(dump: Path, size: int, block: KeyBlock) -> None:
    if block.encryption == "aes-256-cbc" and size % AES_BLOCK:
        raise BadInput(f"{dump}: {size} bytes are no whole blocks of AES: it was cut off")


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    while piece := file.read(_PIECE):
        yield piece


def _write(file: IO[bytes], parts: Iterator[bytes]) -> int:
    size = 0
    for part in parts:
        size += file.write(part)
    file.flush()
    return size
