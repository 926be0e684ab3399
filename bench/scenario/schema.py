"""The grammar of a scenario file: one class a table, one field a key.

A scenario tells who dies (``machine``), through which card (``nic``), over which wire (``network``,
``wire``), towards whom (``server``), and what each client profile should make of it (``case``).
Three rules:

1. Every key has a default that plays the plain story, so a file holds only what is special in it.
2. A case may override any of machine, nic, network, server, client and wire; what it does not name
   stays.
3. A *sweep* turns one case into many that differ in one number: which frame is lost, or before
   which step of its ordinary work the machine panics.

Nothing here looks at whether keys fit together; that is ``combinations.py``. Files are read, and
mistakes in them explained, by ``load.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Annotated, Any, Final, Generic, Literal, TypeVar

from pydantic import Field, StrictBool, StrictInt, StrictStr

from bench.judge.oracles import ORACLES
from bench.kinds import ClientKind, MachineKind, Replaced, ServerKind
from bench.parts import DEFAULT_CLIENT, DEFAULT_MACHINE, DEFAULT_NIC, DEFAULT_SERVER
from bench.scenario import written
from bench.scenario.values import Count
from bench.scenario.written import OneOf, OneOrMore
from bench.story.flips import STATIONS
from bench.table import PartTable, Table
from bench.tiers import ROWS
from bench.verdict import EXPECTABLE
from bench.wire.actions import ACTIONS, SETTINGS
from bench.wire.bystanders import TRICKS
from bench.wire.faults import DIRECTIONS, FAULT_KINDS
from guest.linux.sources import KernelChoice
from netdump import profiles
from nic_models.family import NicFamily

TIERS: Final = tuple(ROWS)
PROFILES: Final = tuple(profiles.PROFILES)

Replaceable = Literal["nic", "server", "client"]

K = TypeVar("K", MachineKind, ServerKind, ClientKind)

TierName = Annotated[str, OneOf(TIERS)]
ProfileName = Annotated[str, OneOf(PROFILES)]
Outcome = Annotated[str, OneOf(EXPECTABLE)]
OracleName = Annotated[str, OneOf(ORACLES)]
SweepOver = Literal["lost-frame", "panic-step"]

Size = Annotated[int, written.SIZE]
Ranges = Annotated[tuple[int, ...], written.RANGES]
Expected = Annotated[Count, written.COUNT] | None

_BY_FRAMES, _DELAY_US, _LENGTH, _BIT = (
    SETTINGS[name] for name in ("by_frames", "delay_us", "length", "bit")
)


class Machine(PartTable):
    """The machine that dies. What only one kind has is in its own table (``bench/machines``)."""

    kind: Annotated[StrictStr, Field(min_length=1)] = DEFAULT_MACHINE
    """What machine it is: a registered kind, or ``FILE.py:NAME``."""
    memory: Annotated[Size, Field(ge=64 << 10, le=64 << 30, multiple_of=4096)] = 16 << 20
    """All that is dumped."""
    arena: Annotated[Size, Field(ge=256 << 10, le=1 << 30, multiple_of=4096)] = 4 << 20
    """Set aside at boot for the panic: all that the dump may use for rings, headers, buffers."""
    cpus: Annotated[StrictInt, Field(ge=1, le=256)] = 4
    """All but one of them stop at the panic, where they stand."""
    hostname: Annotated[
        StrictStr, Field(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9_.-]+$")
    ] = "victim"
    """As the kernel dump header says it."""
    panic: Annotated[StrictStr, Field(min_length=1, max_length=174)] = (
        "page fault in kernel mode (the bench asked for it)"
    )
    """Why it panicked, as the kernel dump header says it."""
    load: Literal["none", "light", "heavy"] = "light"
    """Ordinary network traffic before the panic."""
    dead_time_ms: Annotated[StrictInt, Field(ge=0, le=60_000)] = 0
    """How long the NIC goes on by itself before the panic path takes it over."""
    lost: Literal["power", "reset"] | None = None
    """The machine is lost for good in the middle of its dump."""
    lost_after: Annotated[StrictInt, Field(ge=1)] = 100
    """How many frames of data it still sends."""
    flips: Annotated[str, OneOf(STATIONS)] | None = None
    """One bit of the dump flips there, on its way out of the machine."""
    flip_bit: Annotated[StrictInt, Field(ge=0)] = 0
    """Which bit of the dump; of ``memory``, of the memory that is dumped."""


class Nic(Table):
    """The card, and how its driver is used after the panic."""

    model: Annotated[StrictStr, Field(min_length=1)] = DEFAULT_NIC
    """A family of NICs: a registered one, or ``FILE.py:NAME``."""
    driver: Annotated[StrictStr | None, Field(min_length=1)] = None
    """Instead of the family's own: ``FILE.py:CLASS``, or a shared library ``FILE.so``. Of a
    resolved case, from the root."""
    mode: Literal["polled", "locked"] = "polled"
    """After the panic the driver goes round its locks, or acquires them as usual."""
    promiscuous: StrictBool = False
    """It hears frames for other hosts, too."""
    rate: Annotated[int, written.RATE] = 10**9
    """Line rate of the sim tier, bit/s; the other tiers are as fast as they are."""
    mtu: Annotated[StrictInt, Field(ge=576, le=9000)] = 1500
    """Bytes of a frame behind its Ethernet header, at most."""
    tx_ring: Annotated[StrictInt, Field(ge=8, le=4096, multiple_of=8)] = 1024
    """Descriptors to transmit with."""
    rx_ring: Annotated[StrictInt, Field(ge=8, le=4096, multiple_of=8)] = 1024
    """Descriptors to receive with, each with a buffer."""


class Network(Table):
    """Between the machine and the server."""

    gateway: StrictBool = False
    """The server is on another network, reachable through a gateway only."""
    latency_us: Annotated[StrictInt, Field(ge=0, le=10_000_000)] = 50
    """One way, in sim."""


class Server(PartTable):
    """The dump server. What only one kind has is in its own table (``bench/servers``)."""

    kind: Annotated[StrictStr, Field(min_length=1)] = DEFAULT_SERVER
    """What server it is: a registered kind, or ``FILE.py:NAME``."""
    present: StrictBool = True
    """Whether there is one at all."""
    lost_after: Annotated[StrictInt | None, Field(ge=1)] = None
    """It is killed when so many frames of data have reached it."""
    back_ms: Annotated[StrictInt | None, Field(ge=0, le=60_000)] = None
    """Then another one comes up over the same folder, so much later; not given: never."""
    lost_times: Annotated[StrictInt, Field(ge=1, le=1000)] = 1
    """And all that so often: each one is killed as many frames after it came up."""


class Client(PartTable):
    """The dump client. What only one kind has is in its own table (``bench/clients``)."""

    kind: Annotated[StrictStr, Field(min_length=1)] = DEFAULT_CLIENT
    """What client it is: a registered kind, or ``FILE.py:NAME``."""


class Fault(Table):
    """Something the wire does to frames: by chance, or to the n-th of a kind (from 0)."""

    does: Annotated[str, OneOf(ACTIONS)]
    """What becomes of the frame."""
    direction: Annotated[str, OneOf(DIRECTIONS)] = "both"
    """Seen from the machine; both are counted each by itself."""
    kind: Annotated[str, OneOf(FAULT_KINDS)] = "any"
    """Of which kind of frame; other is what is none of the others."""
    chance: Annotated[float, written.CHANCE] | None = None
    """How likely it is for each frame; this or ``index``."""
    index: Ranges | None = None
    """Which frames of their kind and direction, from 0."""
    by_frames: Annotated[StrictInt, Field(ge=_BY_FRAMES.least, le=_BY_FRAMES.most)] = 1
    """Of reorder: after how many later frames of its direction it arrives."""
    delay_us: Annotated[StrictInt, Field(ge=_DELAY_US.least, le=_DELAY_US.most)] | None = None
    """Of delay: how much later it arrives."""
    length: Annotated[StrictInt, Field(ge=_LENGTH.least, le=_LENGTH.most)] | None = None
    """Of truncate: how many bytes of a longer frame are left."""
    bit: Annotated[StrictInt, Field(ge=_BIT.least, le=_BIT.most)] | None = None
    """Of corrupt and mended: which bit flips."""


class Bystander(Table):
    """A third host on the machine's segment."""

    sends: Annotated[str, OneOf(TRICKS)]
    """What the machine hears of it."""
    every: Annotated[int, written.EVERY] = 1
    """After how many frames of the machine's it speaks again."""


class Wire(Table):
    """What goes wrong between the two ends."""

    fault: tuple[Fault, ...] = ()
    """The first one that strikes a frame decides about it."""
    bystander: tuple[Bystander, ...] = ()
    """What they send is heard ahead of answers."""


class Sweep(Table):
    """One run for each of ``values``."""

    over: SweepOver
    """The number in which they differ: the index of the first fault, or ``machine.panic_at``."""
    values: Annotated[tuple[int, ...] | None, written.SWEEP]
    """A run for each; ``every`` (None in here) is all that there are: a dry run counts them."""


class Expect(Table):
    """What should come of a case. What is left out is not asked for."""

    outcome: Outcome | None = None
    """How the dump ends."""
    at: Ranges | None = None
    """In a sweep: where ``outcome`` is expected; elsewhere ``otherwise``."""
    otherwise: Outcome | None = None
    """In a sweep: the outcome at all values that are not in ``at``."""
    oracle_broken: Annotated[tuple[OracleName, ...], OneOrMore()] = ()
    """Oracles that this case is there to see broken."""
    error: Annotated[StrictStr | None, Field(pattern=r"^E[A-Z0-9]+$")] = None
    """errno's name, as the dump's caller sees it."""
    foreign_frames_accepted: Expected = None
    """Frames to another MAC that the client believed."""
    refused: Annotated[tuple[StrictStr, ...], OneOrMore()] = ()
    """Reasons for which the client must have refused at least one frame each."""
    retransmissions: Expected = None
    """Frames that the client sent again; a probe counts or not, as the case needs."""
    nic_wrote_pages: Expected = None
    """Pages that the NIC wrote to between the panic and the takeover."""
    netconsole_lost: Expected = None
    """Lines of a Linux guest's last words that did not arrive."""

    def here(self, value: int) -> Expect:
        """What is expected at one value of a sweep."""
        outcome = self.outcome if self.at is None or value in self.at else self.otherwise
        return self.model_copy(update={"outcome": outcome, "at": None, "otherwise": None})

    def __str__(self) -> str:
        """In the words of the verdict: ``silent-hole, panic-hygiene broken``."""
        said: list[str] = [self.outcome] if self.outcome else []
        said += [f"{oracle} broken" for oracle in self.oracle_broken]
        said += [self.error] if self.error else []
        if self.foreign_frames_accepted is not None:
            said.append(f"{self.foreign_frames_accepted} foreign frames accepted")
        said += [f"refuses {reason}" for reason in self.refused]
        if self.retransmissions is not None:
            said.append(f"{self.retransmissions} retransmissions")
        if self.nic_wrote_pages is not None:
            said.append(f"{self.nic_wrote_pages} pages written by the NIC")
        if self.netconsole_lost is not None:
            said.append(f"{self.netconsole_lost} lines of netconsole lost")
        return ", ".join(said)


class Case(Table):
    """One client profile in this story. Of its sections only the keys that it sets count."""

    profile: ProfileName | None = None
    """Which client; only one of another kind than ours needs none."""
    name: Annotated[StrictStr, Field(min_length=1, max_length=60)] | None = None
    """What the verdict calls it; not given: its profile."""
    machine: Machine = Machine()
    """What differs in this case."""
    nic: Nic = Nic()
    """What differs in this case."""
    network: Network = Network()
    """What differs in this case."""
    server: Server = Server()
    """What differs in this case."""
    client: Client = Client()
    """What differs in this case."""
    wire: Wire = Wire()
    """What differs in this case; its faults and bystanders replace the file's."""
    sweep: Sweep | None = None
    """Play it many times."""
    fixed: tuple[Replaceable, ...] = ()
    """Parts that can't be replaced here: without this very one the case says nothing."""
    expect: Expect
    """What should come of it."""


class Document(Table):
    """A whole file."""

    title: Annotated[StrictStr, Field(min_length=1, max_length=90)]
    """What is played, in a line."""
    why: Annotated[StrictStr, Field(min_length=1, max_length=400)]
    """One sentence: which remark of the review, or which defect, this answers."""
    story: StrictStr = ""
    """More, for the verdict."""
    tiers: Annotated[tuple[TierName, ...], Field(min_length=1)] = ("tap", "sim")
    """Where it can be played, in order of preference."""
    machine: Machine = Machine()
    """Who dies."""
    nic: Nic = Nic()
    """Through which card."""
    network: Network = Network()
    """Over which way."""
    server: Server = Server()
    """Towards whom."""
    client: Client = Client()
    """With which client; its profile is the case's."""
    wire: Wire = Wire()
    """What goes wrong on the way."""
    case: Annotated[tuple[Case, ...], Field(min_length=1)]
    """What each client should make of it."""


@dataclass(frozen=True, slots=True)
class Part(Generic[K]):
    """A case's part: which kind, and with which options of its own."""

    kind: K
    options: Any
    """An instance of ``kind.options``."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A scenario file, read and found good."""

    name: str
    file: str
    """Where it was read from, as the user wrote it."""
    text: str
    """The file itself: it is copied to the run folder, and replayed from there."""
    document: Document
    profiles: tuple[str, ...] | None = None
    """Play only these profiles' cases; None = all."""
    kernel: KernelChoice | None = None
    """The Linux guests' kernel; None = the distribution's."""
    base: FilePath = FilePath()
    """Where the file's relative paths start."""
    replaced: Mapping[Replaceable, Replaced] = field(default_factory=dict)
    """Parts that stand in for the file's own."""

    @property
    def title(self) -> str:
        return self.document.title

    @property
    def why(self) -> str:
        return self.document.why

    @property
    def story(self) -> str:
        return self.document.story

    @property
    def tiers(self) -> tuple[str, ...]:
        return self.document.tiers


@dataclass(frozen=True, slots=True)
class ResolvedCase:
    """One run: every default filled in, every override merged."""

    name: str
    """Unlike any other in its scenario, and fit for a folder's name."""
    group: str
    """The case in the file that it comes from, in its own words: a sweep's runs share it."""
    profile: str
    """Of our client; another's is called by its kind."""
    machine: Machine
    nic: Nic
    network: Network
    server: Server
    client: Client
    wire: Wire
    expect: Expect
    machine_part: Part[MachineKind]
    server_part: Part[ServerKind]
    client_part: Part[ClientKind]
    family: NicFamily
    sweep_over: SweepOver | None = None
    sweep_value: int | None = None
    """None, with ``sweep_over`` given: every value; ``with_values`` makes the runs."""
    kernel: KernelChoice | None = None
    """``Scenario.kernel``."""
    forbidden: str = ""
    """Why it is not played with the parts that the user asked for; empty: it is."""
