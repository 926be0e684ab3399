"""Registers of 32 bits and nothing else, as most NICs have them."""

from __future__ import annotations


class NarrowAccess(ValueError):
    """An access that the card's manual does not define."""


class DwordRegisters:
    """Refuses the accesses that are narrower."""

    def read8(self, offset: int) -> int:
        raise NarrowAccess(f"a read of 8 bits at {offset:#x}: registers are of 32 bits here")

    def read16(self, offset: int) -> int:
        raise NarrowAccess(f"a read of 16 bits at {offset:#x}: registers are of 32 bits here")

    def write8(self, offset: int, value: int) -> None:
        raise NarrowAccess(f"a write of 8 bits at {offset:#x}: registers are of 32 bits here")

    def write16(self, offset: int, value: int) -> None:
        raise NarrowAccess(f"a write of 16 bits at {offset:#x}: registers are of 32 bits here")
