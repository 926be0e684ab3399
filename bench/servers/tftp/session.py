"""One upload: DATA in order becomes a file, and is acknowledged (RFC 1350, RFC 7440).

    DATA that comes                      is                                  answered by
    the next block                       stored; the upload is whole if      ACK, if it ends a
                                         it is shorter than a block          window or the file
    the last block once more             dropped                             ACK: the first was lost
    an older one                         dropped                             nothing
    a later one                          dropped; something was lost         ACK of the last block,
                                                                             once until the next
                                                                             block comes
    one longer than a block              the end                             ERROR 4

An ACK says that its block, and each before it, is in the file. This side never sends again by
itself: it is the sender's timeout that keeps a transfer alive (RFC 1123 4.2.3.1), so an ACK that is
lost costs one DATA, and no ACK can start two.

A run of blocks in order, which is nearly all that ever comes, is stored by one write.
"""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from bench.servers.tftp.config import TftpConfig
from bench.servers.tftp.folder import Upload, code_of
from netdump.tftp.numbers import TURN, ahead, on_wire
from netdump.tftp.options import Agreed
from netdump.tftp.packets import DATA_HEADER_SIZE, Code, Opcode, pack_ack, pack_error

#: "over": the file is whole, and its last ACK can still be had; "gone": nothing answers any more.
State = Literal["open", "over", "gone"]

_NOTHING: Final = np.empty((0, 4), np.uint8)


class Session:
    """An upload, from the answer to its request on."""

    def __init__(
        self, upload: Upload, name: str, agreed: Agreed, config: TftpConfig, answer: bytes
    ) -> None:
        """``answer``: what the request was answered by."""
        self.name = name
        self.answer = answer
        self.state: State = "open"
        self.last = 0
        """The last block that is stored, from 1."""
        self._upload = upload
        self._agreed = agreed
        self._config = config
        self._unacknowledged = 0
        self._gap_told = False

    def receive(self, data: NDArray[np.uint8], lengths: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Datagrams, uint8 (n, stride), in order; the answers to them, uint8 (m, octets)."""
        acks: list[int] = []
        at = 0
        while at < len(lengths) and self.state != "gone":
            run = self._run(data[at:], lengths[at:]) if self.state == "open" else 0
            error = b""
            if run:
                error = self._store(data[at : at + run], lengths[at : at + run], acks)
            else:
                error = self._odd(data[at], int(lengths[at]), acks)
            if error:
                self.close()
                return np.frombuffer(error, np.uint8)[None, :]
            at += max(run, 1)
        numbers = on_wire(np.array(acks, np.int64), self._agreed.rollover)
        rows = [np.frombuffer(pack_ack(number), np.uint8) for number in numbers.tolist()]
        return np.stack(rows) if rows else _NOTHING

    def close(self) -> None:
        """It ends here, as it is."""
        self._upload.close()
        self.state = "gone"

    def _run(self, data: NDArray[np.uint8], lengths: NDArray[np.int64]) -> int:
        """How many datagrams, from the first on, are the next blocks; one that ends the file is the
        last of them.
        """
        if data.shape[1] < DATA_HEADER_SIZE:
            return 0
        words = np.ascontiguousarray(data[:, :DATA_HEADER_SIZE]).view(">u2")
        blocks = np.arange(self.last + 1, self.last + 1 + len(lengths))
        if self._config.rollover is None:
            blocks = blocks[: max(0, TURN - 1 - self.last)]
        count = len(blocks)
        sizes = lengths[:count] - DATA_HEADER_SIZE
        good = (words[:count, 0] == Opcode.DATA) & (sizes >= 0)
        good &= words[:count, 1] == on_wire(blocks, self._agreed.rollover)
        good &= sizes <= self._agreed.blksize
        ends = np.flatnonzero(sizes < self._agreed.blksize)
        count = min(count, int(ends[0]) + 1) if ends.size else count
        bad = np.flatnonzero(~good[:count])
        return int(bad[0]) if bad.size else count

    def _store(self, data: NDArray[np.uint8], lengths: NDArray[np.int64], acks: list[int]) -> bytes:
        """A run. Appends the blocks to acknowledge; an ERROR, or nothing."""
        blksize = self._agreed.blksize
        tail = int(lengths[-1]) - DATA_HEADER_SIZE
        whole = len(lengths) - (tail < blksize)
        try:
            body = data[:whole, DATA_HEADER_SIZE : DATA_HEADER_SIZE + blksize]
            self._upload.write(np.ascontiguousarray(body).reshape(-1).data)
            if tail < blksize:
                end = data[-1, DATA_HEADER_SIZE : DATA_HEADER_SIZE + tail]
                self._upload.write(end.tobytes())
                self._upload.finish()
                self.state = "over"
        except OSError as error:
            return pack_error(code_of(error), error.strerror or "it can't be written")
        self._gap_told = False
        window = self._agreed.windowsize
        first = self.last + window - self._unacknowledged
        self.last += len(lengths)
        acks.extend(range(first, self.last + 1, window))
        self._unacknowledged = (self._unacknowledged + len(lengths)) % window
        if self.state == "over" and self._unacknowledged:
            acks.append(self.last)
        return b""

    def _odd(self, row: NDArray[np.uint8], length: int, acks: list[int]) -> bytes:
        """A datagram that is not the next block; an ERROR, or nothing."""
        head = row[:DATA_HEADER_SIZE].tobytes()
        if length < DATA_HEADER_SIZE or len(head) < DATA_HEADER_SIZE:
            return b""
        opcode, number = int.from_bytes(head[:2], "big"), int.from_bytes(head[2:], "big")
        if opcode == Opcode.ERROR:
            self.close()
            return b""
        if opcode != Opcode.DATA:
            return pack_error(Code.ILLEGAL, "an upload takes DATA")
        if length - DATA_HEADER_SIZE > self._agreed.blksize:
            return pack_error(Code.ILLEGAL, f"blocks have {self._agreed.blksize} octets")
        if self._config.rollover is None and self.last == TURN - 1 and number in (0, 1):
            return pack_error(Code.UNDEFINED, "Undefined error code")
        step = ahead(number, self.last, self._agreed.rollover)
        if step == 0 and self.last:
            acks.append(self.last)
            self._unacknowledged = 0
        elif step > 0 and self.state == "open" and not self._gap_told:
            self._gap_told = True
            acks.append(self.last)
            self._unacknowledged = 0
        return b""
