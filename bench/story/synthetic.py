"""A machine grown from a seed, on our NIC or on QEMU's: boot, life, and a panic at a chosen step.

What each scene needs is made at boot, as a kernel would: after the panic nothing is allocated but
from the arena and the pool. On the tiers ``sim`` and ``tap`` the NIC is our model and memory is an
array of ours. On ``qemu`` both are those of a halted QEMU: no guest software runs, and the machine
begins above the first MiB, where a PC has its firmware.
"""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Final

import numpy as np

from bench.board import Board
from bench.drivers.choice import choose_driver, choose_silicon
from bench.machines.synthetic import SyntheticOptions
from bench.qemu_nic import QemuNic
from bench.scenario.schema import ResolvedCase
from bench.servers.child import start_child
from bench.story.stage import CLIENT_IP, CLIENT_MAC, HOST_MAC, Stage
from bench.story.told import LIVE_SETTLE_S, POOL_A_DESCRIPTOR, NoSuchStep, Story, Tell, Told
from guest.qemu.vm import Vm, halted
from guest.synthetic import (
    Endpoint,
    MachineConfig,
    NetworkLoad,
    PanicStrikes,
    SyntheticMachine,
)
from netdump.dumper import DumpImage
from nic_models.frames import Frames

#: Rounds of network load before the panic.
ROUNDS: Final = {"none": 0, "light": 4, "heavy": 40}
#: Frames that the machine sends, or its peer, in one round.
FRAMES_A_ROUND: Final = 4
#: Frames that the peer still sends after the panic, a millisecond apart: it does not know.
LATE_FRAMES: Final = {"none": 0, "light": 8, "heavy": 30}
LATE_PACE_NS: Final = 1_000_000
#: IPv4 and UDP headers.
IP_UDP: Final = 28
#: Where the machine begins in a PC: its first MiB belongs to the firmware.
PC_BASE: Final = 1 << 20


class SyntheticStory(Story):
    """One case with a synthetic machine."""

    def __init__(self, case: ResolvedCase, stage: Stage, seed: int, tell: Tell) -> None:
        super().__init__(case, stage, seed, tell)
        nic, wanted = case.nic, case.machine
        self._own: SyntheticOptions = case.machine_part.options
        on_qemu = self._family.on_qemu if stage.row.emulated else None
        if on_qemu is not None:
            size = PC_BASE + wanted.memory + wanted.arena
            pc = halted(-(-size >> 20) << 20, nic=on_qemu.device, mac=CLIENT_MAC)
            vm = Vm(pc, stage.folder, start_child)
            self.emulator = stage.closing.enter_context(vm)
        self.machine: SyntheticMachine = SyntheticMachine(
            MachineConfig(
                memory_size=wanted.memory,
                arena_size=wanted.arena,
                base=0 if on_qemu is None else PC_BASE,
                cpus=wanted.cpus,
                seed=seed,
                hostname=wanted.hostname,
                zero_pages=self._own.zero_pages,
                panic_mbufs=POOL_A_DESCRIPTOR * nic.tx_ring,
            ),
            delay_us=lambda microseconds: self._board.delay_us(microseconds),
            buffer=None if self.emulator is None else self.emulator.ram,
            buffer_fd=None if self.emulator is None else self.emulator.ram_fd,
        )
        machine = self.machine
        line = machine.interrupt_line
        if self.emulator is None or on_qemu is None:
            rate = nic.rate if stage.row.virtual else None
            self._silicon = choose_silicon(
                nic.model, self._family, machine.memory.buffer, CLIENT_MAC, line, rate
            )
        else:
            self._silicon = QemuNic(self.emulator, on_qemu, stage.clock, line)
        self._board = Board(
            stage.clock,
            self._silicon,
            self._family.doorbells,
            self._machines_end(),
            stage.far_end,
            stage.budget,
            tell,
        )
        self._driver = choose_driver(
            nic,
            self._family,
            self._board,
            machine,
            self._zone_of(machine),
            stage.folder,
            stage.closing,
        )
        image = DumpImage(machine.memory, machine.dump_segments())
        self.client = self._make_client(image)

    # -- ordinary life -----------------------------------------------------------------------

    def boot(self) -> None:
        self._silicon.power_on()
        self._driver.attach()

    def live(self) -> str:
        """Ordinary life, up to the panic; where it struck, in words."""
        case, machine = self._case, self.machine
        wanted = case.machine
        load = self._load()
        self._rounds(load, ROUNDS[wanted.load])
        late = load.peer_frames(LATE_FRAMES[wanted.load])
        own = self._own
        if own.panic_during == "idle":
            self._panic(late)
            return f"CPU {own.panic_cpu}, idle"
        machine.arm_panic(0 if own.panic_at is None else own.panic_at, wanted.panic)
        try:
            self._work(load, own.panic_during)
        except PanicStrikes as strike:
            self._panic(late)
            return (
                f"CPU {own.panic_cpu}, while CPU {strike.cpu} was about to do step"
                f" {strike.number}, '{strike.name}'"
            )
        steps = machine.steps_taken
        raise NoSuchStep(
            f"{own.panic_during} has no step {own.panic_at!r}: it has {steps}, named"
            f" {', '.join(dict.fromkeys(machine.step_names))}"
        )

    def _death(self, struck: str) -> str:
        return "" if self._own.panic_during == "idle" else super()._death(struck)

    def dump(self, struck: str) -> Told:
        if self._own.starve_mbufs:
            self.machine.mbufs.starve()
        return super().dump(struck)

    def count_steps(self) -> int:
        """How many steps the work has in which the panic may strike."""
        self.boot()
        load = self._load()
        self._rounds(load, ROUNDS[self._case.machine.load])
        self.machine.begin_steps()
        self._work(load, self._own.panic_during)
        self.give_back()
        return self.machine.steps_taken

    def _load(self) -> NetworkLoad:
        # The panicking CPU takes no part in the work that is interrupted, if there is another.
        cpus = [cpu for cpu in range(self._case.machine.cpus) if cpu != self._own.panic_cpu]
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
            load.run(1, self._turn)
            self._peer_speaks(load)
            load.interrupt_round()
            self.machine.delay_us(100)

    def _panic(self, late: list[bytes]) -> None:
        """The machine dies; ``late``: what its peer says then, which does not know."""
        # QEMU works beside us. A frame that it takes while the truth is read is in one of the
        # buffers that are its own now, and will be its own no more.
        self._silicon.machine_died()
        wanted = self._case.machine
        self.machine.panic(wanted.panic, cpu=self._own.panic_cpu)
        now = self._stage.clock.now_ns()
        times = now + LATE_PACE_NS * np.arange(1, len(late) + 1, dtype=np.int64)
        self._stage.wire.will_say(Frames.of(late).at(times))

    def _peer_speaks(self, load: NetworkLoad) -> None:
        now = self._stage.clock.now_ns()
        self._silicon.deliver(Frames.of(load.peer_frames(FRAMES_A_ROUND), now))
        self._silicon.settle(LIVE_SETTLE_S)
        self._turn()

    def _turn(self) -> None:
        """The hardware's turn in ordinary life; it is over when its interrupt has come, if any."""
        self._board.turn()
        self._silicon.await_interrupt()

    def _work(self, load: NetworkLoad, what: str) -> None:
        if what == "interrupt":
            self._peer_speaks(load)
            load.interrupt_round()
        else:
            load.send_round()

    def _end(self, how: str) -> None:
        if self.emulator is not None:
            self.emulator.kill()
