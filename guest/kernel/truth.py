"""The truth: what memory held at the instant of the panic, by physical address.

Everything is judged by it, so it can't be written to by accident: what is read of it is read-only.
One thing alone may change it. Until the panic path has stopped the NIC, the NIC writes to memory by
itself, and what it wrote is dumped as it is: that is ``accept``-ed, and named in the verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from guest.kernel.mapping import Mapping


class TruthUnknown(Exception):
    """It was asked about memory that is none of its own, or after it was released: a defect."""


class Truth:
    """Stretches of memory that were kept; a comparison goes through them by windows."""

    def __init__(
        self, blocks: Sequence[tuple[int, NDArray[np.uint8]]], memory: Mapping | None = None
    ) -> None:
        """``blocks``: (physical address, contents), writable, the truth's own from now on. They
        lie in ``memory``, if it is to be given back.
        """
        self._blocks: Final = list(blocks)
        self._memory = memory

    def read(self, start: int, end: int) -> NDArray[np.uint8]:
        """Memory from ``start`` to ``end``, uint8, read-only, no copy.

        Raises:
            TruthUnknown: it is not all of one block.
        """
        for address, block in self._blocks:
            if address <= start and end <= address + len(block):
                found = block[start - address : end - address]
                found.flags.writeable = False
                return found
        raise TruthUnknown(f"what memory held from {start:#x} to {end:#x} was not kept")

    def accept(self, start: int, end: int, buffer: NDArray[np.uint8]) -> None:
        """From ``start`` to ``end``, as far as it was kept, what ``buffer`` holds there is true.

        ``buffer``: index = physical address.
        """
        for address, block in self._blocks:
            first, last = max(start, address), min(end, address + len(block))
            if first < last:
                block[first - address : last - address] = buffer[first:last]

    def release(self) -> None:
        """Give its memory back. What was read of it is good for nothing from now on."""
        self._blocks.clear()
        if self._memory is not None:
            self._memory.release()
