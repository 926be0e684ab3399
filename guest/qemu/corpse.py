"""A crashed guest of QEMU's, as the panic path and the judge see it.

The panic path is ours and runs outside, so its locks, its buffers and its arena are kept here; what
is the guest's own is its memory and the truth about it.
"""

from __future__ import annotations

from collections.abc import Callable

from guest.kernel.corpse import Corpse
from guest.kernel.guard import PanicGuard
from guest.kernel.truth import Truth
from guest.qemu.coredump import CoreDump
from guest.qemu.guest import QemuGuest


class GuestCorpse(Corpse):
    """Made when the guest stands still; from then on the panic contract holds."""

    def __init__(
        self,
        guest: QemuGuest,
        truth: CoreDump,
        *,
        panic_mbufs: int,
        delay_us: Callable[[int], None],
    ) -> None:
        """``truth``: memory at the panic instant."""
        guard = PanicGuard()
        super().__init__(
            guest.memory(guard),
            guard,
            cpus=guest.cpus,
            mbufs=panic_mbufs,
            panic_mbufs=panic_mbufs,
            delay_us=delay_us,
        )
        self._segments = guest.segments()
        blocks = [(start, truth.read(start, length)) for start, length in self._segments]
        self.truth = Truth(blocks, truth.memory)
        guard.arm()

    def dump_segments(self) -> list[tuple[int, int]]:
        return list(self._segments)
