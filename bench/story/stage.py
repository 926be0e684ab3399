"""The stage: everything outside the machine, for the tier that the story is played on.

A stage is a clock, the machine's end of a wire, and a server at the other end of it. Host
``namespace`` is the real thing: a TAP in a network namespace of its own, and the server as a
process. Host ``simulated`` is a link and a host in memory, with the server's core in it; in virtual
time on tier ``sim``, and in real time on a tier that has to do without a TAP.

Each run has a stage of its own, and nothing of one run reaches the next: namespace, TAP, server and
dump folder are made for it and go with it. (A namespace remembers: the kernel keeps neighbours,
frames that wait for one, and the credit of its ICMP errors. In a container that may make no
namespace its own is shared, and there that credit is: a run soon after another may see fewer ICMP
errors.) At the run's end the server is
*killed*: what is left on the disk then is what a server that dies leaves.

    machine's NIC - LatePeer - Bystanders - Faults - wire - host - server
                    (each reports the frames that it adds, or breaks, to the observers)
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Final, Protocol

from bench.clock import Budget, Clock, RealClock, VirtualClock
from bench.foreign import made
from bench.kinds import Host, NamespacePlace, SimulatedPlace
from bench.scenario.schema import ResolvedCase
from bench.servers import DumpServer
from bench.servers.simhost.config import HostConfig
from bench.servers.simhost.host import SimHost
from bench.story.dumpkey import configured
from bench.story.earlier import dump_before
from bench.story.outage import Outage
from bench.tiers import ROWS, Row
from bench.wire.actions import SETTINGS
from bench.wire.answering import AnswersArp
from bench.wire.bystanders import Bystanders, Trick
from bench.wire.contracts import Observer, Wire
from bench.wire.faults import Faults, Rule
from bench.wire.late import LatePeer
from bench.wire.memory import MemoryLink
from bench.wire.namespace import open_namespace
from bench.wire.segment import Segment
from bench.wire.tap import TapWire
from netdump.profiles import Profile
from netdump.udplink import LinkConfig
from nic_models.frames import Frames

#: What a run uses of a server before its dump begins.
_SERVER: Final = ("start", "kill")

CLIENT_MAC: Final = bytes.fromhex("020000000002")
CLIENT_IP: Final = "198.18.0.2"
SERVER_IP: Final = "198.18.0.1"
GATEWAY_IP: Final = "198.18.0.254"
#: The server's address when it is on another network.
FAR_SERVER_IP: Final = "198.19.0.1"
HOST_MAC: Final = bytes.fromhex("02005e001001")

#: A simulated host with as large a socket buffer as ours asks the kernel for.
SIM_SOCKET_FRAMES: Final = 4096
#: What a server needs for a datagram, taken from the real one on a slow day.
SIM_SERVICE_NS: Final = 2_000
#: Batches that a client may have left unread: more than a host's queue holds.
MOST_UNREAD: Final = 10_000
#: How often a server's answers are looked for.
SETTLE_TURN_US: Final = 1_000


class Listener(AbstractContextManager[Any], Protocol):
    """What is used of a UDP socket that does not block."""

    def recv(self, size: int, /) -> bytes:
        """The next datagram, cut to ``size``; ``BlockingIOError`` where there is none."""
        ...


@dataclass(slots=True)
class Stage:
    """What a run is played on."""

    row: Row
    """Of its tier."""
    clock: Clock
    wire: LatePeer
    """The machine's end, with all that happens on the way."""
    bare_wire: Wire
    """The same without them."""
    far_end: Callable[[int], None]
    under_way: Callable[[], int | None]
    """When a frame that has been sent arrives at the host; None: all that can be seen have."""
    server: DumpServer | None
    dumpdir: Path
    server_ip: str
    gateway_ip: str | None
    budget: Budget
    """How long the run may take."""
    settle_us: int
    """The longest that an answer may take when the wire is quiet."""
    faults: Faults
    bystanders: Bystanders
    folder: Path
    """The run's own, for what the machine leaves as evidence."""
    closing: ExitStack
    """What the machine needs to be taken down at the end of the run."""
    listen: Callable[[int], Listener]
    """A UDP socket of the server's host on that port."""

    trouble: list[str] = field(default_factory=list)
    """What the server did that no server may do."""

    def server_trouble(self, said: Sequence[str] = ()) -> list[str]:
        """What the server did that no server may do: raise, or die. ``said``: what it may quote."""
        return [*self.trouble, *(self.server.trouble(said) if self.server is not None else ())]

    def places(self) -> list[Path]:
        """The files on its disk where it may keep what it has acknowledged."""
        return self.server.names.places_in(self.server.dumpdir) if self.server is not None else []

    def server_rests(self) -> bool:
        """Whether it has got all that it was sent, and has done with it, as far as can be seen."""
        self.far_end(self.clock.now_ns())
        return self.under_way() is None and (self.server is None or self.server.at_rest())

    def play_again(self, frames: list[bytes], enough: Callable[[Frames], bool]) -> Frames:
        """Send frames to the server outside the story; what came back until it was enough.

        The client has ended, and the host may have forgotten its MAC: who speaks in its name also
        answers ARP in its name. What had come before, and was left unread, answers nothing. Turns
        are counted, not time: while this process is stopped, the server loses none.
        """
        wire = AnswersArp(self.bare_wire, CLIENT_MAC, IPv4Address(CLIENT_IP).packed)
        for _ in range(MOST_UNREAD):
            if not len(wire.receive()):
                break
        wire.send(Frames.of(frames, self.clock.now_ns()))
        heard: list[Frames] = []
        for _ in range(self.settle_us // SETTLE_TURN_US):
            self.clock.delay_us(SETTLE_TURN_US)
            self.far_end(self.clock.now_ns())
            if not len(got := wire.receive()):
                continue
            heard.append(got)
            if enough(Frames.concat(heard)):
                break
        return Frames.concat(heard)


@contextmanager
def set_stage(
    tier: str,
    host: Host,
    case: ResolvedCase,
    seed: int,
    folder: Path,
    observer: Observer,
    lost_s: Callable[[], float] = float,
) -> Iterator[Stage]:
    """The stage of one run; it is taken down at the end, whatever happens.

    ``folder`` gets ``dumps/`` and, of a server that is a process, its log. ``observer`` sees every
    frame once, before any fault. ``lost_s``: for how long the bench has not got the CPU; none.
    """
    dumpdir = folder / "dumps"
    dumpdir.mkdir(parents=True)
    with ExitStack() as closing:
        stage = HOSTS[host](tier, case, seed, dumpdir, observer, lost_s, closing)
        if stage.server is not None and stage.bystanders.replayers:
            _dump_before(stage, case, seed)
        yield stage


def _dump_before(stage: Stage, case: ResolvedCase, seed: int) -> None:
    """What a replayer has recorded before this run: a dump of the case's client, if it is ours."""
    kind, options = case.client_part.kind, case.client_part.options
    profile = kind.profile(case) if kind.profile is not None else None
    if not isinstance(profile, Profile):
        return

    def delay_us(us: int) -> None:
        stage.clock.delay_us(us)
        stage.far_end(stage.clock.now_ns())

    key = getattr(options, "key", None)
    link = link_config(stage.server_ip, stage.gateway_ip)
    recorded = dump_before(
        stage.bare_wire,
        CLIENT_MAC,
        case.nic.mtu,
        profile,
        link,
        None if key is None else bytes.fromhex(key),
        configured(profile.encryption, seed, "an earlier dump"),
        seed,
        delay_us,
    )
    for replayer in stage.bystanders.replayers:
        for direction, frames in recorded.items():
            replayer.remember(direction, frames)


def link_config(server_ip: str, gateway_ip: str | None) -> LinkConfig:
    """What dumpon(8) would have been told."""
    return LinkConfig(
        client_ip=IPv4Address(CLIENT_IP).packed,
        server_ip=IPv4Address(server_ip).packed,
        gateway_ip=None if gateway_ip is None else IPv4Address(gateway_ip).packed,
    )


def _simulated(
    tier: str,
    case: ResolvedCase,
    seed: int,
    dumpdir: Path,
    observer: Observer,
    lost_s: Callable[[], float],
    closing: ExitStack,
) -> Stage:
    clock = VirtualClock() if ROWS[tier].virtual else RealClock()
    link = MemoryLink(clock, latency_ns=case.network.latency_us * 1000, bits_per_second=0)
    server_ip, gateway_ip = _addresses(case)
    config = HostConfig(
        ip=server_ip,
        mac=HOST_MAC,
        gateway_ip=gateway_ip,
        service_ns=SIM_SERVICE_NS,
        socket_frames=SIM_SOCKET_FRAMES,
    )
    host = SimHost(link.host_end, config)
    server: DumpServer | None = None
    if case.server.present:
        part = case.server_part
        assert part.kind.simulated is not None, "the tier was chosen for it"
        server = made(
            f"the server {part.kind.name}",
            part.kind.simulated,
            SimulatedPlace(host, dumpdir),
            part.options,
            has=_SERVER,
        )
        closing.callback(server.kill)
        server.start()
    wire = link.machine_end
    stage = _stage(
        tier, case, seed, dumpdir, observer, lost_s, closing, clock, wire, server, host.open_socket
    )

    def far_end(now_ns: int) -> None:
        try:
            host.pump(now_ns)
        except (Exception, SystemExit) as error:  # whatever it is, it is what the oracle looks for
            stage.trouble.append(f"the server raised {type(error).__name__}: {error}")
            host.hang_up()

    stage.far_end, stage.under_way = far_end, link.host_end.next_arrival_ns
    return stage


def _namespaced(
    tier: str,
    case: ResolvedCase,
    seed: int,
    dumpdir: Path,
    observer: Observer,
    lost_s: Callable[[], float],
    closing: ExitStack,
) -> Stage:
    server_ip, gateway_ip = _addresses(case)
    segment = Segment(
        server_ip=server_ip, gateway_ip=gateway_ip, mac=HOST_MAC.hex(":"), mtu=case.nic.mtu
    )
    clock = RealClock()
    namespace = closing.enter_context(open_namespace())
    tap = TapWire.open(namespace, segment, clock)
    closing.callback(tap.close)
    place = NamespacePlace(
        namespace=namespace,
        tap=tap,
        segment=segment,
        address=server_ip,
        dumpdir=dumpdir,
        folder=dumpdir.parent,
        mtu=case.nic.mtu,
        closing=closing,
    )
    server: DumpServer | None = None
    if case.server.present:
        part = case.server_part
        assert part.kind.in_namespace is not None, "the tier was chosen for it"
        server = made(
            f"the server {part.kind.name}", part.kind.in_namespace, place, part.options, has=_SERVER
        )
        closing.callback(server.kill)
        server.start()

    def listen(port: int) -> Listener:
        return place.namespace.run(_listen, server_ip, port)

    return _stage(tier, case, seed, dumpdir, observer, lost_s, closing, clock, tap, server, listen)


#: How each host of a tier's row is set up.
HOSTS: Final = {"namespace": _namespaced, "simulated": _simulated}


def _stage(
    tier: str,
    case: ResolvedCase,
    seed: int,
    dumpdir: Path,
    observer: Observer,
    lost_s: Callable[[], float],
    closing: ExitStack,
    clock: Clock,
    bare_wire: Wire,
    server: DumpServer | None,
    listen: Callable[[int], Listener],
) -> Stage:
    rules = [
        Rule(
            action=fault.does,
            direction=fault.direction,
            kind=fault.kind,
            probability=fault.chance,
            index=fault.index,
            **{setting: getattr(fault, setting) for setting in SETTINGS},
        )
        for fault in case.wire.fault
    ]
    tricks = [Trick(bystander.sends, bystander.every) for bystander in case.wire.bystander]
    far_wire = bare_wire
    wanted = case.server
    if server is not None and wanted.lost_after is not None:
        far_wire = Outage(
            bare_wire, server, clock, wanted.lost_after, wanted.back_ms, wanted.lost_times
        )
    faults = Faults(far_wire, rules, seed=seed, clock=clock, observer=observer)
    bystanders = Bystanders(faults, tricks, clock=clock, observer=observer, to_server=bare_wire)
    server_ip, gateway_ip = _addresses(case)
    return Stage(
        row=ROWS[tier],
        clock=clock,
        wire=LatePeer(bystanders, clock=clock, observer=observer),
        bare_wire=bare_wire,
        far_end=_nothing,
        under_way=lambda: None,  # a TAP hands over what it is given
        server=server,
        dumpdir=dumpdir,
        server_ip=server_ip,
        gateway_ip=gateway_ip,
        budget=Budget(clock, ROWS[tier].budget_ns, lost_s),
        settle_us=ROWS[tier].settle_us + 4 * case.network.latency_us,
        faults=faults,
        bystanders=bystanders,
        folder=dumpdir.parent,
        closing=closing,
        listen=listen,
    )


def _nothing(_now_ns: int) -> None:
    """A real far end needs no turn from us."""


def _addresses(case: ResolvedCase) -> tuple[str, str | None]:
    """The server's address, and the gateway's where there is one."""
    return (FAR_SERVER_IP, GATEWAY_IP) if case.network.gateway else (SERVER_IP, None)


def _listen(address: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.bind((address, port))
    listener.setblocking(False)
    return listener
