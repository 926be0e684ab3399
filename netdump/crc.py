"""CRC32C of messages, a batch at a time (docs/netdump2.md, *CRC32C*).

The CRC is of the whole message, header and payload, with its own word, the header's last, as 0. It
goes into that word. The two halves of a message lie apart on their way out, the header just made
and the payload in memory, so the CRC of the header is made first and continued over the payload.

* A CRC is linear: that of a header is the XOR of what each of its octets is worth at its place,
  which is a table (Sarwate's, one for each place). A batch of headers is one look-up and one XOR.
* A payload costs one call into the library, which uses the CPU's own instruction, where it lies:
  nothing is copied. numpy has nothing that comes near; its tables cost ten times as much.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from crc32c import crc32c
from numpy.typing import NDArray

from netdump.errors import BadCrc
from netdump.messages import HEADER_SIZE, REASONS, Block, MessageType

#: Octets of a header before the word that holds the CRC.
_BEFORE: Final = HEADER_SIZE - 4
#: Where the table of each of these octets begins in ``_table``.
_PLACES: Final = 256 * np.arange(_BEFORE)[:, None]
_WRONG: Final = REASONS.index(BadCrc.reason)


def message_crcs(
    heads: NDArray[np.uint8],
    buffer: NDArray[np.uint8],
    addresses: NDArray[np.int64],
    lengths: NDArray[np.int64],
) -> NDArray[np.uint32]:
    """The CRC of each message: uint32 (n,).

    ``heads`` uint8 (n, >= 20); ``buffer`` uint8, flat and contiguous, has ``lengths`` octets of
    each payload from ``addresses`` on.
    """
    worth = _WORTH.take(heads[:, :_BEFORE].T + _PLACES)
    begun = np.bitwise_xor.reduce(worth, axis=0) ^ _NOTHING
    view = buffer.data
    spans = zip(begun.tolist(), addresses.tolist(), lengths.tolist(), strict=True)
    crcs = [crc32c(view[start : start + length], crc) for crc, start, length in spans]
    return np.array(crcs, np.uint32)


def put(
    heads: NDArray[np.uint8],
    buffer: NDArray[np.uint8],
    addresses: NDArray[np.int64],
    lengths: NDArray[np.int64],
) -> None:
    """Write each message's CRC into its header, uint8 (n, 24)."""
    crcs = message_crcs(heads, buffer, addresses, lengths)
    heads[:, _BEFORE:] = crcs.astype(">u4").view(np.uint8).reshape(-1, 4)


def refuse_wrong(block: Block, data: NDArray[np.uint8]) -> None:
    """Give each good message of ``block`` whose CRC is wrong its reason. The datagrams lie in the
    rows of ``data``, uint8 (n, stride). A HERALD has none.
    """
    which = np.flatnonzero((block.reasons == 0) & (block.types != MessageType.HERALD))
    if not len(which):
        return
    stride = data.shape[1]
    flat = np.ascontiguousarray(data).reshape(-1)
    heads = data[:, :_BEFORE] if len(which) == len(data) else data[which, :_BEFORE]
    crcs = message_crcs(heads, flat, which * stride + HEADER_SIZE, block.lengths[which])
    wrong = crcs != block.aux2[which]
    if wrong.any():
        block.reasons[which[wrong]] = _WRONG


def _table() -> tuple[NDArray[np.uint32], np.uint32]:
    """What each octet is worth at each place of a header, uint32 (20, 256), and the CRC of 24 zeros
    that all of it is added to. An octet is worth what its bits are.
    """
    nothing = crc32c(bytes(HEADER_SIZE))
    worth = np.zeros((_BEFORE, 256), np.uint32)
    octets = np.arange(256)
    for place in range(_BEFORE):
        for bit in range(8):
            head = bytearray(HEADER_SIZE)
            head[place] = 1 << bit
            worth[place, octets >> bit & 1 == 1] ^= np.uint32(crc32c(bytes(head)) ^ nothing)
    return worth, np.uint32(nothing)


#: Made once, at boot: nothing is made in the panic.
_WORTH, _NOTHING = _table()
