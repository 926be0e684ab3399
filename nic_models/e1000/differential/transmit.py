"""Rows about transmission: doorbells, transmit descriptors, frames and their statistics."""

from __future__ import annotations

from typing import Final

from nic_models.differential.contract import Imitation, Row
from nic_models.differential.pc import overlap, reachable
from nic_models.differential.steps import Link, Poke, Primitive, Read, Step, Write
from nic_models.e1000.descriptors import TX_CMD
from nic_models.e1000.differential.state import DOORBELLS, State, TxView
from nic_models.e1000.differential.steps import LINK_UP, Advance, TxDescriptor
from nic_models.e1000.fetch import SHORTEST
from nic_models.e1000.registers import INT, TCTL, Reg

RING: Final = 0x10_0000
DATA: Final = 0x11_0000
_RPS: Final = 0x10
_EOP, _IFCS, _IC, _RS = (int(b) for b in (TX_CMD.EOP, TX_CMD.IFCS, TX_CMD.IC, TX_CMD.RS))
_LAST: Final = _EOP | _IFCS | _RS
_KEPT: Final = 0xF0  # of the status byte


def _doorbell(state: State, step: Primitive) -> TxView | None:
    """What a doorbell would run; None if the step is none, or the transmitter is off."""
    if not (isinstance(step, Write) and step.register in DOORBELLS):
        return None
    view = state.transmission(step)
    return view if view.enabled else None


def _pending(state: State, step: Primitive) -> TxView | None:
    view = _doorbell(state, step)
    return view if view is not None and view.pending else None


# -- left out ---------------------------------------------------------------------------------


def _no_doorbell(state: State, step: Primitive) -> bool:
    if isinstance(step, Write) and step.register in DOORBELLS:
        return False
    return bool(isinstance(step, Write | Link) and state.transmission(step).pending)


def _link_down(state: State, step: Primitive) -> bool:
    view = _doorbell(state, step)
    return view is not None and not view.link and not view.idle


def _broken_ring(state: State, step: Primitive) -> bool:
    view = _doorbell(state, step)
    return view is not None and not view.usable and not view.idle


def _dext(state: State, step: Primitive) -> bool:
    view = _pending(state, step)
    return view is not None and any(desc.command & TX_CMD.DEXT for desc in view.pending)


def _null(state: State, step: Primitive) -> bool:
    view = _pending(state, step)
    return view is not None and any(d.length and not d.address for d in view.pending)


def _outside(state: State, step: Primitive) -> bool:
    view = _pending(state, step)
    return view is not None and any(
        desc.length and not reachable(desc.address, desc.length) for desc in view.pending
    )


def _sizes(state: State, view: TxView) -> list[int]:
    """Bytes of each frame that ends in the view, and of the rest."""
    sizes = [state.ours.transmitter.fetcher.partial_bytes]
    for desc in view.pending:
        sizes[-1] += desc.length if desc.address else 0
        if desc.end_of_packet:
            sizes.append(0)
    return sizes


def _empty(state: State, step: Primitive) -> bool:
    view = _pending(state, step)
    return view is not None and 0 in _sizes(state, view)[:-1]


def _too_long(state: State, step: Primitive) -> bool:
    view = _pending(state, step)
    if view is None:
        return False
    fifo = state.ours.transmitter.fetcher.fifo_size
    return max(_sizes(state, view)) > max(min(16288, fifo - 80), 0)


def _own_ring(state: State, step: Primitive) -> bool:
    view = _pending(state, step)
    return view is not None and any(
        overlap(range(desc.address, desc.address + desc.length), view.ring)
        for desc in view.pending
        if desc.length
    )


# -- imitated ---------------------------------------------------------------------------------


def _command(state: State, step: Primitive, has: int, lacks: int, put: int, take: int) -> Imitation:
    """Ours meets commands with bits put in and taken out, where they match; memory keeps them."""
    view = _pending(state, step)
    found = [
        desc
        for desc in (view.pending if view else ())
        if desc.command & has == has and not desc.command & lacks
    ]
    memory = state.memory
    yield
    for desc in found:
        memory[desc.at + 11] = (int(memory[desc.at + 11]) | put) & ~take & 0xFF
    yield
    for desc in found:
        memory[desc.at + 11] = desc.command
    return bool(found)


def _rps(state: State, step: Primitive) -> Imitation:
    return (yield from _command(state, step, _RPS, _RS, _RS, 0))


def _ifcs(state: State, step: Primitive) -> Imitation:
    return (yield from _command(state, step, _EOP, _IFCS, _IFCS, 0))


def _ic(state: State, step: Primitive) -> Imitation:
    return (yield from _command(state, step, _IC, 0, 0, _IC))


def _status(state: State, step: Primitive) -> Imitation:
    view = _pending(state, step)
    found = [
        d for d in (view.pending if view else ()) if d.command & (_RS | _RPS) and d.status & _KEPT
    ]
    memory = state.memory
    yield
    yield
    for desc in found:
        memory[desc.at + 12] |= desc.status & _KEPT
    return bool(found)


def _pad(state: State, step: Primitive) -> Imitation:
    view = _pending(state, step)
    fetcher = state.ours.transmitter.fetcher
    short = view is not None and any(0 < size < SHORTEST for size in _sizes(state, view)[:-1])
    yield
    padded = short and fetcher.pad
    if padded:
        fetcher.pad = False
    yield
    if padded:
        fetcher.pad = True
    return padded


def _idle(state: State, step: Primitive) -> Imitation:
    view = _doorbell(state, step)
    yield
    yield
    idle = view is not None and view.idle
    if idle:
        state.ours.interrupts.post(int(INT.TXQE))
    return idle


def _good(state: State, step: Primitive) -> Imitation:
    view = _pending(state, step)
    short = [size for size in (_sizes(state, view)[:-1] if view else ()) if size < SHORTEST]
    yield
    pad = state.ours.transmitter.fetcher.pad
    yield
    if pad or not short:
        return False
    statistics = state.ours.statistics
    statistics.add(Reg.GPTC, len(short))
    statistics.add(Reg.GOTCL, sum(short) + 4 * len(short))
    return True


# -- the table --------------------------------------------------------------------------------

_ENABLE: Final = int(TCTL.EN)
UP: Final[tuple[Step, ...]] = (
    Write(Reg.CTRL, LINK_UP),
    Read(Reg.ICR),
    Write(Reg.TDBAL, RING),
    Write(Reg.TDLEN, 128),
    Write(Reg.TCTL, _ENABLE),
    Read(Reg.ICR),
)


def _send(address: int, length: int, command: int, status: int = 0) -> tuple[Step, ...]:
    return (TxDescriptor(0, address, length, command, status=status), Advance("tx", 1))


ROWS: Final = (
    Row(
        "tx-needs-a-doorbell",
        "TDH, TDLEN or TDBAL written, or the link restored, with TCTL.EN set and descriptors ready",
        "13.4.36 to 13.4.40: software writes these while the transmitter is off",
        "transmits as soon as there is something",
        "transmits when TDT or TCTL is written",
        "left out",
        (*UP, TxDescriptor(7, DATA, 60, _LAST), Write(Reg.TDH, 7)),
        "tdh",
        strays="neither",
        leave_out=_no_doorbell,
    ),
    Row(
        "tx-link-down",
        "descriptors ready while the link is down",
        "8.6.5.2: without link the MAC does not transmit",
        "they wait in the ring",
        "completes them at once, counts the frames as sent, and drops them",
        "left out",
        (*UP, Link(False), *_send(DATA, 60, _LAST)),
        "tdh",
        leave_out=_link_down,
    ),
    Row(
        "tx-ring-broken",
        "TDH or TDT beyond the ring, TDLEN 0, a ring that is not in memory",
        "13.4.38 to 13.4.40 forbid it and do not say what happens",
        "stands still and counts tx_ring_faults",
        "runs round the ring once, on whatever lies there",
        "left out, unless head equals tail",
        (*UP, Poke(RING, bytes(128)), Write(Reg.TDT, 9)),
        "icr",
        strays="neither",
        leave_out=_broken_ring,
    ),
    Row(
        "tx-extended",
        "extended descriptors (CMD.DEXT)",
        "3.3.5 to 3.3.7",
        "not modelled: the frame is dropped, tx_unsupported counts it",
        "context and data descriptors, with checksum and segmentation offload",
        "left out",
        (*UP, TxDescriptor(0, DATA, 60, _LAST | 0x20, cso=0x10), Advance("tx", 1)),
        "frames sent",
        strays="ours",
        leave_out=_dext,
    ),
    Row(
        "tx-null-address",
        "a descriptor with a length and address 0",
        "3.3.3.1: a null address transfers no data",
        "transfers nothing, counts tx_null",
        "reads the data at physical address 0",
        "left out",
        (*UP, *_send(DATA, 60, _IFCS), *_send(0, 10, _LAST)),
        "frame 0",
        leave_out=_null,
    ),
    Row(
        "tx-outside-memory",
        "data that nobody answers for",
        "not said; PCI calls it a master abort",
        "drops the frame, counts tx_aborted, completes the descriptors",
        "sends zeros in its place",
        "left out",
        (*UP, *_send(1 << 30, 60, _LAST)),
        "frames sent",
        strays="neither",
        leave_out=_outside,
    ),
    Row(
        "tx-empty",
        "EOP after no data at all",
        "3.3.3.1: a length of 0 transfers no data; a frame without data is not spoken of",
        "is no frame: tx_empty counts it",
        "hands an empty frame to its network back end",
        "left out: the socket back end sends it over and over, and holds back all frames after it",
        (*UP, *_send(DATA, 0, _LAST)),
        "frames sent",
        strays="neither",
        leave_out=_empty,
    ),
    Row(
        "tx-too-long",
        "a frame of more than 16288 bytes, or than the transmit FIFO less 80",
        "3.3.3.1, 3.3.7: the largest that can be sent",
        "drops it, counts tx_oversize",
        "sends up to 64 KiB",
        "left out",
        (*UP, *_send(DATA, 16_288, _IFCS), *_send(DATA, 1, _LAST)),
        "frames sent",
        leave_out=_too_long,
    ),
    Row(
        "tx-own-ring",
        "data that lies in the ring it is described by",
        "3.4.1, 3.4.2: descriptors are fetched and written back in batches",
        "reads the data of a batch before it writes its status back",
        "goes descriptor by descriptor",
        "left out",
        (
            *UP,
            TxDescriptor(0, DATA, 60, _LAST),
            TxDescriptor(1, RING, 60, _LAST),
            Advance("tx", 2),
        ),
        "frame 1",
        strays="neither",
        leave_out=_own_ring,
    ),
    Row(
        "tx-rps",
        "CMD bit 4 without RS",
        "3.3.3.1: RPS is of the 82544; reserved on the others",
        "ignored",
        "asks for a write-back, as RS does",
        "ours is shown RS",
        (*UP, *_send(DATA, 60, _EOP | _IFCS | _RPS)),
        "icr",
        imitate=_rps,
    ),
    Row(
        "tx-without-ifcs",
        "EOP without IFCS",
        "3.3.3.1: software has put the FCS at the end of the data",
        "checks and takes off these four bytes; a frame whose FCS is wrong is dropped",
        "sends them as data: its frames have no FCS",
        "ours is shown IFCS",
        (*UP, *_send(DATA, 64, _EOP | _RS)),
        "frames sent",
        imitate=_ifcs,
    ),
    Row(
        "tx-legacy-ic",
        "CMD.IC in a legacy descriptor",
        "3.3.3.1: inserts a checksum at CSO",
        "not modelled: the frame is dropped, tx_unsupported counts it",
        "ignored: the frame leaves without the checksum",
        "ours is not shown IC",
        (*UP, *_send(DATA, 60, _LAST | _IC)),
        "frames sent",
        strays="both",
        imitate=_ic,
    ),
    Row(
        "tx-status-kept",
        "bits 7:4 of the status byte at a write-back",
        "3.3.3.2: reserved, the others are the status",
        "0",
        "as software left them",
        "the bits are put back in our memory",
        (*UP, *_send(DATA, 60, _LAST, status=0xFF)),
        "memory",
        strays="neither",
        imitate=_status,
    ),
    Row(
        "tx-psp",
        "TCTL.PSP and a short frame",
        "13.4.33: padded to 64 bytes with FCS",
        "padded with zeros",
        "sent as it is",
        "ours does not pad",
        (*UP, Write(Reg.TCTL, _ENABLE | int(TCTL.PSP)), *_send(DATA, 40, _LAST)),
        "frame 0",
        imitate=_pad,
    ),
    Row(
        "tx-idle-doorbell",
        "TDT or TCTL written with TCTL.EN set and nothing to send",
        "13.4.17: TXQE says that the queue ran empty",
        "no cause: it was empty before",
        "TXQE",
        "ours posts TXQE",
        (*UP[:-2], Write(Reg.TCTL, _ENABLE)),
        "icr",
        imitate=_idle,
    ),
    Row(
        "tx-short-is-good",
        "GPTC and GOTC for a frame below 64 bytes with FCS",
        "13.7.30, 13.7.32: good packets are of legal length",
        "not counted",
        "counted",
        "ours counts them",
        (*UP, *_send(DATA, 40, _LAST), Read(Reg.GPTC)),
        "Reg.GPTC",
        imitate=_good,
    ),
)
