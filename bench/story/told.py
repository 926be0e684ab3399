"""The story of one case: a machine boots, lives, dies, and gets its memory out, or does not.

In order: the machine boots and its NIC comes up; it talks over the network as machines do; the
panic strikes; the dump client takes the NIC over and sends all memory but the panic arena. Whose
machine that is makes the difference in the first two scenes (``bench/machines``); the last
one, here, is the same for all.

Between the panic and the takeover the NIC goes on by itself, into buffers that are about to be
dumped. Nobody can take that back. So what it wrote is found out; the dump is to hold it as it is
then, and the verdict names it. What changed beyond the NIC's reach is not the NIC's doing, and is
held against the truth.

The seed of the run decides memory, load, entropy and faults. Nothing here reads a clock.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final, NoReturn, Protocol

import numpy as np

from bench.board import Board, BoardNic, MachineLost, OutOfTime
from bench.drivers.errors import DriverCrashed
from bench.foreign import ClientCrashed, dump_of, made
from bench.judge.compare import Expected, Image
from bench.judge.undo import Coding, Made
from bench.scenario.schema import ResolvedCase
from bench.story.doom import Doom
from bench.story.dumpkey import PEM, configured, private_key
from bench.story.flips import FlippingBuffer, FlippingNic, flip_memory
from bench.story.stage import Stage, link_config
from bench.wire.contracts import Wire
from guest.kernel.corpse import Corpse
from guest.kernel.locks import Deadlock
from guest.kernel.mbufs import OrdinaryMbufs, PanicPool
from guest.qemu.vm import Vm
from netdump.client import DumpClient, DumpRequest, Report
from netdump.contracts import DebugnetMethods, Event
from netdump.dumper import DumpImage
from netdump.kdh import KernelDumpHeader
from nic_models.contracts import Driver, Silicon
from nic_models.family import NicFamily

#: 2010-10-13 11:04:57 UTC, when the review was answered; a clock would make runs differ.
DUMP_TIME: Final = 1_286_967_897
VERSION: Final = "netdump-bench synthetic kernel\n"
#: Buffers that debugnet sets aside: ncl x (4 + nrxr), for one ring of 1024 (kern_mbuf.c).
POOL_A_DESCRIPTOR: Final = 5
#: The longest that a NIC is given to take a frame. One that can't receive never takes it.
AT_REST_S: Final = 0.2
#: The same where it can receive, and will: as long as a hang.
LIVE_SETTLE_S: Final = 60.0
#: How often the hardware gets its turn while nobody has taken it over.
DEAD_TURN_US: Final = 1000

_LOST: Final = {"power": "it lost its power", "reset": "it was reset"}

Tell = Callable[..., None]


@dataclass(slots=True)
class Told:
    """What the story came to."""

    machine: Corpse | None
    """None: the client was a program, and no machine of ours died."""
    client: DumpClient | None
    """None: it was no code of that machine."""
    report: Report
    deadlock: str = ""
    out_of_time: str = ""
    crashed: str = ""
    """How the driver, which is not ours, crashed."""
    client_crashed: str = ""
    """The same of the client."""
    lost: str = ""
    """How the machine was lost in the middle of its dump."""
    seconds: float = 0.0
    """From the panic to the end, on the run's clock."""
    death: str = ""
    """Where the panic struck, in a sentence; empty where that says nothing."""
    footer: bytes = b""
    """What the client sends behind the data; empty if it has no footer."""
    header: bytes = b""
    """The kernel dump header; empty where none is known."""
    nic_wrote: list[tuple[int, int]] = field(default_factory=list)
    """[start, end): memory that the NIC wrote to between the panic and the takeover."""
    console: str = ""
    """What a Linux guest's serial console printed from its crash on."""
    netconsole: list[str] | None = None
    """The datagrams that its netconsole got through; None where it has none."""
    notes: list[str] = field(default_factory=list)
    """What else is worth telling, a sentence each."""
    image: Expected | None = None
    """What the dump must be, where that is known only now; None: as it was before."""
    sent: Expected | None = None
    """What the client sent, as a witness saw it, where that need not be what memory held."""
    coding: Coding | None = None
    """How the dump is stored, where that is not as memory has it; ``sent`` is what it makes."""
    never_sent: list[tuple[int, int]] = field(default_factory=list)
    """[start, end) of the dump that the client never sent: there it is incomplete by itself."""
    unknown: int = 0
    """Of what the dump must be, the first bytes that nobody knows: no witness saw them sent."""
    unseen: Mapping[str, str] = field(default_factory=dict)
    """Oracles whose evidence nobody could gather here, and why."""
    uncounted: frozenset[str] = frozenset()
    """Keys of a case's ``expect`` that nobody could count here."""


class AnyStory(Protocol):
    """What is played and judged: a machine of ours that dies, or a client that is a program.

    ``boot``, ``live``, ``dump``, in that order; ``give_back`` when it has been judged.
    """

    @property
    def emulator(self) -> Vm | None: ...

    def boot(self) -> None: ...

    def live(self) -> str: ...

    def expected(self) -> Expected:
        """What the dump must be; known when it has lived."""
        ...

    def sent(self, expected: Expected) -> Expected:
        """What its frames are held against while the dump runs."""
        ...

    def dump(self, struck: str) -> Told: ...

    def give_back(self) -> None: ...


class NoSuchStep(Exception):
    """The scenario names a step that the work does not have."""


class Story(ABC):
    """One case on one stage: ``boot``, ``live``, ``dump``, in that order."""

    machine: Corpse
    client: DumpClient
    _board: Board
    _silicon: Silicon
    _driver: Driver
    emulator: Vm | None = None
    """The QEMU that the machine is made of; None where it is none."""

    def __init__(self, case: ResolvedCase, stage: Stage, seed: int, tell: Tell) -> None:
        self._case = case
        self._stage = stage
        self._seed = seed
        self._tell = tell
        self._family: NicFamily = case.family
        profile = case.client_part.kind.profile
        assert profile is not None, "a client without one brings its own story"
        self._profile = made(
            f"the profile of the client {case.client_part.kind.name}", profile, case
        )
        self._notes: list[str] = []
        self._coding = self._coding_of()
        self._made: Made | None = None
        self._nic_wrote: list[tuple[int, int]] | None = None

    def _coding_of(self) -> Coding | None:
        """Of a client that encrypts or compresses; dumpon configures it at boot."""
        options = self._case.client_part.options
        compression = getattr(options, "compression", None)
        encryption = getattr(options, "encryption", None)
        crypto = configured(encryption, self._seed, self._case.name)
        if compression is None and crypto is None:
            return None
        return Coding(compression, crypto and crypto.next(), private_key(), self._stage.folder)

    @abstractmethod
    def boot(self) -> None:
        """Up to where the network is there."""

    @abstractmethod
    def live(self) -> str:
        """Ordinary life, up to the panic; where it struck, in words."""

    def _death(self, struck: str) -> str:
        """The same for the verdict, in a sentence."""
        return f"The panic struck {struck}."

    @abstractmethod
    def _end(self, how: str) -> None:
        """End the machine: "power" or "reset"."""

    def _machines_end(self) -> Wire:
        """The machine's end of the wire; where a bit is to flip in the NIC, or the machine is to be
        lost, with that waiting there.
        """
        wanted = self._case.machine
        wire: Wire = self._stage.wire
        if wanted.flips in ("nic", "nic-sums"):
            wire = FlippingNic(wire, wanted.flip_bit, sums=wanted.flips == "nic-sums")
        if wanted.lost is None:
            return wire

        def strike() -> NoReturn:
            how = wanted.lost or ""
            self._end(how)
            self._board.lose(f"{_LOST[how]} after {wanted.lost_after} frames of its dump")

        return Doom(wire, wanted.lost_after, strike)

    def _zone_of(self, machine: Corpse) -> OrdinaryMbufs | PanicPool:
        """Which supply the kernel's zone pointers name in the panic: FreeBSD swaps in the pool."""
        return machine.panic_pool if self._profile.mbufs == "pool" else machine.mbufs

    def _make_client(self, image: DumpImage) -> DumpClient:
        """The case's client, on this machine."""
        kind = self._case.client_part.kind
        what = f"the client {kind.name}"
        has = ("image", "dump")
        return made(what, kind.make, self._profile, self.machine.memory, image, has=has)

    def give_back(self) -> None:
        """Nobody looks at the machine any more: give its memory back, now."""
        if self.emulator is not None:
            self.emulator.release_ram()
        if hasattr(self, "machine"):  # a guest that never panicked left none
            self.machine.release()
        if self._made is not None:
            self._made.close()

    # -- the panic and after -----------------------------------------------------------------

    def expected(self) -> Image:
        """The dump that memory at the panic makes."""
        truth = self.machine.truth
        assert truth is not None, "there was a panic"
        image = self.client.image
        parts = [np.frombuffer(image.header, np.uint8)]
        parts += [truth.read(s.physical, s.physical + s.length) for s in image.segments]
        header = np.frombuffer(self._header().pack(), np.uint8)
        where = self._case.client_part.kind.kernel_header
        return Image([header] * (where == "first") + parts + [header] * (where == "last"))

    def sent(self, expected: Expected) -> Expected:
        if self._coding is None:
            return expected
        self._made = Made(expected, self._coding)
        return self._made

    def dump(self, struck: str) -> Told:
        case, stage, machine = self._case, self._stage, self.machine
        told = Told(machine, self.client, Report(self._profile.name), death=self._death(struck))
        request = self._request()
        told.header = request.header.pack()
        told.footer = told.header if self._profile.footer else b""
        told.coding, told.sent = self._coding, self._made
        began = stage.clock.now_ns()
        nic: DebugnetMethods = Takeover(self._driver, self._board, self._take_stock)
        if case.machine.flips == "buffer":
            nic = FlippingBuffer(nic, machine.memory, case.machine.flip_bit)
        try:
            for _ in range(0, case.machine.dead_time_ms * 1000, DEAD_TURN_US):
                self._board.delay_us(DEAD_TURN_US)
            zone = self._zone_of(machine)
            if case.machine.flips == "memory":
                flip_memory(machine.memory, self.client.image, case.machine.flip_bit)
            told.report = dump_of(self.client, request, nic, zone, machine.delay_us, self._tell)
        except Deadlock as deadlock:
            told.deadlock = str(deadlock)
        except OutOfTime as late:
            told.out_of_time = str(late)
        except DriverCrashed as crash:
            told.crashed = str(crash)
        except ClientCrashed as crash:
            told.client_crashed = str(crash)
        except MachineLost as lost:
            told.lost = str(lost)
        told.seconds = (stage.clock.now_ns() - began) / 1e9
        told.nic_wrote = self._nic_wrote or []
        told.notes = self._notes
        if case.nic.driver is not None:
            told.notes.append(f"The driver is {case.nic.driver}.")
        if self._coding is not None and self._coding.crypto is not None:
            told.notes.append(f"It is encrypted for {PEM.name}, which everybody has.")
        return told

    def _take_stock(self, taken_over: bool) -> None:
        """Called before and after each takeover: what has the NIC written to memory?

        What it writes before a driver stops it is nobody's fault; what it writes later is the
        driver's. So memory is compared where the NIC can have written, and the NIC must have come
        to rest: where it still has frames to take (QEMU's e1000 lets them wait for a second at
        times), it is looked at when it has been taken over.
        """
        if self._nic_wrote is not None or not (taken_over or self._silicon.settle(AT_REST_S)):
            return
        self._nic_wrote = self._changed(self._silicon.reach())
        truth = self.machine.truth
        assert truth is not None, "there was a panic"
        for start, end in self._nic_wrote:
            truth.accept(start, end, self.machine.memory.buffer)
            self._tell("nic wrote after the panic", start=start, end=end)

    def _changed(self, reach: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Those of the ranges, as far as they are dumped, that are not as at the panic."""
        machine = self.machine
        assert machine.truth is not None, "there was a panic"
        found: list[tuple[int, int]] = []
        for first, length in machine.dump_segments():
            for start, end in reach:
                here, there = max(start, first), min(end, first + length)
                if here < there and not np.array_equal(
                    machine.truth.read(here, there), machine.memory.buffer[here:there]
                ):
                    found.append((here, there))
        return found

    def _header(self) -> KernelDumpHeader:
        case = self._case
        length = self.client.image.length
        return KernelDumpHeader(
            dumplength=length,
            dumpextent=length,
            dumptime=DUMP_TIME,
            hostname=case.machine.hostname,
            versionstring=VERSION,
            panicstring=case.machine.panic,
        )

    def _request(self) -> DumpRequest:
        case, stage = self._case, self._stage
        options = case.client_part.options
        key = getattr(options, "key", None)
        encryption = getattr(options, "encryption", None)
        return DumpRequest(
            link=link_config(stage.server_ip, stage.gateway_ip),
            header=self._header(),
            path=getattr(options, "path", None) or "",
            # Each boot draws anew: runs of one scenario may share a server.
            draw=zlib.crc32(f"{self._seed} {case.name}".encode()),
            nonce=blake2b(f"{self._seed} {case.name}".encode(), digest_size=8).digest(),
            key=None if key is None else bytes.fromhex(key),
            crypto=configured(encryption, self._seed, case.name),
        )


class Takeover(BoardNic):
    """Lets ``take_stock`` look before and after the driver takes the NIC over."""

    def __init__(self, driver: Driver, board: Board, take_stock: Callable[[bool], None]) -> None:
        super().__init__(driver, board)
        self._take_stock = take_stock

    def event(self, what: Event) -> None:
        if what == "start":
            self._take_stock(False)
        super().event(what)
        if what == "start":
            self._take_stock(True)
