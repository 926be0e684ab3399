"""A batch of Ethernet frames: one row a frame, so that a batch costs what a frame would.

The data path of the bench never handles a frame by itself unless a story needs it. A batch is
three arrays; slicing them, masking them and adding them up are single numpy calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Frames:
    """Ethernet frames without FCS.

    ``data`` is uint8 of shape (n, stride); bytes of a row beyond its length mean nothing.
    ``lengths`` is int64 of shape (n,), in bytes. ``time_ns`` is int64 of shape (n,): when each
    frame left its sender or reached its receiver, in nanoseconds of the run's clock.
    """

    data: NDArray[np.uint8]
    lengths: NDArray[np.int64]
    time_ns: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.lengths)

    @staticmethod
    def empty() -> Frames:
        return _EMPTY

    @staticmethod
    def of(frames: Sequence[bytes], time_ns: int = 0) -> Frames:
        """Pack a few byte strings: for bring-up, odd traffic and tests, not for the data path."""
        stride = max(map(len, frames), default=0)
        data = np.zeros((len(frames), stride), np.uint8)
        for row, frame in zip(data, frames, strict=True):
            row[: len(frame)] = np.frombuffer(frame, np.uint8)
        lengths = np.fromiter(map(len, frames), np.int64, len(frames))
        return Frames(data, lengths, np.full(len(frames), time_ns, np.int64))

    @staticmethod
    def concat(batches: Iterable[Frames]) -> Frames:
        """All frames of the batches, in order."""
        parts = [batch for batch in batches if len(batch)]
        if len(parts) <= 1:
            return parts[0] if parts else _EMPTY
        stride = max(part.data.shape[1] for part in parts)
        data = np.empty((sum(map(len, parts)), stride), np.uint8)
        row = 0
        for part in parts:
            data[row : row + len(part), : part.data.shape[1]] = part.data
            row += len(part)
        return Frames(
            data,
            np.concatenate([part.lengths for part in parts]),
            np.concatenate([part.time_ns for part in parts]),
        )

    def take(self, which: NDArray[np.bool_] | NDArray[np.intp] | slice) -> Frames:
        """The frames that a mask, an index array (repeats allowed) or a slice picks. Not copied if
        a slice does, or a mask that is true throughout.
        """
        if (
            not isinstance(which, slice)
            and which.dtype == np.bool_
            and len(which) == len(self)  # of any other length numpy complains
            and which.all()
        ):
            return self
        return Frames(self.data[which], self.lengths[which], self.time_ns[which])

    def at(self, time_ns: int | NDArray[np.int64]) -> Frames:
        """The same frames with another time stamp."""
        stamps = np.broadcast_to(np.asarray(time_ns, np.int64), self.lengths.shape)
        return Frames(self.data, self.lengths, stamps)

    def bytes_of(self, index: int) -> bytes:
        """One frame, as bytes."""
        return self.data[index, : int(self.lengths[index])].tobytes()


_EMPTY = Frames(np.empty((0, 0), np.uint8), np.empty(0, np.int64), np.empty(0, np.int64))
