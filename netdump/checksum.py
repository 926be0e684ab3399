"""The Internet checksum (RFC 1071), a batch at a time.

It is ones' complement addition of big-endian 16-bit words, which is addition modulo 0xffff. From
that comes all that makes a batch cheap:

* Sums of parts add up; a part that starts at an odd place counts times 256, for 256 x 256 = 1.
* For the same reason the words may be read in the order that suits the machine, and the sum
  multiplied by 256 at the end; and words of 32 bits are two of 16 bits, for 65536 = 1.
* Data is right when its sum, checksum and all, is 0 modulo 0xffff.

Payload that lies in memory, at addresses, is summed where it is and never copied.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from netdump.errors import LocalError

ONES: Final = 0xFFFF
SWAP: Final = 256
#: Octets of the longest fragment that is summed: more than an IPv4 packet holds.
FRAGMENT_MAX: Final = 2 * 0xFFFF


def ones_sum(data: bytes) -> int:
    """The sum of ``data``'s big-endian 16-bit words modulo 0xffff; an odd last octet is a high one.

    Words of 16 bits are the digits of a number in base 65536, and 65536 is 1 modulo 0xffff.
    """
    return int.from_bytes(data + b"\0" * (len(data) % 2), "big") % ONES


def checksum(data: bytes) -> int:
    """The Internet checksum of ``data`` (RFC 1071), 0..0xffff."""
    return (ONES - ones_sum(data)) % ONES if any(data) else ONES


def payload_sums(
    buffer: NDArray[np.uint8], addresses: NDArray[np.int64], lengths: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The ones' complement sum of each fragment of ``buffer``: int64 (n,), 0..0xfffe.

    ``buffer`` is uint8, flat and contiguous; ``addresses`` index it, ``lengths`` are octets (0 is
    allowed, wherever its address points). Any address and length will do; fragments of one length
    cost some 0.2 us for 1448 octets, and each further length costs numpy's overhead once more.
    Raises LocalError for a fragment that is not inside the buffer.
    """
    if len(lengths) and lengths[0] and (lengths == lengths[0]).all():
        return _equal_sums(buffer, addresses, int(lengths[0]))
    sums = np.zeros(len(lengths), np.int64)
    for length in sorted(set(lengths.tolist()) - {0}):
        which = lengths == length
        sums[which] = _equal_sums(buffer, addresses[which], length)
    return sums


def row_sums(
    data: NDArray[np.uint8], starts: NDArray[np.int64], lengths: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The ones' complement sum of a stretch of each row of ``data``, uint8 (n, stride)."""
    count, stride = data.shape
    flat = np.ascontiguousarray(data).reshape(-1)
    return payload_sums(flat, np.arange(count, dtype=np.int64) * stride + starts, lengths)


def _equal_sums(
    buffer: NDArray[np.uint8], addresses: NDArray[np.int64], length: int
) -> NDArray[np.int64]:
    first, last = int(addresses.min()), int(addresses.max())
    if not 0 <= length <= FRAGMENT_MAX or first < 0 or last + length > buffer.size:
        raise LocalError(
            f"fragments of {length} octets at {first:#x}..{last:#x} are not inside the buffer of "
            f"{buffer.size:#x} octets, or longer than {FRAGMENT_MAX}: give addresses within it"
        )
    words = length // 4
    sums = np.zeros(len(addresses), np.int64)
    if words:
        step = int(addresses[1] - addresses[0]) if len(addresses) > 1 else length
        if step >= 0 and (np.diff(addresses) == step).all():  # nearly always; they may overlap
            rows = np.ndarray((len(addresses), words), "<u4", buffer, first, (step, 4))
        else:
            # Row a of `everywhere` is what lies at address a.
            shape = (buffer.size - 4 * words + 1, words)
            rows = np.ndarray(shape, "<u4", buffer, 0, (1, 4))[addresses]
        sums += rows.sum(axis=1, dtype=np.int64)
    for place in range(4 * words, length):
        octets = buffer[addresses + place].astype(np.int64)
        sums += octets * SWAP if place % 2 else octets
    swapped: NDArray[np.int64] = sums % ONES * SWAP % ONES
    return swapped


def head_sums(heads: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The sum of each short row, not yet modulo 0xffff: int64 (n,).

    A product with octet weights in float32, which is exact below 2**24 and much faster than adding
    up a few words a row.
    """
    return (heads.astype(np.float32) @ _weights(heads.shape[1])).astype(np.int64)


@lru_cache(maxsize=64)
def _weights(width: int) -> NDArray[np.float32]:
    """What each octet counts for: high, low, high, ..."""
    if width > 512:
        raise LocalError(f"header of {width} octets: at most 512, or the float sum is not exact")
    return np.where(np.arange(width) % 2, 1, SWAP).astype(np.float32)
