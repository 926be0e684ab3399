"""A card in a small machine on a wire that a check holds both ends of.

Everything is made anew for each check, from the parts that a run is made of: a synthetic machine,
the board, the family's silicon, and the driver as a scenario would have it. Time is virtual. What
leaves the card is in ``sent``; what ``deliver`` is given reaches the card at the board's next turn.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np

from bench.board import Board
from bench.clock import Budget, VirtualClock
from bench.drivers.choice import choose_driver, choose_silicon
from bench.scenario.schema import Nic
from guest.synthetic import MachineConfig, SyntheticMachine
from netdump.contracts import TxBatch
from nic_models.contracts import Driver, Silicon
from nic_models.family import NicFamily
from nic_models.frames import Frames

MAC: Final = bytes.fromhex("02000000a1b2")
PEER: Final = bytes.fromhex("02005e001001")
STRANGER: Final = bytes.fromhex("02000000ff03")
BROADCAST: Final = b"\xff" * 6
MEMORY: Final = 1 << 20
ARENA: Final = 8 << 20
#: Descriptors each way, small enough that a check fills them.
RING: Final = 64
#: The header of a frame whose payload is sent by reference: Ethernet, IPv4, UDP.
HEADER: Final = 42
#: Instead of each byte of memory that would be zero.
NO_ZERO: Final = 0xA5
#: Virtual time, more than any check needs.
BUDGET_NS: Final = 600 * 10**9
#: The card's turns that a check waits for something, and their length.
PATIENCE: Final = 200
TURN_US: Final = 50
BUFFERS_A_FRAME: Final = 2


class Broken(Exception):
    """A check that is not held."""

    def __init__(self, expected: str, came: str) -> None:
        super().__init__(f"expected {expected}, came {came}")
        self.expected = expected
        self.came = came


@dataclass(frozen=True, slots=True)
class Subject:
    """What is checked."""

    family: NicFamily
    driver: str | None = None
    """Instead of the family's own; its path is from the root."""
    name: str = ""
    """The family as it was named."""


@dataclass(slots=True)
class _Ends:
    """The wire, both its ends: a ``bench.wire.contracts.Wire``."""

    sent: list[bytes] = field(default_factory=list)
    waiting: list[Frames] = field(default_factory=list)

    def send(self, frames: Frames) -> None:
        self.sent += [frames.bytes_of(index) for index in range(len(frames))]

    def receive(self) -> Frames:
        got, self.waiting = Frames.concat(self.waiting), []
        return got

    def close(self) -> None: ...


class Rig:
    """See the module."""

    def __init__(self, subject: Subject, nic: Nic, folder: Path, closing: ExitStack) -> None:
        self.clock = VirtualClock()
        self.machine = SyntheticMachine(
            MachineConfig(
                memory_size=MEMORY,
                arena_size=ARENA,
                seed=7,
                zero_pages=False,
                panic_mbufs=8 * RING,
            ),
            delay_us=lambda microseconds: self.board.delay_us(microseconds),
        )
        memory = self.machine.memory.ordinary
        memory[memory == 0] = NO_ZERO  # a frame that is cut short would be padded with zeros
        self.wire = _Ends()
        self.line = self.machine.interrupt_line
        self.silicon: Silicon = choose_silicon(
            subject.name, subject.family, self.machine.memory.buffer, MAC, self.line, None
        )
        self.board = Board(
            self.clock,
            self.silicon,
            subject.family.doorbells,
            self.wire,
            lambda now_ns: None,
            Budget(self.clock, BUDGET_NS),
            lambda kind, **fields: None,
        )
        self.zone = self.machine.panic_pool
        self.driver: Driver = choose_driver(
            nic, subject.family, self.board, self.machine, self.zone, folder, closing
        )
        self.heard: list[bytes] = []
        self.driver.stack.append(self.heard.append)

    # -- ordinary life -------------------------------------------------------------------------

    def boot(self) -> None:
        self.silicon.power_on()
        self.driver.attach()
        self.machine.register_interrupt(self.driver.interrupt)

    def deliver(self, frames: list[bytes]) -> None:
        """From the wire to the card, now."""
        self.wire.waiting.append(Frames.of(frames, self.clock.now_ns()))
        self.board.turn()

    def live(self, turns: int = 4) -> None:
        """The card's turn, and the handler's, a few times."""
        for _ in range(turns):
            self.machine.delay_us(TURN_US)
            self.machine.take_interrupts()

    def wait_sent(self, count: int) -> list[bytes]:
        """What has left the card, when it is so much or has been waited for."""
        for _ in range(PATIENCE):
            if len(self.wire.sent) >= count:
                break
            self.live(1)
        return self.wire.sent

    # -- the panic -----------------------------------------------------------------------------

    def panic(self) -> None:
        """The machine dies, idle or where it was struck, with its rings as they are."""
        self.silicon.machine_died()
        self.machine.panic("the check asked for it" if not self.machine.panicked else None, cpu=0)

    def take_over(self) -> None:
        self.driver.event("start")

    def batch(self, payloads: list[int], header: int = HEADER) -> tuple[TxBatch, list[bytes]]:
        """Frames of so many bytes of payload, each from another place in memory (the first from
        physical address 0), to be sent; and what should leave.
        """
        count = len(payloads)
        headers = np.zeros((count, header), np.uint8)
        headers[:, :6] = np.frombuffer(PEER, np.uint8)
        headers[:, 6:12] = np.frombuffer(MAC, np.uint8)
        headers[:, 12:14] = (0x08, 0x00)
        headers[:, 14:18] = np.arange(count, dtype="<u4").view(np.uint8).reshape(count, 4)
        spread = max((MEMORY - (16 << 10)) // max(count, 1), 1)
        addresses = np.arange(count, dtype=np.int64) * spread
        lengths = np.array(payloads, np.int64)
        memory = self.machine.memory.buffer
        frames = [
            headers[i].tobytes() + memory[at : at + size].tobytes()
            for i, (at, size) in enumerate(zip(addresses.tolist(), payloads, strict=True))
        ]
        sizes = np.full(count, header, np.int64)
        return TxBatch(headers, sizes, addresses, lengths), frames

    def transmit(self, batch: TxBatch) -> int:
        """As the link does: two buffers a frame, and what was not taken goes back."""
        count = len(batch)
        if not self.zone.take(BUFFERS_A_FRAME * count):
            raise Broken("the panic pool to have room", f"{self.zone.in_use} buffers still out")
        taken = self.driver.transmit(batch)
        self.zone.give(BUFFERS_A_FRAME * (count - taken))
        return taken

    def transmit_all(self, batch: TxBatch) -> None:
        """In as many calls as it takes; the driver is polled in between."""
        done = 0
        for _ in range(PATIENCE):
            part = min(len(batch) - done, RING)
            done += self.transmit(_slice(batch, done, done + part))
            if done == len(batch):
                return
            self.polled(1)
        raise Broken(f"{len(batch)} frames to be taken", f"{done} in {PATIENCE} calls")

    def polled(self, turns: int, budget: int = 1000) -> list[bytes]:
        """What so many polls hand up."""
        got: list[bytes] = []
        for _ in range(turns):
            self.board.turn()
            frames = self.driver.poll(budget)
            if len(frames) > budget:
                raise Broken(f"at most {budget} frames of a poll", str(len(frames)))
            got += [frames.bytes_of(index) for index in range(len(frames))]
            self.clock.delay_us(TURN_US)
        return got

    def poll_until(self, count: int) -> list[bytes]:
        got: list[bytes] = []
        for _ in range(PATIENCE):
            got += self.polled(1)
            if len(got) >= count:
                break
        return got


def _slice(batch: TxBatch, start: int, end: int) -> TxBatch:
    return TxBatch(
        batch.headers[start:end],
        batch.header_lengths[start:end],
        batch.payload_addresses[start:end],
        batch.payload_lengths[start:end],
    )


def frame_of(size: int, number: int, to: bytes = MAC, source: bytes = PEER) -> bytes:
    """A frame of so many bytes in all, unlike any other number's."""
    body = (np.arange(size - 14) * 7 + number * 31 + 1) % 251
    return to + source + b"\x08\x00" + body.astype(np.uint8).tobytes()


@contextmanager
def rig_of(subject: Subject, **settings: object) -> Iterator[Rig]:
    """``settings``: keys of a scenario's [nic]."""
    table = {"tx_ring": RING, "rx_ring": RING, "model": subject.name, "driver": subject.driver}
    nic = Nic.model_validate(table | settings)
    with TemporaryDirectory(prefix="netdump-bench-") as folder, ExitStack() as closing:
        rig = Rig(subject, nic, Path(folder), closing)
        try:
            yield rig
        finally:
            rig.machine.release()
