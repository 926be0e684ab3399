"""What a wire is. Middleware wraps a wire and is a wire: ``Bystanders(Faults(Tap(...)))``.

Seen from the machine: ``send`` is what its NIC transmits ("to-server"), ``receive`` what its NIC
hears ("to-client"). Frames that were handed to a wire belong to it: the sender does not change
their arrays afterwards, and neither does a wire, for a capture may still hold them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from nic_models.frames import Frames

Direction = Literal["to-server", "to-client"]

#: ``observer(direction, frames, notes)``: frames as they entered a stage of the wire, and what the
#: stage did to some of them: index in the batch -> one line of text.
Observer = Callable[[Direction, Frames, Mapping[int, str]], None]

#: Ethernet's smallest frame without FCS. A sender's NIC pads to it, so no receiver hears less.
MINIMUM_FRAME = 60


class Wire(Protocol):
    """One end of a link that carries Ethernet frames."""

    def send(self, frames: Frames) -> None:
        """Put frames on the wire, in order. Never blocks."""
        ...

    def receive(self) -> Frames:
        """Whatever has arrived by now and was not received before, in order. Never blocks."""
        ...

    def close(self) -> None:
        """Take the wire down; twice is harmless."""
        ...


@dataclass(frozen=True, slots=True)
class Capability:
    """Whether this machine can do something, found out by doing it."""

    ok: bool
    why: str
    """What was tried, and what came of it."""
    cure: str = ""
    """What would make it work; empty when it works."""


class WireError(Exception):
    """The wire itself failed (our side of it, not the peer)."""
