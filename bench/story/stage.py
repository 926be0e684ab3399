"""The stage: everything outside the machine, for the tier that the story is played on.

A stage is a clock, the machine's end of a wire, and a server at the other end of it. The story does
not see which tier it is on. ``tap`` is the real thing: a TAP in a network namespace of its own, and
the server as a process; ``sim`` is a link and a host in memory, in virtual time.

What a machine pays for once (the namespace, the TAP, the server process) is kept by ``Stages`` and
used by all runs of a scenario that ask for the same; each run gets a dump folder of its own.

    machine's NIC - Bystanders - Faults - wire - host - server
                  (both report every frame to the observers)
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from bench.clock import Clock, RealClock, VirtualClock
from bench.scenario.schema import ResolvedCase
from bench.servers import DumpServer
from bench.servers.inprocess import InProcessServer
from bench.servers.process import ServerProcess
from bench.servers.simhost import HostConfig, SimHost
from bench.wire.bystanders import Bystanders, Trick
from bench.wire.contracts import Observer, Wire
from bench.wire.faults import Faults, Rule
from bench.wire.memory import MemoryLink
from bench.wire.namespace import NetNamespace
from bench.wire.segment import Segment
from bench.wire.tap import TapWire
from nic_models.frames import Frames
from server.config import ServerConfig

CLIENT_MAC: Final = bytes.fromhex("020000000002")
CLIENT_IP: Final = "198.18.0.2"
SERVER_IP: Final = "198.18.0.1"
GATEWAY_IP: Final = "198.18.0.254"
#: The server's address when it is on another network.
FAR_SERVER_IP: Final = "198.19.0.1"
HOST_MAC: Final = bytes.fromhex("02005e001001")

#: How long a run may take on the run's own clock before it counts as hung.
BUDGET_NS: Final = {"sim": 3600 * 10**9, "tap": 300 * 10**9}
#: A simulated host with as large a socket buffer as ours asks the kernel for.
SIM_SOCKET_FRAMES: Final = 4096
#: What a server needs for a datagram, taken from the real one on a slow day.
SIM_SERVICE_NS: Final = 2_000
#: Time for a server to work on a few hundred frames and to close what it has open.
SETTLE_US: Final = 50_000


@dataclass(slots=True)
class Stage:
    """What a run is played on."""

    tier: str
    clock: Clock
    wire: Wire
    """The machine's end, faults and bystanders included."""
    bare_wire: Wire
    """The same without them."""
    far_end: Callable[[int], None]
    server: DumpServer | None
    dumpdir: Path
    server_ip: str
    gateway_ip: str | None
    deadline_ns: int
    faults: Faults
    bystanders: Bystanders

    trouble: list[str] = field(default_factory=list)
    """What the server did that no server may do."""

    @property
    def live_dumpdir(self) -> Path:
        """Where the server stores while the run lasts."""
        return self.server.dumpdir if self.server is not None else self.dumpdir

    def server_trouble(self) -> list[str]:
        """What the server did that no server may do: raise, or die."""
        if isinstance(self.server, ServerProcess):
            if not self.server.running:
                tail = self.server.output()[-500:].strip()
                return [f"the server ended with status {self.server.status}: {tail}"]
            if "Traceback" in self.server.output():
                return ["the server raised: " + self.server.output()[-500:].strip()]
        return self.trouble

    def play_again(self, frames: list[bytes]) -> None:
        """Send frames to the server outside the story, and forget its answers."""
        self.bare_wire.send(Frames.of(frames, self.clock.now_ns()))
        self.clock.delay_us(SETTLE_US)
        self.far_end(self.clock.now_ns())
        drain(self.bare_wire)


class Stages:
    """Makes stages, and takes down at the end what they shared. A context manager."""

    def __init__(self, tier: str, scratch: Path) -> None:
        """``scratch`` is a folder for what belongs to no single run: the server's log."""
        self._tier = tier
        self._scratch = scratch
        self._stack = ExitStack()
        self._clock = RealClock()
        self._namespace: NetNamespace | None = None
        self._shared: dict[tuple[object, ...], tuple[TapWire, ServerProcess | None]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def set(self, case: ResolvedCase, seed: int, dumpdir: Path, observer: Observer) -> Stage:
        """A stage for one run; ``observer`` sees every frame once, before any fault."""
        dumpdir.mkdir(parents=True, exist_ok=True)
        if self._tier == "sim":
            return self._sim(case, seed, dumpdir, observer)
        return self._tap(case, seed, dumpdir, observer)

    def collect(self, stage: Stage) -> None:
        """The run is over: what its server stored belongs into the run's own folder."""
        if isinstance(stage.server, ServerProcess):
            _move_dumps(stage.server.dumpdir, stage.dumpdir)
        elif stage.server is not None:
            stage.server.stop()

    def _sim(self, case: ResolvedCase, seed: int, dumpdir: Path, observer: Observer) -> Stage:
        clock = VirtualClock()
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
        server: InProcessServer | None = None
        if case.server.present:
            server = InProcessServer(host, dumpdir, config=_server_config(case), fsync="none")
            server.start()
        wire, faults, bystanders = _break(link.machine_end, case, seed, clock, observer)
        return Stage(
            tier="sim",
            clock=clock,
            wire=wire,
            bare_wire=link.machine_end,
            far_end=host.pump,
            server=server,
            dumpdir=dumpdir,
            server_ip=server_ip,
            gateway_ip=gateway_ip,
            deadline_ns=clock.now_ns() + BUDGET_NS["sim"],
            faults=faults,
            bystanders=bystanders,
        )

    def _tap(self, case: ResolvedCase, seed: int, dumpdir: Path, observer: Observer) -> Stage:
        clock = self._clock
        server_ip, gateway_ip = _addresses(case)
        tap, server = self._real_server(case, clock)
        drain(tap)
        wire, faults, bystanders = _break(tap, case, seed, clock, observer)
        return Stage(
            tier="tap",
            clock=clock,
            wire=wire,
            bare_wire=tap,
            far_end=lambda _now_ns: None,
            server=server,
            dumpdir=dumpdir,
            server_ip=server_ip,
            gateway_ip=gateway_ip,
            deadline_ns=clock.now_ns() + BUDGET_NS["tap"],
            faults=faults,
            bystanders=bystanders,
        )

    def _real_server(
        self, case: ResolvedCase, clock: Clock
    ) -> tuple[TapWire, ServerProcess | None]:
        """The TAP and the server process that fit a case; made once, then shared."""
        server_ip, gateway_ip = _addresses(case)
        key = (case.server, gateway_ip, case.nic.mtu)
        found = self._shared.get(key)
        if found is not None and (found[1] is None or found[1].running):
            return found
        number = len(self._shared)
        namespace = self._stack.enter_context(NetNamespace())
        segment = Segment(
            server_ip=server_ip, gateway_ip=gateway_ip, mac=HOST_MAC.hex(":"), mtu=case.nic.mtu
        )
        tap = TapWire.open(namespace, segment, clock)
        self._stack.callback(tap.close)
        server: ServerProcess | None = None
        if case.server.present:
            folder = self._scratch / f"server-{number}"
            server = ServerProcess(
                namespace,
                folder,
                self._scratch / f"server-{number}.log",
                bind=server_ip,
                options=_server_options(case),
            )
            server.start()
            self._stack.callback(server.stop)
        self._shared[key] = (tap, server)
        return tap, server


def _addresses(case: ResolvedCase) -> tuple[str, str | None]:
    """The server's address, and the gateway's where there is one."""
    return (FAR_SERVER_IP, GATEWAY_IP) if case.network.gateway else (SERVER_IP, None)


def _break(
    inner: Wire, case: ResolvedCase, seed: int, clock: Clock, observer: Observer
) -> tuple[Wire, Faults, Bystanders]:
    rules = [
        Rule(
            action=fault.does,
            direction=fault.direction,
            kind=fault.kind,
            probability=fault.chance,
            index=fault.index,
        )
        for fault in case.wire.fault
    ]
    faults = Faults(inner, rules, seed=seed, clock=clock, observer=observer)
    tricks = [Trick(bystander.sends, bystander.every) for bystander in case.wire.bystander]
    bystanders = Bystanders(faults, tricks, clock=clock, observer=observer)
    return bystanders, faults, bystanders


def _server_config(case: ResolvedCase) -> ServerConfig:
    wanted = case.server
    config = ServerConfig(rescue=wanted.rescue, strict_finish=wanted.strict_finish)
    if wanted.max_dump is None:
        return config
    return ServerConfig(
        rescue=wanted.rescue, strict_finish=wanted.strict_finish, max_dump=wanted.max_dump
    )


def _server_options(case: ResolvedCase) -> Sequence[str]:
    """The same, in the words of the server's command line."""
    options = ["--fsync", "none"]
    options += [] if case.server.rescue else ["--no-rescue"]
    options += [] if case.server.strict_finish else ["--stock-acks"]
    if case.server.max_dump is not None:
        options += ["--max-dump", str(case.server.max_dump)]
    if case.nic.mtu > 4148:
        options += ["--max-datagram", str(case.nic.mtu)]
    return options


def drain(wire: Wire) -> None:
    """Forget what an earlier run's server still had to say; bounded."""
    for _ in range(64):
        if not len(wire.receive()):
            return


def _move_dumps(source: Path, target: Path) -> None:
    """Move what a shared server stored, links and all: the next run finds a clean folder."""
    for path in sorted(source.iterdir()):
        shutil.move(path, target / path.name)
