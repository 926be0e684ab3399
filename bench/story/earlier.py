"""A dump before the dump: a small one, of the same client to the same server, with the same key.

It is what somebody has recorded who replays it later. The machine is not there yet, so the client
works on a memory of its own, and sends its frames by itself: ``WireNic`` is a NIC of which nothing
is modelled but that it carries frames. Its server lives on, and has that dump in its folder.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from typing import Final

import numpy as np

from bench.wire.contracts import Direction, Wire
from guest.kernel.memory import PhysicalMemory
from netdump.client import DumpRequest, NetdumpClient
from netdump.contracts import Event, TxBatch
from netdump.dumper import DumpImage
from netdump.dumpon import KernelCrypto
from netdump.kdh import KernelDumpHeader
from netdump.profiles import Profile
from netdump.udplink import LinkConfig
from nic_models.frames import Frames

#: Of that dump's memory, and of the arena, octets.
MEMORY: Final = 64 << 10
_ARENA: Final = 2 << 20

#: All that went to the server, and to the client.
Recorded = dict[Direction, list[bytes]]


class WireNic:
    """debugnet's methods over a wire; it records what passes."""

    def __init__(self, wire: Wire, mac: bytes, mtu: int, memory: PhysicalMemory) -> None:
        self.mac = mac
        self.mtu = mtu
        self.recorded: Recorded = {"to-server": [], "to-client": []}
        self._wire = wire
        self._memory = memory.buffer

    def link_up(self) -> bool:
        return True

    def event(self, what: Event) -> None:
        """Nothing is taken over, and nothing given back."""

    def transmit(self, batch: TxBatch) -> int:
        frames = [
            batch.headers[row, : int(batch.header_lengths[row])].tobytes()
            + self._memory[at : at + length].tobytes()
            for row, (at, length) in enumerate(
                zip(batch.payload_addresses.tolist(), batch.payload_lengths.tolist(), strict=True)
            )
        ]
        self.recorded["to-server"] += frames
        self._wire.send(Frames.of(frames))
        return len(frames)

    def poll(self, budget: int) -> Frames:
        heard = self._wire.receive().take(slice(0, budget))
        self.recorded["to-client"] += [heard.bytes_of(row) for row in range(len(heard))]
        return heard


class _Enough:
    """A supply of buffers that has no end."""

    def take(self, _count: int) -> bool:
        return True

    def give(self, _count: int) -> None:
        return


def dump_before(
    wire: Wire,
    mac: bytes,
    mtu: int,
    profile: Profile,
    link: LinkConfig,
    key: bytes | None,
    crypto: KernelCrypto | None,
    seed: int,
    delay_us: Callable[[int], None],
) -> Recorded:
    """Play it to its end, and give what passed. Raises RuntimeError if it was not taken."""
    memory = PhysicalMemory(MEMORY, _ARENA)
    memory.buffer[:MEMORY] = np.random.default_rng([seed, 0xEA]).integers(0, 256, MEMORY, np.uint8)
    image = DumpImage(memory, [(4096, MEMORY - 4096)])
    nic = WireNic(wire, mac, mtu, memory)
    draw = blake2b(f"an earlier dump {seed}".encode(), digest_size=12).digest()
    request = DumpRequest(
        link,
        KernelDumpHeader(image.length, hostname="victim", panicstring="an earlier panic"),
        draw=int.from_bytes(draw[:4], "big"),
        nonce=draw[4:],
        key=key,
        crypto=crypto,
    )
    report = NetdumpClient(profile, memory, image).dump(
        request, nic, _Enough(), delay_us, lambda *_what, **_evidence: None
    )
    if not report.claims_success:
        raise RuntimeError(f"the dump before the dump was not taken: {report.detail}")
    return nic.recorded
