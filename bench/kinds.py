"""What a part says of itself: machines, servers and clients, ours like anybody else's.

The bench knows a part by its *kind* alone. A kind has a name and one line for people, the table of
options that it takes in a scenario file, what of them can't be, where it can be played, and how one
is made. Families of NICs say the same in ``nic_models/family``. ``parts.py`` finds kinds by name;
``assemble.py`` puts a run together from them. To add a kind is to write one of these, and to name
it in an entry point or in a scenario; no file of the bench changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from bench.table import Table
from bench.wire.contracts import Capability
from netdump.client import DumpClient, NetdumpClient
from netdump.contracts import Memory
from netdump.dumper import DumpImage

if TYPE_CHECKING:
    from bench.scenario.schema import ResolvedCase
    from bench.servers import DumpServer
    from bench.servers.simhost.host import SimHost
    from bench.story.stage import Stage
    from bench.story.told import AnyStory, Story, Tell
    from bench.wire.namespace import Namespace
    from bench.wire.segment import Segment
    from bench.wire.tap import TapWire

#: (key to blame, whether the case can't be, what is wrong).
Rule = tuple[tuple[str, ...], Callable[["ResolvedCase"], bool], str]

#: Whose network stack and server are at the far end of the wire: the kernel's, behind a TAP in a
#: network namespace; or a host in memory.
Host = Literal["namespace", "simulated"]

#: What a client and its server have to have in common.
Transport = Literal["netdump", "tftp"]

_NEEDS_NOTHING: Final = Capability(True, "needs nothing")


def nothing_needed() -> Capability:
    """The probe of a part that can be played on every machine."""
    return _NEEDS_NOTHING


class NoOptions(Table):
    """Of a kind that takes none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """What all parts say."""

    name: str
    says: str
    """One line for who looks for such a part."""
    options: type[Table] = NoOptions
    """The keys that its table in a scenario takes, besides those that every kind has."""
    rules: Sequence[Rule] = ()
    """What can't be together, asked of each case that has it."""
    probe: Callable[[], Capability] = nothing_needed
    """Whether this machine can play it, and if not, why and what helps."""
    by_nature: Mapping[str, Any] = field(default_factory=dict)
    """Options of other kinds that this one does not take, but is like: a case that asks for that is
    played with it."""
    asks: frozenset[str] = frozenset()
    """Options by which a case says what it wants of such a part, whoever made it. The others
    describe this kind, or tune it, and say nothing to another in its place."""
    tunes: frozenset[str] = frozenset()
    """Options that only tune this kind: a case that sets one is not about it."""
    files: Callable[[Any], Sequence[str]] = lambda _options: ()
    """Of its options: the programs that they name by path, absolute. A replay tells where one has
    changed."""
    patience_s: float = 1.0
    """It may give its peer up when it has heard nothing for so long, seconds: what comes of a run
    in which the bench lost the CPU for longer is not held against it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineKind(Kind):
    """A machine that dies."""

    story: Callable[[ResolvedCase, Stage, int, Tell], Story]
    """``(case, stage, seed, tell)`` -> one run of it, up to the end of the dump."""
    emulated: bool = False
    """It is a machine of QEMU's: only a tier with QEMU's silicon can play it."""
    prepare: Callable[[ResolvedCase], Capability] | None = None
    """Fetches or builds what its runs boot, once and for all, before the tier is chosen."""
    takes_kernel: bool = False
    """It boots a Linux kernel, which the user may name with --kernel."""
    last_words: Callable[[Any], bool] = lambda _options: False
    """With these options it sends its log over the network when it dies (netconsole)."""
    step: str | None = None
    """Which of its options names the step of its work before which the panic strikes; a sweep sets
    it to each number."""
    count_steps: Callable[[ResolvedCase, Stage, int], int] | None = None
    """``(case, stage, seed)`` -> how many of them there are."""


@dataclass(slots=True)
class NamespacePlace:
    """Where a real server is brought up: the host's end of a TAP."""

    namespace: Namespace
    """Where that end is. A server with a network of its own moves the TAP, and puts that here."""
    tap: TapWire
    segment: Segment
    address: str
    """The host's, where it is to listen."""
    dumpdir: Path
    """The folder for its dumps."""
    folder: Path
    """The run's own, for logs and what else is evidence."""
    mtu: int
    closing: ExitStack
    """Takes what has to be taken down at the end of the run."""


@dataclass(frozen=True, slots=True)
class SimulatedPlace:
    """Where a server in memory is brought up."""

    host: SimHost
    dumpdir: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerKind(Kind):
    """A dump server."""

    ours: bool = False
    """It comes with the bench: that it does not come up is this machine's lack, or our defect. Of
    any other it is a verdict."""
    in_namespace: Callable[[NamespacePlace, Any], DumpServer] | None = None
    """``(place, options)`` -> one that is not started. None: it can't be played there."""
    simulated: Callable[[SimulatedPlace, Any], DumpServer] | None = None
    """The same in the memory of the bench."""
    transport: Callable[[Any], Transport] = lambda _options: "netdump"
    """With these options it speaks that."""

    def plays_at(self, host: Host) -> bool:
        return {"namespace": self.in_namespace, "simulated": self.simulated}[host] is not None


class ClientProfile(Protocol):
    """What the bench has to know of how a client behaves: what it needs from the kernel, and what
    it sends. A row of ``netdump/profiles`` says so, and ``netdump/tftp/rules``.
    """

    @property
    def name(self) -> str: ...

    @property
    def mbufs(self) -> Literal["ordinary", "pool"]:
        """Which supply of buffers the kernel's zone pointers name for it."""
        ...

    @property
    def footer(self) -> bool:
        """The kernel dump header follows the data."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class ClientKind(Kind):
    """A dump client: what pushes the dead machine's memory to the server."""

    profile: Callable[[ResolvedCase], ClientProfile] | None = None
    """How it behaves. None: it is no code of the dead machine's, and ``story`` says how it is
    told."""
    make: Callable[[Any, Memory, DumpImage], DumpClient] = NetdumpClient
    """``(profile, memory, image)`` -> the client, on a machine that is about to panic; ``profile``
    is what the kind's own says."""
    profiles: bool = False
    """A case has to name one of our profiles. A client that has none plays the cases of the
    profile that has no defect (``REFERENCE``)."""
    story: Callable[[ResolvedCase, Stage, int, Tell], AnyStory] | None = None
    """None: it runs on the case's machine, through its driver. Else how a case is told whose client
    is no code of that machine."""
    hosts: frozenset[Host] = frozenset({"namespace", "simulated"})
    """The far ends with which it can be played."""
    transport: Transport | None = "netdump"
    """What it speaks; None: nobody knows."""
    kernel_header: Literal["apart", "first", "last"] = "apart"
    """Where the kernel dump header goes: in a message of its own, or into the file, before or
    behind the dump."""
    drives: bool = True
    """It works through a driver of ours, on whatever silicon; False: it is on the wire by itself,
    and only tiers with our own wire can play it."""


#: The profile whose cases a client without profiles plays.
REFERENCE: Final = "netdump2"


@dataclass(frozen=True, slots=True)
class Replaced:
    """A part that stands in for the scenario's own, as the user asked for on the command line."""

    table: Mapping[str, Any]
    """As it would stand in the file."""
    base: Path
    """Where its relative paths start."""
    words: str = field(default="", compare=False)
    """As the user wrote it."""
