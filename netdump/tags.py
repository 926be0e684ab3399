"""Tags of messages, a batch at a time (docs/netdump2.md, *Messages of an authenticated session*).

A message of an authenticated session has its tag between header and payload, and its word is 0::

     0         24     40
     | header  | tag  | payload ...

The tag is of header and payload, which lie apart on their way out; between them is where a NIC that
gathers a frame from two places can take it from. ``length`` is that of the payload alone. A message
costs one keyed hash, of which nothing is kept: no table, no state but the key.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from netdump.errors import BadTag, TooLong
from netdump.keys import TAG_SIZE
from netdump.messages import HEADER_SIZE, REASONS, Block, parse_block

#: Octets of a message before its payload.
TAGGED_HEADER_SIZE: Final = HEADER_SIZE + TAG_SIZE
_WRONG: Final = REASONS.index(BadTag.reason)
_LONG: Final = REASONS.index(TooLong.reason)


def message_tags(
    key: bytes,
    heads: NDArray[np.uint8],
    buffer: NDArray[np.uint8],
    addresses: NDArray[np.int64],
    lengths: NDArray[np.int64],
) -> NDArray[np.uint8]:
    """The tag of each message: uint8 (n, 16).

    ``heads`` uint8 (n, 24); ``buffer`` uint8, flat and contiguous, has ``lengths`` octets of each
    payload from ``addresses`` on.
    """
    view = buffer.data
    octets = heads.tobytes()
    tags = bytearray()
    spans = zip(addresses.tolist(), lengths.tolist(), strict=True)
    for at, (start, length) in enumerate(spans):
        hasher = blake3(octets[at * HEADER_SIZE : (at + 1) * HEADER_SIZE], key=key)
        hasher.update(view[start : start + length])
        tags += hasher.digest(length=TAG_SIZE)
    return np.frombuffer(tags, np.uint8).reshape(-1, TAG_SIZE)


def tagged(
    key: bytes,
    heads: NDArray[np.uint8],
    buffer: NDArray[np.uint8],
    addresses: NDArray[np.int64],
    lengths: NDArray[np.int64],
) -> NDArray[np.uint8]:
    """Headers with their tags: uint8 (n, 40). The arguments are those of ``message_tags``."""
    return np.hstack([heads, message_tags(key, heads, buffer, addresses, lengths)])


def parse_tagged(data: NDArray[np.uint8], lengths: NDArray[np.int64], key: bytes) -> Block:
    """The headers of tagged datagrams in the rows of ``data``, uint8 (n, stride).

    As ``parse_block``; a row whose tag is wrong has the reason ``tag``. The payload of a good one
    begins at column ``TAGGED_HEADER_SIZE``.
    """
    stride = data.shape[1]
    lengths = np.asarray(lengths, np.int64)
    block = parse_block(data, lengths - TAG_SIZE)
    block.reasons[lengths > stride] = _LONG
    which = np.flatnonzero(block.reasons == 0)
    if not len(which):
        return block
    flat = np.ascontiguousarray(data).reshape(-1)
    heads = data[which, :HEADER_SIZE]
    starts = which * stride + TAGGED_HEADER_SIZE
    ours = message_tags(key, heads, flat, starts, block.lengths[which])
    wrong = (ours != data[which, HEADER_SIZE:TAGGED_HEADER_SIZE]).any(axis=1)
    block.reasons[which[wrong]] = _WRONG
    return block
