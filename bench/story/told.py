"""The story of one case: a machine boots, lives, dies, and gets its memory out, or does not.

In order: memory is filled and the NIC brought up; the network load runs through the driver in
interrupt mode; the panic strikes at the chosen step; the dump client takes the NIC over and sends
all memory but the panic arena. What each scene needs is made at boot, as a kernel would: after the
panic nothing is allocated but from the arena and the pool.

The seed of the run decides memory, load, entropy and faults. Nothing here reads a clock.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from typing import Final

import numpy as np

from bench.board import Board, BoardNic, OutOfTime
from bench.scenario.schema import ResolvedCase
from bench.story.stage import CLIENT_IP, CLIENT_MAC, HOST_MAC, Stage
from guest.synthetic import (
    Deadlock,
    Endpoint,
    MachineConfig,
    NetworkLoad,
    OrdinaryMbufs,
    PanicPool,
    PanicStrikes,
    SyntheticMachine,
)
from netdump.client import DumpRequest, NetdumpClient, Report
from netdump.kdh import KernelDumpHeader
from netdump.link import LinkConfig
from netdump.profiles import PROFILES, Profile
from nic_models.e1000.device import E1000Device
from nic_models.e1000.driver import E1000Driver, Mode
from nic_models.frames import Frames

#: 2010-10-13 11:04:57 UTC, when the review was answered; a clock would make runs differ.
DUMP_TIME: Final = 1_286_967_897
VERSION: Final = "netdump-bench synthetic kernel\n"
#: Rounds of network load before the panic.
ROUNDS: Final = {"none": 0, "light": 4, "heavy": 40}
#: Frames that the machine sends, or its peer, in one round.
FRAMES_A_ROUND: Final = 4
#: Frames that the peer still sends after the panic, a millisecond apart: it does not know.
LATE_FRAMES: Final = {"none": 0, "light": 8, "heavy": 30}
LATE_PACE_NS: Final = 1_000_000
#: IPv4 and UDP headers.
IP_UDP: Final = 28
#: Buffers that debugnet sets aside: ncl x (4 + nrxr), for one ring of 1024 (kern_mbuf.c).
POOL_A_DESCRIPTOR: Final = 5

Tell = Callable[..., None]


@dataclass(slots=True)
class Told:
    """What the story came to."""

    machine: SyntheticMachine
    device: E1000Device
    client: NetdumpClient
    report: Report
    deadlock: str = ""
    out_of_time: str = ""
    seconds: float = 0.0
    """From the panic to the end, on the run's clock."""
    struck: str = ""
    """Where the panic struck, in words."""
    footer: bytes = b""
    """What the client sends behind the data; empty if it has no footer."""


def profile_of(case: ResolvedCase) -> Profile:
    """The case's row of the profile table, with its overrides."""
    row = PROFILES[case.profile]
    wanted = case.client
    if wanted.polls is not None:
        row = replace(row, polls=wanted.polls)
    if wanted.retries is not None:
        row = replace(row, retries=wanted.retries)
    if wanted.window is not None:
        row = replace(row, window_frames=wanted.window)
    if wanted.footer is not None:
        row = replace(row, footer=wanted.footer)
    return row


class Story:
    """One case on one stage. ``boot``, ``live``, ``panic``, ``dump``, in that order."""

    def __init__(self, case: ResolvedCase, stage: Stage, seed: int, tell: Tell) -> None:
        self._case = case
        self._stage = stage
        self._seed = seed
        self._tell = tell
        self._profile = profile_of(case)
        nic = case.nic
        self.machine = SyntheticMachine(
            MachineConfig(
                memory_size=case.machine.memory,
                arena_size=case.machine.arena,
                cpus=case.machine.cpus,
                seed=seed,
                hostname=case.machine.hostname,
                zero_pages=case.machine.zero_pages,
                panic_mbufs=POOL_A_DESCRIPTOR * nic.tx_ring,
            ),
            delay_us=lambda microseconds: self._board.delay_us(microseconds),
        )
        machine = self.machine
        self._device = E1000Device(
            machine.memory.buffer,
            CLIENT_MAC,
            machine.interrupt_line,
            nic.rate if stage.tier == "sim" else None,
        )
        self._board = Board(
            stage.clock, self._device, stage.wire, stage.far_end, stage.deadline_ns, tell
        )
        # Which supply the kernel's zone pointers name in the panic: FreeBSD swaps in the pool.
        self._zone: OrdinaryMbufs | PanicPool = (
            machine.panic_pool if self._profile.mbufs == "pool" else machine.mbufs
        )
        self._driver = E1000Driver(
            self._board,
            machine.memory,
            machine,
            mode=Mode[nic.mode.upper()],
            mtu=nic.mtu,
            promiscuous=nic.promiscuous,
            tx_ring=nic.tx_ring,
            rx_ring=nic.rx_ring,
            tx_zone=self._zone,
        )
        self.client = NetdumpClient(self._profile, machine.memory, machine.dump_segments())

    # -- ordinary life -----------------------------------------------------------------------

    def boot(self) -> None:
        self._device.set_link(True)
        self._driver.attach()

    def live(self) -> str:
        """Ordinary life, up to the panic; where it struck, in words."""
        case, machine = self._case, self.machine
        wanted = case.machine
        load = self._load()
        self._rounds(load, ROUNDS[wanted.load])
        self._peer_goes_on(load)
        if wanted.panic_during == "idle":
            machine.panic(wanted.panic, cpu=wanted.panic_cpu)
            return f"CPU {wanted.panic_cpu}, idle"
        machine.arm_panic(0 if wanted.panic_at is None else wanted.panic_at, wanted.panic)
        try:
            self._work(load, wanted.panic_during)
        except PanicStrikes as strike:
            machine.panic(wanted.panic, cpu=wanted.panic_cpu)
            return (
                f"CPU {wanted.panic_cpu}, while CPU {strike.cpu} was about to do step"
                f" {strike.number}, '{strike.name}'"
            )
        steps = machine.steps_taken
        raise NoSuchStep(
            f"{wanted.panic_during} has no step {wanted.panic_at!r}: it has {steps}, named"
            f" {', '.join(dict.fromkeys(machine.step_names))}"
        )

    def count_steps(self) -> int:
        """How many steps the work has in which the panic may strike."""
        self.boot()
        load = self._load()
        self._rounds(load, ROUNDS[self._case.machine.load])
        self.machine.begin_steps()
        self._work(load, self._case.machine.panic_during)
        return self.machine.steps_taken

    def _load(self) -> NetworkLoad:
        # The panicking CPU takes no part in the work that is interrupted, if there is another.
        cpus = [
            cpu for cpu in range(self._case.machine.cpus) if cpu != self._case.machine.panic_cpu
        ]
        return NetworkLoad(
            self.machine,
            self._driver,
            Endpoint(CLIENT_MAC, IPv4Address(CLIENT_IP).packed),
            Endpoint(HOST_MAC, IPv4Address(self._stage.server_ip).packed),
            seed=self._seed,
            frames_a_round=FRAMES_A_ROUND,
            max_payload=self._case.nic.mtu - IP_UDP,
            cpus=cpus or None,
        )

    def _rounds(self, load: NetworkLoad, rounds: int) -> None:
        for _ in range(rounds):
            load.run(1, self._board.turn)
            self._device.receive(self._from_peer(load))
            load.interrupt_round()
            self.machine.delay_us(100)

    def _peer_goes_on(self, load: NetworkLoad) -> None:
        """What will still arrive when the machine is dead."""
        frames = load.peer_frames(LATE_FRAMES[self._case.machine.load])
        now = self._stage.clock.now_ns()
        times = now + LATE_PACE_NS * np.arange(1, len(frames) + 1, dtype=np.int64)
        self._stage.wire.will_say(Frames.of(frames).at(times))

    def _from_peer(self, load: NetworkLoad) -> Frames:
        return Frames.of(load.peer_frames(FRAMES_A_ROUND), self._stage.clock.now_ns())

    def _work(self, load: NetworkLoad, what: str) -> None:
        if what == "interrupt":
            self._device.receive(self._from_peer(load))
            load.interrupt_round()
        else:
            load.send_round()

    # -- the panic and after -----------------------------------------------------------------

    def dump(self, struck: str) -> Told:
        case, stage, machine = self._case, self._stage, self.machine
        self._device.forget_dma_writes()
        if case.machine.starve_mbufs:
            machine.mbufs.starve()
        told = Told(machine, self._device, self.client, Report(self._profile.name), struck=struck)
        request = self._request()
        told.footer = request.header.pack() if self._profile.footer else b""
        began = stage.clock.now_ns()
        nic = BoardNic(self._driver, self._board)
        try:
            told.report = self.client.dump(request, nic, self._zone, machine.delay_us, self._tell)
        except Deadlock as deadlock:
            told.deadlock = str(deadlock)
        except OutOfTime as late:
            told.out_of_time = str(late)
        told.seconds = (stage.clock.now_ns() - began) / 1e9
        return told

    def _request(self) -> DumpRequest:
        case, stage = self._case, self._stage
        length = self.client.image.length
        gateway = stage.gateway_ip
        return DumpRequest(
            link=LinkConfig(
                client_ip=IPv4Address(CLIENT_IP).packed,
                server_ip=IPv4Address(stage.server_ip).packed,
                gateway_ip=None if gateway is None else IPv4Address(gateway).packed,
            ),
            header=KernelDumpHeader(
                dumplength=length,
                dumpextent=length,
                dumptime=DUMP_TIME,
                hostname=case.machine.hostname,
                versionstring=VERSION,
                panicstring=case.machine.panic,
            ),
            path=case.client.path or "",
            # Each boot draws anew: runs of one scenario may share a server.
            draw=zlib.crc32(f"{self._seed} {case.name}".encode()),
        )


class NoSuchStep(Exception):
    """The scenario names a step that the work does not have."""
