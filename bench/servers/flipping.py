"""Kind ``flipping``: our server in memory, in which one bit of the dump flips.

    station   what holds the bit                  when it flips
    memory    the server's memory                 when a message was checked, before it is written
    cache     the kernel's cache, or the disk     when it was written, before it is read back
    disk      the disk                            when the dump is complete

The bit is counted in the file, from its first octet on. It flips once; ``cache`` as soon as it is
written, so that a copy of the message does not come before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, StrictInt

from bench.heartbeat import GIVEN_UP_S
from bench.kinds import ServerKind, SimulatedPlace
from bench.servers.inprocess import InProcessServer
from bench.servers.ours import OurOptions
from server.store import Store

Station = Literal["memory", "cache", "disk"]


class FlippingOptions(OurOptions):
    """What is flipped, and what our server can be told."""

    station: Station
    """Where the bit is when it flips."""
    bit: Annotated[StrictInt, Field(ge=0)] = 0
    """Which one of the file."""


class FlippingStore:
    """A ``Store`` that keeps all but one bit."""

    def __init__(self, inner: Store, station: Station, bit: int) -> None:
        self._inner = inner
        self._station = station
        self._place = bit // 8
        self._mask = 0x80 >> bit % 8
        self._done = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def write(self, offset: int, blocks: Sequence[NDArray[np.uint8]]) -> None:
        size = sum(block.size for block in blocks)
        here = not self._done and offset <= self._place < offset + size
        if here and self._station == "memory":
            octets = np.concatenate([block.reshape(-1) for block in blocks])
            octets[self._place - offset] ^= self._mask
            blocks = [octets]
            self._done = True
        self._inner.write(offset, blocks)
        if here and self._station == "cache":
            self._flip()

    def seal(self) -> None:
        if self._station == "disk":
            self._flip()
        self._inner.seal()

    def _flip(self) -> None:
        if self._done:
            return
        self._done = True
        octet = np.frombuffer(self._inner.read(self._place, 1), np.uint8) ^ self._mask
        self._inner.write(self._place, [octet.astype(np.uint8)])


def _simulated(place: SimulatedPlace, options: FlippingOptions) -> InProcessServer:
    return InProcessServer(
        place.host,
        place.dumpdir,
        config=options.config(),
        fsync="none",
        disk=lambda store: FlippingStore(store, options.station, options.bit),
    )


FLIPPING: Final = ServerKind(
    name="flipping",
    ours=True,
    says="our own server in memory, in which one bit of the dump flips",
    options=FlippingOptions,
    simulated=_simulated,
    asks=frozenset(OurOptions.model_fields),
    patience_s=GIVEN_UP_S,
)
