"""A descriptor ring as its five registers describe it (8254x SDM 3.2.6, 3.4).

The silicon owns the descriptors from head up to, not including, tail; head == tail means none.
So a ring of n descriptors holds at most n - 1 of them for the silicon.

The manual leaves open what a head or tail beyond the ring's end does. The hardware would chase its
tail for ever; here such a ring stands still, and the engines count it, so that a run stays bounded.
"""

from __future__ import annotations

from dataclasses import dataclass

from nic_models.e1000.descriptors import SIZE


@dataclass(slots=True)
class Ring:
    """Base, length, head and tail, as last written or moved."""

    base_low: int = 0
    base_high: int = 0
    length: int = 0  # bytes
    head: int = 0
    tail: int = 0

    @property
    def base(self) -> int:
        """Physical address of descriptor 0."""
        return self.base_high << 32 | self.base_low

    @property
    def count(self) -> int:
        """Descriptors in the ring."""
        return self.length // SIZE

    def usable(self, memory_size: int) -> bool:
        """Whether an engine can run on it: it lies in memory, and head and tail lie in it."""
        count = self.length // SIZE
        return (
            self.head < count
            and self.tail < count
            and (self.base_high << 32 | self.base_low) + self.length <= memory_size
        )

    def owned(self, tail: int) -> int:
        """Descriptors from head to ``tail``; for a usable ring."""
        return (tail - self.head) % self.count
