"""The witness of TFTP: which blocks a client sent, and which of them the server acknowledged.

A ``Witness`` (``witness.py``); what it hears it reads by ``tftp.py``. An ACK says that its block
was received (RFC 1350, 2), and no more. Whether it was kept is asked all the same: who dumps has no
other answer. But of the latest block it is asked when the next one is acknowledged: tftpd-hpa sends
each ACK a moment before it writes the block, and whether a look falls into that moment is chance.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bench.judge.tftp import NO_BLOCKS, Ints, TftpReader, Transfer
from bench.wire.contracts import Direction
from bench.wire.kinds import are_pieces
from nic_models.frames import Frames


class TftpWatch:
    """A ``Witness`` of TFTP."""

    first = "a WRQ"
    selective = False

    def __init__(self, client_mac: bytes, server_mac: bytes) -> None:
        """``server_mac`` is the gateway's, where there is one."""
        self._to_client = np.frombuffer(client_mac + server_mac, np.uint8)
        self.frames = 0
        self.data_bytes = 0
        self.latest_acks = NO_BLOCKS
        self.never_sent = 0
        self.pieces = 0
        self._reader = TftpReader()
        self._transfers = 0
        self._sent: list[Ints] = []
        self._end: tuple[int, int] | None = None  # the last block, and how long it is
        self._acked = -1
        self._asked = 0  # blocks before this one have been among ``latest_acks``
        self._blocks = 0
        self._repeats = 0

    def observe(self, direction: Direction, frames: Frames, _notes: Mapping[int, str]) -> None:
        self.frames += len(frames)
        if direction == "to-server":
            self._observe_sent(frames)
        else:
            self._observe_acks(frames)

    @property
    def _of(self) -> Transfer:
        return self._reader.transfer

    def _observe_sent(self, frames: Frames) -> None:
        self.pieces += int(np.count_nonzero(are_pieces(frames)))
        before = self._of.highest
        blocks = self._reader.sent(frames)
        if self._reader.transfers != self._transfers:  # a file anew
            self._transfers = self._reader.transfers
            self._sent, self._end, self._acked, self._asked, before = [], None, -1, 0, -1
        if blocks is None:
            return
        self.data_bytes += int(blocks.lengths.sum())
        self._sent.append(blocks.numbers)
        self._blocks += len(blocks.numbers)
        new = np.unique(blocks.numbers[blocks.numbers > before])
        self._repeats += len(blocks.numbers) - len(new)
        short = np.flatnonzero(blocks.lengths < self._of.blksize)
        if len(short):
            self._end = int(blocks.numbers[short[-1]]), int(blocks.lengths[short[-1]])

    def _observe_acks(self, frames: Frames) -> None:
        acks = self._reader.heard(self._from_server(frames))
        self.never_sent += int(np.count_nonzero(acks > self._of.highest))
        acks = acks[(acks >= 0) & (acks <= self._of.highest)]
        self._acked = max(self._acked, int(acks.max(initial=-1)))
        before, self._asked = self._asked, max(self._asked, self._acked)
        self.latest_acks = np.arange(before, self._asked)

    def _from_server(self, frames: Frames) -> Frames:
        if not len(frames) or frames.data.shape[1] < 12:
            return Frames.empty()
        theirs = (frames.data[:, :12] == self._to_client).all(axis=1)
        return frames if theirs.all() else frames.take(theirs)

    def acknowledged(self) -> tuple[Ints, Ints]:
        """(offsets, lengths), int64, of the dump bytes that the server acknowledged."""
        blksize = self._of.blksize
        offsets = np.arange(self._acked + 1, dtype=np.int64) * blksize
        lengths = np.full(len(offsets), blksize, np.int64)
        if self._end is not None and self._end[0] <= self._acked:
            lengths[self._end[0]] = self._end[1]
        return offsets, lengths

    def acknowledged_key(self) -> tuple[Ints, Ints]:
        """Nothing: TFTP knows no key block."""
        return np.empty(0, np.int64), np.empty(0, np.int64)

    def extent(self, message: int) -> tuple[int, int] | None:
        """(offset, length) of a block; None if there is nothing in it."""
        blksize = self._of.blksize
        length = self._end[1] if self._end and self._end[0] == message else blksize
        return (message * blksize, length) if length else None

    def history(self, offset: int) -> str:
        """What became of the block that carried byte ``offset`` of the dump, in words."""
        number = offset // self._of.blksize
        times = sum(int(np.count_nonzero(numbers == number)) for numbers in self._sent)
        if not times:
            return "no whole frame ever carried it" if self.pieces else "no frame ever carried it"
        often = "once" if times == 1 else f"{times} times"
        said = "acknowledged" if number <= self._acked else "never acknowledged"
        return f"its block, number {number + 1:,}, was sent {often}, and {said} by the server"

    def notes(self) -> list[str]:
        """What was agreed on, and what it took."""
        of, reader = self._of, self._reader
        if not reader.requests:
            return []
        if not of.server_port:
            said = ["The server took no block"]
        else:
            said = [f"TFTP with blocks of {of.blksize:,} bytes, {of.windowsize:,} in a window"]
            said += ["the server sent no OACK"] if of.options is None else []
            said += [f"{self._blocks:,} blocks were sent, {self._repeats:,} of them again"]
            ports = len(of.answers)
            said += [f"{ports} ports of the server's answered one WRQ"] if ports > 1 else []
        if reader.requests > 1:
            said.append(f"{reader.requests} WRQs began {reader.transfers} transfers")
        said += [f'the server said ERROR {code}, "{text}"' for code, text in reader.errors[:2]]
        return [f"{'; '.join(said)}."]

    def sample(self) -> dict[int, bytes]:
        """The WRQ, if it was answered."""
        return {-1: self._of.wrq} if self._of.server_port else {}

    def answered(self, frames: Frames, messages: set[int]) -> set[int]:
        """The WRQ, if one of them answers it."""
        return messages if self._reader.answers_in(self._from_server(frames)) else set()
