"""The 82540EM model's transmitter: descriptors, frames and their time on the wire.

Each test is a sentence of the 8254x manual, or a consequence of one that a panic-time driver meets.
"""

from __future__ import annotations

import zlib

import pytest

from nic_models.contracts import Mmio
from nic_models.e1000.registers import CTRL, INT, STATUS, TCTL, Reg
from tests.e1000_device_rig import (
    DEXT,
    EOP,
    GIGABIT,
    IC,
    IFCS,
    LAST,
    MEMORY,
    PEER,
    RS,
    TX_BUFFERS,
    TX_RING,
    Rig,
    frame,
)

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
    assert rig.count("tx_null") == 1  # 500 bytes at address 0 that were never queued


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
    assert rig.line.up()
    rig.write(Reg.CTRL, CTRL.RST)
    assert not rig.line.up()
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
