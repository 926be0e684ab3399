"""Starting the NIC: the register sequences, in the manual's order (8254x SDM chapter 14).

There are two ways in. *Reset* is ordinary life: everything is set to a known state first.
*Takeover* is the panic: a reset would be the honest start, but it drops the link, and a link that a
switch takes thirty seconds to forward on again is a dump that is lost. So the takeover stops what
it finds, waits until its DMA has stopped, and programs every register that the panic path depends
on. What the FIFOs still hold stays: a few frames from before the panic may leave, or arrive, late.

Both are made of the same tables. A register is written through a function that the driver gives, so
that in ordinary life each access is a step at which a panic may strike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from nic_models.e1000.descriptors import SIZE
from nic_models.e1000.registers import (
    CTRL,
    MTA_COUNT,
    RAH,
    RCTL,
    TCTL,
    TCTL_COLD_FULL_DUPLEX,
    TCTL_COLD_SHIFT,
    TCTL_CT_DEFAULT,
    TCTL_CT_SHIFT,
    TIPG_COPPER,
    TXDCTL,
    Reg,
    mta,
    ral_rah_to_mac,
)

Read = Callable[[int], int]
Write = Callable[[int, int], None]
Delay = Callable[[int], None]

#: All causes.
ALL: Final = 0xFFFF_FFFF
#: What DMA in flight is given to end. FreeBSD's em_reset waits as long.
QUIESCE_US: Final = 10_000
#: EEPROM reload after a reset, and how often RST is looked at before the chip is given up.
RESET_US: Final = 5_000
RESET_LOOKS: Final = 10

#: 14.5, with 13.4.33: full duplex, short packets padded.
TCTL_ON: Final = int(
    TCTL.EN | TCTL.PSP | TCTL_CT_DEFAULT << TCTL_CT_SHIFT | TCTL_COLD_FULL_DUPLEX << TCTL_COLD_SHIFT
)
#: 14.4, with 13.4.22: broadcasts are heard (ARP), the FCS is stripped, buffers are 2048 bytes.
RCTL_ON: Final = int(RCTL.EN | RCTL.BAM | RCTL.SECRC)
RCTL_PROMISCUOUS: Final = int(RCTL.UPE | RCTL.MPE)


class NicFailed(Exception):
    """The NIC does not do what its manual says."""


def stop(read: Read, write: Write, delay_us: Delay) -> int:
    """Mask interrupts and stop both engines; the receive control as it was found.

    13.4.20 IMC, 13.4.17 ICR, 13.4.22 RCTL, 13.4.33 TCTL. Until DMA in flight has ended, the old
    rings and buffers are still written to.
    """
    write(Reg.IMC, ALL)
    read(Reg.ICR)
    found = read(Reg.RCTL)
    write(Reg.RCTL, 0)
    write(Reg.TCTL, 0)
    read(Reg.STATUS)  # flushes the posted writes
    delay_us(QUIESCE_US)
    return found


def reset(read: Read, write: Write, delay_us: Delay) -> None:
    """13.4.1 CTRL.RST, then 14.3: general configuration. The interrupt mask and rings are clear.

    Raises:
        NicFailed: the reset does not end.
    """
    write(Reg.CTRL, read(Reg.CTRL) | CTRL.RST)
    delay_us(RESET_US)
    for _ in range(RESET_LOOKS):
        if not read(Reg.CTRL) & CTRL.RST:
            break
        delay_us(RESET_US)
    else:
        waited = RESET_US * (RESET_LOOKS + 1) // 1000
        raise NicFailed(
            f"CTRL.RST is still set after {waited} ms (8254x SDM 13.4.1): is BAR 0 an 82540's?"
        )
    write(Reg.IMC, ALL)  # QEMU's device resets nothing but the bit itself
    read(Reg.ICR)
    for index in range(MTA_COUNT):  # 14.4: no reset clears the multicast table
        write(mta(index), 0)


def set_link_up(read: Read, write: Write) -> None:
    """14.3: CTRL.SLU and auto-detection, nothing forced."""
    control = read(Reg.CTRL) & ~int(CTRL.FRCSPD | CTRL.FRCDPX | CTRL.ILOS | CTRL.VME)
    write(Reg.CTRL, control | CTRL.SLU | CTRL.ASDE)


def start_transmit(write: Write, base: int, count: int) -> None:
    """14.5: transmit initialization, EN last. Write-back is immediate (13.4.43: WTHRESH = 0)."""
    write(Reg.TDBAL, base & 0xFFFF_FFFF)
    write(Reg.TDBAH, base >> 32)
    write(Reg.TDLEN, count * SIZE)
    write(Reg.TDH, 0)
    write(Reg.TDT, 0)
    write(Reg.TIDV, 0)
    write(Reg.TADV, 0)
    write(Reg.TXDCTL, TXDCTL.GRAN)
    write(Reg.TIPG, TIPG_COPPER)
    write(Reg.TCTL, TCTL_ON)


def start_receive(write: Write, base: int, count: int, tail: int, control: int) -> None:
    """14.4: receive initialization. Descriptors are ready, and ``control`` (RCTL) is written last.

    RCTL is written only once: a device may stop receiving for a while whenever it is written.
    """
    write(Reg.RDTR, 0)
    write(Reg.RADV, 0)
    write(Reg.ITR, 0)
    write(Reg.RXCSUM, 0)
    write(Reg.RDBAL, base & 0xFFFF_FFFF)
    write(Reg.RDBAH, base >> 32)
    write(Reg.RDLEN, count * SIZE)
    write(Reg.RDH, 0)
    write(Reg.RDT, tail)
    write(Reg.RCTL, control)


def station_address(read: Read) -> bytes:
    """13.5.2, 13.5.3: receive address 0, which the EEPROM or software has set.

    Raises:
        NicFailed: it is not valid.
    """
    low, high = read(Reg.RAL0), read(Reg.RAH0)
    if not high & RAH.AV:
        raise NicFailed(
            f"RAL0/RAH0 = {low:#010x}/{high:#010x} hold no valid address (8254x SDM 13.5.3):"
            " the EEPROM was not read, or nobody programmed them"
        )
    return ral_rah_to_mac(low, high)
