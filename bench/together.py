"""Several machines that dump at once to one server, over one line, in virtual time.

A run has one machine (``story/``), whose code waits by moving the clock. Here several wait, so they
take turns: whoever is due first goes on, alone, until it waits again. Each has a thread, because a
dump is one long call; no two ever run at once, and which is next depends on virtual time and on
nothing else. So what comes out is a pure function of what goes in.

What is played: ``dump_together``. The parts are those of a run: synthetic machines, a family's
silicon and driver, our client, our server on a simulated host; the wire is ``wire/switch.py``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.board import Board, BoardNic
from bench.clock import Budget, VirtualClock
from bench.drivers.choice import choose_driver, choose_silicon
from bench.parts import nic_family
from bench.scenario.schema import Nic
from bench.servers.inprocess import InProcessServer
from bench.servers.simhost.config import HostConfig
from bench.servers.simhost.host import SimHost
from bench.wire.switch import Port, Switch
from guest.synthetic import MachineConfig, SyntheticMachine
from netdump.client import DumpRequest, NetdumpClient, Report
from netdump.dumper import DumpImage
from netdump.kdh import KernelDumpHeader
from netdump.link import LinkConfig
from netdump.profiles import Profile

#: Virtual time, more than any of these dumps needs.
BUDGET_NS: Final = 3600 * 10**9
#: Datagrams that the server's socket holds: those of 8 MB.
SOCKET_FRAMES: Final = 4096
_BUFFERS_A_DESCRIPTOR: Final = 5


class Turn:
    """The clock of one of them."""

    def __init__(self, shared: VirtualClock) -> None:
        self._shared = shared
        self._go = threading.Semaphore(0)
        self._waits = threading.Semaphore(0)
        self.due_ns = 0
        self.done = False
        self._alone = True
        self._failure: BaseException | None = None

    def now_ns(self) -> int:
        return self._shared.now_ns()

    def delay_us(self, microseconds: int) -> None:
        if self._alone:  # before all begin
            self._shared.delay_us(microseconds)
            return
        self.due_ns = self.now_ns() + 1000 * microseconds
        self._waits.release()
        self._go.acquire()

    def start(self, work: Callable[[], None]) -> None:
        """``work`` begins with this one's first turn."""

        def run() -> None:
            self._go.acquire()
            try:
                work()
            except BaseException as failure:
                self._failure = failure
            self.done = True
            self._waits.release()

        self._alone = False
        self.due_ns = self.now_ns()
        threading.Thread(target=run, daemon=True).start()

    def take(self) -> None:
        """Go on until it waits, or is done. Raises what its work raised."""
        self._go.release()
        self._waits.acquire()
        if self._failure is not None:
            raise self._failure


def take_turns(clock: VirtualClock, turns: Sequence[Turn]) -> None:
    """Until all are done."""
    while waiting := [turn for turn in turns if not turn.done]:
        turn = min(waiting, key=lambda one: one.due_ns)
        clock.advance_to(turn.due_ns)
        turn.take()


@dataclass(frozen=True, slots=True)
class Line:
    """What they share."""

    bits_per_second: int = 10**9
    queue_frames: int = 1024
    latency_ns: int = 50_000


@dataclass(slots=True)
class Dumped:
    """What one of them came to."""

    report: Report
    image: bytes
    """What it had to send."""
    ended_ns: int
    share: float
    """Its part of what had passed the line when the first of them was done."""
    dropped: int
    """Its frames that the queue had no room for."""


class _Machine:
    """A dead machine at a port."""

    def __init__(
        self, number: int, profile: Profile, size: int, host: SimHost, turn: Turn, port: Port
    ) -> None:
        nic = Nic()
        family = nic_family(nic.model)
        self.turn, self.port = turn, port
        self._number = number
        self._host = host
        self._closing = ExitStack()
        machine = self._corpse = SyntheticMachine(
            MachineConfig(
                memory_size=size, seed=number, panic_mbufs=_BUFFERS_A_DESCRIPTOR * nic.tx_ring
            ),
            delay_us=lambda microseconds: self._board.delay_us(microseconds),
        )
        silicon = choose_silicon(
            nic.model,
            family,
            machine.memory.buffer,
            port.mac.tobytes(),
            machine.interrupt_line,
            nic.rate,
        )
        self._board = Board(
            turn, silicon, family.doorbells, port, host.pump, Budget(turn, BUDGET_NS), _untold
        )
        zone = machine.panic_pool
        self._driver = choose_driver(nic, family, self._board, machine, zone, Path(), self._closing)
        self._client = NetdumpClient(
            profile, machine.memory, DumpImage(machine.memory, machine.dump_segments())
        )
        silicon.power_on()
        self._driver.attach()
        silicon.machine_died()
        machine.panic("several at once", cpu=0)
        image = self._client.image
        parts = [machine.memory.buffer[s.physical : s.physical + s.length] for s in image.segments]
        self.image = image.header + b"".join(part.tobytes() for part in parts)
        self.report: Report | None = None
        self.ended_ns = 0

    def dump(self) -> None:
        length = self._client.image.length
        request = DumpRequest(
            LinkConfig(bytes((198, 18, 0, 2 + self._number)), self._host.config.address),
            KernelDumpHeader(dumplength=length, hostname=f"victim{self._number}"),
            draw=1000 * self._number,
        )
        nic = BoardNic(self._driver, self._board)
        corpse = self._corpse
        self.report = self._client.dump(request, nic, corpse.panic_pool, corpse.delay_us, _untold)
        self.ended_ns = self.turn.now_ns()
        self.port.close()

    def give_back(self) -> None:
        self._corpse.release()
        self._closing.close()


def dump_together(
    profiles: Sequence[Profile], size: int, line: Line, dumpdir: Path
) -> list[Dumped]:
    """A machine with ``size`` bytes of memory for each of the profiles; all panic at once. What the
    server kept is in ``dumpdir``.
    """
    clock = VirtualClock()
    macs = [bytes((2, 0, 0, 0, 0, 2 + number)) for number in range(len(profiles))]
    switch = Switch(
        clock,
        macs,
        bits_per_second=line.bits_per_second,
        queue_frames=line.queue_frames,
        latency_ns=line.latency_ns,
    )
    host = SimHost(switch, HostConfig(socket_frames=SOCKET_FRAMES))
    server = InProcessServer(host, dumpdir, fsync="none")
    server.start()
    turns = [Turn(clock) for _ in profiles]
    machines = [
        _Machine(number, profile, size, host, turns[number], switch.ports[number])
        for number, profile in enumerate(profiles)
    ]
    shares: list[float] = []

    def work(machine: _Machine) -> Callable[[], None]:
        def run() -> None:
            machine.dump()
            if not shares:
                passed = [port.passed for port in switch.ports]
                shares.extend(part / sum(passed) for part in passed)

        return run

    try:
        for turn, machine in zip(turns, machines, strict=True):
            turn.start(work(machine))
        take_turns(clock, turns)
    finally:
        server.stop()
        for machine in machines:
            machine.give_back()
    dumped = []
    for machine, share in zip(machines, shares, strict=True):
        assert machine.report is not None, "it took its turns to the end"
        dumped.append(
            Dumped(machine.report, machine.image, machine.ended_ns, share, machine.port.dropped)
        )
    return dumped


def _untold(_what: str, **_evidence: object) -> None:
    """No log is kept of these."""
