"""Parts that do nothing by themselves, for tests of what they are plugged into."""

from __future__ import annotations

from nic_models.frames import Frames
from nic_models.narrow import DwordRegisters


class IdleSilicon(DwordRegisters):
    """A ``Silicon`` without registers, memory or wire; a test overrides what it is about."""

    def read32(self, offset: int) -> int:
        return 0

    def write32(self, offset: int, value: int) -> None: ...

    def power_on(self) -> None: ...

    def transmit(self, now_ns: int) -> Frames:
        return Frames.empty()

    def deliver(self, frames: Frames) -> None: ...

    def settle(self, at_most_s: float = 0.0) -> bool:
        return True

    def await_interrupt(self) -> None: ...

    def machine_died(self) -> None: ...

    def reach(self) -> list[tuple[int, int]]:
        return []
