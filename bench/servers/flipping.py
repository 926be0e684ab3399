"""Kind ``flipping``: our servers in memory, in which one bit of the dump flips.

    station   what holds the bit                  when it flips
    memory    the server's memory                 when a message was checked, before it is written
    cache     the kernel's cache, or the disk     when it was written, before it is read back
    disk      the disk                            when the dump is complete

The bit is counted in the file, from its first octet on. It flips once; ``cache`` as soon as it is
written, so that a copy of the message does not come before. A TFTP server reads nothing back, so
there ``cache`` and ``disk`` are the same in all but time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, StrictInt

from bench.heartbeat import GIVEN_UP_S
from bench.kinds import ServerKind, SimulatedPlace, Transport
from bench.servers import DumpServer
from bench.servers.inprocess import InProcessServer
from bench.servers.ours import OurOptions
from bench.servers.tftp.folder import Upload
from bench.servers.tftp.kind import SimulatedTftp
from server.store import Store

if TYPE_CHECKING:
    from bench.scenario.schema import ResolvedCase

Station = Literal["memory", "cache", "disk"]


class FlippingOptions(OurOptions):
    """What is flipped, and what our server can be told."""

    station: Station
    """Where the bit is when it flips."""
    bit: Annotated[StrictInt, Field(ge=0)] = 0
    """Which one of the file."""
    protocol: Literal["netdump2", "tftp"] = "netdump2"
    """What it speaks."""


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


class FlippingUpload(Upload):
    """The same for TFTP."""

    def __init__(
        self, folder: Path, name: str, room: int | None, station: Station, bit: int
    ) -> None:
        super().__init__(folder, name, room)
        self._station = station
        self._place = bit // 8
        self._mask = 0x80 >> bit % 8

    def write(self, octets: bytes | memoryview) -> None:
        at = self._place - self.length
        here = 0 <= at < len(octets)
        if here and self._station == "memory":
            changed = bytearray(octets)
            changed[at] ^= self._mask
            octets = bytes(changed)
        super().write(octets)
        if here and self._station == "cache":
            self._flip()

    def finish(self) -> None:
        if self._station == "disk":
            self._flip()
        super().finish()

    def _flip(self) -> None:
        with self.path.open("r+b", buffering=0) as file:
            (octet,) = os.pread(file.fileno(), 1, self._place)
            os.pwrite(file.fileno(), bytes([octet ^ self._mask]), self._place)


def _netdump(place: SimulatedPlace, options: FlippingOptions) -> DumpServer:
    return InProcessServer(
        place.host,
        place.dumpdir,
        config=options.config(),
        fsync="none",
        disk=lambda store: FlippingStore(store, options.station, options.bit),
    )


def _tftp(place: SimulatedPlace, options: FlippingOptions) -> DumpServer:
    def upload(folder: Path, name: str, room: int | None) -> Upload:
        return FlippingUpload(folder, name, room, options.station, options.bit)

    return SimulatedTftp(place.host, place.dumpdir, upload=upload)


@dataclass(frozen=True, slots=True)
class _Protocol:
    """One that it can speak."""

    transport: Transport
    make: Callable[[SimulatedPlace, FlippingOptions], DumpServer]
    takes: frozenset[str]
    """Keys of ``OurOptions`` that mean something then."""


_PROTOCOLS: Final = {
    "netdump2": _Protocol("netdump", _netdump, frozenset(OurOptions.model_fields)),
    "tftp": _Protocol("tftp", _tftp, frozenset()),
}


def _says_nothing(key: str) -> Callable[[ResolvedCase], bool]:
    """Is it told something that its protocol has no use for?"""

    def told(case: ResolvedCase) -> bool:
        options: FlippingOptions = case.server_part.options
        return key in options.model_fields_set - _PROTOCOLS[options.protocol].takes

    return told


FLIPPING: Final = ServerKind(
    name="flipping",
    ours=True,
    says="our own servers in memory, in which one bit of the dump flips",
    options=FlippingOptions,
    simulated=lambda place, options: _PROTOCOLS[options.protocol].make(place, options),
    rules=tuple(
        (("server", key), _says_nothing(key), "says nothing to a server of this protocol")
        for key in OurOptions.model_fields
    ),
    transport=lambda options: _PROTOCOLS[options.protocol].transport,
    asks=frozenset(OurOptions.model_fields),
    patience_s=GIVEN_UP_S,
)
