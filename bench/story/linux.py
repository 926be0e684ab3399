"""A real Linux guest: it boots and talks, is crashed, and its own NIC carries its memory out.

All of its life its frames pass the bench's wire, as they do after the panic: the same faults, the
same bystanders, the same capture.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Final

from bench.guests import guest_nics
from bench.machines.linux import LinuxOptions
from bench.scenario.schema import ResolvedCase
from bench.servers.child import start_child
from bench.story.crashed import CrashedStory
from bench.story.stage import CLIENT_IP, CLIENT_MAC, HOST_MAC, Listener, Stage
from bench.story.told import Tell, Told
from bench.wire.kinds import NETCONSOLE_PORTS
from guest.linux.guest import LinuxConfig, LinuxGuest
from guest.linux.image import guest_image
from guest.qemu.accel import accelerator
from guest.qemu.coredump import CoreDump
from netdump.dumper import DumpImage
from netdump.elfcore import LINUX
from netdump.elfnotes import CORE, VMCOREINFO, build_notes, parse_notes
from netdump.kdh import KernelDumpHeader
from netdump.vmcoreinfo import direct_map, parse_vmcoreinfo

#: How long the guest talks before it is crashed, seconds.
LIFE_S: Final = {"none": 0.0, "light": 0.3, "heavy": 1.0}
_DATAGRAM: Final = 2048
#: A prefix that holds every address of the story.
_PREFIX: Final = 24


class LinuxStory(CrashedStory):
    """One case with a Linux guest."""

    def __init__(self, case: ResolvedCase, stage: Stage, seed: int, tell: Tell) -> None:
        super().__init__(case, stage, seed, tell)
        machine = case.machine
        self._own: LinuxOptions = case.machine_part.options
        self._config = LinuxConfig(
            nic=self._on_qemu.device,
            # Built before the run: ``play.probes_for``.
            image=guest_image(choice=case.kernel, nics=guest_nics(case.family)),
            memory_size=machine.memory,
            arena_size=machine.arena,
            mac=CLIENT_MAC,
            address=f"{CLIENT_IP}/{_PREFIX}",
            accelerator=accelerator(start_child).name,
            cpus=machine.cpus,
            pvpanic=self._own.notice == "pvpanic",
            promiscuous=case.nic.promiscuous,
            hostname=machine.hostname,
            load=stage.server_ip if machine.load == "heavy" else "",
            netconsole=_netconsole(stage.server_ip) if self._own.netconsole else "",
        )
        self._listener: Listener | None = None
        if self._own.netconsole:
            self._listener = stage.closing.enter_context(stage.listen(NETCONSOLE_PORTS[1]))

    def boot(self) -> None:
        stage = self._stage
        guest = stage.closing.enter_context(LinuxGuest(self._config, stage.folder, start_child))
        self._guest = guest
        self._plug_in(guest)
        said = guest.boot(self._board.turn)
        self._tell("guest", says=said, accelerator=self._config.accelerator)
        guest.speak(stage.gateway_ip or stage.server_ip, self._board.turn)

    def live(self) -> str:
        guest, board = self._guest, self._board
        load = self._case.machine.load
        self._peer_speaks()
        guest.rest(LIFE_S[load], board.turn)
        self._last_words(forget=True)
        before = len(guest.console.text)
        panic = guest.crash(self._own.crash, board.turn)
        self._console = guest.console.text[before:]
        self._netconsole = self._last_words()
        self._panic_message = panic.message
        self._take_over()
        return (
            f"of {self._own.crash}; {panic.noticed_by} told of it after {panic.seconds:.2f} s:"
            f" {panic.message or '(it left no message)'}"
        )

    def _image(self, core: CoreDump) -> DumpImage:
        """The dump that a Linux kernel would make: with the CPUs' registers, and VMCOREINFO."""
        notes = [note for note in parse_notes(core.notes) if note.name in (CORE, VMCOREINFO)]
        texts = [note.desc for note in notes if note.name == VMCOREINFO]
        direct = None
        if texts:
            info = parse_vmcoreinfo(texts[0])
            direct = direct_map(info, lambda start, length: core.read(start, length).tobytes())
        else:
            self._notes.append("The guest left no VMCOREINFO: drgn and makedumpfile will miss it.")
        return DumpImage(
            self.machine.memory,
            self.machine.dump_segments(),
            flavour=LINUX,
            notes=build_notes(notes),
            direct_map=direct,
        )

    def _death(self, struck: str) -> str:
        return f"The guest died {struck}."

    def _header(self) -> KernelDumpHeader:
        header = super()._header()
        version = self._guest.banner
        return replace(header, versionstring=version, panicstring=self._panic_message)

    def dump(self, struck: str) -> Told:
        told = super().dump(struck)
        told.console, told.netconsole = self._console, self._netconsole
        return told

    def _last_words(self, forget: bool = False) -> list[str] | None:
        """The datagrams that netconsole has got through by now."""
        if self._listener is None:
            return None
        heard: list[str] = []
        with suppress(BlockingIOError):
            while True:
                heard.append(self._listener.recv(_DATAGRAM).decode("utf-8", "replace"))
        return [] if forget else heard


def _netconsole(server_ip: str) -> str:
    """The module's argument: port@address/interface, port@address/MAC."""
    here, there = NETCONSOLE_PORTS
    return f"{here}@{CLIENT_IP}/eth0,{there}@{server_ip}/{HOST_MAC.hex(':')}"
