"""Rows about reception: which frames come in, and when.

All of them leave steps out: once one device has a frame that the other has not, nothing after it
can be compared.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

from nic_models.differential.contract import Row
from nic_models.differential.pc import MAC, MEMORY, overlap, reachable, unanswered
from nic_models.differential.steps import Arrive, Frame, Link, Poke, Primitive, Read, Step, Write
from nic_models.e1000.differential.registers import STATISTICS
from nic_models.e1000.differential.state import Arriving, RxView, State, buffers, receives
from nic_models.e1000.differential.steps import LINK_UP, RxDescriptor
from nic_models.e1000.fetch import FCS_BYTES
from nic_models.e1000.registers import (
    RAR_COUNT,
    RCTL,
    RCTL_RDMTS_SHIFT,
    Reg,
    mta,
    mta_hash,
    rah,
    ral,
)
from nic_models.e1000.rx import LONGEST, LONGEST_LPE

RING: Final = 0x10_4000
DATA: Final = 0x14_0000
STRANGER: Final = bytes.fromhex("0200000000aa")
#: The longest that QEMU 7.2 takes, without FCS: it forgets that its limits include the FCS.
THEIR_LONGEST, THEIR_LONGEST_LPE = 1522, 16384
_RING_REGISTERS: Final = frozenset({Reg.RDBAL, Reg.RDBAH, Reg.RDLEN, Reg.RDH})
_FILTER_REGISTERS: Final = frozenset(
    {Reg.RCTL, Reg.CTRL, Reg.PBA}
    | {ral(i) for i in range(RAR_COUNT)}
    | {rah(i) for i in range(RAR_COUNT)}
    | {mta(i) for i in range(128)}
)


def acts(state: State, step: Primitive) -> RxView | None:
    """What the step would place in memory; None if it has nothing to do with reception."""
    return state.reception(step) if receives(step) else None


def places(state: State, step: Primitive) -> RxView | None:
    view = acts(state, step)
    return view if view is not None and view.used else None


def arrivals(state: State, step: Primitive) -> list[Arriving]:
    """The frames of a batch that our receiver looks at."""
    if isinstance(step, Arrive) and state.link and state.rctl & RCTL.EN:
        return state.arriving(step)
    return []


# -- left out ---------------------------------------------------------------------------------


def _off(state: State, step: Primitive) -> bool:
    return isinstance(step, Arrive) and state.link and not state.rctl & RCTL.EN


def _broken_ring(state: State, step: Primitive) -> bool:
    view = acts(state, step)
    if view is None or view.usable or not view.enabled:
        return False
    return bool(state.waiting) or any(frame.accepted for frame in arrivals(state, step))


def _full(state: State, step: Primitive) -> bool:
    """Whether frames would wait, and the FIFO not hold them."""
    view = acts(state, step)
    arriving = [frame.length + FCS_BYTES for frame in arrivals(state, step) if frame.accepted]
    if view is None or not arriving:
        return False
    waiting = [*state.waiting, *arriving][view.frames :]
    return sum(waiting) > state.ours.receiver.fifo_size


def _late_filter(state: State, step: Primitive) -> bool:
    if not state.waiting:
        return False
    if isinstance(step, Write):
        return step.register in _FILTER_REGISTERS | _RING_REGISTERS
    return isinstance(step, Link)


def _refused_late(state: State, step: Primitive) -> bool:
    view = acts(state, step)
    return view is not None and view.refused_late


def _late_count(state: State, step: Primitive) -> bool:
    return isinstance(step, Read) and bool(state.waiting) and step.register in STATISTICS


def _overrun(state: State, step: Primitive) -> bool:
    view = acts(state, step)
    return view is not None and view.overrun


def _few(state: State, step: Primitive) -> bool:
    view = places(state, step)
    waits = isinstance(step, Write) and view is not None
    return waits and view is not None and view.frames < len(state.waiting)


def _torn_buffer(state: State, step: Primitive) -> bool:
    view = places(state, step)
    return view is not None and any(
        not reachable(where.start, len(where)) and not unanswered(where.start, len(where))
        for where in buffers(view.used)
    )


def _own_ring(state: State, step: Primitive) -> bool:
    view = places(state, step)
    return view is not None and any(overlap(where, view.ring) for where in buffers(view.used))


def _hash(state: State, step: Primitive) -> bool:
    mo = int(state.rctl) >> 12 & 3
    for frame in arrivals(state, step):
        if not frame.passes and not frame.group:
            bit = mta_hash(frame.to, mo)
            if int(state.ours.receiver.filter.table[bit >> 5]) >> (bit & 31) & 1:
                return True
    return False


def _nearly_too_long(state: State, step: Primitive) -> bool:
    lpe = state.rctl & RCTL.LPE
    ours, theirs = (LONGEST_LPE, THEIR_LONGEST_LPE) if lpe else (LONGEST, THEIR_LONGEST)
    return any(f.passes and ours < f.length <= theirs for f in arrivals(state, step))


def _store_bad(state: State, step: Primitive) -> bool:
    return bool(state.rctl & RCTL.SBP) and any(
        not frame.short_enough and frame.passes for frame in arrivals(state, step)
    )


def _rdmts(state: State, step: Primitive) -> bool:
    if not (isinstance(step, Write) and step.register == Reg.RCTL):
        return False
    return step.value >> RCTL_RDMTS_SHIFT & 3 == 3


def _shared(state: State, step: Primitive) -> bool:
    """Whether, with the FCS stored, two frames of one step share a buffer."""
    view = places(state, step)
    if view is None or _value(state, step) & RCTL.SECRC:
        return False
    where = sorted((place.start, place.stop) for place in buffers(view.used))
    return any(one[1] > other[0] for one, other in pairwise(where))


def _value(state: State, step: Primitive) -> int:
    return step.value if isinstance(step, Write) and step.register == Reg.RCTL else state.rctl


# -- the table --------------------------------------------------------------------------------

ENABLE: Final = int(RCTL.EN | RCTL.BAM | RCTL.SECRC)
_SMALL: Final = 3 << 16  # buffers of 256 bytes


def up(rctl: int = ENABLE, tail: int = 7, address: int = DATA, rest: int = 0) -> tuple[Step, ...]:
    """A ring of eight, 8 KiB a buffer; the first at ``address``, with ``rest`` behind it."""
    descriptors = tuple(RxDescriptor(i, DATA + 0x2000 * i) for i in range(1, 8))
    return (
        Write(Reg.CTRL, LINK_UP),
        Read(Reg.ICR),
        Write(Reg.RDBAL, RING),
        Write(Reg.RDLEN, 128),
        RxDescriptor(0, address, rest),
        *descriptors,
        Write(Reg.RCTL, rctl),
        Write(Reg.RDT, tail),
    )


def one(length: int = 60, to: bytes = MAC) -> Arrive:
    """One frame."""
    return Arrive((Frame(to, length, 7),))


ROWS: Final = (
    Row(
        "rx-off",
        "frames that arrive while RCTL.EN is clear",
        "13.4.22: the receiver stores nothing while it is off",
        "they are lost",
        "its network back end holds them back until the receiver is on again",
        "left out",
        (*up(0), one(), Write(Reg.RCTL, ENABLE)),
        "rdh",
        leave_out=_off,
    ),
    Row(
        "rx-ring-broken",
        "frames for a ring whose head or tail is beyond its end, or that is not in memory",
        "13.4.27 to 13.4.29 forbid it and do not say what happens",
        "they wait in the FIFO until the ring is mended; rx_ring_faults",
        "they go to whatever lies there",
        "left out",
        (*up(), Write(Reg.RDT, 9), Write(Reg.RDH, 8), Poke(RING + 128, bytes(16)), one()),
        "rdh",
        strays="neither",
        leave_out=_broken_ring,
    ),
    Row(
        "rx-fifo",
        "more frames than fit into the receive FIFO while no descriptor is free",
        "3.2, 13.4.16, 13.7.5: they are missed; MPC counts them, cause RXO",
        "misses them",
        "holds any number back in its network back end",
        "left out",
        (*up(tail=0), Arrive(tuple(Frame(MAC, 1500) for _ in range(40)))),
        "icr",
        leave_out=_full,
    ),
    Row(
        "rx-late-filter",
        "RCTL, an address, the multicast table, the ring or the link changes while frames wait",
        "3.2: the filter stands before the FIFO",
        "a frame in the FIFO has passed the filter and will be stored",
        "a frame that waits is judged when a descriptor is free for it",
        "left out",
        (*up(tail=0), one(), Write(Reg.RAH0, 0), Write(Reg.RDT, 7)),
        "rdh",
        leave_out=_late_filter,
    ),
    Row(
        "rx-refused-late",
        "a frame that the filter refuses comes while no descriptor is free",
        "3.2: the filter stands before the FIFO",
        "refused at once",
        "held back, and judged when a descriptor is free",
        "left out",
        (
            *up(tail=0),
            one(to=STRANGER),
            Write(Reg.RCTL, ENABLE | int(RCTL.UPE)),
            Write(Reg.RDT, 7),
        ),
        "icr",
        leave_out=_refused_late,
    ),
    Row(
        "rx-late-count",
        "a statistic is read while frames wait",
        "13.7: good packets received; not when",
        "counts when the frame enters the FIFO",
        "counts when the frame has been stored",
        "left out until they are stored",
        (*up(tail=0), one(), Read(Reg.GPRC)),
        "Reg.GPRC",
        strays="neither",
        leave_out=_late_count,
    ),
    Row(
        "rx-overrun",
        "a frame needs more descriptors than are free, but some are",
        "3.2.6: the rest of the frame waits in the FIFO for more",
        "fills what there is and goes on when more come",
        "drops the frame: MPC, RNBC, RXO; or, after a null address, runs past the tail",
        "left out",
        (*up(ENABLE | _SMALL, tail=2), one(1000)),
        "rdh",
        leave_out=_overrun,
    ),
    Row(
        "rx-few-descriptors",
        "RDT gives descriptors to some of the frames that wait, but not to all",
        "3.2.6: the others go on waiting in the FIFO",
        "they wait",
        "drops the next one, or all of them: MPC, RNBC, RXO",
        "left out",
        (*up(tail=0), Arrive((Frame(MAC, 60), Frame(MAC, 61))), Write(Reg.RDT, 1)),
        "icr",
        leave_out=_few,
    ),
    Row(
        "rx-buffer-at-the-edge",
        "a buffer that lies partly in memory",
        "not said",
        "nothing of it is written, and the frame comes back with RXE",
        "what lies in memory is written, and the status is good",
        "left out",
        (*up(address=MEMORY - 30), one()),
        "memory",
        strays="neither",
        leave_out=_torn_buffer,
    ),
    Row(
        "rx-own-ring",
        "a buffer that lies in the ring it is described by",
        "3.2.4, 3.2.5: descriptors are fetched and written back in batches",
        "fetches a batch, then stores, then writes back",
        "goes descriptor by descriptor",
        "left out",
        (*up(address=RING), Arrive((Frame(MAC, 60), Frame(MAC, 61)))),
        "memory",
        strays="neither",
        leave_out=_own_ring,
    ),
    Row(
        "rx-unicast-hash",
        "an individual address whose hash bit is set in the multicast table",
        "3.2.1, 13.5.1: the table filters multicast addresses",
        "refused",
        "accepted",
        "left out",
        (*up(), Write(mta(mta_hash(STRANGER, 0) >> 5), 0xFFFF_FFFF), one(to=STRANGER)),
        "rdh",
        leave_out=_hash,
    ),
    Row(
        "rx-length-limits",
        "frames of 1519 to 1522 bytes without LPE, of 16381 to 16384 with it, FCS not counted",
        "13.4.22, 13.7.36: longer than 1522 or 16384 bytes, from destination to FCS",
        "oversize",
        "accepted: it takes the limits without FCS",
        "left out",
        (*up(), one(1522)),
        "rdh",
        leave_out=_nearly_too_long,
    ),
    Row(
        "rx-store-bad",
        "oversize frames with RCTL.SBP",
        "13.4.22: SBP stores frames with CRC, symbol, sequence or length errors; LPE decides"
        " on long ones",
        "oversize",
        "accepted",
        "left out",
        (*up(ENABLE | int(RCTL.SBP)), one(1600)),
        "rdh",
        strays="neither",
        leave_out=_store_bad,
    ),
    Row(
        "rx-rdmts-reserved",
        "RCTL.RDMTS = 11b",
        "13.4.22: reserved",
        "an eighth of the ring, as 10b",
        "a sixteenth",
        "left out",
        (
            *up(ENABLE | 3 << RCTL_RDMTS_SHIFT, tail=1),
            Write(Reg.RDT, 2),
            Read(Reg.ICR),
            one(),
        ),
        "icr",
        strays="neither",
        leave_out=_rdmts,
    ),
    Row(
        "rx-shared-buffer",
        "with the FCS stored, several descriptors with one buffer in one batch",
        "3.2.2: software's own doing",
        "stores the FCS too",
        "stores no FCS: see rx-fcs, whose imitation cannot tell what lay there before",
        "left out",
        (
            *up(int(RCTL.EN)),
            Poke(RING + 16, (DATA + 32).to_bytes(8, "little")),
            Arrive((Frame(MAC, 60), Frame(MAC, 200))),
        ),
        "memory",
        strays="QEMU",
        leave_out=_shared,
    ),
)
