"""Fakes that several test files need: they do nothing, remember, or fail as they are told.

A fake of one test file alone is in that file. What a user can use too is no fake but product code:
machines (``guest.synthetic``), wires in memory (``bench.wire.memory``), clocks (``bench.clock``).
"""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bench.scenario import Scenario
from bench.verdict import CaseResult, RunResult
from bench.wire.contracts import Capability, Direction
from nic_models.frames import Frames
from nic_models.narrow import DwordRegisters
from server.merged import Rows


def nothing(*_: object, **__: object) -> None:
    """A callback that does nothing: for what is told, and for turns that no one needs."""


# --- hardware -------------------------------------------------------------------------------------


class Line:
    """An ``InterruptLine`` that remembers."""

    def __init__(self) -> None:
        self.levels: list[bool] = []
        """All that it was set to, in order."""

    def set(self, level: bool) -> None:
        self.levels.append(level)

    def up(self) -> bool:
        return self.levels[-1:] == [True]


class IdleSilicon(DwordRegisters):
    """A ``Silicon`` without registers, memory or wire; a test overrides what it is about."""

    def read32(self, offset: int) -> int:
        return 0

    def write32(self, offset: int, value: int) -> None: ...

    def power_on(self) -> None: ...

    def transmit(self, now_ns: int) -> Frames:
        return Frames.empty()

    def deliver(self, frames: Frames) -> None: ...

    def settle(self, at_most_s: float = 0.0) -> bool:
        return True

    def await_interrupt(self) -> None: ...

    def machine_died(self) -> None: ...

    def reach(self) -> list[tuple[int, int]]:
        return []


class NotingSilicon(IdleSilicon):
    """Says what is done to it: "read", "write VALUE", "NIC sends", "NIC hears"."""

    def __init__(self, note: Callable[[str], object]) -> None:
        self.registers: dict[int, int] = {}
        """What can be read; a write changes nothing here."""
        self.to_send = Frames.empty()
        """What leaves it the next time that it is asked."""
        self._note = note

    def read32(self, offset: int) -> int:
        self._note("read")
        return self.registers.get(offset, 0)

    def write32(self, offset: int, value: int) -> None:
        self._note(f"write {value}")

    def transmit(self, now_ns: int) -> Frames:
        self._note("NIC sends")
        frames, self.to_send = self.to_send, Frames.empty()
        return frames

    def deliver(self, frames: Frames) -> None:
        self._note("NIC hears")


# --- wires and those who listen -------------------------------------------------------------------


class FakeWire:
    """A ``Wire`` that remembers what is sent, and brings what the test puts on it."""

    def __init__(self, *to_receive: Frames) -> None:
        self.sent: list[bytes] = []
        self.to_receive = list(to_receive)
        """The next ``receive`` brings all of it."""
        self.closed = 0
        """How often it was closed."""

    def send(self, frames: Frames) -> None:
        self.sent += [frames.bytes_of(i) for i in range(len(frames))]

    def receive(self) -> Frames:
        batch, self.to_receive = Frames.concat(self.to_receive), []
        return batch

    def close(self) -> None:
        self.closed += 1


class Seen:
    """An ``Observer`` of a wire: the frames that it was shown, and the notes by their numbers."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.notes: dict[int, str] = {}

    def __call__(self, direction: Direction, frames: Frames, notes: Mapping[int, str]) -> None:
        self.notes.update({len(self.frames) + i: note for i, note in notes.items()})
        self.frames += [frames.bytes_of(i) for i in range(len(frames))]


class Told:
    """Events, as they are told: the bench gives the fields as keywords, the server as a mapping."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        """Kind and fields of each, in order."""

    def __call__(self, kind: str, fields: Mapping[str, Any] | None = None, /, **more: Any) -> None:
        self.events.append((kind, {**(fields or {}), **more}))

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.events]

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        """The fields of each event of that kind."""
        return [fields for what, fields in self.events if what == kind]


# --- sockets that err -----------------------------------------------------------------------------


class AckSocket:
    """A socket for the server's acks: it remembers them, and errs as it is told.

    ``refuses``: the errno of each ``sendmsg``, which is how several acks are sent in one call; 0 is
    none. Of the sends that are not refused so, the first ``complaints`` err with ``complaint``.
    """

    def __init__(
        self, refuses: int = 0, complaints: int = 0, complaint: int = errno.ECONNREFUSED
    ) -> None:
        self.sent: list[bytes] = []
        self._refuses = refuses
        self._complaints = complaints
        self._complaint = complaint

    def sendmsg(self, buffers: list[bytes], ancillary: object) -> int:
        if self._refuses:
            raise OSError(self._refuses, "injected")
        return self.send(b"".join(buffers))

    def send(self, octets: bytes) -> int:
        if self._complaints:
            self._complaints -= 1
            raise OSError(self._complaint, "about an earlier datagram")
        self.sent.append(octets)
        return len(octets)


class ErringReader:
    """A reader of the server's sockets: each read is an OSError."""

    def __init__(self, code: int) -> None:
        self.code = code

    def read(self, sock: socket.socket) -> Rows:
        raise OSError(self.code, "injected")


# --- the bench ------------------------------------------------------------------------------------


def works() -> Capability:
    """A probe that finds all that it needs."""
    return Capability(True, "works")


def probes(**ok: bool) -> dict[str, Callable[[], Capability]]:
    """A machine that can play each tier but those that are False here."""

    def probe(name: str) -> Callable[[], Capability]:
        if ok.get(name, True):
            return works
        return lambda: Capability(False, f"no {name} here", f"get a {name}")

    return {name: probe(name) for name in ("tap", "qemu", "sim")}


class FakeRunner:
    """Stands for ``bench.runner``: plays nothing, and gives one case of the profile netdump2."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.act: Callable[[Path], object] = nothing
        """What it does in the run folder on the way."""
        self.met = True
        self.outcome = "complete"
        self.events = ""
        """The event log of the run."""
        self.scenario: Scenario | None = None
        self.tier: str | None = None
        self.seed: int | None = None
        """What it was given the last time."""
        module = ModuleType("bench.runner")
        module.run_scenario = self._run_scenario  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "bench.runner", module)

    def _run_scenario(
        self,
        scenario: Scenario,
        *,
        tier: str,
        why_this_tier: str,
        seed: int,
        run_folder: Path,
        progress: object,
        host: object,
    ) -> RunResult:
        self.scenario, self.tier, self.seed = scenario, tier, seed
        self.act(run_folder)
        (run_folder / "events.jsonl").write_text(self.events)
        case = CaseResult("netdump2", "netdump2", "polled", self.outcome, "complete", self.met)
        return RunResult(scenario.name, tier, why_this_tier, seed, cases=[case])
