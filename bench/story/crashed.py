"""A system under QEMU that was crashed: its NIC is taken over as the crash left it.

What all stories of such a system share, whichever it is: the board that its NIC is on; the peer
that talks to it to the end and beyond, because it does not know; and, from the moment at which the
machine stands still, the truth, the driver, the client, and the machine that runs on without its
CPUs (``guest/qemu/guest.py`` tells why, in that order). A story of its own says how the system
lives, how it dies, and what its dump is.
"""

from __future__ import annotations

from abc import abstractmethod
from ipaddress import IPv4Address
from typing import Final

import numpy as np

from bench.board import Board
from bench.drivers.choice import choose_driver
from bench.qemu_nic import QemuNic
from bench.scenario.schema import ResolvedCase
from bench.story.stage import CLIENT_IP, CLIENT_MAC, HOST_MAC, Stage
from bench.story.told import POOL_A_DESCRIPTOR, Story, Tell
from guest.qemu.coredump import CoreDump
from guest.qemu.corpse import GuestCorpse
from guest.qemu.guest import QemuGuest
from guest.synthetic import Endpoint, udp_frame
from netdump.dumper import DumpImage
from nic_models.frames import Frames

#: Frames that its peer says in its last moments, and afterwards, not knowing; and how far apart.
PEER_FRAMES: Final = {"none": 0, "light": 8, "heavy": 500}
PEER_PACE_NS: Final = 1_000_000
PEER_BYTES: Final = 1024
PEER_PORT: Final = 9


class CrashedStory(Story):
    """One case with a system under QEMU."""

    _silicon: QemuNic
    _system: QemuGuest

    def __init__(self, case: ResolvedCase, stage: Stage, seed: int, tell: Tell) -> None:
        super().__init__(case, stage, seed, tell)
        assert self._family.on_qemu is not None, "the tier was tried"
        self._on_qemu = self._family.on_qemu

    @abstractmethod
    def _image(self, core: CoreDump) -> DumpImage:
        """The dump that its memory makes; ``self.machine`` is there."""

    def _plug_in(self, guest: QemuGuest) -> None:
        """It was started: put its NIC on a board, at the machine's end of the wire."""
        stage = self._stage
        self._system = guest
        self.emulator = guest.vm
        self._silicon = QemuNic(guest.vm, self._on_qemu, stage.clock)
        self._board = Board(
            stage.clock,
            self._silicon,
            self._family.doorbells,
            self._machines_end(),
            stage.far_end,
            stage.budget,
            self._tell,
        )

    def _take_over(self) -> None:
        """It stands still: from the truth to where its dump can begin."""
        case, guest, board = self._case, self._system, self._board
        core = guest.freeze()
        self.machine = GuestCorpse(
            guest,
            core,
            panic_mbufs=POOL_A_DESCRIPTOR * case.nic.tx_ring,
            delay_us=board.delay_us,
        )
        self._driver = choose_driver(
            case.nic,
            self._family,
            board,
            self.machine,
            self._zone_of(self.machine),
            self._stage.folder,
            self._stage.closing,
        )
        self.client = self._make_client(self._image(core))
        self._silicon.power_on()
        self._silicon.machine_died()
        found = self._silicon.state()
        self._tell("nic as the panic left it", **found)
        self._notes.append(
            "The guest's own NIC, as the panic left it: "
            + ", ".join(f"{name} {value:#x}" for name, value in found.items())
            + "."
        )
        self._tell("parked", at=guest.park())
        self._peer_speaks()  # it does not know

    def _peer_speaks(self) -> None:
        """Datagrams from the host to the machine, spread over its last moments or beyond."""
        here = Endpoint(HOST_MAC, IPv4Address(self._stage.server_ip).packed)
        there = Endpoint(CLIENT_MAC, IPv4Address(CLIENT_IP).packed)
        payload = np.random.PCG64(self._seed).random_raw(PEER_BYTES // 8).tobytes()
        count = PEER_FRAMES[self._case.machine.load]
        frames = [udp_frame(here, there, (PEER_PORT, PEER_PORT), payload)] * count
        now = self._stage.clock.now_ns()
        times = now + PEER_PACE_NS * np.arange(1, len(frames) + 1, dtype=np.int64)
        self._stage.wire.will_say(Frames.of(frames).at(times))

    def _end(self, how: str) -> None:
        if how == "power":
            self._system.vm.kill()
        else:
            self._system.monitor.execute("system_reset")
