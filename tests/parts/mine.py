"""Parts of somebody else's: one of each sort, as a user's own file would have them.

They are played by ``test_parts.py``, by path and as an installed distribution.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field, StrictInt

from bench.kinds import ClientKind, MachineKind, NamespacePlace, ServerKind, SimulatedPlace
from bench.machines.synthetic import SYNTHETIC
from bench.scenario.schema import ResolvedCase
from bench.servers import DumpServer
from bench.servers.inprocess import InProcessServer
from bench.servers.process import ServerProcess
from bench.story.stage import Stage
from bench.story.synthetic import SyntheticStory
from bench.story.told import Tell
from bench.table import Table
from netdump.client import NetdumpClient, Report
from netdump.profiles import PROFILES, Profile
from nic_models.contracts import InterruptLine
from nic_models.e1000.device import E1000Device
from nic_models.e1000.driver import E1000Driver
from nic_models.family import NicFamily
from nic_models.frames import Frames


class CountingCard(E1000Device):
    """Silicon of another maker: it counts what it sends, in a register that it adds."""

    SENT = 0x1FFF0

    def __init__(self, *wired: Any) -> None:
        super().__init__(*wired)
        self._sent = 0

    def transmit(self, now_ns: int) -> Frames:
        frames = super().transmit(now_ns)
        self._sent += len(frames)
        return frames

    def read32(self, offset: int, /) -> int:
        return self._sent if offset == self.SENT else super().read32(offset)


def _silicon(
    memory: Any, mac: bytes, interrupt: InterruptLine, rate_bps: int | None = None, /
) -> CountingCard:
    return CountingCard(memory, mac, interrupt, rate_bps)


NIC = NicFamily(
    name="counting",
    says="an 8254x that counts what it sends",
    silicon=_silicon,
    driver=E1000Driver,
    doorbells={0x3818: "tdt"},
)


class ServerOptions(Table):
    max_clients: Annotated[StrictInt, Field(ge=1)] = 4


def _process(place: NamespacePlace, options: ServerOptions) -> DumpServer:
    return ServerProcess(
        place.namespace,
        place.dumpdir,
        place.folder / "mine.log",
        bind=place.address,
        options=["--fsync", "none", "--max-clients", str(options.max_clients)],
        command=(sys.executable, "-m", "server"),
    )


def _in_process(place: SimulatedPlace, _options: ServerOptions) -> DumpServer:
    return InProcessServer(place.host, place.dumpdir, fsync="none")


SERVER = ServerKind(
    name="mine",
    says="a server that is not the bench's own",
    options=ServerOptions,
    in_namespace=_process,
    simulated=_in_process,
)


class Patient(NetdumpClient):
    """A client that is not the bench's own: it says hello in the events before it dumps."""

    def dump(self, *words: Any) -> Report:
        words[-1]("patient", says="hello")
        return super().dump(*words)


def _row(_case: ResolvedCase) -> Profile:
    return replace(PROFILES["netdump2"], name="patient", window_frames=8)


CLIENT = ClientKind(
    name="patient", says="a small window, and a word before it begins", profile=_row, make=Patient
)


class LoudStory(SyntheticStory):
    """Its memory holds a pattern that a seed never makes."""

    def boot(self) -> None:
        super().boot()
        start, length = self.machine.dump_segments()[0]
        self.machine.memory.buffer[start : start + min(length, 4096)] = 0xA5


def _loud(case: ResolvedCase, stage: Stage, seed: int, tell: Tell) -> LoudStory:
    return LoudStory(case, stage, seed, tell)


MACHINE = MachineKind(
    name="loud",
    says="a synthetic machine with a page of 0xA5",
    options=SYNTHETIC.options,
    rules=SYNTHETIC.rules,
    story=_loud,
)
