"""The 82540EM model, driven as a driver would: registers, raw descriptor bytes, and nothing else.

Each test is a sentence of the 8254x manual, or a consequence of one that a panic-time driver meets.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nic_models.contracts import Mmio
from nic_models.e1000.device import E1000Device
from nic_models.e1000.registers import CTRL, EERD, INT, RAH, RCTL, STATUS, TCTL, Reg, mta, rah, ral
from nic_models.frames import Frames

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


class Line:
    """An interrupt line that remembers."""

    def __init__(self) -> None:
        self.edges: list[bool] = []

    def set(self, level: bool) -> None:
        self.edges.append(level)

    def high(self) -> bool:
        return self.edges[-1:] == [True]


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


# --- transmission ------------------------------------------------------------------------------


def test_the_device_is_an_mmio_window() -> None:
    window: Mmio = Rig().device
    assert window.read32(Reg.STATUS) & STATUS.LU


def test_header_and_payload_descriptors_leave_as_one_frame() -> None:
    rig = Rig()
    head, payload = frame(42, PEER), bytes(range(256)) * 4
    rig.put(0, head, IFCS)
    rig.put(1, payload)
    rig.write(Reg.TDT, 2)
    assert rig.sent() == [head + payload]
    assert (rig.tx_done(0), rig.tx_done(1)) == (0, 1)  # no RS, no write-back
    assert rig.read(Reg.TDH) == 2


def test_the_write_back_touches_one_byte_of_the_descriptor() -> None:
    rig = Rig()
    rig.put(0, frame(100))
    before = bytes(rig.memory[TX_RING : TX_RING + 128])
    rig.write(Reg.TDT, 1)
    rig.sent()
    after = bytes(rig.memory[TX_RING : TX_RING + 128])
    assert [i for i in range(128) if before[i] != after[i]] == [12]


def test_a_doorbell_does_nothing_before_time_moves() -> None:
    rig = Rig()
    rig.put(0, frame(100))
    assert rig.device.next_event_ns() is None
    rig.write(Reg.TDT, 1)
    assert rig.tx_done(0) == 0
    assert rig.device.next_event_ns() == 0
    assert len(rig.sent()) == 1
    assert rig.device.next_event_ns() is None


def test_a_frame_may_straddle_the_ring_s_end() -> None:
    rig = Rig()
    for slot in range(7):
        rig.put(slot, frame(60 + slot, PEER))
    rig.write(Reg.TDT, 7)
    assert [len(f) for f in rig.sent()] == [60, 61, 62, 63, 64, 65, 66]
    head, payload = frame(42, PEER), b"tail" * 30
    rig.put(7, head, IFCS)
    rig.put(0, payload)
    rig.write(Reg.TDT, 1)
    assert rig.sent() == [head + payload]
    assert rig.read(Reg.TDH) == 1
    assert rig.tx_done(0) == 1


def test_an_unfinished_frame_waits_for_its_last_descriptor() -> None:
    rig = Rig()
    rig.put(0, frame(42, PEER), IFCS | RS)
    rig.write(Reg.TDT, 1)
    assert rig.sent() == []
    assert rig.tx_done(0) == 1  # its data is in the FIFO
    assert rig.count("tx_fifo_bytes") == 42
    rig.put(1, b"x" * 58)
    rig.write(Reg.TDT, 2)
    assert rig.sent() == [frame(42, PEER) + b"x" * 58]
    assert rig.count("tx_fifo_bytes") == 0


def test_head_equal_to_tail_is_an_empty_ring_not_a_full_one() -> None:
    rig = Rig()
    for slot in range(8):
        rig.put(slot, frame())
    rig.write(Reg.TDT, 0)
    assert rig.sent() == []
    rig.write(Reg.TDT, 7)
    assert len(rig.sent()) == 7


def test_short_frames_are_padded_with_zeros_when_psp_is_on_only() -> None:
    rig = Rig()
    rig.put(0, frame(42))
    rig.write(Reg.TDT, 1)
    assert rig.sent() == [frame(42) + bytes(18)]
    rig.write(Reg.TCTL, TCTL.EN)
    rig.put(1, frame(42))
    rig.write(Reg.TDT, 2)
    assert rig.sent() == [frame(42)]
    # A frame shorter than 64 bytes with FCS is no good packet.
    assert (rig.read(Reg.TPT), rig.read(Reg.GPTC)) == (2, 1)


def test_zero_length_and_null_descriptors_carry_nothing_but_complete() -> None:
    rig = Rig()
    rig.put(0, frame(70, PEER), IFCS)
    rig.tx(1, TX_BUFFERS, 0, RS)
    rig.tx(2, 0, 500, RS)
    rig.put(3, b"end" * 10)
    rig.write(Reg.TDT, 4)
    assert rig.sent() == [frame(70, PEER) + b"end" * 10]
    assert [rig.tx_done(slot) for slot in range(4)] == [0, 1, 1, 1]
    assert rig.count("tx_null") == 1  # 500 bytes at address 0 that nobody sent


def test_an_eop_without_data_is_no_frame() -> None:
    rig = Rig()
    rig.tx(0, TX_BUFFERS, 0)
    rig.put(1, frame(60, PEER))
    rig.write(Reg.TDT, 2)
    assert rig.sent() == [frame(60, PEER)]
    assert rig.count("tx_empty") == 1
    assert rig.tx_done(0) == 1


def test_an_oversized_frame_is_dropped_and_the_next_one_leaves() -> None:
    rig = Rig()
    rig.tx(0, TX_BUFFERS, 16288, IFCS)
    rig.tx(1, TX_BUFFERS, 1)
    rig.tx(2, TX_BUFFERS, 16288)
    rig.write(Reg.TDT, 3)
    assert [len(f) for f in rig.sent()] == [16288]
    assert rig.count("tx_oversize") == 1
    assert rig.tx_done(1) == 1


def test_data_outside_memory_is_a_master_abort_not_a_crash() -> None:
    rig = Rig()
    rig.tx(0, MEMORY - 10, 60)
    rig.tx(1, 0xFFFF_FFFF_FFFF_FFF0, 0xFFFF)
    rig.put(2, frame(60, PEER))
    rig.write(Reg.TDT, 3)
    assert rig.sent() == [frame(60, PEER)]
    assert rig.count("tx_aborted") == 2
    assert [rig.tx_done(slot) for slot in range(3)] == [1, 1, 1]


def test_a_poisoned_ring_sends_nothing() -> None:
    rig = Rig()
    rig.memory[TX_RING : TX_RING + 128] = b"\xff" * 128
    rig.write(Reg.TDT, 5)
    assert rig.sent() == []
    assert rig.count("tx_unsupported") == 5  # 0xFF says DEXT


@pytest.mark.parametrize("command", [LAST | DEXT, LAST | IC])
def test_offload_descriptors_are_refused_and_counted(command: int) -> None:
    rig = Rig()
    rig.put(0, frame(60, PEER), command)
    rig.put(1, frame(61, PEER))
    rig.write(Reg.TDT, 2)
    assert rig.sent() == [frame(61, PEER)]
    assert rig.count("tx_unsupported") == 1
    assert rig.tx_done(0) == 1


def test_without_ifcs_software_has_to_bring_a_true_fcs() -> None:
    rig = Rig()
    body = frame(80, PEER)
    rig.put(0, body + zlib.crc32(body).to_bytes(4, "little"), EOP | RS)
    rig.put(1, body + b"nope", EOP | RS)
    rig.put(2, b"abc", EOP | RS)
    rig.write(Reg.TDT, 3)
    assert rig.sent() == [body]
    assert rig.count("tx_bad_fcs") == 2


def test_nothing_moves_while_the_transmitter_is_off() -> None:
    rig = Rig()
    rig.write(Reg.TCTL, TCTL.PSP)
    rig.put(0, frame(60, PEER))
    rig.write(Reg.TDT, 1)
    assert rig.device.next_event_ns() is None
    assert rig.sent() == []
    assert rig.read(Reg.TDH) == 0
    rig.write(Reg.TCTL, TCTL.PSP | TCTL.EN)
    assert rig.sent() == [frame(60, PEER)]


@pytest.mark.parametrize(
    ("register", "value"),
    [(Reg.TDT, 8), (Reg.TDT, 0xFFFF), (Reg.TDLEN, 0), (Reg.TDBAL, MEMORY - 64), (Reg.TDBAH, 1)],
)
def test_a_ring_that_cannot_run_stands_still_and_is_counted(register: int, value: int) -> None:
    rig = Rig()
    rig.put(0, frame(60))
    rig.write(register, value)
    rig.write(Reg.TDT, value if register == Reg.TDT else 1)
    assert rig.sent() == []
    assert rig.count("tx_ring_faults") >= 1
    # Mended, it goes on.
    rig.tx_start()
    rig.write(Reg.TDBAH, 0)
    rig.write(Reg.TDT, 1)
    assert len(rig.sent()) == 1


def test_statistics_count_what_left_and_clear_when_read() -> None:
    rig = Rig()
    rig.put(0, frame(100))
    rig.put(1, frame(200))
    rig.write(Reg.TDT, 2)
    rig.sent()
    assert rig.read(Reg.GPTC) == 2
    assert rig.read(Reg.GPTC) == 0
    assert rig.read(Reg.GOTCL) == 308  # with FCS
    assert rig.read(Reg.GOTCL) == 308  # the pair clears with its high half
    assert rig.read(Reg.GOTCH) == 0
    assert rig.read(Reg.GOTCL) == 0


# --- transmission in time ----------------------------------------------------------------------


def test_a_gigabit_frame_leaves_after_its_wire_time() -> None:
    rig = Rig(GIGABIT)
    rig.put(0, frame(1514))
    rig.put(1, frame(1514))
    rig.write(Reg.TDT, 2)
    assert rig.sent(1000) == []
    first = 1000 + (8 + 1514 + 4) * 8
    assert rig.device.next_event_ns() == first
    assert rig.sent(first - 1) == []
    frames = rig.device.transmit(first)
    assert frames.time_ns.tolist() == [first]
    # Back to back: one frame, its preamble, FCS and gap.
    assert rig.device.next_event_ns() == first + 1538 * 8
    assert rig.device.transmit(10**9).time_ns.tolist() == [first + 1538 * 8]
    assert rig.device.next_event_ns() is None


def test_dd_says_fetched_not_sent() -> None:
    rig = Rig(GIGABIT)
    rig.put(0, frame(1514))
    rig.write(Reg.TDT, 1)
    assert rig.sent(0) == []
    assert rig.tx_done(0) == 1
    assert rig.read(Reg.TDH) == 1


def test_the_dma_runs_ahead_of_the_wire_by_one_packet_buffer() -> None:
    rig = Rig(GIGABIT, slots=32)
    for slot in range(20):
        rig.put(slot, frame(1514, fill=slot))
    rig.write(Reg.TDT, 20)
    rig.sent(0)
    assert rig.read(Reg.TDH) == 16384 // 1514  # 10
    assert [rig.tx_done(slot) for slot in range(12)] == [1] * 10 + [0, 0]
    rig.sent(12_304)  # one has left, one more fits
    assert rig.read(Reg.TDH) == 11
    assert [f[-1] for f in rig.sent(10**9)] == list(range(1, 20))


def test_a_payload_that_changes_before_dd_is_sent_torn() -> None:
    rig = Rig(GIGABIT, slots=32)
    for slot in range(20):
        rig.put(slot, frame(1514, PEER, fill=0xAA))
    rig.write(Reg.TDT, 20)
    rig.sent(0)
    # Software is impatient: it reuses every buffer although only ten descriptors are done.
    for slot in range(20):
        at = TX_BUFFERS + 2048 * slot
        rig.memory[at + 700 : at + 1514] = b"\xdd" * 814
    frames = rig.sent(10**9)
    torn = [f for f in frames if 0xDD in f]
    assert frames[:10] == [frame(1514, PEER, fill=0xAA)] * 10
    assert len(torn) == 10
    assert all(f[699] == 0xAA and f[700] == 0xDD for f in torn)


def test_switching_off_lets_the_frame_on_the_wire_finish_and_keeps_the_rest() -> None:
    rig = Rig(GIGABIT)
    for slot in range(3):
        rig.put(slot, frame(1000, fill=slot))
    rig.write(Reg.TDT, 3)
    rig.sent(0)
    rig.write(Reg.TCTL, TCTL.PSP)
    assert [f[-1] for f in rig.sent(10**6)] == [0]
    assert rig.count("tx_fifo_frames") == 2
    assert rig.device.next_event_ns() is None
    rig.write(Reg.TCTL, TCTL.EN | TCTL.PSP)
    assert [f[-1] for f in rig.sent(10**6)] == []
    assert [f[-1] for f in rig.sent(2 * 10**6)] == [1, 2]


def test_a_reset_in_mid_transmit_loses_the_fifo_and_forgets_the_ring() -> None:
    rig = Rig(GIGABIT, slots=32)
    for slot in range(20):
        rig.put(slot, frame(1514))
    rig.write(Reg.TDT, 20)
    rig.sent(0)
    rig.write(Reg.IMS, INT.TXDW)
    assert rig.line.high()
    rig.write(Reg.CTRL, CTRL.RST)
    assert not rig.line.high()
    assert rig.count("tx_lost_in_reset") == 10
    for register in (Reg.TDBAL, Reg.TDLEN, Reg.TDH, Reg.TDT, Reg.TCTL, Reg.RCTL, Reg.ICR, Reg.IMS):
        assert rig.read(register) == 0, register
    assert not rig.read(Reg.CTRL) & (CTRL.RST | CTRL.SLU)
    assert rig.device.next_event_ns() is None
    before = bytes(rig.memory)
    assert rig.sent(10**9) == []
    rig.arrive([frame()])
    assert bytes(rig.memory) == before
    # The bring-up finds a NIC as good as new.
    rig.write(Reg.CTRL, CTRL.SLU)
    rig.tx_start()
    rig.put(0, frame(60))
    rig.write(Reg.TDT, 1)
    rig.sent(10**9)
    assert len(rig.sent(2 * 10**9)) == 1


def test_without_link_frames_wait_in_the_ring() -> None:
    rig = Rig(GIGABIT)
    rig.device.set_link(False)
    rig.put(0, frame(60))
    rig.write(Reg.TDT, 1)
    assert rig.sent(10**6) == []
    assert rig.tx_done(0) == 0
    rig.device.set_link(True)
    rig.sent(2 * 10**6)
    assert len(rig.sent(3 * 10**6)) == 1


def test_pba_moves_the_border_at_the_next_reset() -> None:
    rig = Rig(GIGABIT, slots=32)
    assert rig.read(Reg.PBA) == 0x0010_0030
    rig.write(Reg.PBA, 32)
    assert rig.read(Reg.PBA) == 0x0020_0020
    rig.write(Reg.CTRL, CTRL.RST)
    rig.write(Reg.CTRL, CTRL.SLU)
    rig.tx_start()
    for slot in range(31):
        rig.put(slot, frame(1514))
    rig.write(Reg.TDT, 31)
    rig.sent(0)
    assert rig.read(Reg.TDH) == 32768 // 1514


def test_a_slow_wire_and_an_infinite_one_carry_the_same_frames() -> None:
    rigs = [Rig(None, slots=64), Rig(10_000_000, slots=64)]
    for rig in rigs:
        for slot in range(0, 60, 2):
            rig.put(slot, frame(42, PEER, fill=slot), IFCS)
            rig.put(slot + 1, bytes([slot]) * (slot * 20), LAST)
        rig.write(Reg.TDT, 60)
    slow: list[bytes] = []
    while (event := rigs[1].device.next_event_ns()) is not None:
        slow += rigs[1].sent(event)
    assert slow == rigs[0].sent()
    assert len(slow) == 30


# --- reception ---------------------------------------------------------------------------------


def test_a_frame_lands_in_its_buffer_and_its_descriptor_is_written_back() -> None:
    rig = Rig()
    rig.arrive([frame(200)])
    assert rig.rx_done(0) == (200, 0, 0x07, 0)  # DD | EOP | IXSM
    assert rig.rx_data(0) == frame(200)
    assert struct.unpack_from("<Q", rig.memory, RX_RING)[0] == rig.rx_buffer(0)
    assert rig.rx_done(1) == (0, 0, 0, 0)
    assert (rig.read(Reg.RDH), rig.read(Reg.GPRC), rig.read(Reg.TPR)) == (1, 1, 1)
    assert rig.read(Reg.TORL) == 204


def test_the_ring_wraps_at_its_last_slot() -> None:
    rig = Rig()
    rig.arrive([frame(60 + i) for i in range(6)])
    rig.write(Reg.RDT, 5)
    rig.arrive([frame(100 + i) for i in range(6)])
    assert [rig.rx_done(slot)[0] for slot in (6, 7, 0, 1, 2, 3)] == [100, 101, 102, 103, 104, 105]
    assert rig.read(Reg.RDH) == 4


def test_head_equal_to_tail_keeps_the_frame_in_the_fifo_until_a_descriptor_comes() -> None:
    rig = Rig()
    rig.rx_start(tail=2)
    rig.arrive([frame(60, fill=i) for i in range(4)])
    assert [rig.rx_done(slot)[2] for slot in range(4)] == [7, 7, 0, 0]
    assert (rig.read(Reg.RDH), rig.read(Reg.RNBC), rig.read(Reg.MPC)) == (2, 2, 0)
    assert rig.count("rx_fifo_bytes") == 120
    # Frames that come later queue behind those that wait.
    rig.arrive([frame(60, fill=4)])
    rig.write(Reg.RDT, 7)
    assert [rig.rx_data(slot)[-1] for slot in range(5)] == [0, 1, 2, 3, 4]
    assert rig.count("rx_fifo_bytes") == 0


def test_a_full_fifo_misses_frames_says_so_and_recovers_in_order() -> None:
    rig = Rig(slots=64)
    rig.rx_start(tail=0)
    fits = 48 * 1024 // 1514
    rig.arrive([frame(1514, fill=i) for i in range(fits + 3)])
    assert rig.read(Reg.MPC) == 3
    assert rig.read(Reg.GPRC) == fits
    assert rig.read(Reg.ICR) & INT.RXO
    assert rig.count("rx_missed") == 3
    rig.write(Reg.RDT, 63)
    assert rig.read(Reg.RDH) == fits
    assert [rig.rx_data(slot)[-1] for slot in range(fits)] == list(range(fits))
    rig.arrive([frame(60, fill=200)])
    assert rig.rx_data(fits)[-1] == 200


def test_only_frames_for_us_come_in() -> None:
    rig = Rig()
    rig.arrive(
        [frame(to=PEER), frame(to=BROADCAST), frame(to=bytes.fromhex("01005e000001")), frame()]
    )
    assert rig.rx_data(0)[:6] == BROADCAST
    assert rig.rx_data(1)[:6] == MAC
    assert rig.read(Reg.RDH) == 2
    assert rig.count("rx_filtered") == 2
    assert (rig.read(Reg.BPRC), rig.read(Reg.MPRC), rig.read(Reg.TPR)) == (1, 0, 4)


def test_broadcast_needs_bam() -> None:
    rig = Rig()
    rig.rx_start(RCTL.EN | RCTL.SECRC)
    rig.arrive([frame(to=BROADCAST)])
    assert rig.read(Reg.RDH) == 0


@pytest.mark.parametrize(
    ("bits", "heard"),
    [
        (RCTL.UPE, {PEER, MAC}),
        (RCTL.MPE, {bytes.fromhex("01005e000001"), BROADCAST, MAC}),
        (RCTL.UPE | RCTL.MPE, {PEER, bytes.fromhex("01005e000001"), BROADCAST, MAC}),
    ],
)
def test_promiscuous_mode_hears_everybody(bits: int, heard: set[bytes]) -> None:
    rig = Rig()
    rig.rx_start(RCTL.EN | RCTL.SECRC | bits)
    everyone = [PEER, bytes.fromhex("01005e000001"), BROADCAST, MAC]
    rig.arrive([frame(to=to) for to in everyone])
    assert {rig.rx_data(slot)[:6] for slot in range(rig.read(Reg.RDH))} == heard


def test_a_second_address_counts_only_with_its_valid_bit() -> None:
    rig = Rig()
    other = bytes.fromhex("020304050607")
    rig.write(ral(15), int.from_bytes(other[:4], "little"))
    rig.write(rah(15), int.from_bytes(other[4:], "little"))
    rig.arrive([frame(to=other)])
    assert rig.read(Reg.RDH) == 0
    rig.write(rah(15), int.from_bytes(other[4:], "little") | RAH.AV)
    rig.arrive([frame(to=other)])
    assert rig.read(Reg.RDH) == 1


@pytest.mark.parametrize("mo", range(4))
def test_the_multicast_table_hears_its_bit_and_no_other(mo: int) -> None:
    # By hand: the last two bytes are 9A BC; as a number, low byte first, 0xBC9A. MO 0 takes its
    # upper twelve bits, MO 1 and 2 slide down one and two places, MO 3 takes the lower twelve.
    value = {0: 0xBC9, 1: 0x793, 2: 0xF26, 3: 0xC9A}[mo]
    group = bytes.fromhex("01005678 9abc".replace(" ", ""))
    rig = Rig()
    rig.rx_start(RCTL.EN | RCTL.SECRC | mo << 12)
    rig.write(mta(value >> 5), 1 << (value & 31))
    assert rig.read(mta(value >> 5)) == 1 << (value & 31)
    unicast_twin = bytes.fromhex("00005678 9abc".replace(" ", ""))
    rig.arrive([frame(to=group), frame(to=bytes.fromhex("010056789abd")), frame(to=unicast_twin)])
    assert rig.read(Reg.RDH) == 1
    assert rig.rx_data(0)[:6] == group
    assert rig.read(Reg.MPRC) == 1


def test_the_fcs_is_stored_when_nobody_strips_it() -> None:
    rig = Rig()
    rig.rx_start(RCTL.EN | RCTL.BAM)
    rig.arrive([frame(100)])
    assert rig.rx_done(0)[0] == 104
    assert rig.rx_data(0) == frame(100) + zlib.crc32(frame(100)).to_bytes(4, "little")


def test_short_frames_arrive_padded_as_from_a_wire() -> None:
    rig = Rig()
    data = np.full((1, 80), 0xEE, np.uint8)  # what lies beyond a row's length means nothing
    data[0, :42] = np.frombuffer(frame(42), np.uint8)
    rig.device.deliver(Frames(data, np.array([42]), np.array([0])))
    assert rig.rx_data(0) == frame(42) + bytes(18)


def test_a_frame_longer_than_a_buffer_spreads_over_descriptors() -> None:
    rig = Rig()
    rig.rx_start(RCTL.EN | RCTL.SECRC | 3 << 16)  # 256-byte buffers
    rig.arrive([frame(600), frame(256), frame(60)])
    assert [rig.rx_done(slot)[:3:2] for slot in range(5)] == [
        (256, 0x01),
        (256, 0x01),
        (88, 0x07),
        (256, 0x07),
        (60, 0x07),
    ]
    assert b"".join(rig.rx_data(slot) for slot in range(3)) == frame(600)


def test_a_frame_that_outruns_the_ring_goes_on_when_descriptors_come() -> None:
    rig = Rig()
    rig.rx_start(RCTL.EN | RCTL.SECRC | 3 << 16, tail=2)
    rig.arrive([frame(1000), frame(60, fill=9)])
    assert [rig.rx_done(slot)[2] for slot in range(3)] == [1, 1, 0]
    rig.write(Reg.RDT, 7)
    assert [rig.rx_done(slot)[2] for slot in range(6)] == [1, 1, 1, 7, 7, 0]
    assert b"".join(rig.rx_data(slot) for slot in range(4)) == frame(1000)
    assert rig.rx_data(4)[-1] == 9


@pytest.mark.parametrize(
    ("bits", "size"),
    [(1 << 16, 1024), (2 << 16, 512), (RCTL.BSEX | 3 << 16, 4096), (RCTL.BSEX | 1 << 16, 16384)],
)
def test_buffer_sizes_follow_bsize_and_bsex(bits: int, size: int) -> None:
    rig = Rig(slots=32)
    rig.rx_start(RCTL.EN | RCTL.SECRC | RCTL.LPE | bits)
    rig.arrive([frame(9000)])
    assert rig.read(Reg.RDH) == -(-9000 // size)
    assert rig.rx_done(0)[0] == min(size, 9000)


def test_long_frames_need_lpe() -> None:
    rig = Rig()
    rig.arrive([frame(1518), frame(1519), frame(9000)])
    assert rig.read(Reg.RDH) == 1
    assert (rig.read(Reg.ROC), rig.read(Reg.RLEC)) == (2, 2)


def test_nothing_comes_in_while_the_receiver_is_off_and_no_statistic_tells() -> None:
    rig = Rig()
    rig.rx_start(RCTL.BAM)
    rig.arrive([frame()])
    assert (rig.read(Reg.TPR), rig.count("rx_disabled")) == (0, 1)
    assert rig.rx_done(0)[2] == 0


def test_a_receiver_that_was_only_switched_off_still_holds_old_frames() -> None:
    rig = Rig()
    rig.rx_start(tail=0)
    rig.arrive([frame(60, fill=0x0D)])
    # A panic-time driver takes over without CTRL.RST ...
    rig.write(Reg.RCTL, 0)
    rig.rx_start()
    # ... and meets its predecessor's frame.
    assert rig.rx_data(0)[-1] == 0x0D


def test_a_null_receive_buffer_is_passed_over() -> None:
    rig = Rig()
    struct.pack_into("<QQ", rig.memory, RX_RING, 0, 0xAB00_0000_0000_1234)
    rig.arrive([frame(77)])
    assert struct.unpack_from("<QQ", rig.memory, RX_RING) == (0, 0xAB00_0001_0000_1234)
    assert rig.rx_data(1) == frame(77)
    assert rig.memory[:0x1000] == bytes(0x1000)


def test_a_receive_buffer_outside_memory_spoils_its_frame_only() -> None:
    rig = Rig()
    struct.pack_into("<Q", rig.memory, RX_RING, MEMORY - 8)
    rig.arrive([frame(60), frame(61)])
    assert rig.rx_done(0) == (60, 0, 0x07, 0x80)  # RXE
    assert rig.rx_data(1) == frame(61)
    assert rig.count("rx_aborted") == 1
    assert rig.count("rx_frames") == 1
    assert bytes(rig.memory[MEMORY - 8 :]) == bytes(8)


# --- interrupts, link, odds and ends -----------------------------------------------------------


def test_the_line_is_cause_and_mask_and_reading_icr_lowers_it() -> None:
    rig = Rig()
    rig.put(0, frame(60))
    rig.write(Reg.TDT, 1)
    rig.sent()
    assert not rig.line.high()  # masked
    rig.write(Reg.IMS, INT.TXDW | INT.RXT0)
    assert rig.line.high()
    assert rig.read(Reg.IMS) == INT.TXDW | INT.RXT0
    assert rig.read(Reg.ICR) == INT.TXDW | INT.TXQE
    assert not rig.line.high()
    rig.arrive([frame()])
    assert rig.line.high()
    rig.write(Reg.IMC, INT.RXT0)
    assert not rig.line.high()
    assert rig.read(Reg.ICR) & INT.RXT0
    rig.write(Reg.ICS, INT.TXDW)
    assert rig.line.high()
    rig.write(Reg.ICR, INT.TXDW)  # writing one clears as well
    assert not rig.line.high()
    assert rig.line.edges == [True, False, True, False, True, False]


def test_no_rs_no_txdw() -> None:
    rig = Rig()
    rig.put(0, frame(60), EOP | IFCS)
    rig.write(Reg.TDT, 1)
    rig.sent()
    assert rig.read(Reg.ICR) == INT.TXQE


def test_rxdmt0_comes_when_free_descriptors_fall_to_the_threshold() -> None:
    rig = Rig(slots=16)
    rig.rx_start(RCTL.EN | RCTL.SECRC | 1 << 8)  # a quarter of 16
    rig.arrive([frame()] * 10)
    assert not rig.read(Reg.ICR) & INT.RXDMT0  # 5 free
    rig.arrive([frame()])
    assert rig.read(Reg.ICR) & INT.RXDMT0  # 4 free
    rig.arrive([frame()])
    assert not rig.read(Reg.ICR) & INT.RXDMT0  # it is the crossing that counts


def test_the_mac_sees_the_link_only_when_told_to_and_says_when_it_changes() -> None:
    rig = Rig()
    assert rig.read(Reg.STATUS) & (STATUS.LU | STATUS.FD) == STATUS.LU | STATUS.FD
    rig.device.set_link(False)
    assert rig.read(Reg.ICR) == INT.LSC
    assert not rig.read(Reg.STATUS) & STATUS.LU
    rig.arrive([frame()])
    assert rig.count("rx_link_down") == 1
    rig.device.set_link(False)
    assert rig.read(Reg.ICR) == 0
    rig.write(Reg.CTRL, 0)
    rig.device.set_link(True)
    assert not rig.read(Reg.STATUS) & STATUS.LU
    rig.write(Reg.CTRL, CTRL.SLU)
    assert rig.read(Reg.STATUS) & STATUS.LU
    assert rig.read(Reg.ICR) == INT.LSC


def test_the_eeprom_knows_the_address_and_its_checksum() -> None:
    rig = Rig()

    def word(address: int) -> int:
        rig.write(Reg.EERD, address << 8 | EERD.START)
        assert rig.read(Reg.EERD) & EERD.DONE
        return rig.read(Reg.EERD) >> 16

    words = [word(address) for address in range(64)]
    assert b"".join(w.to_bytes(2, "little") for w in words[:3]) == MAC
    assert sum(words) & 0xFFFF == 0xBABA


def test_a_reset_restores_the_address_but_not_the_multicast_memory() -> None:
    rig = Rig()
    rig.write(Reg.RAL0, 0)
    rig.write(rah(3), 0xFFFF_FFFF)
    rig.write(mta(5), 0x1234)
    rig.write(Reg.CTRL, CTRL.RST)
    assert rig.read(Reg.RAL0).to_bytes(4, "little") == MAC[:4]
    assert rig.read(Reg.RAH0) == int.from_bytes(MAC[4:], "little") | RAH.AV
    assert rig.read(rah(3)) == 0
    assert rig.read(mta(5)) == 0x1234


def test_unknown_registers_read_zero_remember_nothing_and_are_counted() -> None:
    rig = Rig()
    rig.write(0x5B50, 0xFFFF_FFFF)
    assert rig.read(0x5B50) == 0
    assert rig.read(0x0001) == 0
    rig.write(Reg.STATUS, 0)
    counts = {
        name: rig.count(name) for name in ("unknown_reads", "unknown_writes", "ignored_writes")
    }
    assert counts == {"unknown_reads": 2, "unknown_writes": 1, "ignored_writes": 1}


def test_reserved_bits_of_ring_registers_do_not_stick() -> None:
    rig = Rig()
    for register, mask in ((Reg.TDBAL, 0xFFFF_FFF0), (Reg.RDLEN, 0xFFF80), (Reg.RDT, 0xFFFF)):
        rig.write(register, 0xFFFF_FFFF)
        assert rig.read(register) == mask


def test_the_inter_frame_spacing_has_sixteen_bits() -> None:
    rig = Rig()
    rig.write(Reg.AIFS, 0xA5A5_A5A5)
    assert rig.read(Reg.AIFS) == 0xA5A5  # 13.4.35; the others are reserved


def test_software_can_set_the_causes_of_the_general_purpose_pins() -> None:
    rig = Rig()
    pins = INT(1 << 13 | 1 << 14)  # GPI_SDP6 and GPI_SDP7, 13.4.17
    rig.write(Reg.IMS, pins)
    rig.write(Reg.ICS, pins)
    assert rig.line.high()
    assert rig.read(Reg.ICR) == pins


def test_the_log_tells_where_dma_wrote() -> None:
    rig = Rig()
    rig.arrive([frame(60)])
    rig.device.forget_dma_writes()  # the panic
    assert rig.device.dma_writes() == []
    rig.arrive([frame(100), frame(300)])
    rig.arrive([frame(70)])
    assert rig.device.dma_writes() == [
        (RX_RING + 16, RX_RING + 64),
        (rig.rx_buffer(1), rig.rx_buffer(1) + 100),
        (rig.rx_buffer(2), rig.rx_buffer(2) + 300),
        (rig.rx_buffer(3), rig.rx_buffer(3) + 70),
    ]
    assert rig.count("dma_bytes_written") == 470 + 3 * 8


def test_the_log_stays_small_when_the_same_buffers_are_written_over_and_over() -> None:
    rig = Rig()
    for _ in range(2000):
        rig.arrive([frame(60), frame(61), frame(62), frame(63)])
        rig.write(Reg.RDT, (rig.read(Reg.RDH) - 1) % 8)
    assert len(rig.device.dma_writes()) == 1 + 8


@pytest.mark.parametrize(
    ("mac", "rate", "says"),
    [
        (b"short", None, "six bytes"),
        (BROADCAST, None, "group address"),
        (MAC, 0, "carries nothing"),
    ],
)
def test_a_device_that_makes_no_sense_is_refused(mac: bytes, rate: int | None, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        E1000Device(np.zeros(64, np.uint8), mac, Line(), rate_bps=rate)


def test_memory_that_a_device_cannot_write_is_refused() -> None:
    for memory in (np.zeros((4, 4), np.uint8), np.frombuffer(bytes(64), np.uint8)):
        with pytest.raises(ValueError, match="DMA memory"):
            E1000Device(memory, MAC, Line())


# --- whatever software does ---------------------------------------------------------------------

GUARD = 4096
SMALL = 1 << 16

_registers = st.one_of(
    st.sampled_from([int(reg) for reg in Reg]),
    st.integers(0, 0x1FFFF),
)
_values = st.one_of(
    st.integers(0, 0xFFFF_FFFF),
    st.integers(0, 64),
    st.sampled_from(
        [
            int(TCTL.EN | TCTL.PSP),
            int(RCTL.EN | RCTL.UPE | RCTL.MPE | RCTL.SECRC),
            int(RCTL.EN | RCTL.UPE | RCTL.MPE | RCTL.LPE) | 3 << 16,
            int(CTRL.SLU),
            int(CTRL.RST),
            0x80,
            0x100,
            0x1000,
            SMALL - 128,
        ]
    ),
)
_descriptors = st.tuples(
    st.integers(0, 15),
    st.one_of(st.integers(0, SMALL + 100), st.integers(0, (1 << 64) - 1)),
    st.integers(0, 0xFFFF),
    st.integers(0, 255),
)
_actions = st.lists(
    st.one_of(
        st.tuples(st.just("write"), _registers, _values),
        st.tuples(st.just("read"), _registers, st.none()),
        st.tuples(st.just("descriptor"), _descriptors, st.sampled_from([0x0, 0x1000])),
        st.tuples(st.just("time"), st.integers(0, 10**6), st.none()),
        st.tuples(
            st.just("frames"),
            st.lists(st.binary(min_size=14, max_size=3000), max_size=5),
            st.none(),
        ),
        st.tuples(st.just("link"), st.booleans(), st.none()),
    ),
    max_size=60,
)


def _guarded() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    whole = np.full(GUARD + SMALL + GUARD, 0xC5, np.uint8)
    memory = whole[GUARD : GUARD + SMALL]
    memory[:] = 0
    return whole, memory


@settings(max_examples=150)
@given(actions=_actions, rate=st.sampled_from([None, GIGABIT, 1_000_000]), live=st.booleans())
def test_whatever_software_writes_nothing_raises_and_nothing_outside_memory_is_touched(
    actions: list[tuple[str, object, object]], rate: int | None, live: bool
) -> None:
    whole, memory = _guarded()
    device = E1000Device(memory, MAC, Line(), rate_bps=rate)
    if live:  # start from a working NIC, so that the fuzz gets past the door
        for register, value in (
            (Reg.CTRL, int(CTRL.SLU)),
            (Reg.TDLEN, 256),
            (Reg.RDBAL, 0x1000),
            (Reg.RDLEN, 256),
            (Reg.RDT, 8),
            (Reg.TCTL, int(TCTL.EN | TCTL.PSP)),
            (Reg.RCTL, int(RCTL.EN | RCTL.UPE | RCTL.MPE)),
        ):
            device.write32(register, value)
    now = 0
    for what, first, second in actions:
        if what == "write":
            assert isinstance(first, int)
            assert isinstance(second, int)
            device.write32(first, second)
        elif what == "read":
            assert isinstance(first, int)
            assert 0 <= device.read32(first) <= 0xFFFF_FFFF
        elif what == "descriptor":
            assert isinstance(first, tuple)
            assert isinstance(second, int)
            slot, address, length, command = first
            raw = struct.pack("<QHBBBBH", address, length, 0, command, 0, 0, 0)
            memory[second + 16 * slot :][:16] = np.frombuffer(raw, np.uint8)
            device.write32(Reg.TDT, (slot + 1) % 16)
        elif what == "time":
            assert isinstance(first, int)
            now += first
            frames = device.transmit(now)
            assert (frames.time_ns <= now).all()
            assert (np.diff(frames.time_ns) >= 0).all()
        elif what == "frames":
            assert isinstance(first, list)
            device.deliver(Frames.of(first, now))
        else:
            device.set_link(bool(first))
        event = device.next_event_ns()
        assert event is None or event >= 0
    assert (whole[:GUARD] == 0xC5).all()
    assert (whole[-GUARD:] == 0xC5).all()
    assert all(0 <= start < end <= SMALL for start, end in device.dma_writes())


@settings(max_examples=100)
@given(
    lengths=st.lists(st.integers(60, 1518), min_size=1, max_size=40),
    slots=st.sampled_from([8, 16, 32]),
    step=st.integers(1, 7),
)
def test_received_frames_keep_their_order_through_any_refill(
    lengths: list[int], slots: int, step: int
) -> None:
    rig = Rig(slots=slots)
    frames = [frame(length, fill=i) for i, length in enumerate(lengths)]
    got: list[bytes] = []
    clean = 0
    for i in range(0, len(frames), 9):
        rig.arrive(frames[i : i + 9])
        for _ in range(step):
            if rig.rx_done(clean)[2] & 1:
                got.append(rig.rx_data(clean))
                struct.pack_into("<Q", rig.memory, RX_RING + 16 * clean + 8, 0)
                rig.write(Reg.RDT, clean)
                clean = (clean + 1) % slots
    while rig.rx_done(clean)[2] & 1:
        got.append(rig.rx_data(clean))
        struct.pack_into("<Q", rig.memory, RX_RING + 16 * clean + 8, 0)
        rig.write(Reg.RDT, clean)
        clean = (clean + 1) % slots
    missed = rig.count("rx_missed")
    assert len(got) == len(frames) - missed
    if not missed:
        assert got == frames


@settings(max_examples=100)
@given(
    sizes=st.lists(st.lists(st.integers(1, 700), min_size=1, max_size=4), min_size=1, max_size=12),
    rate=st.sampled_from([None, 100_000_000]),
    hop=st.integers(1_000, 500_000),
)
def test_every_frame_leaves_once_whole_and_in_order(
    sizes: list[list[int]], rate: int | None, hop: int
) -> None:
    rig = Rig(rate, slots=64)
    slot, expected = 0, []
    for number, pieces in enumerate(sizes):
        body = b""
        for i, length in enumerate(pieces):
            piece = bytes([number * 16 + i & 0xFF]) * length
            rig.put(slot, piece, LAST if i == len(pieces) - 1 else IFCS)
            body += piece
            slot += 1
        expected.append(body + bytes(max(0, 60 - len(body))))
    rig.write(Reg.TDT, slot)
    got: list[bytes] = []
    times: list[int] = []
    now = 0
    for _ in range(2000):
        frames = rig.device.transmit(now)
        got += unpack(frames)
        times += frames.time_ns.tolist()
        if rig.device.next_event_ns() is None:
            break
        now += hop
    assert got == expected
    assert times == sorted(times)
    assert rig.read(Reg.TDH) == slot
