"""The 82540EM model: interrupts, link, EEPROM, reset, and its log of DMA.

Each test is a sentence of the 8254x manual, or a consequence of one that a panic-time driver meets.
"""

from __future__ import annotations

import numpy as np
import pytest

from nic_models.e1000.device import E1000Device
from nic_models.e1000.registers import CTRL, EERD, INT, RAH, RCTL, STATUS, Reg, mta, rah
from tests.e1000_device_rig import BROADCAST, EOP, IFCS, MAC, RX_RING, Rig, frame
from tests.fakes import Line


def test_the_line_is_cause_and_mask_and_reading_icr_lowers_it() -> None:
    rig = Rig()
    rig.put(0, frame(60))
    rig.write(Reg.TDT, 1)
    rig.sent()
    assert not rig.line.up()  # masked
    rig.write(Reg.IMS, INT.TXDW | INT.RXT0)
    assert rig.line.up()
    assert rig.read(Reg.IMS) == INT.TXDW | INT.RXT0
    assert rig.read(Reg.ICR) == INT.TXDW | INT.TXQE
    assert not rig.line.up()
    rig.arrive([frame()])
    assert rig.line.up()
    rig.write(Reg.IMC, INT.RXT0)
    assert not rig.line.up()
    assert rig.read(Reg.ICR) & INT.RXT0
    rig.write(Reg.ICS, INT.TXDW)
    assert rig.line.up()
    rig.write(Reg.ICR, INT.TXDW)  # writing one clears as well
    assert not rig.line.up()
    assert rig.line.levels == [True, False, True, False, True, False]


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
    assert rig.line.up()
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
