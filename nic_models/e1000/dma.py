"""The bus-master side of the device: its window on guest memory, and a log of what it wrote there.

A PCI device that addresses memory that nobody answers for gets a master abort; it is no exception
of ours. So the engines ask this module before they touch anything, and count what was refused.

The log answers "what did DMA write after the panic?": ranges of bytes, merged, so that it stays
as small as the set of distinct places, however long the run.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from nic_models.e1000.descriptors import SIZE, view

#: Ranges that may pile up, beyond twice the merged set, before they are merged again.
_SLACK: Final = 4096


class DmaPort:
    """Guest memory as the device sees it; index = physical address."""

    def __init__(self, memory: NDArray[np.uint8]) -> None:
        """``memory``: uint8, flat, C-contiguous, writable.

        Raises:
            ValueError: it is something else.
        """
        if memory.dtype != np.uint8 or memory.ndim != 1 or not memory.flags.c_contiguous:
            raise ValueError(
                f"DMA memory must be a flat contiguous uint8 array, not {memory.dtype} of shape"
                f" {memory.shape}: pass the machine's buffer itself"
            )
        if not memory.flags.writeable:
            raise ValueError("DMA memory is read-only: pass the machine's writable buffer")
        self.array: Final = memory
        self.bytes: Final = memory.data  # slices of it cost a fifth of numpy's
        self.size: Final = memory.size
        self.bytes_written = 0
        self._ranges: list[tuple[int, int]] = []
        self._merge_at = _SLACK

    def descriptors(self, base: int, first: int, count: int, face: np.dtype[Any]) -> NDArray[Any]:
        """``count`` descriptors of the ring at ``base`` from ``first``; the caller has checked."""
        return view(self.array, base + first * SIZE, count, face)

    def note_writes(self, ranges: Iterable[tuple[int, int]], total: int) -> None:
        """Remember that ``[start, end)`` of each range was written, ``total`` bytes in all."""
        self._ranges.extend(ranges)
        self.bytes_written += total
        if len(self._ranges) > self._merge_at:
            self._ranges = _merged(self._ranges)
            self._merge_at = 2 * len(self._ranges) + _SLACK

    def writes(self) -> list[tuple[int, int]]:
        """Every place written since ``forget_writes``: disjoint [start, end), in order."""
        self._ranges = _merged(self._ranges)
        return list(self._ranges)

    def forget_writes(self) -> None:
        """Start the log anew, at the panic instant for example."""
        self._ranges = []
        self._merge_at = _SLACK
        self.bytes_written = 0


def _merged(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    if not ranges:
        return []
    pairs = np.array(ranges, np.int64)
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
    reach = np.maximum.accumulate(pairs[:, 1])
    opens = np.flatnonzero(np.concatenate(([True], pairs[1:, 0] > reach[:-1])))
    starts = pairs[opens, 0].tolist()
    ends = reach[np.append(opens[1:], len(pairs)) - 1].tolist()
    return list(zip(starts, ends, strict=True))
