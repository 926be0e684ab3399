"""The tables of the 82540EM: offsets, bits and descriptor faces, against hand-written bytes."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from nic_models.e1000 import registers as r
from nic_models.e1000.descriptors import (
    POISON,
    RX_ERRORS,
    RX_ERRORS_FRAME,
    RX_READ,
    RX_STATUS,
    RX_WRITEBACK,
    SIZE,
    TX_CMD,
    TX_READ,
    TX_WRITEBACK,
    view,
)
from nic_models.e1000.registers import CTRL, INT, RAH, RCTL, STATUS, TCTL, Reg


def test_offsets_are_those_of_the_manual() -> None:
    # The register summary of the 8254x SDM, chapter 13: the rows a driver uses.
    expected = {
        "CTRL": 0x0000,
        "STATUS": 0x0008,
        "EERD": 0x0014,
        "ICR": 0x00C0,
        "ITR": 0x00C4,
        "ICS": 0x00C8,
        "IMS": 0x00D0,
        "IMC": 0x00D8,
        "RCTL": 0x0100,
        "TCTL": 0x0400,
        "TIPG": 0x0410,
        "PBA": 0x1000,
        "RDBAL": 0x2800,
        "RDBAH": 0x2804,
        "RDLEN": 0x2808,
        "RDH": 0x2810,
        "RDT": 0x2818,
        "RDTR": 0x2820,
        "RADV": 0x282C,
        "TDBAL": 0x3800,
        "TDBAH": 0x3804,
        "TDLEN": 0x3808,
        "TDH": 0x3810,
        "TDT": 0x3818,
        "TIDV": 0x3820,
        "TXDCTL": 0x3828,
        "TADV": 0x382C,
        "MPC": 0x4010,
        "GPRC": 0x4074,
        "GPTC": 0x4080,
        "RNBC": 0x40A0,
        "TPR": 0x40D0,
        "TPT": 0x40D4,
        "RXCSUM": 0x5000,
        "MTA": 0x5200,
        "RAL0": 0x5400,
        "RAH0": 0x5404,
    }
    assert {name: int(Reg[name]) for name in expected} == expected


def test_the_drivers_usual_words_come_out_of_the_bit_tables() -> None:
    assert RCTL.EN | RCTL.BAM | RCTL.SECRC == 0x0400_8002
    assert TCTL.EN | TCTL.PSP | 0x0F << r.TCTL_CT_SHIFT | 0x40 << r.TCTL_COLD_SHIFT == 0x0004_00FA
    assert CTRL.RST | CTRL.SLU | CTRL.FD == 0x0400_0041
    assert STATUS.LU | STATUS.FD == 3
    assert INT.TXDW | INT.TXQE | INT.LSC | INT.RXDMT0 | INT.RXO | INT.RXT0 == 0xD7
    assert int(RAH.AV) == 0x8000_0000
    assert r.TIPG_COPPER == 0x0060_2008


def test_a_mac_goes_into_its_register_pair_and_back() -> None:
    mac = bytes.fromhex("525400123456")
    low, high = r.mac_to_ral_rah(mac)
    assert (low, high) == (0x12005452, 0x80005634)
    assert r.ral_rah_to_mac(low, high) == mac
    assert (r.ral(15), r.rah(15), r.mta(127)) == (0x5478, 0x547C, 0x53FC)


@pytest.mark.parametrize(
    ("mo", "value"),
    [
        # The manual's own example (13.5.1): ..:9A:BC gives row 94, bit 9, that is 0xBC9.
        (0, 0xBC9),
        # The same 16 bits, 0xBC9A, one, two and four places further down.
        (1, 0xBC9A >> 3 & 0xFFF),
        (2, 0xBC9A >> 2 & 0xFFF),
        (3, 0xC9A),
    ],
)
def test_the_multicast_hash_is_the_manuals(mo: int, value: int) -> None:
    mac = bytes.fromhex("12345678 9ABC".replace(" ", ""))
    assert r.mta_hash(mac, mo) == value
    if mo == 0:
        assert (value >> 5, value & 31) == (94, 9)


def test_a_transmit_descriptor_has_the_manuals_layout() -> None:
    memory = np.zeros(64, np.uint8)
    ring = view(memory, 16, 2, TX_READ)
    ring["address"][0] = 0x1122334455667788
    ring["length"][0] = 0x05DC
    ring["cmd"][0] = TX_CMD.EOP | TX_CMD.IFCS | TX_CMD.RS
    expected = struct.pack("<QHBBBBH", 0x1122334455667788, 0x05DC, 0, 0x0B, 0, 0, 0)
    assert memory[16:32].tobytes() == expected
    memory[16 + 12] = 1
    assert view(memory, 16, 2, TX_WRITEBACK)["sta"].tolist() == [1, 0]


def test_both_faces_of_a_receive_descriptor_see_the_same_bytes() -> None:
    memory = np.full(4 * SIZE, POISON, np.uint8)
    view(memory, 0, 4, RX_READ)["address"][:] = [0x1000, 0x1800, 0x2000, 0x2800]
    back = view(memory, 0, 4, RX_WRITEBACK)
    back[2] = (1514, 0, RX_STATUS.DD | RX_STATUS.EOP | RX_STATUS.IXSM, 0, 0)
    assert memory[32:48].tobytes() == struct.pack("<QHHBBH", 0x2000, 1514, 0, 0x07, 0, 0)
    assert view(memory, 0, 4, RX_READ)["address"].tolist() == [0x1000, 0x1800, 0x2000, 0x2800]


def test_all_faces_are_one_descriptor_long() -> None:
    assert {face.itemsize for face in (TX_READ, TX_WRITEBACK, RX_READ, RX_WRITEBACK)} == {16}


def test_a_frame_error_is_any_of_the_five_that_the_manual_lists() -> None:
    bad = RX_ERRORS.CE | RX_ERRORS.SE | RX_ERRORS.SEQ | RX_ERRORS.CXE | RX_ERRORS.RXE
    assert int(bad) == RX_ERRORS_FRAME


@pytest.mark.parametrize(("base", "count"), [(-16, 1), (0, 5), (60, 1), (0, -1)])
def test_a_ring_outside_memory_is_refused_with_its_bounds(base: int, count: int) -> None:
    with pytest.raises(ValueError, match="is not within memory"):
        view(np.zeros(64, np.uint8), base, count, TX_READ)


def test_ring_lengths_keep_only_whole_blocks_of_eight() -> None:
    assert r.WRITE_MASK[Reg.TDLEN] & 0xFFFF_FFFF == 0xFFF80
    assert r.WRITE_MASK[Reg.RDLEN] & 255 == 128
