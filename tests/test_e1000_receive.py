"""The 82540EM model's receiver: filters, FIFO, descriptors and what is stored.

Each test is a sentence of the 8254x manual, or a consequence of one that a panic-time driver meets.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest

from nic_models.e1000.registers import INT, RAH, RCTL, Reg, mta, rah, ral
from nic_models.frames import Frames
from tests.e1000_device_rig import BROADCAST, MAC, MEMORY, PEER, RX_RING, Rig, frame


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
