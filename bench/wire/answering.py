"""A wire on which somebody answers ARP in a machine's name when the machine itself no longer does.

A host forgets a neighbour that it has not heard for a while (arp(7): STALE, DELAY, PROBE, FAILED),
and what it has to say to it waits, or is thrown away. So whoever sends frames in the name of a
machine that has ended must also answer the host's question where that machine is.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from bench.wire.contracts import Wire
from netdump import arp
from netdump.errors import MalformedArp
from netdump.inet import ETHERTYPE_ARP
from nic_models.frames import Frames

_ETHERTYPE: Final = np.frombuffer(ETHERTYPE_ARP.to_bytes(2, "big"), np.uint8)


class AnswersArp:
    """A ``Wire``; requests for its address are answered as they are received, and passed on."""

    def __init__(self, inner: Wire, mac: bytes, ip: bytes) -> None:
        self._inner = inner
        self._mac = mac
        self._ip = ip

    def send(self, frames: Frames) -> None:
        self._inner.send(frames)

    def receive(self) -> Frames:
        frames = self._inner.receive()
        if len(frames) and frames.data.shape[1] >= arp.FRAME_SIZE:
            for row in np.flatnonzero((frames.data[:, 12:14] == _ETHERTYPE).all(axis=1)).tolist():
                self._hear(frames.bytes_of(row), int(frames.time_ns[row]))
        return frames

    def close(self) -> None:
        self._inner.close()

    def _hear(self, frame: bytes, now_ns: int) -> None:
        try:
            asked = arp.parse(frame)
        except MalformedArp:
            return
        if asked.operation == arp.REQUEST and not arp.accepts(asked, self._mac, self._ip, ()):
            answer = arp.reply(self._mac, self._ip, asked.sender_mac, asked.sender_ip)
            self._inner.send(Frames.of([answer], now_ns))
