"""The 82540EM model and its memory, driven as a driver would: registers and raw descriptor bytes.

For the tests of the device by itself (test_e1000_device, _transmit, _receive,
_any_software, _plain).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from nic_models.e1000.device import E1000Device
from nic_models.e1000.registers import CTRL, RCTL, TCTL, Reg
from nic_models.frames import Frames
from tests.fakes import Line

MAC = bytes.fromhex("525400123456")
PEER = bytes.fromhex("525400aabbcc")
BROADCAST = b"\xff" * 6
GIGABIT = 1_000_000_000

TX_RING = 0x1000
RX_RING = 0x2000
TX_BUFFERS = 0x10000
RX_BUFFERS = 0x80000
MEMORY = 0x100000

EOP, IFCS, IC, RS, DEXT = 0x01, 0x02, 0x04, 0x08, 0x20
LAST = EOP | IFCS | RS


class Rig:
    """A device, its memory as a bytearray, and the few steps that every story begins with."""

    def __init__(self, rate_bps: int | None = None, slots: int = 8) -> None:
        self.memory = bytearray(MEMORY)
        self.line = Line()
        self.slots = slots
        self.device = E1000Device(
            np.frombuffer(self.memory, np.uint8), MAC, self.line, rate_bps=rate_bps
        )
        self.write(Reg.CTRL, CTRL.FD | CTRL.SLU)
        self.tx_start()
        self.rx_start()
        self.write(Reg.IMC, 0xFFFFFFFF)
        self.read(Reg.ICR)

    def tx_start(self) -> None:
        self.write(Reg.TDBAL, TX_RING)
        self.write(Reg.TDLEN, self.slots * 16)
        self.write(Reg.TDH, 0)
        self.write(Reg.TDT, 0)
        self.write(Reg.TCTL, TCTL.EN | TCTL.PSP)

    def rx_start(self, rctl: int = RCTL.EN | RCTL.BAM | RCTL.SECRC, tail: int = -1) -> None:
        for slot in range(self.slots):
            struct.pack_into("<QQ", self.memory, RX_RING + 16 * slot, self.rx_buffer(slot), 0)
        self.write(Reg.RDBAL, RX_RING)
        self.write(Reg.RDLEN, self.slots * 16)
        self.write(Reg.RDH, 0)
        self.write(Reg.RDT, tail % self.slots)
        self.write(Reg.RCTL, rctl)

    def write(self, register: int, value: int) -> None:
        self.device.write32(int(register), int(value))

    def read(self, register: int) -> int:
        return self.device.read32(int(register))

    def rx_buffer(self, slot: int) -> int:
        return RX_BUFFERS + 2048 * slot

    def tx(self, slot: int, address: int, length: int, command: int = LAST) -> None:
        """Write one descriptor, as software does."""
        at = TX_RING + 16 * slot
        struct.pack_into("<QHBBBBH", self.memory, at, address, length, 0, command, 0, 0, 0)

    def put(self, slot: int, data: bytes, command: int = LAST) -> None:
        """Data in the slot's own buffer, and its descriptor."""
        address = TX_BUFFERS + 2048 * slot
        self.memory[address : address + len(data)] = data
        self.tx(slot, address, len(data), command)

    def tx_done(self, slot: int) -> int:
        return self.memory[TX_RING + 16 * slot + 12]

    def rx_done(self, slot: int) -> tuple[int, int, int, int]:
        """Length, checksum, status, errors."""
        length, checksum, status, errors = struct.unpack_from(
            "<HHBB", self.memory, RX_RING + 16 * slot + 8
        )
        return length, checksum, status, errors

    def rx_data(self, slot: int) -> bytes:
        at = self.rx_buffer(slot)
        return bytes(self.memory[at : at + self.rx_done(slot)[0]])

    def sent(self, now_ns: int = 0) -> list[bytes]:
        return unpack(self.device.transmit(now_ns))

    def arrive(self, frames: Sequence[bytes]) -> None:
        self.device.deliver(Frames.of(frames))

    def count(self, name: str) -> int:
        return self.device.snapshot()[name]


def unpack(frames: Frames) -> list[bytes]:
    return [frames.bytes_of(i) for i in range(len(frames))]


def frame(length: int = 60, to: bytes = MAC, fill: int = 0x5A) -> bytes:
    head = to + PEER + b"\x08\x00"
    return head + bytes([fill]) * (length - len(head))
