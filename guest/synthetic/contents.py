"""What a kernel's memory looks like, grown from a seed.

A dump of zeros proves little, and a dump of noise looks like no kernel. So each page is one of five
kinds, and each kind makes a certain mistake visible:

    zero        a hole in the stored dump hides here, and only here
    text        a reader of the dump sees at a glance what went where
    pointers    kernel addresses: 8-byte structure, hardly any entropy
    dense       no two pages alike, nothing compresses: a shifted or swapped page shows
    records     one structure over and over, with a serial number: a repeated chunk shows

Every page but the zero ones carries its own page number, so no two are equal. The bytes come from
PCG64's raw stream, whose values numpy guarantees for ever (NEP 19; those of Generator's methods it
does not), and are laid out little-endian: a seed means the same bytes on every machine.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from guest.kernel.memory import PAGE_SIZE

#: Where FreeBSD/amd64 links its kernel; the pointers of pointer pages lie in the 64 MiB above.
KERNEL_BASE: Final = 0xFFFF_FFFF_8000_0000
_KERNEL_SPAN_MASK: Final = 0x03FF_FFF8

_WORDS: Final = PAGE_SIZE // 8
#: Pages in one step of ``fill``: bounds its working memory to a few MiB.
_BLOCK: Final = 1024

#: Kinds of page, and in how many of 32 pages each is found.
KINDS: Final[tuple[tuple[str, int], ...]] = (
    ("zero", 10),
    ("text", 3),
    ("pointers", 6),
    ("dense", 8),
    ("records", 5),
)

_ZERO, _DENSE = (
    next(i for i, (name, _) in enumerate(KINDS) if name == k) for k in ("zero", "dense")
)

_LINES: Final = (
    b"em0: <Intel(R) Legacy PRO/1000 MT 82540EM> port 0xc000-0xc03f irq 10 at device 3.0 on pci0\n",
    b"vfs.root.mountfrom=ufs:/dev/ada0p2\0kern.hostname=victim\0kern.geom.label.disk_ident=0\0",
    b"/usr/sbin/syslogd\0-s\0/etc/rc.d/netwait\0PATH=/sbin:/bin:/usr/sbin:/usr/bin\0HOME=/\0",
    b"witness_warn: lock order reversal: 1st em0:tx 2nd em0:rx @ sys/dev/e1000/if_em.c:2110\n",
)

#: The 64-byte structure of record pages: type name, state, links, counts; word 1 is the serial.
_RECORD: Final = b"mbuf_zon" + bytes(8) + b"\x01\x00\x02\x00\x10\x08\x00\x00" + bytes(range(40))


def _cumulative_kinds() -> NDArray[np.uint8]:
    """Kind number for each value of five random bits."""
    return np.repeat(np.arange(len(KINDS), dtype=np.uint8), [share for _, share in KINDS])


def _text_page() -> NDArray[np.uint8]:
    text = bytes(8) + b"".join(_LINES)  # the label goes over the first eight
    whole = (text * (PAGE_SIZE // len(text) + 1))[:PAGE_SIZE]
    return np.frombuffer(whole, np.uint8)


def kinds_of(pages: int, seed: int) -> NDArray[np.uint8]:
    """uint8 (pages,): the kind of each page, as an index into ``KINDS``."""
    raw = np.random.PCG64(seed).random_raw(pages)
    return _cumulative_kinds()[(raw >> np.uint64(59)).astype(np.intp)]


def fill(memory: NDArray[np.uint8], seed: int, *, zero_pages: bool = True) -> None:
    """Fill ``memory``, uint8 and flat, in whole pages, with what ``seed`` stands for.

    Without ``zero_pages`` those pages are dense ones: then no hole can hide.

    Raises:
        ValueError: it is not made of whole pages.
    """
    if memory.size % PAGE_SIZE:
        raise ValueError(f"{memory.size} bytes are not whole pages of {PAGE_SIZE} bytes")
    pages = memory.reshape(-1, _WORDS * 8).view("<u8")
    kinds = kinds_of(len(pages), seed)
    if not zero_pages:
        kinds[kinds == _ZERO] = _DENSE
    stream = np.random.PCG64(seed).jumped()  # never overlaps the stream of the kinds
    text = _text_page().view("<u8")
    record = np.tile(np.frombuffer(_RECORD, "<u8"), PAGE_SIZE // len(_RECORD))
    for first in range(0, len(pages), _BLOCK):
        block = pages[first : first + _BLOCK]
        numbers = np.arange(first, first + len(block), dtype=np.uint64)
        by_kind = [np.flatnonzero(kinds[first : first + _BLOCK] == k) for k in range(len(KINDS))]
        zero, texts, pointers, dense, records = by_kind
        block[zero] = 0
        block[texts] = text
        block[texts, 0] = _page_label(numbers[texts])
        block[pointers] = _random(stream, len(pointers)) & np.uint64(_KERNEL_SPAN_MASK) | np.uint64(
            KERNEL_BASE
        )
        block[pointers, 0] = np.uint64(KERNEL_BASE) + numbers[pointers] * np.uint64(PAGE_SIZE)
        block[dense] = _random(stream, len(dense))
        block[records] = record
        serial = numbers[records, None] * np.uint64(64) + np.arange(64, dtype=np.uint64)
        block[records, 1::8] = serial


def _random(stream: np.random.PCG64, pages: int) -> NDArray[np.uint64]:
    return stream.random_raw(pages * _WORDS).reshape(pages, _WORDS)


def _page_label(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Eight characters that read ``#0001a2b``: the page number, in hexadecimal."""
    digits = np.empty((len(numbers), 8), np.uint8)
    digits[:, 0] = ord("#")
    for place in range(7):
        nibble = (numbers >> np.uint64(4 * (6 - place)) & np.uint64(15)).astype(np.uint8)
        digits[:, place + 1] = nibble + np.where(nibble < 10, ord("0"), ord("a") - 10)
    labels: NDArray[np.uint64] = digits.view("<u8")[:, 0]
    return labels
