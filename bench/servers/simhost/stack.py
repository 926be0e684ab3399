"""The network stack of a simulated host: what it does with a frame.

    frame                           what is done                                     where
    ARP                             learnt from, answered                            ``neighbours``
    ICMP echo request to us         answered                                         ``icmp``
    UDP to a port with a socket     delivered                                        ``sockets``
    UDP to any other                ICMP port unreachable, as often as is allowed    ``icmp``
    all else                        dropped silently, counted by reason

A frame is believed if its MAC is ours and its IPv4 header and UDP checksum are right. Frames are
worked on at the moment they arrived, and answers carry that time on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bench.servers.simhost.config import HostConfig, HostCounts
from bench.servers.simhost.icmp import ICMP, RateLimit, echo_reply, port_unreachable
from bench.servers.simhost.neighbours import Neighbours
from bench.servers.simhost.sockets import Datagrams
from bench.wire.contracts import MINIMUM_FRAME, Wire
from bench.wire.kinds import leading_words
from netdump import arp
from netdump.checksum import row_sums
from netdump.errors import MalformedArp
from netdump.inet import UDP, Checks, Expect, Flow, classify_and_validate, udp_headers
from nic_models.frames import Frames

TTL: Final = 64
_CHECKS: Final = Checks(reject_options=False)

#: ``(port, datagrams)``: False if no socket there hears that sender.
Deliver = Callable[[int, Datagrams], bool]


class Stack:
    """ARP, IPv4, ICMP and UDP of one host."""

    def __init__(
        self,
        wire: Wire,
        config: HostConfig,
        counts: HostCounts,
        open_ports: Callable[[], list[int]],
        deliver: Deliver,
    ) -> None:
        """``open_ports``: those of the host at which there is a socket now."""
        self._mac = config.mac
        self._ip = config.address
        self._ours = (config.address, config.arp_address)
        self._counts = counts
        self._open_ports = open_ports
        self._deliver = deliver
        self._neighbours = Neighbours(wire, config)
        self._errors = RateLimit()
        self.pin = self._neighbours.pin
        """A permanent entry of the ARP table."""

    # --- what comes in ----------------------------------------------------------------------------

    def hear(self, frames: Frames) -> None:
        """One or more frames off the wire."""
        words = leading_words(frames, 19)
        is_arp = (words[:, 6] == 0x0806) & (frames.lengths >= arp.FRAME_SIZE)
        for i in np.flatnonzero(is_arp).tolist():
            try:
                self._neighbours.hear(frames.bytes_of(i), int(frames.time_ns[i]))
            except MalformedArp as error:
                self._counts.refused[error.reason] += 1
        rest, words = (frames.take(~is_arp), words[~is_arp]) if is_arp.any() else (frames, words)
        is_icmp = (words[:, 6] == 0x0800) & (words[:, 11] & 0xFF == ICMP)
        if is_icmp.any():
            rest, words = self._hear_icmp(rest, words, is_icmp)
        for which, sender in _senders(words):
            some = rest.take(which) if len(which) < len(rest) else rest
            self._hear_udp(some, sender, words[which, 18].astype(np.int64))

    def _hear_icmp(
        self, frames: Frames, words: NDArray[np.uint16], is_icmp: NDArray[np.bool_]
    ) -> tuple[Frames, NDArray[np.uint16]]:
        """Answer the echo requests; the frames that are none, and their leading words."""
        rest = np.ones(len(frames), np.bool_)
        for i in np.flatnonzero(is_icmp).tolist():
            frame = frames.bytes_of(i)
            answer = echo_reply(frame, self._mac, self._ours, TTL)
            if answer is not None:
                rest[i] = False
                padded = Frames.of([answer.ljust(MINIMUM_FRAME, b"\0")], int(frames.time_ns[i]))
                self._neighbours.send(frame[26:30], padded)
        return frames.take(rest), words[rest]

    def _hear_udp(self, frames: Frames, sender: bytes, ports: NDArray[np.int64]) -> None:
        """UDP of one sender (or what claims to be), and the port that each frame is for."""
        expect = Expect(self._mac, self._ip, sender, ports)
        verdict = classify_and_validate(frames.data, frames.lengths, expect, _CHECKS)
        for reason, count in verdict.refused.items():
            self._counts.refused[reason] += count
        good = np.flatnonzero(verdict.kind == UDP)
        heard = np.isin(ports[good], self._open_ports())
        if not heard.all():
            self._unreachable(frames.take(good[~heard]), sender)
            good = good[heard]
        # One form nearly always; a crafted batch may have one a frame.
        forms = np.stack([ports, verdict.payload_start, verdict.source_port], axis=1)[good]
        for which, (port, start, source_port) in _alike(forms):
            some = frames.take(good[which])
            datagrams = Datagrams(
                (sender, source_port),
                some.data[:, start:],
                verdict.payload_length[good[which]],
                some.time_ns.copy(),
            )
            if not self._deliver(port, datagrams):
                self._unreachable(some, sender)

    def _unreachable(self, frames: Frames, sender: bytes) -> None:
        """Tell the sender, as often as the rate limit lets it."""
        self._counts.unreachable += len(frames)
        for i, time_ns in enumerate(frames.time_ns.tolist()):
            if self._errors.allows(sender, time_ns):
                error = port_unreachable(frames.bytes_of(i), self._mac, self._ip, sender, TTL)
                self._neighbours.send(sender, Frames.of([error], time_ns))

    # --- what goes out ----------------------------------------------------------------------------

    def send(
        self,
        port: int,
        client: tuple[bytes, int],
        payloads: NDArray[np.uint8],
        time_ns: NDArray[np.int64],
    ) -> None:
        """UDP from one of our ports: payloads, uint8 (n, octets), and when each leaves."""
        ip, client_port = client
        flow = Flow(self._mac, bytes(6), self._ip, ip, port, client_port)
        count, octets = payloads.shape
        lengths = np.full(count, octets, np.int64)
        sums = row_sums(payloads, np.zeros(count, np.int64), lengths)
        heads = udp_headers(flow, payloads[:, :0], sums, lengths, ttl=TTL)
        rows = np.hstack((heads, payloads))
        rows = np.pad(rows, ((0, 0), (0, max(0, MINIMUM_FRAME - rows.shape[1]))))
        self._neighbours.send(ip, Frames(rows, np.full(len(rows), rows.shape[1]), time_ns))


def _senders(words: NDArray[np.uint16]) -> Iterator[tuple[NDArray[np.intp], bytes]]:
    """Rows by IP source, in the order of their first frames."""
    for rows, (high, low) in _alike(words[:, 13:15]):
        yield rows, (high << 16 | low).to_bytes(4, "big")


def _alike(forms: NDArray[Any]) -> Iterator[tuple[NDArray[np.intp], tuple[int, ...]]]:
    """Rows that are equal, and what they are, in the order of the first of each."""
    if not len(forms):
        return
    if (forms == forms[0]).all():
        yield np.arange(len(forms)), tuple(forms[0].tolist())
        return
    places: dict[tuple[int, ...], list[int]] = {}
    for row, form in enumerate(map(tuple, forms.tolist())):
        places.setdefault(form, []).append(row)
    for form, rows in places.items():
        yield np.array(rows), form
