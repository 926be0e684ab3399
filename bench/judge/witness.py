"""What a witness on the wire is, whatever protocol it listens to.

It sees every frame before any fault touches it, so it knows what the server *said*, not what
reached the client, and what the client *meant*, not what arrived. It shares no state with either:
the oracle "ack means kept" rests on this evidence alone.

What goes over the wire in one piece is a *message*: with netdump named by its sequence number, with
TFTP by the number of its block, as if blocks were never counted over. All that the judge asks is
asked in these names. One implementation a protocol: ``WITNESSES``, by what the server says that it
speaks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from bench.judge.watch import NetdumpWatch
from bench.judge.watch_tftp import TftpWatch
from bench.servers import ServerProtocol
from bench.wire.contracts import Direction
from nic_models.frames import Frames


class Witness(Protocol):
    """Observes both directions from the panic on."""

    @property
    def frames(self) -> int:
        """Frames seen in both directions."""
        ...

    @property
    def data_bytes(self) -> int:
        """Bytes of dump sent, repeats included."""
        ...

    @property
    def latest_acks(self) -> NDArray[np.int64]:
        """int64: the messages that must be on the disk by now, and need not have been before the
        latest batch from the server: those that it acknowledged. With TFTP those but the latest."""
        ...

    @property
    def never_sent(self) -> int:
        """Acks from the server that named a message which nobody had sent."""
        ...

    @property
    def pieces(self) -> int:
        """Frames to the server that it can't read (``kinds.are_pieces``)."""
        ...

    @property
    def first(self) -> str:
        """What the first message of a dump is called: ``a HERALD``."""
        ...

    @property
    def selective(self) -> bool:
        """An ack of one message may answer for others, too."""
        ...

    def observe(self, direction: Direction, frames: Frames, notes: Mapping[int, str]) -> None: ...

    def acknowledged(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(offsets, lengths), int64, of the dump bytes that the server acknowledged."""
        ...

    def acknowledged_key(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The same of the key block of an encrypted dump."""
        ...

    def extent(self, message: int) -> tuple[int, int] | None:
        """(offset, length) of the dump bytes that a message carried; None if it carried none."""
        ...

    def history(self, offset: int) -> str:
        """What became of the frame that carried byte ``offset`` of the dump, in words."""
        ...

    def notes(self) -> list[str]:
        """What else is worth telling of what was said, a sentence each."""
        ...

    def sample(self) -> dict[int, bytes]:
        """Messages that the server has acknowledged, the first of the run before all: what a
        replay sends again."""
        ...

    def answered(self, frames: Frames, messages: set[int]) -> set[int]:
        """Those of the messages that some frame of a batch acknowledges."""
        ...


#: ``(client's MAC, server's or gateway's MAC)`` -> a witness, by ``DumpServer.protocol``.
WITNESSES: Final[Mapping[ServerProtocol, Callable[[bytes, bytes], Witness]]] = {
    "stock": NetdumpWatch,
    "netdump2": NetdumpWatch,
    "tftp": TftpWatch,
}
