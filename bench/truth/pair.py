"""The two devices, seen through one interface: registers, memory, wire, what is compared.

Ours is a model on a numpy array. The other is QEMU's device (``theirs``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from nic_models.differential.contract import Differential, OtherDevice
from nic_models.differential.pc import MAC
from nic_models.frames import Frames

#: The name under which the level of the interrupt line is compared.
LINE: Final = "line"


class Wired(Protocol):
    """Either of the two, besides its registers."""

    memory: NDArray[np.uint8]
    """Flat uint8; index = physical address."""

    def arrive(self, frames: Sequence[bytes]) -> None:
        """From the wire to the card, in one batch."""
        ...

    def link(self, up: bool) -> None:
        """Plug the cable in, or pull it."""
        ...

    def look(self) -> dict[str, int]:
        """What is compared after every step: the values that the family watches, and the line."""
        ...

    def sent(self) -> list[bytes]:
        """What has left since it was last asked for."""
        ...


class Counterpart(Wired, OtherDevice, Protocol):
    """What the rig holds our model against."""

    clean: bool
    """Whether ``renew`` need not begin anew: no frame is held back, no difference was found."""

    def renew(self) -> None:
        """As after power-on; memory is anybody's guess."""
        ...

    def heard(self) -> bool:
        """Whether it has taken in all that came by the wire, after a bounded wait."""
        ...


class _Line:
    level = False

    def set(self, level: bool) -> None:
        self.level = level


class Ours:
    """Our model, on an infinitely fast wire; a ``Wired``."""

    def __init__(self, of: Differential, memory: NDArray[np.uint8]) -> None:
        self.memory = memory
        self._line = _Line()
        self._watched = of.watched
        self.model = of.model(memory, MAC, self._line)

    def arrive(self, frames: Sequence[bytes]) -> None:
        self.model.deliver(Frames.of(frames))

    def link(self, up: bool) -> None:
        self.model.set_link(up)

    def look(self) -> dict[str, int]:
        seen = {watched.name: watched.ours(self.model) for watched in self._watched}
        return {**seen, LINE: int(self._line.level)}

    def sent(self) -> list[bytes]:
        """What a register write made it send waits for this call."""
        frames = self.model.transmit(0)
        return [frames.bytes_of(i) for i in range(len(frames))]
