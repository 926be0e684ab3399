"""What random traces are drawn from: ordinary drivers' doings, borderline and hostile ones.

Most traces begin with a bring-up, and come back to one now and then, for a NIC with a broken ring
does nothing worth comparing.
"""

from __future__ import annotations

from typing import Final

from nic_models.differential.contract import Dice, Move
from nic_models.differential.pc import MAC, MEMORY
from nic_models.differential.steps import Arrive, Frame, Link, Poke, Read, Step, Write
from nic_models.e1000.differential.registers import CLOSING, STATISTICS, named
from nic_models.e1000.differential.steps import LINK_UP, Advance, RxDescriptor, TxDescriptor
from nic_models.e1000.registers import CTRL, INT, RCTL, TCTL, Reg, mta, mta_hash, rah, ral

Steps = list[Step]

TX_RINGS: Final = (0x10_0000, 0x10_1000)
RX_RINGS: Final = (0x10_4000, 0x10_5000)
TX_DATA: Final = range(0x11_0000, 0x14_0000)
RX_DATA: Final = range(0x14_0000, 0x1E_0000)
_BUFFER: Final = 0x2000

_BROADCAST: Final = b"\xff" * 6
_GROUPS: Final = tuple(bytes.fromhex(a) for a in ("01005e000001", "01005e7ffffa", "333300000001"))
_SECOND: Final = bytes.fromhex("020304050607")
_OTHERS: Final = tuple(bytes.fromhex(a) for a in ("0200000000aa", "525400123457", "525400123446"))
_KNOWN_RAL: Final = (*_GROUPS, _SECOND, _BROADCAST)

_IN_LENGTHS: Final = (
    *(1, 13, 14, 42, 59, 60, 61, 64, 255, 256, 257, 508, 511, 512, 513, 1020, 1024, 1025),
    *(1500, 1514, 1517, 1518, 1519, 1522, 1523, 2044, 2047, 2048, 2049, 4096, 9014),
    *(16380, 16381, 16384, 16385),
)
_OUT_LENGTHS: Final = (0, 1, 14, 42, 59, 60, 61, 64, 256, 1514, 1518, 1519, 4096, 9014, 16288)
_HOSTILE_LENGTHS: Final = (16289, 32768, 65535)
_HOSTILE_ADDRESSES: Final = (
    *(0, 1, 0x1000, 0x9_0000, 0x10_0000, 0x10_4000, MEMORY - 64, MEMORY - 1, MEMORY),
    *(0x30_0000, 0x4000_0000, 0x9_FFFF, 0xFEE0_0000, 1 << 36, (1 << 64) - 1),
)
_RING_BYTES: Final = (128, 256, 512)
_HOSTILE_LENS: Final = (0, 16, 127, 128, 0x1F_FFFF, 0x1000, 384, 0xFFFF_FFFF)
_VALUES: Final = (0, 1, 5, 8, 56, 0xFFFF, 0x1234_5678, 0xA5A5_A5A5, 0xFFFF_FFFF)
_COMMANDS: Final = (0x0B, 0x0B, 0x0B, 0x03, 0x0A, 0x02, 0x09, 0x01, 0x8B, 0x4B)
_RCTL_EXTRAS: Final = (RCTL.UPE, RCTL.MPE, RCTL.LPE, RCTL.SBP, RCTL.DPF, RCTL.PMCF, RCTL.VFE)
_CAUSES: Final = tuple(int(bit) for bit in INT)
_STORED: Final = tuple(
    sorted(
        reg
        for reg in CLOSING
        if reg not in STATISTICS
        and reg not in (Reg.ICR, Reg.CTRL, Reg.RCTL, Reg.TCTL, Reg.TDT, Reg.RDT)
        and not Reg.RDBAL <= reg <= Reg.RDT
        and not Reg.TDBAL <= reg <= Reg.TDT
    )
)
_RINGS: Final = (Reg.TDBAL, Reg.TDBAH, Reg.TDLEN, Reg.TDH, Reg.RDBAL, Reg.RDBAH, Reg.RDLEN, Reg.RDH)


def bring_up(rng: Dice) -> Steps:
    """Link, both rings, both engines: valid, in many variants."""
    steps: Steps = [Write(Reg.CTRL, LINK_UP | rng.choice((0, int(CTRL.ASDE))))]
    steps += [Write(Reg.TCTL, 0), Write(Reg.RCTL, 0)]
    if rng.randrange(3) == 0:
        steps += [Write(Reg.IMS, rng.choice((0xFFFF_FFFF, int(INT.RXT0), int(INT.TXDW))))]
    count = rng.choice(_RING_BYTES)
    start = rng.randrange(count // 16)
    steps += [
        Write(Reg.TDBAL, rng.choice(TX_RINGS)),
        Write(Reg.TDBAH, 0),
        Write(Reg.TDLEN, count),
        Write(Reg.TDH, start),
        Write(Reg.TDT, start),
        _tctl(rng),
    ]
    count = rng.choice(_RING_BYTES)
    start = rng.randrange(count // 16)
    steps += [
        Write(Reg.RDBAL, rng.choice(RX_RINGS)),
        Write(Reg.RDBAH, 0),
        Write(Reg.RDLEN, count),
        Write(Reg.RDH, start),
        Write(Reg.RDT, start),
    ]
    filled = rng.randrange(count // 16)
    steps += [_rx_descriptor(rng, i) for i in range(filled)]
    rctl = _rctl(rng)
    steps += [rctl, Advance("rx", filled)] if rng.randrange(2) else [Advance("rx", filled), rctl]
    return steps


# -- transmission --------------------------------------------------------------------------------


def _tctl(rng: Dice) -> Step:
    psp = int(TCTL.PSP) * rng.randrange(2)
    return Write(Reg.TCTL, int(TCTL.EN) | psp | rng.choice((0, 0x0004_00F0, 1 << 24)))


def _piece(rng: Dice, ahead: int, length: int, command: int) -> Step:
    address = rng.randrange(TX_DATA.start, TX_DATA.stop - 20_000)
    return TxDescriptor(ahead, address, length, command)


def _send(rng: Dice) -> Steps:
    """Frames as a driver sends them: a few descriptors each, one doorbell."""
    steps: Steps = []
    ahead = 0
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        pieces = rng.choice((1, 1, 2, 3))
        for left in reversed(range(pieces)):
            command = rng.choice((0x02, 0x0A)) if left else 0x0B
            steps.append(_piece(rng, ahead, rng.randint(20, 1500 // pieces), command))
            ahead += 1
    return [*steps, Advance("tx", ahead)]


def _send_odd(rng: Dice) -> Steps:
    steps: Steps = []
    count = rng.choice((1, 1, 2, 3))
    for ahead in range(count):
        command = rng.choice(_COMMANDS) if rng.randrange(3) else rng.randrange(256)
        if rng.randrange(8):
            command &= ~0x20
        length = rng.choice(_OUT_LENGTHS if rng.randrange(12) else _HOSTILE_LENGTHS)
        address = rng.randrange(TX_DATA.start, TX_DATA.stop - 20_000)
        if rng.randrange(6) == 0:
            address = rng.choice(_HOSTILE_ADDRESSES)
        status = rng.choice((0, 0, 0, 0x0F, rng.randrange(256)))
        more = [rng.choice((0, rng.randrange(256))) for _ in range(3)]
        steps.append(TxDescriptor(ahead, address, length, command, more[0], status, *more[1:]))
    return [*steps, Advance("tx", count)]


# -- reception -----------------------------------------------------------------------------------


def _rctl(rng: Dice) -> Step:
    value = int(RCTL.EN | RCTL.BAM | RCTL.SECRC)
    if rng.randrange(3) == 0:
        value ^= int(rng.choice((RCTL.BAM, RCTL.SECRC, RCTL.SECRC)))
    for bit in _RCTL_EXTRAS:
        if rng.randrange(5) == 0:
            value |= int(bit)
    if rng.randrange(3) == 0:
        value |= rng.randrange(4) << 16 | int(RCTL.BSEX) * rng.randrange(2)
    value |= rng.choice((0, 0, 0, 1, 1, 1, 2, 2, 2, 3)) << 8  # 3 is reserved
    value |= rng.choice((0, 0, 1, 2, 3)) << 12
    return Write(Reg.RCTL, value)


def _rx_descriptor(rng: Dice, ahead: int) -> Step:
    address = RX_DATA.start + _BUFFER * rng.randrange(len(RX_DATA) // _BUFFER - 3)
    address += rng.choice((0, 0, 0, 2, 1, 17))
    return RxDescriptor(ahead, address, 0)


def _refill(rng: Dice) -> Steps:
    count = rng.randrange(1, 8)
    return [*(_rx_descriptor(rng, i) for i in range(count)), Advance("rx", count)]


def _refill_odd(rng: Dice) -> Steps:
    count = rng.randrange(1, 4)
    steps: Steps = []
    for ahead in range(count):
        address = RX_DATA.start + _BUFFER * rng.randrange(len(RX_DATA) // _BUFFER - 3)
        if rng.randrange(3) == 0:
            address = rng.choice(_HOSTILE_ADDRESSES) if rng.randrange(3) else 0
        rest = rng.choice((0, (1 << 64) - 1, rng.getrandbits(64), 0xFF << 32))
        steps.append(RxDescriptor(ahead, address, rest))
    return [*steps, Advance("rx", count)]


def _to(rng: Dice) -> bytes:
    kind = rng.randrange(10)
    if kind < 4:
        return MAC
    if kind < 6:
        return _BROADCAST
    if kind < 8:
        return rng.choice(_GROUPS)
    return _SECOND if kind == 8 else rng.choice(_OTHERS)


def _arrive(rng: Dice) -> Steps:
    frames = []
    for _ in range(rng.choice((1, 1, 2, 3, 6))):
        length = rng.choice(_IN_LENGTHS) if rng.randrange(3) == 0 else rng.randint(60, 1514)
        frames.append(Frame(_to(rng), length, rng.randrange(256)))
    return [Arrive(tuple(frames))]


def _filter(rng: Dice) -> Steps:
    kind = rng.randrange(4)
    if kind == 0:
        address = rng.choice(_KNOWN_RAL)
        index = rng.choice((0, 1, 15))
        valid = rng.choice((0, 1 << 31, 1 << 31))
        return [
            Write(named(ral(index)), int.from_bytes(address[:4], "little")),
            Write(named(rah(index)), int.from_bytes(address[4:], "little") | valid),
        ]
    if kind == 1:
        return [
            Write(named(ral(0)), int.from_bytes(MAC[:4], "little")),
            Write(named(rah(0)), int.from_bytes(MAC[4:], "little") | 1 << 31),
        ]
    bit = mta_hash(rng.choice((*_GROUPS, *_OTHERS, _BROADCAST)), rng.randrange(4))
    return [Write(named(mta(bit >> 5)), rng.choice((1 << (bit & 31), 1 << (bit & 31), 0)))]


# -- the rest ------------------------------------------------------------------------------------


def _read(rng: Dice) -> Steps:
    return [Read(rng.choice(CLOSING)) for _ in range(rng.choice((1, 2, 4)))]


def _count(rng: Dice) -> Steps:
    known = [register for register in CLOSING if register in STATISTICS]
    return [Read(rng.choice(known)) for _ in range(rng.choice((1, 2, 4)))]


def _store(rng: Dice) -> Steps:
    register = rng.choice(_STORED)
    return [Write(register, rng.choice(_VALUES)), Read(register)]


def _interrupt(rng: Dice) -> Steps:
    value = rng.choice(_CAUSES) | rng.choice((0, rng.choice(_CAUSES)))
    value = rng.choice((value, value, value, 0xFFFF_FFFF, rng.getrandbits(32)))
    kind = rng.randrange(5)
    if kind == 0:
        return [Read(Reg.ICR)]
    return [Write((Reg.ICS, Reg.IMS, Reg.IMC, Reg.ICR)[kind - 1], value)]


def _engines(rng: Dice) -> Steps:
    kind = rng.randrange(4)
    if kind == 0:
        return [Write(Reg.TCTL, rng.choice((0, int(TCTL.PSP))))]
    if kind == 1:
        return [Write(Reg.RCTL, 0), _rctl(rng)]
    return [_tctl(rng) if kind == 2 else _rctl(rng)]


def _cable(rng: Dice) -> Steps:
    steps: Steps = [Link(False), *rng.choice((_arrive, _read, _interrupt, _store))(rng)]
    return [*steps, Link(True)] if rng.randrange(8) else steps


def _reset(rng: Dice) -> Steps:
    return [Write(Reg.CTRL, int(CTRL.RST) | rng.choice((0, LINK_UP))), *_read(rng), *bring_up(rng)]


def _memory(rng: Dice) -> Steps:
    address = rng.choice((TX_DATA.start, *TX_RINGS, *RX_RINGS)) + rng.randrange(256)
    return [Poke(address, rng.randbytes(rng.choice((1, 16, 64))))]


def _hostile(rng: Dice) -> Steps:
    """A ring that is not where it should be, or a head or tail beyond its end; then mended."""
    register = rng.choice(_RINGS)
    if register in (Reg.TDLEN, Reg.RDLEN):
        value = rng.choice(_HOSTILE_LENS)
    elif register in (Reg.TDH, Reg.RDH):
        value = rng.choice((*range(10), 31, 32, 0xFFFF, 0x1_0000, 0xFFFF_FFFF))
    elif register in (Reg.TDBAH, Reg.RDBAH):
        value = rng.choice((0, 1, 0xFFFF_FFFF))
    else:
        value = rng.choice((*TX_RINGS, *RX_RINGS, 0, 0x10_0018, MEMORY - 64, 0xFFFF_FFFF))
    steps: Steps = [Write(register, value)]
    for _ in range(rng.randrange(3)):
        steps += rng.choice((_send, _arrive, _refill, _tail, _interrupt))(rng)
    return [*steps, *bring_up(rng)] if rng.randrange(3) else steps


def _tail(rng: Dice) -> Steps:
    tail = rng.choice((*range(10), 31, 32, 0xFFFF, 0xFFFF_FFFF))
    return [Write(rng.choice((Reg.TDT, Reg.RDT)), tail)]


MOVES: Final[dict[Move, int]] = {
    _send: 20,
    _send_odd: 16,
    _refill: 18,
    _refill_odd: 8,
    _arrive: 28,
    _filter: 5,
    _read: 5,
    _count: 8,
    _store: 5,
    _interrupt: 12,
    _engines: 5,
    _cable: 1,
    _reset: 1,
    _memory: 2,
    _hostile: 1,
    _tail: 1,
}
