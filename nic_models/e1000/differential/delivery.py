"""Rows about reception: what is written back, what is stored, and what is counted."""

from __future__ import annotations

from typing import Final

from nic_models.differential.contract import Imitation, Row
from nic_models.differential.pc import MEMORY
from nic_models.differential.steps import Primitive, Read, Write
from nic_models.e1000.descriptors import RX_ERRORS, RX_STATUS
from nic_models.e1000.differential.arrival import (
    ENABLE,
    STRANGER,
    THEIR_LONGEST,
    THEIR_LONGEST_LPE,
    arrivals,
    one,
    places,
    up,
)
from nic_models.e1000.differential.state import State, peek, put
from nic_models.e1000.fetch import FCS_BYTES
from nic_models.e1000.registers import INT, RCTL, RCTL_RDMTS_SHIFT, Reg

_BROADCAST: Final = b"\xff" * 6

# -- imitated: memory ---------------------------------------------------------------------------


def _outside(state: State, step: Primitive) -> Imitation:
    yield
    yield
    changed = False
    for desc in state.delivered:
        if desc.last and state.memory[desc.at + 13] & RX_ERRORS.RXE:
            state.memory[desc.at + 13] &= 0xFF & ~int(RX_ERRORS.RXE)
            changed = True
    return changed


def _stale(state: State, step: Primitive) -> Imitation:
    yield
    yield
    changed = False
    memory = state.memory
    for desc in state.delivered:
        if not desc.size:
            continue
        kept = desc.before[12] & ~int(RX_STATUS.DD | RX_STATUS.EOP) & 0xFF
        old = (desc.before[10], desc.before[11], kept, desc.before[13])
        now = [int(memory[desc.at + 10 + i]) for i in range(4)]
        want = [now[i] | byte for i, byte in enumerate(old)]
        changed |= want != now
        memory[desc.at + 10 : desc.at + 14] = want
    return changed


def _null_special(state: State, step: Primitive) -> Imitation:
    yield
    yield
    changed = False
    for desc in state.delivered:
        if not desc.size and any(desc.before[14:16]):
            state.memory[desc.at + 14 : desc.at + 16] = 0
            changed = True
    return changed


def _fcs(state: State, step: Primitive) -> Imitation:
    view = places(state, step)
    before = state.memory.copy() if view is not None and not state.rctl & RCTL.SECRC else None
    yield
    yield
    if before is None:
        return False
    left = 0
    for desc in reversed(state.delivered):
        left = FCS_BYTES if desc.last else left
        take = min(left, desc.size)
        left -= take
        end = desc.address + desc.size
        if take and end <= MEMORY:
            state.memory[end - take : end] = before[end - take : end]
    return bool(state.delivered)


# -- imitated: causes and statistics --------------------------------------------------------------


def _low(state: State, step: Primitive) -> Imitation:
    yield
    yield
    ring, cause = state.ours.receiver.ring, state.ours.interrupts.cause
    if not any(desc.last for desc in state.delivered):
        return False
    threshold = ring.count >> (1 + (state.rctl >> RCTL_RDMTS_SHIFT & 3))
    free = ring.owned(ring.tail)
    # Where it fell to the threshold in this very step, ours has to say so by itself.
    low_before = free + len(state.delivered) <= threshold
    if low_before and not cause & INT.RXDMT0:
        state.ours.interrupts.post(int(INT.RXDMT0))
        return True
    return False


def _totals(state: State, step: Primitive) -> Imitation:
    refused = [frame.length for frame in arrivals(state, step) if not frame.accepted]
    yield
    yield
    statistics = state.ours.statistics
    if refused:
        put(statistics, Reg.TPR, peek(statistics, Reg.TPR) - len(refused))
        total = sum(refused) + FCS_BYTES * len(refused)
        put(statistics, Reg.TORL, peek(statistics, Reg.TORL) - total)
    return bool(refused)


def _groups(state: State, step: Primitive) -> Imitation:
    accepted = [frame for frame in arrivals(state, step) if frame.accepted and frame.group]
    rctl = state.rctl
    yield
    yield
    broadcasts = multicasts = 0
    for frame in accepted:
        if rctl & RCTL.MPE:
            seen = (0, 1)
        elif frame.broadcast and rctl & RCTL.BAM:
            seen = (1, 0)
        else:
            seen = (0, 0 if frame.exact else 1)
        broadcasts += seen[0] - frame.broadcast
        multicasts += seen[1] - (not frame.broadcast)
    statistics = state.ours.statistics
    put(statistics, Reg.BPRC, peek(statistics, Reg.BPRC) + broadcasts)
    put(statistics, Reg.MPRC, peek(statistics, Reg.MPRC) + multicasts)
    return bool(broadcasts or multicasts)


def _roc(state: State, step: Primitive) -> Imitation:
    limit = THEIR_LONGEST_LPE if state.rctl & RCTL.LPE else THEIR_LONGEST
    foreign = sum(not frame.passes and frame.length > limit for frame in arrivals(state, step)) * (
        not state.rctl & RCTL.SBP
    )
    yield
    yield
    state.ours.statistics.add(Reg.ROC, foreign)
    return bool(foreign)


def _rlec(state: State, register: int, ours: int, theirs: int) -> bool:
    return register == Reg.RLEC and theirs == 0


def _rnbc(state: State, register: int, ours: int, theirs: int) -> bool:
    return register == Reg.RNBC and theirs == 0


# -- the table --------------------------------------------------------------------------------

ROWS: Final = (
    Row(
        "rx-outside-memory",
        "a buffer that nobody answers for",
        "not said; PCI calls it a master abort",
        "the frame comes back with RXE",
        "the status is good",
        "RXE is taken out of our descriptor",
        (*up(address=1 << 30), one()),
        "memory",
        strays="neither",
        imitate=_outside,
    ),
    Row(
        "rx-stale-fields",
        "checksum, errors and status bits of a descriptor that software has not cleared",
        "3.2.3: the write-back is the whole of length, checksum, status, errors and special",
        "written: checksum and errors 0",
        "checksum and errors stay as they were, status bits are added",
        "the old bits are put back in our memory",
        (*up(rest=0x0000_FFF0_FFFF_0000), one()),
        "memory",
        imitate=_stale,
    ),
    Row(
        "rx-null-special",
        "the special field of a descriptor with a null address",
        "3.2.5: DD is set, nothing else changes",
        "stays",
        "is cleared",
        "cleared in our memory",
        (*up(address=0, rest=0xABCD << 48), one()),
        "memory",
        imitate=_null_special,
    ),
    Row(
        "rx-fcs",
        "RCTL.SECRC clear",
        "13.4.22: the FCS is stored with the frame",
        "stored, and counted in the length",
        "counted in the length; its bytes are not written",
        "the four bytes are put back in our memory",
        (*up(int(RCTL.EN)), one()),
        "memory",
        imitate=_fcs,
    ),
    Row(
        "rx-rdmt0-level",
        "a frame is stored with few descriptors free, not for the first time",
        "13.4.17: RXDMT0 says that the threshold was reached",
        "when the count falls to the threshold",
        "with each frame while it is at or below",
        "ours posts RXDMT0",
        (*up(tail=4), one(), Read(Reg.ICR), one()),
        "icr",
        strays="neither",
        imitate=_low,
    ),
    Row(
        "rx-totals",
        "TPR and TOR for a frame that is not stored",
        "13.7: all packets and octets received, whatever the filter says",
        "counted",
        "not counted",
        "taken out of ours",
        (*up(), one(to=STRANGER), Read(Reg.TPR)),
        "Reg.TPR",
        imitate=_totals,
    ),
    Row(
        "rx-group-counts",
        "BPRC and MPRC",
        "13.7: broadcast, and multicast without broadcast, whatever rule let the frame in",
        "by destination",
        "by rule: with MPE a broadcast is a multicast; a group address that equals an address"
        " register is none; a broadcast that came in by another rule than BAM is not counted as"
        " one",
        "ours counts by rule too",
        (*up(ENABLE | int(RCTL.MPE)), one(to=_BROADCAST), Read(Reg.BPRC)),
        "Reg.BPRC",
        imitate=_groups,
    ),
    Row(
        "rx-roc-foreign",
        "ROC for oversize frames to others",
        "13.7.36: frames that pass the address filter",
        "not counted",
        "counted",
        "ours counts them",
        (*up(), one(1600, STRANGER), Read(Reg.ROC)),
        "Reg.ROC",
        imitate=_roc,
    ),
    Row(
        "rlec-absent",
        "RLEC",
        "13.7.15: length errors, undersize and oversize",
        "counts oversize frames",
        "0",
        "QEMU's is 0",
        (*up(), one(1600), Read(Reg.RLEC)),
        "Reg.RLEC",
        reads=_rlec,
    ),
    Row(
        "rnbc",
        "RNBC",
        "13.7.33: frames that arrived when no descriptor was free, stored later or not",
        "counts them",
        "counts those that it drops",
        "QEMU's is 0: what it drops is left out",
        (*up(tail=0), one(), Write(Reg.RDT, 7), Read(Reg.RNBC)),
        "Reg.RNBC",
        reads=_rnbc,
    ),
)
