"""The text of info.HOST.N: what netdumpd writes there, and how the dump ended.

Strings that came over the wire are escaped: an info file is read on a terminal, and a panic message
is whatever the dead kernel, or somebody in its name, put there.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from netdump.kdh import (
    COMPRESSION_GZIP,
    COMPRESSION_NONE,
    COMPRESSION_ZSTD,
    KDH_VERSION,
    KernelDumpHeader,
)

COMPRESSIONS = {COMPRESSION_NONE: "none", COMPRESSION_GZIP: "gzip", COMPRESSION_ZSTD: "zstd"}
#: Holes named one by one; the rest are counted. Keeps the file within the block that it has got.
NAMED_HOLES = 32


def escape(text: str) -> str:
    """``text`` on one line, without a character that a terminal would obey."""
    shown = text.rstrip("\n")
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in shown
    )


def describe_holes(holes: Sequence[tuple[int, int]]) -> str:
    """``2 holes, 2896 bytes: 0x5a8-0xb50, ...``; ends are exclusive."""
    count = sum(end - start for start, end in holes)
    named = ", ".join(f"{start:#x}-{end:#x}" for start, end in holes[:NAMED_HOLES])
    more = f" and {len(holes) - NAMED_HOLES} more" if len(holes) > NAMED_HOLES else ""
    noun = "hole" if len(holes) == 1 else "holes"
    return f"{len(holes)} {noun}, {count} bytes: {named}{more}"


def render(
    client: tuple[str, int],
    header: KernelDumpHeader | None,
    notes: Sequence[str] = (),
    outcome: str = "",
) -> str:
    """The whole file. ``outcome`` is its last line, "" while the dump is still running."""
    lines = [f"Dump from {escape(client[0])} [{escape(client[0])}]"]
    if header is not None:
        size = header.dumplength
        if header.version != KDH_VERSION:
            lines.append(f"Header Version: {header.version}")
        lines += [
            f"Architecture: {escape(header.architecture)}",
            f"Architecture Version: {header.architectureversion}",
            f"Dump Length: {size}B ({size >> 20} MB)",
            f"Blocksize: {header.blocksize}",
            f"Compression: {COMPRESSIONS.get(header.compression, str(header.compression))}",
            f"Dumptime: {_time(header.dumptime)}",
            f"Hostname: {escape(header.hostname)}",
            f"Version String: {escape(header.versionstring)}",
            f"Panic String: {escape(header.panicstring)}",
            # A header whose parity is wrong is refused before it gets here.
            "Header Parity Check: Pass",
        ]
    lines += notes
    if outcome:
        lines.append(outcome)
    return "\n".join(lines) + "\n"


def _time(seconds: int) -> str:
    try:
        return f"{time.asctime(time.gmtime(seconds))} UTC"
    except (OverflowError, ValueError, OSError):
        return f"{seconds} s since the epoch"
