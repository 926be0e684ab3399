"""Rows about registers by themselves: values after power-on, bits, what a read or a reset does."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from nic_models.differential.contract import Imitation, OtherDevice, Row
from nic_models.differential.steps import ETHERTYPE, Arrive, Link, Primitive, Read, Write
from nic_models.e1000.device import E1000Device
from nic_models.e1000.differential.state import State
from nic_models.e1000.differential.steps import LINK_UP
from nic_models.e1000.interrupts import CAUSES
from nic_models.e1000.registers import (
    CTRL,
    EERD,
    EERD_ADDRESS_SHIFT,
    EERD_DATA_SHIFT,
    INT,
    MTA_COUNT,
    RAR_COUNT,
    STATUS,
    VFTA_COUNT,
    Reg,
    mta,
    rah,
    ral,
)

#: What this model declares out of its scope and QEMU has.
_NOT_MODELLED: Final = frozenset({Reg.EECD, Reg.MDIC})
#: All registers that a trace may touch.
KNOWN: Final = (
    frozenset(map(int, Reg))
    | {mta(i) for i in range(MTA_COUNT)}
    | {ral(i) for i in range(RAR_COUNT)}
    | {rah(i) for i in range(RAR_COUNT)}
    | {Reg.VFTA + 4 * i for i in range(VFTA_COUNT)}
) - _NOT_MODELLED
#: Read and compared at the end of every trace: all of them, but of the tables only a few.
CLOSING: Final = (
    *sorted(set(Reg) - _NOT_MODELLED),
    *(function(i) for function in (mta, ral, rah) for i in (1, 15)),
)
_BY_OFFSET: Final = frozenset(map(int, Reg))
STATISTICS: Final = frozenset(range(Reg.MPC, Reg.TPT + 4, 4))

#: Registers that QEMU 7.2 has not: they read 0, and forget what is written.
ABSENT: Final = frozenset(
    {
        Reg.CTRL_EXT,
        Reg.FCAL,
        Reg.FCAH,
        Reg.FCT,
        Reg.FCTTV,
        Reg.TIPG,
        Reg.FCRTL,
        Reg.FCRTH,
        Reg.RXDCTL,
        Reg.TIDV,
        Reg.TSPMT,
        Reg.RXCSUM,
    }
)
#: STATUS of QEMU with the link down: bit 31, bit 19 and MTXCKOK (10) are reserved on an 82540.
_THEIR_STATUS: Final = 0x8008_0781
_THEIR_CTRL: Final = 0x0014_0240
_THEIR_MANC: Final = 0x0022_2300


def named(offset: int) -> int:
    """The register with its name, if it has one."""
    return Reg(offset) if offset in _BY_OFFSET else offset


def out_of_scope(step: Primitive) -> bool:
    """What ``nic_models/e1000/device.py`` says that it does not model."""
    if not isinstance(step, Read | Write):
        return False
    if step.register not in KNOWN:
        return True
    if not isinstance(step, Write):
        return False
    if step.register == Reg.CTRL:
        return bool(step.value & CTRL.VME)
    return step.register == Reg.VET and step.value & 0xFFFF == int.from_bytes(ETHERTYPE, "big")


# -- what the rows compute --------------------------------------------------------------------


def _ctrl(state: State, register: int, ours: int, theirs: int) -> bool:
    return register == Reg.CTRL and register not in state.written and theirs == _THEIR_CTRL


def _reset_by_hand(theirs: OtherDevice, ours: E1000Device) -> None:
    """What CTRL.RST would do to QEMU's e1000: a power-on reset, with the multicast table kept."""
    theirs.reset()
    for index in range(MTA_COUNT):
        value = ours.read32(mta(index))
        if value:
            theirs.write32(mta(index), value)


def _rst(state: State, step: Primitive) -> Callable[[OtherDevice], None] | None:
    if isinstance(step, Write) and step.register == Reg.CTRL and step.value & CTRL.RST:
        return partial(_reset_by_hand, ours=state.ours)
    return None


def _status(state: State, register: int, ours: int, theirs: int) -> bool:
    return register == Reg.STATUS and theirs == _THEIR_STATUS | (ours & STATUS.LU)


def _status_without_slu(state: State, register: int, ours: int, theirs: int) -> bool:
    seen = _THEIR_STATUS | STATUS.LU
    return register == Reg.STATUS and state.cable and not state.slu and theirs == seen


def _no_lsc(state: State, step: Primitive) -> Imitation:
    slu, known = state.slu, state.ours.interrupts.cause & INT.LSC
    yield
    changed = slu != state.slu and state.cable and not known
    if changed:
        state.ours.write32(Reg.ICR, int(INT.LSC))
    yield
    return changed


def _needs_link(state: State, step: Primitive) -> bool:
    return (isinstance(step, Arrive | Link) and state.cable and not state.slu) or (
        isinstance(step, Link) and not state.slu
    )


def _base(state: State, register: int, ours: int, theirs: int) -> bool:
    return (
        register in (Reg.RDBAL, Reg.TDBAL)
        and theirs == state.written.get(register)
        and theirs & ~0xF == ours
    )


def _pba(state: State, register: int, ours: int, theirs: int) -> bool:
    return register == Reg.PBA and theirs == state.written.get(Reg.PBA, 0x0010_0030)


def _eerd(state: State, register: int, ours: int, theirs: int) -> bool:
    if register != Reg.EERD:
        return False
    written = state.written.get(Reg.EERD, 0)
    if not written & EERD.START:
        return theirs == written
    rest = written & ~int(EERD.START) | EERD.DONE
    word = (written & ~int(EERD.START)) >> EERD_ADDRESS_SHIFT
    if word > 63:
        return theirs == rest
    if word > 2:
        return (theirs ^ rest) & (1 << EERD_DATA_SHIFT) - 1 == 0
    return theirs == rest | ours >> EERD_DATA_SHIFT << EERD_DATA_SHIFT


def _absent(state: State, register: int, ours: int, theirs: int) -> bool:
    return register in ABSENT and theirs == 0 and ours == _stored(state, register)


def _stored(state: State, register: int) -> int:
    mask = 0xFFFF if register == Reg.TIDV else 0xFFFF_FFFF
    return state.written.get(register, 0) & mask


def _vet(state: State, register: int, ours: int, theirs: int) -> bool:
    return register == Reg.VET and register not in state.written and theirs == 0x8100


def _manc(state: State, register: int, ours: int, theirs: int) -> bool:
    return register == Reg.MANC and theirs == _THEIR_MANC


def _ics(state: State, register: int, ours: int, theirs: int) -> bool:
    return register == Reg.ICS and theirs == state.ours.interrupts.cause


def _mask(state: State, register: int, ours: int, theirs: int) -> bool:
    return register == Reg.IMS and theirs & CAUSES == ours


def _causes(state: State, step: Primitive) -> Callable[[OtherDevice], None] | None:
    if isinstance(step, Write) and step.register == Reg.ICS and step.value & ~CAUSES:
        value = step.value & CAUSES
        return lambda theirs: theirs.write32(Reg.ICS, value)
    return None


_UP: Final = (Write(Reg.CTRL, LINK_UP), Read(Reg.ICR))

ROWS: Final = (
    Row(
        "ctrl-after-reset",
        "CTRL before it is written",
        "13.4.1: most bits are loaded from the EEPROM or are the reset values of the table",
        "FD and SPEED = 1000 Mb/s",
        "SLU, SPEED = 1000 Mb/s and the software pins 0 and 2",
        "CTRL reads 0x00140240 until it is written",
        (Read(Reg.CTRL),),
        "Reg.CTRL",
        strays="neither",
        reads=_ctrl,
    ),
    Row(
        "ctrl-rst",
        "CTRL.RST",
        "13.4.1: resets the whole device but for its PCI configuration",
        "resets at once, but for the multicast table and the link partner",
        "clears the bit itself and nothing else",
        "QEMU's machine is reset instead, and its multicast table written anew",
        (*_UP, Write(Reg.RDTR, 5), Write(Reg.CTRL, int(CTRL.RST)), Read(Reg.RDTR)),
        "Reg.RDTR",
        translate=_rst,
    ),
    Row(
        "slu-ignored",
        "the link while CTRL.SLU is clear",
        "13.4.1, 8.6.5: the MAC sees the PHY's link when SLU is set",
        "STATUS.LU = cable and SLU; LSC when that changes; no frame passes while it is off",
        "STATUS.LU = cable, whatever SLU is",
        "STATUS.LU may be set without SLU; the LSC of a change of SLU is taken back;"
        " without SLU no frame is sent in and the cable is left alone",
        (Write(Reg.CTRL, LINK_UP), Read(Reg.STATUS)),
        "icr",
        reads=_status_without_slu,
        imitate=_no_lsc,
        leave_out=_needs_link,
    ),
    Row(
        "status-bits",
        "STATUS: constant bits",
        "13.4.2: FD, SPEED and ASDV (10b or 11b = 1000 Mb/s); bits 31 to 14 are reserved or those"
        " of the PCI-X parts, MTXCKOK (10) is of the 82544",
        "ASDV = 10b, the others 0",
        "ASDV = 11b, and bits 31, 19 and 10 are set",
        "the value is 0x80080781 plus LU",
        (*_UP, Read(Reg.STATUS)),
        "Reg.STATUS",
        reads=_status,
    ),
    Row(
        "base-low-bits",
        "RDBAL, TDBAL bits 3:0",
        "13.4.25, 13.4.36: ignored on writes, 0 on reads",
        "read 0",
        "read as written; the ring starts at the address without them, as it should",
        "QEMU's is what was written, and equals ours but for these bits",
        (Write(Reg.RDBAL, 0x10_0008), Read(Reg.RDBAL)),
        "Reg.RDBAL",
        reads=_base,
    ),
    Row(
        "pba",
        "PBA after a write",
        "13.4.16: RXA in KiB, multiples of 8; TXA is read-only and is what is left of 64",
        "keeps RXA alone and computes TXA; CTRL.RST keeps it, as it is what makes it effective",
        "reads as written, all 32 bits; it has no FIFO that it could share out",
        "QEMU's is what was written, or 0x00100030 since a reset",
        (Write(Reg.PBA, 0x20), Read(Reg.PBA)),
        "Reg.PBA",
        reads=_pba,
    ),
    Row(
        "eerd",
        "EERD",
        "13.4.4: a word is read when START is written; the register holds what was read",
        "holds the last word read, whatever is written without START",
        "reads as written without START; with it, the word is looked up anew at each read",
        "QEMU's value is computed from the last write; words 0 to 2, the station address, are"
        " compared, the others are each maker's own (5.6)",
        (
            Write(Reg.EERD, int(EERD.START)),
            Read(Reg.EERD),
            Write(Reg.EERD, 0),
            Read(Reg.EERD),
        ),
        "Reg.EERD",
        reads=_eerd,
    ),
    Row(
        "absent-registers",
        ", ".join(sorted(Reg(register).name for register in ABSENT)),
        "13.4.6, 13.4.8 to 13.4.10, 13.4.12, 13.4.23, 13.4.24, 13.4.34, 13.4.41, 13.5: read/write",
        "store what is written",
        "read 0",
        "QEMU's is 0, ours is what was written",
        (Write(Reg.TIPG, 0x0060_2008), Read(Reg.TIPG)),
        "Reg.TIPG",
        reads=_absent,
    ),
    Row(
        "vet-after-reset",
        "VET before it is written",
        "13.4.11: software programs 8100h",
        "0",
        "8100h",
        "VET reads 8100h until it is written",
        (Read(Reg.VET),),
        "Reg.VET",
        strays="neither",
        reads=_vet,
    ),
    Row(
        "manc-constant",
        "MANC",
        "13.4, 13.6: read/write; initial value from the EEPROM",
        "stores what is written",
        "0x00222300, read-only",
        "QEMU's is that value",
        (Write(Reg.MANC, 0), Read(Reg.MANC)),
        "Reg.MANC",
        reads=_manc,
    ),
    Row(
        "ics-readable",
        "ICS read",
        "13.4.19: write-only",
        "0",
        "what ICR holds, without clearing it",
        "QEMU's is our ICR. The rig reads it after every step to compare ICR",
        (Write(Reg.ICS, 1), Read(Reg.ICS)),
        "Reg.ICS",
        reads=_ics,
    ),
    Row(
        "ims-reserved-bits",
        "IMS: bits that are no cause",
        "13.4.20: reserved",
        "read 0",
        "stick",
        "the other bits are equal",
        (Write(Reg.IMS, 0x8000_0000), Read(Reg.IMS)),
        "Reg.IMS",
        reads=_mask,
    ),
    Row(
        "ics-reserved-bits",
        "ICS: bits that are no cause",
        "13.4.17, 13.4.19: reserved",
        "set nothing",
        "become causes in ICR, and raise the line if IMS has them",
        "QEMU is told the causes only",
        (Write(Reg.ICS, 0x8000_0000),),
        "icr",
        translate=_causes,
    ),
)
