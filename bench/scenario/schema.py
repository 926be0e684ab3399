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
from typing import Annotated, Any, Final, Generic, Literal, TypeVar, get_args

from pydantic import (
    BeforeValidator,
    Field,
    PlainValidator,
    StrictBool,
    StrictInt,
    StrictStr,
)

from bench.kinds import ClientKind, MachineKind, Replaced, ServerKind
from bench.parts import DEFAULT_CLIENT, DEFAULT_MACHINE, DEFAULT_NIC, DEFAULT_SERVER
from bench.scenario.values import (
    Count,
    parse_chance,
    parse_count,
    parse_every,
    parse_ranges,
    parse_rate,
    parse_size,
)
from bench.table import PartTable, Table
from bench.verdict import OracleName
from guest.linux.sources import KernelChoice
from nic_models.family import NicFamily

Tier = Literal["tap", "qemu", "sim"]
ProfileName = Literal["patch-2010", "freebsd-14", "netdump2"]
Outcome = Literal["complete", "silent-hole", "false-success", "failed", "deadlock", "lost"]
FaultKind = Literal["any", "arp", "herald", "vmcore", "kdh", "key", "finished", "ack", "netconsole"]

Replaceable = Literal["nic", "server", "client"]

K = TypeVar("K", MachineKind, ServerKind, ClientKind)

TIERS: Final[tuple[str, ...]] = get_args(Tier)
PROFILES: Final[tuple[str, ...]] = get_args(ProfileName)

#: Kinds of frame that only one side sends.
CLIENT_KINDS: Final = frozenset({"herald", "vmcore", "kdh", "key", "finished", "netconsole"})
SERVER_KINDS: Final = frozenset({"ack"})


def _one_or_more(value: object) -> object:
    """A single string where a list may stand is a list of one."""
    return (value,) if isinstance(value, str) else value


def _sweep_values(value: object) -> tuple[int, ...] | None:
    if value == "every":
        return None
    if isinstance(value, str) and ".." not in value and not value.strip().isdigit():
        raise ValueError(f"{value!r} is not a sweep: write 'every', or numbers, as '0..45'")
    return parse_ranges(value)


Size = Annotated[int, BeforeValidator(parse_size)]
Ranges = Annotated[tuple[int, ...], BeforeValidator(parse_ranges)]
Expected = Annotated[Count | None, PlainValidator(parse_count)]


class Machine(PartTable):
    """The machine that dies. What only one kind has is in its own table (``bench/machines``)."""

    kind: Annotated[StrictStr, Field(min_length=1)] = DEFAULT_MACHINE
    memory: Annotated[Size, Field(ge=64 << 10, le=64 << 30, multiple_of=4096)] = 16 << 20
    arena: Annotated[Size, Field(ge=256 << 10, le=1 << 30, multiple_of=4096)] = 4 << 20
    """Set aside at boot for the panic: all that the dump may use for rings, headers, buffers."""
    cpus: Annotated[StrictInt, Field(ge=1, le=256)] = 4
    hostname: Annotated[StrictStr, Field(min_length=1, max_length=63, pattern=r"^[\w.-]+$")] = (
        "victim"
    )
    panic: Annotated[StrictStr, Field(min_length=1, max_length=174)] = (
        "page fault in kernel mode (the bench asked for it)"
    )
    load: Literal["none", "light", "heavy"] = "light"
    """Ordinary network traffic before the panic."""
    dead_time_ms: Annotated[StrictInt, Field(ge=0, le=60_000)] = 0
    """How long the NIC goes on by itself before the panic path takes it over."""
    lost: Literal["power", "reset"] | None = None
    """The machine is lost for good in the middle of its dump."""
    lost_after: Annotated[StrictInt, Field(ge=1)] = 100
    """How many frames of data it still sends."""


class Nic(Table):
    """The card, and how its driver is used after the panic."""

    model: Annotated[StrictStr, Field(min_length=1)] = DEFAULT_NIC
    """A family of NICs: a registered one, or ``FILE.py:NAME``."""
    mode: Literal["polled", "locked"] = "polled"
    promiscuous: StrictBool = False
    rate: Annotated[int, BeforeValidator(parse_rate)] = 10**9
    """Line rate of the sim tier, bit/s; the other tiers are as fast as they are."""
    mtu: Annotated[StrictInt, Field(ge=576, le=9000)] = 1500
    tx_ring: Annotated[StrictInt, Field(ge=8, le=4096, multiple_of=8)] = 1024
    rx_ring: Annotated[StrictInt, Field(ge=8, le=4096, multiple_of=8)] = 1024


class Network(Table):
    """Between the machine and the server."""

    gateway: StrictBool = False
    """The server is on another network, reachable through a gateway only."""
    latency_us: Annotated[StrictInt, Field(ge=0, le=10_000_000)] = 50
    """One way."""


class Server(PartTable):
    """The dump server. What only one kind has is in its own table (``bench/servers``)."""

    kind: Annotated[StrictStr, Field(min_length=1)] = DEFAULT_SERVER
    present: StrictBool = True


class Client(PartTable):
    """The dump client. What only one kind has is in its own table (``bench/clients``)."""

    kind: Annotated[StrictStr, Field(min_length=1)] = DEFAULT_CLIENT


class Fault(Table):
    """Something the wire does to frames: by chance, or to the n-th of a kind (from 0)."""

    does: Literal["drop", "duplicate", "reorder", "corrupt", "truncate"]
    direction: Literal["to-server", "to-client", "both"] = "both"
    kind: FaultKind = "any"
    chance: Annotated[float, BeforeValidator(parse_chance)] | None = None
    index: Ranges | None = None


class Bystander(Table):
    """A third host on the machine's segment."""

    sends: Literal["acks-for-another-mac", "unicast-to-others", "broadcast-noise", "arp-spoof"]
    every: Annotated[int, BeforeValidator(parse_every)] = 1


class Wire(Table):
    """What goes wrong between the two ends."""

    fault: tuple[Fault, ...] = ()
    bystander: tuple[Bystander, ...] = ()


class Sweep(Table):
    """One case for each of ``values``; None = every one there is, which the runner finds out."""

    over: Literal["lost-frame", "panic-step"]
    values: Annotated[tuple[int, ...] | None, PlainValidator(_sweep_values)]


class Expect(Table):
    """What should come of a case. What is left out is not asked for."""

    outcome: Outcome | None = None
    at: Ranges | None = None
    """In a sweep: where ``outcome`` is expected; elsewhere ``otherwise``."""
    otherwise: Outcome | None = None
    oracle_broken: Annotated[tuple[OracleName, ...], BeforeValidator(_one_or_more)] = ()
    """Oracles that this case is there to see broken."""
    error: Annotated[StrictStr | None, Field(pattern=r"^E[A-Z0-9]+$")] = None
    """errno's name, as the dump's caller sees it."""
    foreign_frames_accepted: Expected = None
    refused: Annotated[tuple[StrictStr, ...], BeforeValidator(_one_or_more)] = ()
    """Reasons for which the client must have refused at least one frame each."""
    retransmissions: Expected = None
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
    """Every case of ours names one; a client of another kind has none."""
    name: Annotated[StrictStr, Field(min_length=1, max_length=60)] | None = None
    machine: Machine = Machine()
    nic: Nic = Nic()
    network: Network = Network()
    server: Server = Server()
    client: Client = Client()
    wire: Wire = Wire()
    sweep: Sweep | None = None
    fixed: tuple[Replaceable, ...] = ()
    """Parts that can't be replaced here: without this very one the case says nothing."""
    expect: Expect


class Document(Table):
    """A whole file."""

    title: Annotated[StrictStr, Field(min_length=1, max_length=90)]
    why: Annotated[StrictStr, Field(min_length=1, max_length=400)]
    """One sentence: which remark of the review, or which defect, this answers."""
    story: StrictStr = ""
    """More, for the verdict."""
    tiers: Annotated[tuple[Tier, ...], Field(min_length=1)] = ("tap", "sim")
    """In order of preference."""
    machine: Machine = Machine()
    nic: Nic = Nic()
    network: Network = Network()
    server: Server = Server()
    client: Client = Client()
    wire: Wire = Wire()
    case: Annotated[tuple[Case, ...], Field(min_length=1)]


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
    def tiers(self) -> tuple[Tier, ...]:
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
    sweep_over: Literal["lost-frame", "panic-step"] | None = None
    sweep_value: int | None = None
    """None, with ``sweep_over`` given: every value; ``with_values`` makes the runs."""
    kernel: KernelChoice | None = None
    """``Scenario.kernel``."""
    forbidden: str = ""
    """Why it is not played with the parts that the user asked for; empty: it is."""
