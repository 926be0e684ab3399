"""Two supplies of network buffers.

``OrdinaryMbufs`` is the kernel's allocator: it may take locks, call the VM system or sleep, none of
which a panic allows, and it may simply be empty. A driver that asks it in a panic is recorded, and
gets its buffers all the same: the real kernel would not stop it either, until the day it does.

``PanicPool`` is filled in good times (FreeBSD: the debugnet pool, sys/kern/kern_mbuf.c) and has
nowhere to turn to when it is empty. Its high-water mark tells how large it had to be.

Buffers are only counted. Giving back what was never taken is a defect of the caller, and raises.
"""

from __future__ import annotations

from guest.kernel.guard import PanicGuard


class MbufAccounting(Exception):
    """More buffers were given back than were ever taken from this supply."""


class _Supply:
    """A counted supply."""

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        self.size = size
        self.in_use = 0
        self.high_water = 0
        """The most that were out at any one time."""
        self.refused = 0
        """Requests that found too few."""

    def take(self, count: int) -> bool:
        """All ``count``, or none and False."""
        if count > self.size - self.in_use:
            self.refused += 1
            return False
        self.in_use += count
        self.high_water = max(self.high_water, self.in_use)
        return True

    def give(self, count: int) -> None:
        """Give ``count`` back.

        Raises:
            MbufAccounting: they were not taken here.
        """
        if count > self.in_use:
            raise MbufAccounting(
                f"{count} buffers given back to {self.name}, of which only {self.in_use} are out:"
                " give each back once, to the supply it came from"
            )
        self.in_use -= count


class OrdinaryMbufs(_Supply):
    """The allocator of ordinary life."""

    def __init__(self, size: int, guard: PanicGuard) -> None:
        super().__init__("the ordinary allocator", size)
        self._guard = guard
        self._starved = False

    def starve(self) -> None:
        """From now on there is none left, whatever is given back: others take it at once."""
        self._starved = True

    def take(self, count: int) -> bool:
        """As ``_Supply.take``; in a panic it breaks the contract, whether it succeeds or not."""
        self._guard.report("ordinary-allocation", f"{count} mbufs from the ordinary allocator")
        if self._starved:
            self.refused += 1
            return False
        return super().take(count)


class PanicPool(_Supply):
    """What was set aside for the panic."""

    def __init__(self, size: int) -> None:
        super().__init__("the panic pool", size)
