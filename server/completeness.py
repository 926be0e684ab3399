"""Is this the whole dump? What a server can know of it, and netdumpd never asks.

A dump is complete if

* its header came: without it nobody knows how long the dump is; and it promises something;
* [0, dumplength) has no hole;
* nothing lies beyond dumplength but what the format knows: the padding of a compressed dump to a
  whole block, and the footer of the 2010 client. That is the header once more, sent as the last
  data, as it would be written at the end of a disk. It must equal the header byte for byte: the
  one check that head and tail belong together (on disks savecore makes it). Both are cut off;
* an encrypted dump has its key block.
"""

from __future__ import annotations

from netdump.kdh import COMPRESSION_NONE, KDH_SIZE, KernelDumpHeader
from server.coverage import Coverage
from server.infofile import describe_holes
from server.refusals import Named
from server.store import Store


def faults(
    coverage: Coverage,
    header: KernelDumpHeader | None,
    header_bytes: bytes,
    key: Coverage,
    store: Store,
    named: Named,
) -> list[str]:
    """What keeps the dump from being complete, in words; nothing if it is. May raise StoreError.

    ``named``: what was refused. It is told first, for it is the cause more often than not.
    """
    if header is None:
        return [*named.sentences, _without_header(coverage, named)]
    found = ["the header promises no bytes"] if header.dumplength == 0 else []
    if holes := coverage.holes(header.dumplength):
        found.append(describe_holes(holes))
    elif coverage.end > header.dumplength:
        found += _beyond(coverage, header, header_bytes, store)
    if not key.covers(0, header.dumpkeysize):
        found.append(f"{header.dumpkeysize} bytes of key are due, {key.total} came")
    return [*named.sentences, *found] if found else []


def _without_header(coverage: Coverage, named: Named) -> str:
    if not named.costs_the_header:
        return f"the dump header is missing, {coverage.total} bytes came"
    promised = f" of {named.header.dumplength}" if named.header else ""
    return f"{coverage.total}{promised} bytes came"


def has_footer(coverage: Coverage, header: KernelDumpHeader) -> bool:
    """Do the data end where a footer would?"""
    end, length, padded = coverage.end, header.dumplength, padded_length(header)
    return end != padded and end in (length + KDH_SIZE, padded + KDH_SIZE)


def padded_length(header: KernelDumpHeader) -> int:
    """Where the data of a dump end, without a footer: compressed ones come in whole blocks."""
    length = header.dumplength
    if header.compression == COMPRESSION_NONE:
        return length
    block = header.blocksize if 0 < header.blocksize <= 1 << 16 else 4096
    return -(-length // block) * block


def _beyond(
    coverage: Coverage, header: KernelDumpHeader, header_bytes: bytes, store: Store
) -> list[str]:
    end, length = coverage.end, header.dumplength
    if coverage.covers(length, end):
        if end == padded_length(header):
            return []
        if has_footer(coverage, header):
            at = end - KDH_SIZE
            if store.read(at, KDH_SIZE) == header_bytes:
                return []
            return [f"the footer @ offset {at} disagrees with the header"]
    return [f"{length} bytes were promised, data reaches to {end}"]
