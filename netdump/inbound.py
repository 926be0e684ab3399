"""The way back of ``outbound.py``: what memory held, of what is stored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from netdump.compress import Compression, Decompressor
from netdump.ekcd import Stream


def restored(
    pieces: Iterable[bytes], stream: Stream | None, compression: Compression | None
) -> Iterator[bytes]:
    """``pieces`` of a stored dump, in order, decrypted and then decompressed; in parts.

    ``stream``: what decrypts it, if that is to be; with AES each piece is whole blocks of 16.
    Raises MalformedStream behind the last octet that can be had.
    """
    plain = pieces if stream is None else map(stream.update, pieces)
    if compression is None:
        yield from plain
        return
    reading = Decompressor(compression)
    for piece in plain:
        yield from reading.update(piece)
    reading.finish()
