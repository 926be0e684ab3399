"""The checks: what the contract promises (``nic_models/contracts.py``), seen to be kept.

Each is a function that makes the rigs it needs and raises ``Broken`` with what was expected and
what came. They look at the wire, at memory, at buffers and at the guard, never into the card or the
driver.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from bench.nic_check.rig import (
    BROADCAST,
    HEADER,
    MAC,
    PEER,
    RING,
    STRANGER,
    Broken,
    Rig,
    Subject,
    frame_of,
    rig_of,
)
from guest.kernel.locks import Deadlock
from guest.synthetic import PanicStrikes

MINIMUM: Final = 60
MTU: Final = 1500
ETHERNET: Final = 14
#: Sizes of whole frames, FCS not counted: the ends, and the neighbours of powers of two.
SIZES: Final = (60, 61, 62, 63, 64, 65, 127, 128, 129, 511, 512, 513, 1000, 1023, 1025, 1513, 1514)
#: The most steps of ordinary work that the panic strikes at, evenly chosen.
STRUCK: Final = 40


def same(what: str, expected: list[bytes], came: list[bytes]) -> None:
    """Frame by frame; a card pads what is too short for Ethernet."""
    if len(came) != len(expected):
        raise Broken(f"{len(expected)} frames {what}", str(len(came)))
    for number, (want, got) in enumerate(zip(expected, came, strict=True)):
        if len(got) not in (len(want), max(len(want), MINIMUM)):
            raise Broken(f"frame {number} {what}, of {len(want)} bytes", f"{len(got)} bytes")
        if got[: len(want)] != want:
            at = next(i for i, (a, b) in enumerate(zip(want, got, strict=False)) if a != b)
            raise Broken(
                f"{want[at]:#04x} at byte {at} of frame {number} {what}", f"{got[at]:#04x}"
            )


def _count(what: str, expected: int, came: int) -> None:
    if came != expected:
        raise Broken(f"{expected} {what}", str(came))


def _true(held: bool, expected: str, came: str) -> None:
    if not held:
        raise Broken(expected, came)


# --- ordinary life --------------------------------------------------------------------------------


def mac(subject: Subject) -> None:
    """The driver knows the card's address."""
    with rig_of(subject) as rig:
        rig.boot()
        came = rig.driver.mac
        _true(came == MAC, MAC.hex(":"), came.hex(":"))


def mtu(subject: Subject) -> None:
    """It is as large as was asked for."""
    for wanted in (576, MTU):
        with rig_of(subject, mtu=wanted) as rig:
            _count("as MTU", wanted, rig.driver.mtu)


def link(subject: Subject) -> None:
    """The cable is plugged in, and after attach the link is up."""
    with rig_of(subject) as rig:
        rig.boot()
        rig.live()
        _true(rig.driver.link_up(), "the link up", "down")


def send(subject: Subject) -> None:
    """Frames of many sizes leave as they are, in order."""
    frames = [frame_of(size, n, PEER, MAC) for n, size in enumerate((14, 42, 59, *SIZES))]
    with rig_of(subject) as rig:
        rig.boot()
        for number, frame in enumerate(frames):
            _count("frames taken of one", 1, rig.driver.send([frame]))
            rig.wait_sent(number + 1)
            rig.live(2)
        same("on the wire", frames, rig.wire.sent)


def receive(subject: Subject) -> None:
    """Frames of many sizes reach the stack as they are, in order; broadcasts, too."""
    frames = [frame_of(size, n) for n, size in enumerate(SIZES)]
    frames += [frame_of(size, n, BROADCAST) for n, size in enumerate((60, 1514))]
    with rig_of(subject) as rig:
        rig.boot()
        for frame in frames:
            rig.deliver([frame])
            rig.live(2)
        same("in the stack", frames, rig.heard)


def bursts(subject: Subject) -> None:
    """More frames each way than any ring of ordinary life holds, in order."""
    out = [frame_of(600, n, PEER, MAC) for n in range(100)]
    back = [frame_of(600, n) for n in range(100)]
    with rig_of(subject) as rig:
        rig.boot()
        done = 0
        for _ in range(len(out)):
            done += rig.driver.send(out[done : done + 3])
            rig.live(2)
            if done == len(out):
                break
        same("on the wire", out, rig.wait_sent(len(out)))
        for at in range(0, len(back), 4):
            rig.deliver(back[at : at + 4])
            rig.live(2)
        same("in the stack", back, rig.heard)


def filters(subject: Subject) -> None:
    """A unicast frame for another host is not heard; in promiscuous mode it is."""
    frames = [frame_of(100, 1, STRANGER), frame_of(100, 2)]
    for promiscuous, expected in ((False, frames[1:]), (True, frames)):
        with rig_of(subject, promiscuous=promiscuous) as rig:
            rig.boot()
            rig.deliver(frames)
            rig.live()
            same(f"in the stack, promiscuous {promiscuous}", expected, rig.heard)


def interrupts(subject: Subject) -> None:
    """The line is down at rest, up when a frame has come, and down when it was served."""
    with rig_of(subject) as rig:
        rig.boot()
        rig.live()
        _true(not rig.line.level, "the line down at rest", "up")
        rig.deliver([frame_of(100, 1)])
        for _ in range(20):
            if rig.line.level:
                break
            rig.machine.delay_us(50)
        _true(rig.line.level, "the line up: a frame has come", "down after 1 ms")
        _true(rig.machine.take_interrupts() > 0, "the handler to run", "it did not")
        _true(not rig.line.level, "the line down: it was served", "up")
        rig.driver.interrupt()  # a neighbour's on a shared line
        same("in the stack", [frame_of(100, 1)], rig.heard)


def buffers(subject: Subject) -> None:
    """Each buffer that ordinary life takes is given back, when its frame has left or was read."""
    with rig_of(subject) as rig:
        rig.boot()
        before = rig.machine.mbufs.in_use
        for number in range(6):
            rig.driver.send([frame_of(300, number, PEER, MAC)])
            rig.deliver([frame_of(300, number)])
            rig.live()
        rig.live(10)
        _count("buffers out", before, rig.machine.mbufs.in_use)


# --- the panic ------------------------------------------------------------------------------------


def _busy(rig: Rig) -> None:
    """A life, and a death, with the rings live: frames under way, each way."""
    rig.boot()
    for number in range(5):
        rig.driver.send([frame_of(200, number, PEER, MAC)])
        rig.deliver([frame_of(200, number)])
        rig.live(1)
    rig.driver.send([frame_of(1000, n, PEER, MAC) for n in range(2)])
    rig.deliver([frame_of(1000, n) for n in range(2)])
    rig.panic()


def _settled(rig: Rig) -> None:
    """What the card wrote between the panic and the takeover is its own doing: it is true."""
    truth = rig.machine.truth
    assert truth is not None, "there was a panic"
    for start, end in rig.silicon.reach():
        truth.accept(start, end, rig.machine.memory.buffer)


def _sound(rig: Rig) -> None:
    """Nothing that a panic forbids was done, and nothing outside the arena was written to."""
    said = rig.machine.guard.summary()
    _true(not said, "no rule of the panic broken", "; ".join(said))
    changed = rig.machine.memory_changes()
    where = ", ".join(f"{a:#x}..{b:#x}" for a, b in changed[:3])
    _true(not changed, "no store outside the arena", where)


def _dumps(rig: Rig, why: str = "") -> None:
    """A taken-over card sends and receives."""
    batch, frames = rig.batch([0, 1, 18, 100, MTU + ETHERNET - HEADER])
    before = len(rig.wire.sent)
    rig.transmit_all(batch)
    for _ in range(20):
        if len(rig.wire.sent) - before >= len(frames):
            break
        rig.polled(1)
    # Frames of before the panic may still leave: ours are those that come last.
    same(f"on the wire{why}", frames, rig.wire.sent[before:][-len(frames) :])
    back = [frame_of(size, n) for n, size in enumerate((60, 300, 1514))]
    rig.deliver(back)
    got = [frame for frame in rig.poll_until(len(back)) if frame in back]
    same(f"of the polls{why}", back, got)


def takeover(subject: Subject) -> None:
    """After a panic with the rings live the driver takes the card over, sends and receives."""
    with rig_of(subject) as rig:
        _busy(rig)
        rig.take_over()
        _settled(rig)
        _dumps(rig)
        _true(rig.driver.link_up(), "the link up", "down")
        _sound(rig)


def any_step(subject: Subject) -> None:
    """The same where the panic strikes before any step of sending and of the handler."""
    for work in ("send", "interrupt"):
        with rig_of(subject) as rig:
            rig.boot()
            rig.machine.begin_steps()
            _work(rig, work)
            steps = list(rig.machine.step_names)
        for number in range(0, len(steps), max(1, -(-len(steps) // STRUCK))):
            with rig_of(subject) as rig:
                rig.boot()
                rig.machine.arm_panic(number, "the check asked for it")
                try:
                    _work(rig, work)
                except PanicStrikes:
                    rig.panic()
                else:
                    raise Broken(f"step {number} of {work} once more", "another course of steps")
                rig.take_over()
                _settled(rig)
                _dumps(rig, f", struck at step {number} of {work}, '{steps[number]}'")
                _sound(rig)


def _work(rig: Rig, what: str) -> None:
    with rig.machine.on_cpu(1):
        if what == "send":
            rig.driver.send([frame_of(700, n, PEER, MAC) for n in range(2)])
        else:
            rig.deliver([frame_of(700, n) for n in range(2)])
            rig.driver.interrupt()


def reach(subject: Subject) -> None:
    """Between panic and takeover the card writes only where it says that it may."""
    with rig_of(subject) as rig:
        _busy(rig)
        rig.deliver([frame_of(900, n) for n in range(3)])
        rig.machine.delay_us(1000)
        _settled(rig)
        changed = rig.machine.memory_changes()
        where = ", ".join(f"{a:#x}..{b:#x}" for a, b in changed[:3])
        _true(not changed, "no change of memory beyond the card's reach", where)


def sizes(subject: Subject) -> None:
    """In the panic, payloads of every size that fits the MTU are sent as they are."""
    payloads = [*range(40), *(size - HEADER for size in SIZES if size >= HEADER + 40)]
    with rig_of(subject) as rig:
        _busy(rig)
        rig.take_over()
        rig.polled(4)
        before = len(rig.wire.sent)
        batch, frames = rig.batch(payloads)
        rig.transmit_all(batch)
        for _ in range(40):
            rig.polled(1)
        same("on the wire", frames, rig.wire.sent[before:])


def many(subject: Subject) -> None:
    """In the panic, many times more frames than a ring holds leave, once each and in order."""
    with rig_of(subject) as rig:
        _busy(rig)
        rig.take_over()
        rig.polled(4)
        before = len(rig.wire.sent)
        batch, frames = rig.batch([100] * (10 * RING))
        rig.transmit_all(batch)
        for _ in range(40):
            rig.polled(1)
        same("on the wire", frames, rig.wire.sent[before:])
        _sound(rig)


def full(subject: Subject) -> None:
    """A batch that is too large for the ring is taken in part, from its front, without a
    complaint."""
    with rig_of(subject) as rig:
        rig.boot()
        rig.panic()
        rig.take_over()
        before = len(rig.wire.sent)
        batch, frames = rig.batch([50] * (2 * RING))
        taken = rig.transmit(batch)
        _true(0 < taken <= len(frames), f"1 to {len(frames)} frames taken", str(taken))
        for _ in range(40):
            rig.polled(1)
        same("on the wire", frames[:taken], rig.wire.sent[before:])


def pool(subject: Subject) -> None:
    """In the panic, the two buffers of each frame come back when it has left: none is kept."""
    with rig_of(subject) as rig:
        _busy(rig)
        rig.take_over()
        for _ in range(3):
            batch, _ = rig.batch([64] * RING)
            rig.transmit_all(batch)
            rig.polled(20)
        _count("buffers of the pool out", 0, rig.zone.in_use)


def again(subject: Subject) -> None:
    """A second start, with frames under way, gives their buffers back and takes over as the
    first."""
    with rig_of(subject) as rig:
        _busy(rig)
        rig.take_over()
        batch, _ = rig.batch([64] * 8)
        rig.transmit(batch)
        rig.take_over()
        _dumps(rig, " after a second start")
        rig.polled(20)
        _count("buffers of the pool out", 0, rig.zone.in_use)


def budget(subject: Subject) -> None:
    """A poll hands up no more than it was asked for; the rest comes later, in order."""
    frames = [frame_of(200, n) for n in range(20)]
    with rig_of(subject) as rig:
        rig.boot()
        rig.panic()
        rig.take_over()
        rig.deliver(frames)
        got: list[bytes] = []
        for number in (1, 7, 8, 8, 8, 8):
            part = rig.polled(1, number)
            got += part
        same("of the polls", frames, got)


def laps(subject: Subject) -> None:
    """In the panic, many times more frames than a ring holds are received, in order."""
    frames = [frame_of(60 + n, n) for n in range(6 * RING)]
    with rig_of(subject) as rig:
        _busy(rig)
        rig.take_over()
        rig.polled(10)
        got: list[bytes] = []
        for at in range(0, len(frames), 16):
            rig.deliver(frames[at : at + 16])
            got += rig.polled(2)
        same("of the polls", frames, got)
        _sound(rig)


def end(subject: Subject) -> None:
    """After the end nothing more is received, and memory stays as it is."""
    with rig_of(subject) as rig:
        _busy(rig)
        rig.take_over()
        rig.polled(10)
        rig.driver.event("end")
        before = rig.machine.memory.buffer.copy()
        late = [frame_of(500, n) for n in range(4)]
        rig.deliver(late)
        rig.clock.delay_us(1000)
        rig.board.turn()
        _true(
            bool((before == rig.machine.memory.buffer).all()),
            "memory untouched after the end",
            "it changed",
        )
        rig.take_over()
        came = [frame for frame in rig.polled(10) if frame in late]
        _count("frames of after the end", 0, len(came))


def locks(subject: Subject) -> None:
    """Locked: it acquires its locks and releases them, and a stopped owner's is a deadlock."""
    with rig_of(subject, mode="locked") as rig:
        rig.boot()
        rig.panic()
        rig.take_over()
        _dumps(rig, ", locked")
        _sound(rig)
    with rig_of(subject, mode="locked") as rig:
        rig.boot()
        rig.machine.begin_steps()
        _work(rig, "send")
        names = list(rig.machine.step_names)
        held = next((n for n, name in enumerate(names) if name.startswith("unlock ")), None)
    if held is None:
        return  # it has no locks, or tells no steps
    with rig_of(subject, mode="locked") as rig:
        rig.boot()
        rig.machine.arm_panic(held, "the check asked for it")
        try:
            _work(rig, "send")
        except PanicStrikes:
            rig.panic()
        try:
            rig.take_over()
            batch, _ = rig.batch([64])
            rig.transmit(batch)
        except Deadlock:
            return
        raise Broken(f"a deadlock: '{names[held]}' never came", "the driver went on")


CHECKS: Final[dict[str, Callable[[Subject], None]]] = {
    "mac": mac,
    "mtu": mtu,
    "link": link,
    "send": send,
    "receive": receive,
    "bursts": bursts,
    "filters": filters,
    "interrupts": interrupts,
    "buffers": buffers,
    "takeover": takeover,
    "any-step": any_step,
    "reach": reach,
    "sizes": sizes,
    "many": many,
    "full": full,
    "pool": pool,
    "again": again,
    "budget": budget,
    "laps": laps,
    "end": end,
    "locks": locks,
}
