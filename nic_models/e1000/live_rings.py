"""The two rings of ordinary life: one frame at a time, each step a place where a panic may strike.

``step`` is called *before* each buffer is taken, each descriptor word is written or read, and each
copy. If it does not return, this CPU has stopped there for ever, and the ring stays as it is:
nothing here uses ``finally`` or ``with``, because a stopped CPU runs neither.

The step names are part of what scenarios are written with; their numbers count within one call:

    transmit    take mbuf for frame K, copy frame K, write TX descriptor K (its address),
                arm TX descriptor K (length and command)
    reclaim     read TX descriptor K, free mbuf K
    receive     read RX descriptor K, take mbuf for RX descriptor K, refill RX descriptor K
"""

from __future__ import annotations

import struct
from typing import Final

from nic_models.contracts import DmaMemory, Kernel
from nic_models.e1000.descriptors import (
    POISON,
    RX_ERRORS_FRAME,
    RX_STATUS,
    SIZE,
    TX_CMD,
    TX_STA,
)
from nic_models.e1000.panic_rings import RING_ALIGN, RX_BUFFER

_WORD: Final = struct.Struct("<Q")
_COMMAND: Final = int(TX_CMD.IFCS | TX_CMD.EOP | TX_CMD.RS) << 24
_TX_DONE: Final = int(TX_STA.DD) << 32
_RX_DONE: Final = int(RX_STATUS.DD) << 32
_RX_EOP: Final = int(RX_STATUS.EOP) << 32
_RX_BAD: Final = RX_ERRORS_FRAME << 40


class _LiveRing:
    """Descriptors and one buffer for each, in ordinary memory, both poisoned."""

    def __init__(self, memory: DmaMemory, kernel: Kernel, count: int, buffer_size: int) -> None:
        self.count: Final = count
        self.buffer_size: Final = buffer_size
        self.base: Final = memory.allocate(count * SIZE, RING_ALIGN)
        self._kernel = kernel
        self._buffers_at = memory.allocate(count * buffer_size, RX_BUFFER)
        memory.buffer[self.base : self.base + count * SIZE] = POISON
        memory.buffer[self._buffers_at : self._buffers_at + count * buffer_size] = POISON
        self._memory = memory.buffer.data

    def buffer_address(self, index: int) -> int:
        return self._buffers_at + index * self.buffer_size

    def read(self, index: int) -> int:
        """Bytes 8 to 15 of a descriptor: length, command, status, errors."""
        word: int = _WORD.unpack_from(self._memory, self.base + index * SIZE + 8)[0]
        return word

    def write(self, index: int, half: int, word: int) -> None:
        """Bytes 0 to 7 (half 0) or 8 to 15 (half 1) of a descriptor."""
        _WORD.pack_into(self._memory, self.base + index * SIZE + 8 * half, word)


class LiveTxRing(_LiveRing):
    """One descriptor and one mbuf a frame."""

    def __init__(self, memory: DmaMemory, kernel: Kernel, count: int, buffer_size: int) -> None:
        super().__init__(memory, kernel, count, buffer_size)
        self.tail = 0
        self._used = 0

    def push(self, frames: list[bytes]) -> int:
        """Queue frames from the front; how many fitted. The caller writes TDT."""
        kernel = self._kernel
        for number, frame in enumerate(frames):
            if self._used == self.count - 1:
                return number
            kernel.step(f"take mbuf for frame {number}")
            if not kernel.mbufs.take(1):
                return number
            kernel.step(f"copy frame {number}")
            at = self.buffer_address(self.tail)
            self._memory[at : at + len(frame)] = frame
            kernel.step(f"write TX descriptor {number}")
            self.write(self.tail, 0, at)
            kernel.step(f"arm TX descriptor {number}")
            self.write(self.tail, 1, len(frame) | _COMMAND)
            self.tail = (self.tail + 1) % self.count
            self._used += 1
        return len(frames)

    def reclaim(self) -> int:
        """Free what is done, in order; how many frames."""
        kernel = self._kernel
        waiting = self._used
        for number in range(waiting):
            kernel.step(f"read TX descriptor {number}")
            if not self.read((self.tail - self._used) % self.count) & _TX_DONE:
                return number
            kernel.step(f"free mbuf {number}")
            kernel.mbufs.give(1)
            self._used -= 1
        return waiting


class LiveRxRing(_LiveRing):
    """Buffers of 2048 bytes; a longer frame (RCTL.LPE) fills several."""

    def __init__(self, memory: DmaMemory, kernel: Kernel, count: int) -> None:
        super().__init__(memory, kernel, count, RX_BUFFER)
        self.errors = 0
        """Frames dropped for their error bits."""
        self.no_mbuf = 0
        """Frames dropped because no buffer could replace theirs."""
        self._next = 0
        self._parts: list[bytes] = []
        for index in range(count):
            self.write(index, 0, self.buffer_address(index))
            self.write(index, 1, 0)

    @property
    def tail(self) -> int:
        """RDT."""
        return (self._next - 1) % self.count

    def take(self) -> list[bytes]:
        """The frames that have arrived; at most one lap. The caller writes RDT.

        A frame goes up the stack in the mbufs it was received in, so each needs a replacement; if
        there is none, the frame is dropped and its buffer used again.
        """
        kernel = self._kernel
        frames: list[bytes] = []
        for number in range(self.count):
            kernel.step(f"read RX descriptor {number}")
            word = self.read(self._next)
            if not word & _RX_DONE:
                break
            at = self.buffer_address(self._next)
            self._parts.append(bytes(self._memory[at : at + (word & 0xFFFF)]))
            if word & _RX_EOP:
                kernel.step(f"take mbuf for RX descriptor {number}")
                if word & _RX_BAD:
                    self.errors += 1
                elif not kernel.mbufs.take(len(self._parts)):
                    self.no_mbuf += 1
                else:
                    frames.append(b"".join(self._parts))
                self._parts = []
            kernel.step(f"refill RX descriptor {number}")
            self.write(self._next, 0, at)
            self.write(self._next, 1, 0)
            self._next = (self._next + 1) % self.count
        return frames
