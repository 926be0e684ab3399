"""PIO: a NIC without DMA, in the manner of the NE2000 and of SMC's 91C9x.

The card has memory of its own for frames, and the CPU carries each byte there and back through one
data register. So there are no rings, no descriptors, and nothing in the machine's memory that the
card could write to by itself: `reach` is empty, whatever state a panic finds it in. What a panic
does find is *half a frame*: a CPU that was stopped in the middle of a copy. That is the whole
theory of its takeover: give up what was begun, each way.

    offset  bits  name      read                           write 0x00    16    CONTROL   RX_ON,
    PROMISCUOUS             the same, and the commands RESET, TX_ABORT 0x02    16    STATUS
    RX_READY, TX_ROOM, LINK 0x04    16    MASK      causes that reach the line     the same 0x06
    16    CAUSE     RX, TX                         1 clears 0x08    16    TX_BEGIN
    a frame of so many bytes comes through DATA 0x0a    16    TX_GO
    the frame is whole: send it (the doorbell) 0x0c    16    RX_LENGTH bytes of the first frame; 0 =
    rewind: DATA gives it from its start again there is none 0x0e    16    RX_DROP
    the first frame is done with 0x10    32    DATA      4 bytes of the first frame     4 bytes of
    the frame that was begun 0x14    8     MAC       six of them

Transmit: the card holds TX_FRAMES whole frames; TX_ROOM says whether it takes another. A frame that
is not as long as TX_BEGIN said when TX_GO comes is not sent. Frames of less than 60 bytes are
padded. Receive: RX_BYTES of frames, a frame takes its length and 4 more; what finds no room is
lost. CAUSE.RX rises with each frame that is kept, CAUSE.TX with each that has left.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import IntEnum, IntFlag
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from nic_models.contracts import DmaMemory, InterruptLine, Kernel, Mbufs, Mmio, Mode, TxBatch
from nic_models.family import NicFamily
from nic_models.frames import Frames
from nic_models.narrow import NarrowAccess

TX_FRAMES: Final = 16
RX_BYTES: Final = 64 << 10
MINIMUM: Final = 60
LONGEST: Final = 14 + 9000
#: How often, and how far apart, the panic path looks for room: a frame takes 1.2 ms at 10 Mbit/s.
ROOM_LOOKS, ROOM_US = 100, 20
#: Preamble, FCS and gap, bytes.
_LINE: Final = 24


class Reg(IntEnum):
    """Offsets."""

    CONTROL = 0x00
    STATUS = 0x02
    MASK = 0x04
    CAUSE = 0x06
    TX_BEGIN = 0x08
    TX_GO = 0x0A
    RX_LENGTH = 0x0C
    RX_DROP = 0x0E
    DATA = 0x10
    MAC = 0x14


class Control(IntFlag):
    RX_ON = 1
    PROMISCUOUS = 2
    RESET = 4
    TX_ABORT = 8


class Status(IntFlag):
    RX_READY = 1
    TX_ROOM = 2
    LINK = 4


class Cause(IntFlag):
    RX = 1
    TX = 2


# --- the silicon ----------------------------------------------------------------------------------


class PioCard:
    """A ``nic_models.contracts.Silicon``."""

    def __init__(
        self,
        _memory: NDArray[np.uint8],
        mac: bytes,
        interrupt: InterruptLine,
        rate_bps: int | None = None,
    ) -> None:
        self._mac = mac
        self._line = interrupt
        self._rate_bps = rate_bps
        self._wire_free_at = 0
        self.lost = 0
        """Frames that found no room."""
        self._reset()

    def _reset(self) -> None:
        self._control = self._mask = self._cause = 0
        self._begun: int | None = None
        self._outgoing = bytearray()
        self._whole: deque[bytes] = deque()
        self._kept: deque[bytes] = deque()
        self._read = 0
        self._drive()

    def _drive(self) -> None:
        self._line.set(bool(self._cause & self._mask))

    # Registers.

    def read8(self, offset: int) -> int:
        if not 0 <= offset - Reg.MAC < 6:
            raise NarrowAccess(f"a read of 8 bits at {offset:#x}: only MAC has such registers")
        return self._mac[offset - Reg.MAC]

    def read16(self, offset: int) -> int:
        if offset == Reg.CONTROL:
            return self._control
        if offset == Reg.STATUS:
            room = len(self._whole) < TX_FRAMES
            return Status.LINK | Status.RX_READY * bool(self._kept) | Status.TX_ROOM * room
        if offset == Reg.MASK:
            return self._mask
        if offset == Reg.CAUSE:
            return self._cause
        if offset == Reg.RX_LENGTH:
            return len(self._kept[0]) if self._kept else 0
        raise NarrowAccess(f"a read of 16 bits at {offset:#x}: there is no such register")

    def read32(self, offset: int) -> int:
        if offset != Reg.DATA:
            raise NarrowAccess(f"a read of 32 bits at {offset:#x}: only DATA has so many")
        word = self._kept[0][self._read : self._read + 4] if self._kept else b""
        self._read += 4
        return int.from_bytes(word, "little")

    def write8(self, offset: int, value: int) -> None:
        raise NarrowAccess(f"a write of 8 bits at {offset:#x}: MAC can only be read")

    def write16(self, offset: int, value: int) -> None:
        if offset == Reg.CONTROL:
            if value & Control.RESET:
                self._reset()
            if value & Control.TX_ABORT:
                self._begun = None
            self._control = value & (Control.RX_ON | Control.PROMISCUOUS)
        elif offset == Reg.MASK:
            self._mask = value & (Cause.RX | Cause.TX)
        elif offset == Reg.CAUSE:
            self._cause &= ~value
        elif offset == Reg.TX_BEGIN:
            self._begun = value
            self._outgoing.clear()
        elif offset == Reg.TX_GO:
            self._go()
        elif offset == Reg.RX_LENGTH:
            self._read = 0
        elif offset == Reg.RX_DROP:
            if self._kept:
                self._kept.popleft()
            self._read = 0
        else:
            raise NarrowAccess(f"a write of 16 bits at {offset:#x}: there is no such register")
        self._drive()

    def write32(self, offset: int, value: int) -> None:
        if offset != Reg.DATA:
            raise NarrowAccess(f"a write of 32 bits at {offset:#x}: only DATA has so many")
        if self._begun is not None and len(self._outgoing) < LONGEST:
            self._outgoing += value.to_bytes(4, "little")

    def _go(self) -> None:
        length, self._begun = self._begun, None
        if length is None or not length <= len(self._outgoing) < length + 4:
            return
        if len(self._whole) < TX_FRAMES:
            self._whole.append(bytes(self._outgoing[:length]).ljust(MINIMUM, b"\0"))

    # The wire, and the rest of the contract.

    def power_on(self) -> None: ...

    def transmit(self, now_ns: int) -> Frames:
        left: list[Frames] = []
        while self._whole:
            begins = max(self._wire_free_at, now_ns)
            if self._rate_bps is not None:
                if self._wire_free_at > now_ns:
                    break
                bits = 8 * (len(self._whole[0]) + _LINE)
                self._wire_free_at = begins + bits * 10**9 // self._rate_bps
            left.append(Frames.of([self._whole.popleft()], max(self._wire_free_at, now_ns)))
        if left:
            self._cause |= Cause.TX
            self._drive()
        return Frames.concat(left)

    def deliver(self, frames: Frames) -> None:
        for index in range(len(frames)):
            frame = frames.bytes_of(index)
            if not self._control & Control.RX_ON or not self._wanted(frame):
                continue
            if sum(len(kept) + 4 for kept in self._kept) + len(frame) + 4 > RX_BYTES:
                self.lost += 1
                continue
            self._kept.append(frame)
            self._cause |= Cause.RX
        self._drive()

    def _wanted(self, frame: bytes) -> bool:
        to_all = bool(self._control & Control.PROMISCUOUS)
        return to_all or frame[:6] in (self._mac, b"\xff" * 6)

    def settle(self, at_most_s: float) -> bool:
        return True

    def await_interrupt(self) -> None: ...

    def machine_died(self) -> None: ...

    def reach(self) -> list[tuple[int, int]]:
        return []


# --- the driver -----------------------------------------------------------------------------------


class PioDriver:
    """A ``nic_models.contracts.Driver``; see the screen above for what a panic finds."""

    def __init__(
        self,
        mmio: Mmio,
        memory: DmaMemory,
        kernel: Kernel,
        *,
        mode: Mode = Mode.POLLED,
        mtu: int = 1500,
        promiscuous: bool = False,
        tx_ring: int = 0,
        rx_ring: int = 0,
        tx_zone: Mbufs | None = None,
    ) -> None:
        """``tx_ring`` and ``rx_ring`` are for cards that have some."""
        self.mtu = mtu
        self.tx_zone: Mbufs = kernel.panic_pool if tx_zone is None else tx_zone
        self.stack: list[Callable[[bytes], None]] = []
        self._mmio, self._memory, self._kernel, self._mode = mmio, memory, kernel, mode
        self._on = Control.RX_ON | (Control.PROMISCUOUS if promiscuous else 0)
        self._lock = kernel.lock("pio0")

    @property
    def mac(self) -> bytes:
        return bytes(self._mmio.read8(Reg.MAC + i) for i in range(6))

    def link_up(self) -> bool:
        return bool(self._mmio.read16(Reg.STATUS) & Status.LINK)

    # Ordinary life. Each step is a place where a panic may strike: no `with`, no `finally`.

    def attach(self) -> None:
        self._step_write(Reg.CONTROL, Control.RESET)
        self._step_write(Reg.MASK, Cause.RX | Cause.TX)
        self._step_write(Reg.CONTROL, self._on)

    def send(self, frames: list[bytes]) -> int:
        kernel = self._kernel
        kernel.step("lock pio0")
        self._lock.acquire()
        taken = 0
        for number, frame in enumerate(frames):
            kernel.step(f"take mbuf for frame {number}")
            if not self._mmio.read16(Reg.STATUS) & Status.TX_ROOM or not kernel.mbufs.take(1):
                break
            kernel.step(f"begin frame {number}")
            self._mmio.write16(Reg.TX_BEGIN, len(frame))
            half = len(frame) // 8 * 4
            self._write_data(frame[:half])
            kernel.step(f"second half of frame {number}")
            self._write_data(frame[half:])
            kernel.step(f"send frame {number}")
            self._mmio.write16(Reg.TX_GO, 1)
            kernel.mbufs.give(1)  # the card has a copy
            taken += 1
        kernel.step("unlock pio0")
        self._lock.release()
        return taken

    def interrupt(self) -> None:
        kernel = self._kernel
        cause = self._mmio.read16(Reg.CAUSE)
        if not cause:
            return
        self._step_write(Reg.CAUSE, cause)
        kernel.step("lock pio0")
        self._lock.acquire()
        frames: list[bytes] = []
        while length := self._mmio.read16(Reg.RX_LENGTH):
            kernel.step(f"read frame {len(frames)}")
            frame = self._read_data(length)
            self._step_write(Reg.RX_DROP, 1)
            if kernel.mbufs.take(1):
                frames.append(frame)
        kernel.step("unlock pio0")
        self._lock.release()
        for frame in frames:
            for deliver in self.stack:
                deliver(frame)
            kernel.mbufs.give(1)

    # The panic.

    def event(self, what: Literal["start", "end"]) -> None:
        mmio = self._mmio
        if what == "end":
            mmio.write16(Reg.CONTROL, 0)
            return
        self._enter()
        mmio.write16(Reg.MASK, 0)
        self._on |= mmio.read16(Reg.CONTROL) & Control.PROMISCUOUS
        mmio.write16(Reg.CONTROL, Control.TX_ABORT)  # half a frame that was being written
        mmio.write16(Reg.RX_LENGTH, 0)  # half a frame that was being read: from its start again
        mmio.write16(Reg.CONTROL, self._on)
        self._leave()

    def transmit(self, batch: TxBatch) -> int:
        mmio, memory = self._mmio, self._memory.buffer
        self._enter()
        taken = 0
        for taken in range(len(batch.header_lengths)):
            if not self._room_soon():
                break
            at, size = int(batch.payload_addresses[taken]), int(batch.payload_lengths[taken])
            header = batch.headers[taken, : int(batch.header_lengths[taken])]
            frame = header.tobytes() + (memory[at : at + size].tobytes() if size else b"")
            mmio.write16(Reg.TX_BEGIN, len(frame))
            self._write_data(frame)
            mmio.write16(Reg.TX_GO, 1)
        else:
            taken = len(batch.header_lengths)
        self.tx_zone.give(2 * taken)  # the card has copies
        self._leave()
        return taken

    def poll(self, budget: int) -> Frames:
        self._enter()
        frames: list[bytes] = []
        while len(frames) < budget and (length := self._mmio.read16(Reg.RX_LENGTH)):
            frames.append(self._read_data(length))
            self._mmio.write16(Reg.RX_DROP, 1)
        self._leave()
        return Frames.of(frames)

    def _room_soon(self) -> bool:
        """The card has room for a few frames only: a full one is waited for, within bounds."""
        for _ in range(ROOM_LOOKS):
            if self._mmio.read16(Reg.STATUS) & Status.TX_ROOM:
                return True
            self._kernel.delay_us(ROOM_US)
        return False

    def _enter(self) -> None:
        if self._mode is Mode.LOCKED:
            self._lock.acquire()
        else:
            self._lock.bypass()

    def _leave(self) -> None:
        if self._mode is Mode.LOCKED:
            self._lock.release()

    def _write_data(self, octets: bytes) -> None:
        write = self._mmio.write32
        for at in range(0, len(octets), 4):
            write(Reg.DATA, int.from_bytes(octets[at : at + 4], "little"))

    def _read_data(self, length: int) -> bytes:
        read = self._mmio.read32
        words = [read(Reg.DATA).to_bytes(4, "little") for _ in range(0, length, 4)]
        return b"".join(words)[:length]

    def _step_write(self, register: Reg, value: int) -> None:
        self._kernel.step(f"write {register.name}")
        self._mmio.write16(register, value)


PIO: Final = NicFamily(
    name="pio",
    says="an example: programmed I/O, no DMA, no rings",
    silicon=PioCard,
    driver=PioDriver,
    doorbells={Reg.TX_GO: "tx_go"},
)
