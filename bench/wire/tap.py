"""A TAP: our end is a file descriptor, the other end is an interface of a real kernel.

Frames pass with a virtio-net header, for super-frames (``superframe.py``) where the kernel knows
UDP segmentation offload (Linux 6.2). Nothing blocks: reads end when the queue is empty or the batch
full, and a write that finds no room is tried again a few times, then dropped and counted.
"""

from __future__ import annotations

import errno
import os
import socket
from dataclasses import replace
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.clock import Clock, RealClock
from bench.wire.contracts import MINIMUM_FRAME, Capability, WireError
from bench.wire.namespace import Namespace, open_namespace
from bench.wire.segment import Segment, TapError, configure, offer_super_frames, open_tap, open_tun
from bench.wire.superframe import (
    MAX_PACKET,
    VNET_DTYPE,
    VNET_HEADER,
    complete_checksums,
    merge,
    mergeable_runs,
    split,
)
from nic_models.frames import Frames

#: Frames that one receive hands over at most.
RECEIVE_BATCH: Final = 512
WRITE_TRIES: Final = 8

_SLOT: Final = 2048
_AT: Final = VNET_HEADER.size
_PLAIN: Final = bytes(_AT)


class InterfaceDown(TapError):
    """The kernel's end of the TAP is down: nothing can be sent."""


class TapWire:
    """The machine's end of a TAP; a ``Wire`` for one thread."""

    def __init__(self, fd: int, clock: Clock, *, superframes: bool) -> None:
        """``fd``: a TAP with IFF_VNET_HDR and O_NONBLOCK, which is ours from now on."""
        self.dropped = 0
        """Frames given up after ``WRITE_TRIES`` writes that found no room."""
        self.refused = 0
        """Frames that the kernel does not take at all: shorter than an Ethernet header."""
        self.superframes = superframes
        self._fd = fd
        self._clock = clock
        self._out = bytearray(_AT + 14 + MAX_PACKET)
        self._out_view = memoryview(self._out)
        self._rows: NDArray[np.uint8] = np.zeros((RECEIVE_BATCH, _SLOT), np.uint8)
        self._overflow = memoryview(bytearray(_AT + 14 + MAX_PACKET))
        arena = self._rows.reshape(-1).data
        self._slots = [
            [arena[at : at + _SLOT], self._overflow]
            for at in range(0, RECEIVE_BATCH * _SLOT, _SLOT)
        ]

    @classmethod
    def open(
        cls,
        namespace: Namespace,
        segment: Segment,
        clock: Clock,
        *,
        superframes: bool = True,
    ) -> TapWire:
        """Make the TAP in the namespace and bring its interface up as the segment says."""
        fd, name = namespace.run(open_tap, segment.name)
        try:
            superframes = superframes and offer_super_frames(fd)
            namespace.run(configure, replace(segment, name=name))
        except BaseException:
            os.close(fd)
            raise
        return cls(fd, clock, superframes=superframes)

    def fileno(self) -> int:
        """For select: readable when a frame waits."""
        return self._fd

    def send(self, frames: Frames) -> None:
        if not len(frames):
            return
        runs = mergeable_runs(frames) if self.superframes else [(0, len(frames))]
        data = np.ascontiguousarray(frames.data)
        stride = data.shape[1]
        flat = data.reshape(-1).data
        lengths = frames.lengths.tolist()
        for start, stop in runs:
            if self.superframes and stop - start > 1 and self._write_merged(frames, start, stop):
                continue
            for i in range(start, stop):
                at = i * stride
                self._write([_PLAIN, flat[at : at + lengths[i]]], 1)

    def receive(self) -> Frames:
        sizes: list[int] = []
        spilled: dict[int, bytes] = {}
        fd, slots = self._fd, self._slots
        try:
            while len(sizes) < RECEIVE_BATCH:
                size = os.readv(fd, slots[len(sizes)])
                if size > _SLOT:
                    spilled[len(sizes)] = bytes(self._overflow[: size - _SLOT])
                sizes.append(size)
        except BlockingIOError:
            pass
        except OSError as error:
            raise TapError(f"reading the TAP: {error}; was its namespace closed?") from error
        if not sizes:
            return Frames.empty()
        rows = self._rows[: len(sizes)]
        lengths = np.array(sizes, np.int64) - _AT
        headers = np.ascontiguousarray(rows[:, :_AT]).view(VNET_DTYPE)[:, 0]
        odd = np.flatnonzero((headers["gso_type"] != 0) | (lengths > _SLOT - _AT)).tolist()
        parts: list[Frames] = []
        part_headers: list[NDArray[np.void]] = []
        for start, stop in pairwise([0, *sorted([*odd, *(i + 1 for i in odd)]), len(sizes)]):
            if start == stop:
                continue
            if start in odd:
                frame = rows[start, _AT : sizes[start]]
                if start in spilled:
                    frame = np.concatenate([frame, np.frombuffer(spilled[start], np.uint8)])
                some, heads = _whole(headers[start : start + 1], frame)
            else:
                width = max(int(lengths[start:stop].max()), MINIMUM_FRAME)
                data = rows[start:stop, _AT : _AT + width].copy()
                some = Frames(data, lengths[start:stop], lengths[start:stop])
                heads = headers[start:stop]
            parts.append(some)
            part_headers.append(heads)
        frames = Frames.concat(parts)
        complete_checksums(frames, np.concatenate(part_headers))
        return _pad(frames).at(self._clock.now_ns())

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _write_merged(self, frames: Frames, start: int, stop: int) -> bool:
        """False if the kernel does not take this super-frame: then its frames go one by one."""
        size = merge(frames, start, stop, self._out)
        return self._write([self._out_view[:size]], stop - start)

    def _write(self, parts: list[memoryview | bytes], frames: int) -> bool:
        """One frame, or one super-frame of so many; False if the kernel refuses its form."""
        for _ in range(WRITE_TRIES):
            try:
                os.writev(self._fd, parts)
                return True
            except OSError as error:
                if error.errno in (errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM):
                    continue
                if error.errno == errno.EINVAL:
                    self.refused += frames == 1
                    return False
                if error.errno == errno.EIO:
                    raise InterfaceDown(
                        "writing to the TAP: its interface is down; set it up in its namespace"
                    ) from error
                raise TapError(f"writing {frames} frames to the TAP: {error}") from error
        self.dropped += frames
        return True


def _whole(header: NDArray[np.void], frame: NDArray[np.uint8]) -> tuple[Frames, NDArray[np.void]]:
    """A super-frame, cut; or one frame that was too large for its slot, as it is."""
    if header["gso_type"][0]:
        return split(header, frame)
    size = np.array([len(frame)], np.int64)
    return Frames(frame[None, :].copy(), size, size), header


def _pad(frames: Frames) -> Frames:
    """What the sender's NIC would do with short frames: zeros up to 60 bytes."""
    lengths = frames.lengths
    if lengths.min() >= MINIMUM_FRAME:
        return frames
    data = frames.data
    if data.shape[1] < MINIMUM_FRAME:
        data = np.pad(data, ((0, 0), (0, MINIMUM_FRAME - data.shape[1])))
    head = data[:, :MINIMUM_FRAME]
    head[np.arange(MINIMUM_FRAME) >= lengths[:, None]] = 0
    return Frames(data, np.maximum(lengths, MINIMUM_FRAME), frames.time_ns)


def can_tap() -> Capability:
    """Try it: a namespace, a TAP in it, an address, and a datagram through it."""
    try:
        os.close(open_tun())  # first: who lacks this is not helped by a namespace
        with open_namespace() as namespace:
            wire = TapWire.open(namespace, Segment(), RealClock())
            try:
                _hear_a_broadcast(namespace, wire)
            finally:
                wire.close()
    except (WireError, OSError) as error:
        # A wire's errors say what, and after a semicolon what to do.
        why, _, cure = str(error).partition("; ")
        return Capability(False, why, cure)
    return Capability(True, "made a TAP in a network namespace, and heard a datagram through it")


def _hear_a_broadcast(namespace: Namespace, wire: TapWire) -> None:
    with namespace.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sender.sendto(b"hello", ("198.18.0.255", 9))
    if not len(wire.receive()):
        raise TapError("a datagram that was sent through the TAP did not come out of it")
