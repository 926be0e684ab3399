"""82540EM registers and bits, as tables.

Source: Intel, "PCI/PCI-X Family of Gigabit Ethernet Controllers Software Developer's Manual"
(317453, here "8254x SDM"), chapter 13; each entry names its section. All registers are 32 bits wide
and lie in BAR 0. Both sides of the register window read this module: the silicon (``device``)
and the kernel's code for it (``driver``). Nothing here behaves; it only names.

Three families of registers differ from plain storage:

* interrupt registers: ICR clears when read, or where 1 is written; IMS, IMC and ICS are
  write-one-to-act views of mask and cause;
* statistics (13.7): clear when read, stick at their maximum;
* heads (RDH, TDH): the silicon moves them; software writes them only while its engine is off.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Final


class Reg(IntEnum):
    """Byte offsets in BAR 0."""

    # Device, 13.4.1 to 13.4.16.
    CTRL = 0x0000  # 13.4.1 device control
    STATUS = 0x0008  # 13.4.2 device status, read only
    EECD = 0x0010  # 13.4.3 EEPROM by bit-banging; not modelled
    EERD = 0x0014  # 13.4.4 EEPROM read, word by word
    CTRL_EXT = 0x0018  # 13.4.6
    MDIC = 0x0020  # 13.4.7 PHY access; not modelled
    FCAL = 0x0028  # 13.4.8 to 13.4.12: flow control
    FCAH = 0x002C
    FCT = 0x0030
    VET = 0x0038  # 13.4.11 VLAN Ethertype
    FCTTV = 0x0170
    PBA = 0x1000  # 13.4.16 packet buffer: KiB for receive, the rest of 64 for transmit
    # Interrupts, 13.4.17 to 13.4.21.
    ICR = 0x00C0  # 13.4.17 cause, clears when read
    ITR = 0x00C4  # 13.4.18 throttling interval, 256 ns units
    ICS = 0x00C8  # 13.4.19 cause set
    IMS = 0x00D0  # 13.4.20 mask set; reads the mask
    IMC = 0x00D8  # 13.4.21 mask clear
    # Receive, 13.4.22 to 13.4.31.
    RCTL = 0x0100  # 13.4.22
    FCRTL = 0x2160  # 13.4.23
    FCRTH = 0x2168  # 13.4.24
    RDBAL = 0x2800  # 13.4.25 ring base, low; bits 3:0 are ignored
    RDBAH = 0x2804  # 13.4.26 ring base, high
    RDLEN = 0x2808  # 13.4.27 ring bytes; bits 19:7, so a multiple of 8 descriptors
    RDH = 0x2810  # 13.4.28 head: the next descriptor that the silicon fills
    RDT = 0x2818  # 13.4.29 tail: one past the last that it may fill
    RDTR = 0x2820  # 13.4.30 receive interrupt delay, 1.024 us units
    RXDCTL = 0x2828
    RADV = 0x282C  # 13.4.31 absolute receive interrupt delay
    # Transmit, 13.4.33 to 13.4.44.
    TCTL = 0x0400  # 13.4.33
    TIPG = 0x0410  # 13.4.34 inter-packet gap
    AIFS = 0x0458  # 13.4.35
    TDBAL = 0x3800  # 13.4.36
    TDBAH = 0x3804  # 13.4.37
    TDLEN = 0x3808  # 13.4.38
    TDH = 0x3810  # 13.4.39 head: the next descriptor that the silicon fetches
    TDT = 0x3818  # 13.4.40 tail: one past the last that it may fetch; the doorbell
    TIDV = 0x3820  # 13.4.41 transmit interrupt delay
    TXDCTL = 0x3828  # 13.4.43 descriptor prefetch and write-back thresholds
    TADV = 0x382C  # 13.4.44 absolute transmit interrupt delay
    TSPMT = 0x3830
    # Statistics, 13.7: the few that tell where a frame went.
    MPC = 0x4010  # 13.7.5 missed: the receive FIFO had no room
    RLEC = 0x4040  # 13.7.15 length errors
    GPRC = 0x4074  # 13.7.27 good frames received
    BPRC = 0x4078  # of these, broadcast
    MPRC = 0x407C  # of these, multicast
    GPTC = 0x4080  # 13.7.30 good frames transmitted
    GORCL = 0x4088  # 13.7.31 good octets received; reading the high half clears both
    GORCH = 0x408C
    GOTCL = 0x4090  # 13.7.32
    GOTCH = 0x4094
    RNBC = 0x40A0  # 13.7.33 frames that arrived when no descriptor was free
    ROC = 0x40AC  # 13.7.36 oversize
    TORL = 0x40C0  # all octets received, filtered or not
    TORH = 0x40C4
    TOTL = 0x40C8
    TOTH = 0x40CC
    TPR = 0x40D0  # all frames received, filtered or not
    TPT = 0x40D4  # all frames transmitted
    # Receive filter and checksum, 13.5.
    RXCSUM = 0x5000
    MTA = 0x5200  # 13.5.1 multicast hash bits, 128 registers
    RAL0 = 0x5400  # 13.5.2 address 0, first four bytes, little-endian; 16 pairs, 8 bytes apart
    RAH0 = 0x5404  # 13.5.3 its last two bytes and the valid bit
    VFTA = 0x5600  # 13.5.4 VLAN filter, 128 registers
    # Wake-up, 13.6: the management words that a bring-up clears.
    WUC = 0x5800
    MANC = 0x5820


MTA_COUNT: Final = 128
RAR_COUNT: Final = 16
VFTA_COUNT: Final = 128


class CTRL(IntFlag):
    """Device control, 8254x SDM 13.4.1."""

    FD = 1 << 0  # full duplex, when forced
    ASDE = 1 << 5  # speed by auto-detection
    SLU = 1 << 6  # set link up: without it the MAC ignores the PHY's link
    ILOS = 1 << 7
    SPEED_1000 = 0b10 << 8
    FRCSPD = 1 << 11
    FRCDPX = 1 << 12
    RST = 1 << 26  # everything but the PCI configuration; clears itself
    RFCE = 1 << 27
    TFCE = 1 << 28
    VME = 1 << 30
    PHY_RST = 1 << 31


class STATUS(IntFlag):
    """Device status, 8254x SDM 13.4.2."""

    FD = 1 << 0
    LU = 1 << 1  # link up, as the MAC sees it
    TXOFF = 1 << 4  # transmission paused by flow control
    SPEED_1000 = 0b10 << 6
    ASDV_1000 = 0b10 << 8


class EERD(IntFlag):
    """EEPROM read, 8254x SDM 13.4.4 (82540 layout)."""

    START = 1 << 0
    DONE = 1 << 4


EERD_ADDRESS_SHIFT: Final = 8  # 8 bits
EERD_DATA_SHIFT: Final = 16  # 16 bits


class INT(IntFlag):
    """Interrupt causes: the bits of ICR, ICS, IMS and IMC, 8254x SDM 13.4.17."""

    TXDW = 1 << 0  # a descriptor with RS was written back
    TXQE = 1 << 1  # the transmit ring ran empty
    LSC = 1 << 2  # link status changed
    RXSEQ = 1 << 3  # sequence error (fibre)
    RXDMT0 = 1 << 4  # free receive descriptors fell to the threshold of RCTL.RDMTS
    RXO = 1 << 6  # overrun: a frame found the receive FIFO full
    RXT0 = 1 << 7  # a frame was delivered (and the delay timer ran out)
    MDAC = 1 << 9
    RXCFG = 1 << 10
    PHYINT = 1 << 12
    GPI_SDP6 = 1 << 13  # a software-definable pin; only ICS sets these here
    GPI_SDP7 = 1 << 14
    TXD_LOW = 1 << 15
    SRPD = 1 << 16


class RCTL(IntFlag):
    """Receive control, 8254x SDM 13.4.22."""

    EN = 1 << 1
    SBP = 1 << 2  # store bad packets
    UPE = 1 << 3  # promiscuous, unicast
    MPE = 1 << 4  # promiscuous, multicast
    LPE = 1 << 5  # long packets: beyond 1522 bytes with FCS
    LBM = 0b11 << 6
    RDMTS = 0b11 << 8
    MO = 0b11 << 12
    BAM = 1 << 15  # accept broadcast
    BSIZE = 0b11 << 16
    VFE = 1 << 18
    CFIEN = 1 << 19
    CFI = 1 << 20
    DPF = 1 << 22
    PMCF = 1 << 23
    BSEX = 1 << 25  # buffer sizes times 16
    SECRC = 1 << 26  # strip the FCS before storing


#: Lowest bit of each field of RCTL that is wider than one bit.
RCTL_LBM_SHIFT: Final = 6
RCTL_RDMTS_SHIFT: Final = 8
RCTL_MO_SHIFT: Final = 12
RCTL_BSIZE_SHIFT: Final = 16

#: Receive buffer bytes by (BSEX, BSIZE), 8254x SDM 13.4.22. (1, 0) is reserved; the silicon's
#: answer to it is not documented, and this table reads it as its BSEX = 0 neighbour.
RX_BUFFER_SIZES: Final[dict[tuple[int, int], int]] = {
    (0, 0): 2048,
    (0, 1): 1024,
    (0, 2): 512,
    (0, 3): 256,
    (1, 0): 2048,
    (1, 1): 16384,
    (1, 2): 8192,
    (1, 3): 4096,
}

#: RCTL.RDMTS: RXDMT0 when free descriptors fall to ring size >> this. 3 is reserved.
RDMTS_DIVISOR_SHIFT: Final[tuple[int, int, int, int]] = (1, 2, 3, 3)

#: RCTL.MO: the 12 hash bits are destination bits [47:36], [46:35], [45:34] or [43:32], counting
#: from bit 0 of the first byte: so this right shift of the last two bytes, little-endian. 13.5.1.
MTA_HASH_SHIFT: Final[tuple[int, int, int, int]] = (4, 3, 2, 0)


class TCTL(IntFlag):
    """Transmit control, 8254x SDM 13.4.33."""

    EN = 1 << 1
    PSP = 1 << 3  # pad short packets to 64 bytes with FCS
    CT = 0xFF << 4
    COLD = 0x3FF << 12
    SWXOFF = 1 << 22
    RTLC = 1 << 24
    NRTU = 1 << 25


TCTL_CT_SHIFT: Final = 4
TCTL_COLD_SHIFT: Final = 12
TCTL_CT_DEFAULT: Final = 0x0F  # collision threshold
TCTL_COLD_FULL_DUPLEX: Final = 0x40  # collision distance

#: Inter-packet gap of the copper parts: IPGT 8, IPGR1 8, IPGR2 6. 8254x SDM 14.5.
TIPG_COPPER: Final = 8 | 8 << 10 | 6 << 20


class TXDCTL(IntFlag):
    """Transmit descriptor control."""

    PTHRESH = 0x3F
    HTHRESH = 0x3F << 8
    WTHRESH = 0x3F << 16
    GRAN = 1 << 24  # thresholds count descriptors, not cache lines


class RAH(IntFlag):
    """Receive address high, 8254x SDM 13.5.3. Bits 15:0 are the last two bytes of the address."""

    ADDRESS = 0xFFFF
    AS = 0b11 << 16  # 0 = compare with the destination, the only choice modelled
    AV = 1 << 31  # the pair is valid


#: Writable bits of the registers that are not plain 32-bit storage. A missing register: all.
WRITE_MASK: Final[dict[int, int]] = {
    Reg.RDBAL: 0xFFFF_FFF0,
    Reg.TDBAL: 0xFFFF_FFF0,
    Reg.RDLEN: 0x000F_FF80,
    Reg.TDLEN: 0x000F_FF80,
    Reg.RDH: 0xFFFF,
    Reg.RDT: 0xFFFF,
    Reg.TDH: 0xFFFF,
    Reg.TDT: 0xFFFF,
    Reg.PBA: 0x0000_0078,  # multiples of 8; the transmit share is computed
    Reg.ITR: 0xFFFF,
    Reg.AIFS: 0xFFFF,
    Reg.RDTR: 0xFFFF,
    Reg.RADV: 0xFFFF,
    Reg.TIDV: 0xFFFF,
    Reg.TADV: 0xFFFF,
}

#: Packet buffer of the 82540, KiB: all of it, and the receive share after reset. 13.4.16.
PACKET_BUFFER_KIB: Final = 64
PBA_DEFAULT_KIB: Final = 48

#: Register values after power-on and after CTRL.RST; a register that is not named reads 0.
#: RAL0/RAH0 (the EEPROM's address), PBA (kept by a reset) and STATUS come from the device itself.
RESET_VALUES: Final[dict[int, int]] = {
    Reg.CTRL: int(CTRL.FD | CTRL.SPEED_1000),
}

#: Registers that only store: the silicon of this model never looks at them, a driver programs them.
STORAGE: Final[frozenset[int]] = frozenset(
    {
        Reg.CTRL_EXT,
        Reg.FCAL,
        Reg.FCAH,
        Reg.FCT,
        Reg.VET,
        Reg.FCTTV,
        Reg.ITR,
        Reg.FCRTL,
        Reg.FCRTH,
        Reg.RDTR,
        Reg.RXDCTL,
        Reg.RADV,
        Reg.TIPG,
        Reg.AIFS,
        Reg.TIDV,
        Reg.TXDCTL,
        Reg.TADV,
        Reg.TSPMT,
        Reg.RXCSUM,
        Reg.WUC,
        Reg.MANC,
    }
    | {Reg.VFTA + 4 * i for i in range(VFTA_COUNT)}
)


def mta(index: int) -> int:
    """Offset of multicast table register ``index``, 0 to 127."""
    return Reg.MTA + 4 * index


def ral(index: int) -> int:
    """Offset of receive address low ``index``, 0 to 15."""
    return Reg.RAL0 + 8 * index


def rah(index: int) -> int:
    """Offset of receive address high ``index``, 0 to 15."""
    return Reg.RAH0 + 8 * index


def mac_to_ral_rah(mac: bytes) -> tuple[int, int]:
    """The (RAL, RAH) pair of a six-byte address, AV set."""
    low = int.from_bytes(mac[:4], "little")
    return low, int.from_bytes(mac[4:6], "little") | int(RAH.AV)


def ral_rah_to_mac(low: int, high: int) -> bytes:
    """The six-byte address in a (RAL, RAH) pair."""
    return low.to_bytes(4, "little") + (high & 0xFFFF).to_bytes(2, "little")


def mta_hash(mac: bytes, mo: int) -> int:
    """12-bit multicast hash of a six-byte address under RCTL.MO: register = hash >> 5, bit = & 31.

    8254x SDM 13.5.1.
    """
    return int.from_bytes(mac[4:6], "little") >> MTA_HASH_SHIFT[mo] & 0xFFF
