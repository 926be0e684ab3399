"""A machine of the user's own: it boots what it boots, is struck at the moment that was named, and
its own NIC carries its memory out, whatever system it runs.

Of a system that is not known there is no banner, no VMCOREINFO and no direct map: its dump is RAM
with the registers of its CPUs.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from typing import Final

from bench.machines.vm import VmOptions, compiled, config_of
from bench.qemu_nic import receives
from bench.scenario.schema import ResolvedCase
from bench.servers.child import start_child
from bench.story.crashed import CrashedStory
from bench.story.stage import Stage
from bench.story.told import Tell, Told
from guest.qemu.accel import accelerator
from guest.qemu.coredump import CoreDump
from guest.vm.machine import Say, Strike, VmGuest
from netdump.dumper import DumpImage
from netdump.elfcore import LINUX
from netdump.elfnotes import build_notes, cpu_note, cpus, parse_notes
from netdump.kdh import KernelDumpHeader

_CAUSES: Final = {
    "nmi": "of an NMI",
    "keys": "of the keys {keys}",
    "break": "of a BREAK on its serial line",
    "console": "of a line at its console",
    "stop": "by being stopped",
}


class VmStory(CrashedStory):
    """One case with a machine of the user's own."""

    def __init__(self, case: ResolvedCase, stage: Stage, seed: int, tell: Tell) -> None:
        super().__init__(case, stage, seed, tell)
        self._own: VmOptions = case.machine_part.options
        self._config = config_of(case, accelerator(start_child).name)
        self._message = ""
        self._console = ""

    def boot(self) -> None:
        stage = self._stage
        guest = stage.closing.enter_context(VmGuest(self._config, stage.folder, start_child))
        self._guest = guest
        self._plug_in(guest)
        self._tell("guest", boots=self._config.system, accelerator=self._config.accelerator)

    def live(self) -> str:
        own, guest, board = self._own, self._guest, self._board
        self._stage.budget.extend(own.patience_s * 10**9)
        moment = guest.await_moment(self._strike(), board.turn)
        self._tell("the moment", when=moment)
        self._peer_speaks()
        before = len(guest.console.text)
        panic = guest.crash(own.death(), board.turn)
        self._console = guest.console.text[before:]
        self._message = panic.message
        self._take_over()
        cause = _CAUSES[own.crash].format(keys=", ".join(own.keys))
        if own.crash == "stop":
            return f"{cause}, when {moment}"
        if not panic.noticed_by:
            return f"{cause}, when {moment}, and was stopped in that moment"
        told = f": {panic.message}" if panic.message else ""
        return (
            f"{cause}, when {moment}; {panic.noticed_by} told of it after"
            f" {panic.seconds:.2f} s{told}"
        )

    def _strike(self) -> Strike:
        own, on_qemu = self._own, self._on_qemu
        live = partial(receives, self._guest.vm, on_qemu) if own.strike_live else None
        return Strike(
            say=tuple(Say(re.compile(s.after, re.MULTILINE), s.line) for s in own.say),
            after=compiled(own.strike_after),
            live=live,
            running_s=own.strike_at_s,
            patience_s=own.patience_s,
        )

    def _image(self, core: CoreDump) -> DumpImage:
        return DumpImage(
            self.machine.memory,
            self.machine.dump_segments(),
            flavour=LINUX,
            notes=build_notes(map(cpu_note, cpus(parse_notes(core.notes)))),
        )

    def _death(self, struck: str) -> str:
        return f"The machine had booted {self._config.system}. It died {struck}."

    def _header(self) -> KernelDumpHeader:
        return replace(
            super()._header(),
            versionstring=f"{self._config.system}\n",
            panicstring=self._message or f"{self._own.crash} (the bench asked for it)",
        )

    def dump(self, struck: str) -> Told:
        told = super().dump(struck)
        told.console = self._console
        return told
