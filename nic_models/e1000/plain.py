"""The ordinary case, at once: what ordinary drivers ask for, in a few numpy calls a batch.

``fetch`` and ``rx`` say what the silicon does, descriptor by descriptor, whatever a driver wrote.
Nearly all that they meet is *plain*, and there the same can be done for a whole batch. So each of
them first asks this module for the plain beginning of what lies ahead, and does the rest itself;
that the two ways do the same, to the last byte, is tested by doing everything both ways.

Plain, transmitting: data at an address in memory, IFCS at the frame's end, no DEXT, no IC, a frame
no longer than allowed, all of it fetched at once. Plain, receiving: one buffer a frame, in memory,
large enough, and no two of them overlapping.

A batch has few different lengths. A batch with many is not worth it and counts as odd.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from nic_models.e1000.descriptors import TX_CMD
from nic_models.frames import Frames

#: Shorter batches cost less one by one.
FEWEST: Final = 4
#: Different stretches (place in the frame, length) of a batch.
_SHAPES: Final = 12

_EOP: Final = int(TX_CMD.EOP)
_IFCS: Final = int(TX_CMD.IFCS)
_ODD: Final = int(TX_CMD.DEXT | TX_CMD.IC)


def odd_descriptors(memory: NDArray[np.uint8], block: NDArray[Any]) -> NDArray[np.bool_]:
    """Which descriptors of a block (``TX_READ``) are not plain."""
    command, address, lengths = block["cmd"], block["address"], block["length"]
    odd: NDArray[np.bool_] = (address == 0) | (lengths == 0) | (command & _ODD != 0)
    odd |= (command & _EOP != 0) & (command & _IFCS == 0)
    return odd | _outside(memory, address, lengths)


def plain_frames(
    memory: NDArray[np.uint8], block: NDArray[Any], longest: int, room: int, shortest: int
) -> tuple[Frames, int]:
    """The whole plain frames at the beginning of a block of transmit descriptors (``TX_READ``).

    No frame is longer than ``longest`` bytes. Each finds its bytes of the ``room``, of which those
    before it took ``shortest`` at least. Returns them as their descriptors have them, unpadded and
    without a time, and how many descriptors that were.
    """
    lengths = block["length"].astype(np.int64)
    address = block["address"]
    odd = odd_descriptors(memory, block)
    ends = block["cmd"] & _EOP != 0
    last = np.flatnonzero(ends)  # of each frame
    fetched = np.cumsum(lengths)
    sizes = np.diff(fetched[last], prepend=0)
    taken = np.maximum(sizes, shortest)
    fine = (np.cumsum(taken) - taken + sizes <= room) & (sizes <= longest)
    if odd.any():
        fine &= last < odd.argmax()
    count = len(last) if fine.all() else int(fine.argmin())
    if count < FEWEST:
        return Frames.empty(), 0
    used = int(last[count - 1]) + 1
    starts = np.concatenate(([0], last[: count - 1] + 1))
    row = np.repeat(np.arange(count), last[:count] + 1 - starts)
    column = fetched[:used] - lengths[:used] - (fetched[starts] - lengths[starts])[row]
    shapes = column << 16 | lengths[:used]
    kinds = np.unique(shapes)
    if len(kinds) > _SHAPES:
        return Frames.empty(), 0
    data = np.empty((count, int(sizes[:count].max())), np.uint8)
    where = address[:used].astype(np.int64)
    for kind in kinds.tolist():
        which = np.flatnonzero(shapes == kind)
        at, length = kind >> 16, kind & 0xFFFF
        data[row[which], at : at + length] = _everywhere(memory, length)[where[which]]
    return Frames(data, sizes[:count], np.zeros(count, np.int64)), used


def plain_store(
    memory: NDArray[np.uint8],
    addresses: NDArray[np.uint64],
    data: NDArray[np.uint8],
    lengths: NDArray[np.int64],
) -> bool:
    """Store the first ``lengths[i]`` bytes of row i of ``data`` at ``addresses[i]``.

    False, and nothing is done, if that is not plain.
    """
    kinds = np.unique(lengths)
    if len(kinds) > _SHAPES or not addresses.all():
        return False
    if _outside(memory, addresses, lengths).any():
        return False
    where = addresses.astype(np.int64)
    order = np.argsort(where, kind="stable")
    if (where[order][:-1] + lengths[order][:-1] > where[order][1:]).any():
        return False
    for length in kinds.tolist():
        which = np.flatnonzero(lengths == length)
        _everywhere(memory, length)[where[which]] = data[which, :length]
    return True


def _outside(
    memory: NDArray[np.uint8], addresses: NDArray[np.uint64], lengths: NDArray[Any]
) -> NDArray[np.bool_]:
    """Which stretches do not lie in memory as a whole; addresses may be anything."""
    size = np.uint64(memory.size)
    outside: NDArray[np.bool_] = addresses > size
    return outside | (addresses + lengths.astype(np.uint64) > size)


def _everywhere(memory: NDArray[np.uint8], length: int) -> NDArray[np.uint8]:
    """Row a is what lies at address a: the rows overlap, nothing is copied."""
    return np.ndarray((memory.size - length + 1, length), np.uint8, memory, 0, (1, 1))
