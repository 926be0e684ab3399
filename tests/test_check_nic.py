"""What every family is asked: ours are, and each question is seen to be answered wrongly.

``BROKEN`` plants a defect for each check, in the example's card or driver, or in the e1000's.
"""

# The example is loaded as a user's file is, so its classes are Any to mypy.
# mypy: disable-error-code="misc"

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pytest

from bench import cli
from bench.nic_check.checks import CHECKS
from bench.nic_check.command import check_one
from bench.nic_check.rig import Subject
from bench.parts import nic_family, nic_names
from netdump.contracts import TxBatch as Batch
from nic_models.contracts import Driver, Mode, TxBatch
from nic_models.e1000.debugnet import Debugnet
from nic_models.e1000.driver import E1000Driver
from nic_models.e1000.family import E1000
from nic_models.family import NicFamily
from nic_models.frames import Frames
from tests.foreign import PIO

pytestmark = pytest.mark.sim

EXAMPLE: Final[Any] = nic_family(PIO, Path())
_MODULE: Final[Any] = sys.modules[EXAMPLE.driver.__module__]
PioCard: Final[Any] = _MODULE.PioCard
PioDriver: Final[Any] = _MODULE.PioDriver
Reg: Final[Any] = _MODULE.Reg


@pytest.mark.parametrize("family", [*nic_names(), PIO], ids=lambda name: name.rpartition(":")[2])
@pytest.mark.parametrize("check", CHECKS)
def test_a_family_keeps_the_contract(family: str, check: str) -> None:
    finding = check_one(Subject(nic_family(family, Path()), None, family), check)
    assert finding.ok, finding.broken


# --- defects --------------------------------------------------------------------------------------


class ReadsItsAddressBackwards(PioDriver):
    @property
    def mac(self) -> bytes:
        return bytes(reversed(super().mac))


class SmallMtu(PioDriver):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.mtu = 1400


class NoLink(PioDriver):
    def link_up(self) -> bool:
        return False


class CutsTheLastByte(PioDriver):
    def _write_data(self, octets: bytes) -> None:
        super()._write_data(octets if len(octets) < 500 else octets[:-1] + b"\0")


class FlipsABit(PioCard):
    def deliver(self, frames: Frames) -> None:
        data = frames.data.copy()
        data[:, 59] ^= 1
        super().deliver(Frames(data, frames.lengths, frames.time_ns))


class LosesTheSeventieth(PioCard):
    number = 0

    def deliver(self, frames: Frames) -> None:
        for index in range(len(frames)):
            self.number += 1
            if self.number != 70:
                super().deliver(frames.take(slice(index, index + 1)))


class HearsAll(PioCard):
    def _wanted(self, frame: bytes) -> bool:
        return True


class NeverInterrupts(PioCard):
    def _drive(self) -> None:
        self._line.set(False)


class InterruptsForEver(PioCard):
    def _drive(self) -> None:
        self._line.set(self._line.level or bool(self._cause & self._mask))


class KeepsABuffer(PioDriver):
    def interrupt(self) -> None:
        super().interrupt()
        self._kernel.mbufs.take(1)


class NeverTakesOver(PioDriver):
    def event(self, what: Literal["start", "end"]) -> None:
        super().event(what)
        self._mmio.write16(Reg.CONTROL, 0)


class LocksInThePanic(PioDriver):
    def _enter(self) -> None:
        self._lock.acquire()

    def _leave(self) -> None:
        self._lock.release()


class WritesInSecret(PioCard):
    def __init__(self, memory: Any, *arguments: Any) -> None:
        super().__init__(memory, *arguments)
        self._all = memory

    def deliver(self, frames: Frames) -> None:
        super().deliver(frames)
        self._all[0x8000] ^= 0xFF


class CutsOddPayloads(PioDriver):
    def transmit(self, batch: TxBatch) -> int:
        odd = batch.payload_lengths == 17
        lengths = batch.payload_lengths - odd
        addresses = batch.payload_addresses
        cut = Batch(batch.headers, batch.header_lengths, addresses, lengths)
        return int(super().transmit(cut))


class SendsTheTenthTwice(PioCard):
    count = 0

    def _go(self) -> None:
        super()._go()
        self.count += 1
        if self.count == 40 and self._whole:
            self._whole.append(self._whole[-1])


class TakesAllOrNothing(PioDriver):
    def transmit(self, batch: TxBatch) -> int:
        if len(batch.header_lengths) > 64:
            raise OverflowError("the ring is full")
        return int(super().transmit(batch))


class KeepsOne(Debugnet):
    def _reclaim(self) -> None:
        done = self._tx.reclaim()
        if done:
            self.tx_zone.give(2 * done - 2)


class Reclaims(E1000Driver):
    """All but the first frame of each takeover."""

    DEBUGNET = KeepsOne


class ClearsFirst(Debugnet):
    def event(self, what: Literal["start", "end"]) -> None:
        if what == "start":
            self._tx.clear()
        super().event(what)


class ForgetsAtTheSecondStart(E1000Driver):
    DEBUGNET = ClearsFirst


class IgnoresTheBudget(PioDriver):
    def poll(self, budget: int) -> Frames:
        frames: Frames = super().poll(1000)
        return frames


class LosesTheHundredth(PioDriver):
    number = 0

    def poll(self, budget: int) -> Frames:
        frames: Frames = super().poll(budget)
        numbers = self.number + np.arange(len(frames))
        self.number += len(frames)
        return frames.take(numbers != 100)


class NeverEnds(PioDriver):
    def event(self, what: Literal["start", "end"]) -> None:
        if what == "start":
            super().event(what)


class KeepsItsLock(PioDriver):
    def _leave(self) -> None:
        if self._mode is not Mode.LOCKED:
            super()._leave()


def card(silicon: Any) -> NicFamily:
    family: NicFamily = replace(EXAMPLE, silicon=silicon)
    return family


def driver(code: Any) -> NicFamily:
    family: NicFamily = replace(EXAMPLE, driver=code)
    return family


def e1000(code: Callable[..., Driver]) -> NicFamily:
    return replace(E1000, driver=code)


BROKEN: Final = [
    ("mac", driver(ReadsItsAddressBackwards), "expected 02:00:00:00:a1:b2, came b2:a1:00:00:00:02"),
    ("mtu", driver(SmallMtu), "expected 576 as MTU, came 1400"),
    ("link", driver(NoLink), "expected the link up, came down"),
    ("send", driver(CutsTheLastByte), "at byte 499 of frame 15 on the wire"),
    ("receive", card(FlipsABit), "at byte 59 of frame 0 in the stack"),
    ("bursts", card(LosesTheSeventieth), "expected 100 frames in the stack, came 99"),
    ("filters", card(HearsAll), "expected 1 frames in the stack, promiscuous False, came 2"),
    ("interrupts", card(NeverInterrupts), "the line up: a frame has come"),
    ("interrupts", card(InterruptsForEver), "the interrupt line is still up after 1000 runs"),
    ("buffers", driver(KeepsABuffer), "buffers out, came"),
    ("takeover", driver(NeverTakesOver), "of the polls, came 0"),
    ("any-step", driver(LocksInThePanic), "deadlock: CPU 0 wants pio0"),
    ("reach", card(WritesInSecret), "beyond the card's reach, came 0x8000..0x9000"),
    ("sizes", driver(CutsOddPayloads), "at byte 58 of frame 17 on the wire"),
    ("many", card(SendsTheTenthTwice), "expected 640 frames on the wire, came 641"),
    ("full", driver(TakesAllOrNothing), "OverflowError: the ring is full"),
    ("pool", e1000(Reclaims), "expected 0 buffers of the pool out"),
    ("again", e1000(ForgetsAtTheSecondStart), "expected 0 buffers of the pool out, came 16"),
    ("budget", driver(IgnoresTheBudget), "budget was 1"),
    ("laps", driver(LosesTheHundredth), "expected 384 frames of the polls, came 383"),
    ("end", driver(NeverEnds), "frames of after the end, came 4"),
    ("locks", driver(KeepsItsLock), "BadLocking"),
]


@pytest.mark.parametrize(
    ("check", "family", "told"), BROKEN, ids=[f"{name}-{n}" for n, (name, *_) in enumerate(BROKEN)]
)
def test_a_defect_is_noticed(check: str, family: NicFamily, told: str) -> None:
    name = "e1000" if family.name == "e1000" else PIO
    finding = check_one(Subject(family, None, name), check)
    assert not finding.ok
    assert told in finding.broken


def test_a_defect_is_planted_for_every_check() -> None:
    assert {name for name, *_ in BROKEN} == set(CHECKS)


# --- the command ----------------------------------------------------------------------------------


def test_the_command_tells_a_line_a_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check-nic", PIO]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [["ok", name] for name in CHECKS]


def test_a_broken_family_is_status_1_and_a_document(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "deaf.py"
    file.write_text(
        "from dataclasses import replace\n"
        "from nic_models.e1000.device import E1000Device\n"
        "from nic_models.e1000.family import E1000\n"
        "class Deaf(E1000Device):\n"
        "    def deliver(self, frames): raise KeyError('no ears')\n"
        "DEAF = replace(E1000, silicon=Deaf)\n"
    )
    assert cli.main(["check-nic", f"{file}:DEAF", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    broken = {found["check"]: found["broken"] for found in document["checks"] if not found["ok"]}
    assert not document["ok"]
    assert f"KeyError: 'no ears' ({file}:5 deliver)" in broken["receive"]
    assert "send" not in broken


def test_a_driver_that_leaves_the_process_is_broken() -> None:
    class Leaves(PioDriver):
        def poll(self, budget: int) -> Frames:
            sys.exit(0)

    finding = check_one(Subject(driver(Leaves), None, PIO), "budget")
    assert "in its poll: SystemExit: 0 (" in finding.broken


def test_a_driver_that_does_not_come_back_is_broken() -> None:
    class Loops(PioDriver):
        def poll(self, budget: int) -> Frames:
            while True:
                pass

    finding = check_one(Subject(driver(Loops), None, PIO), "budget")
    assert "its poll does not come back, in tests/test_check_nic.py:" in finding.broken


def test_a_card_that_leaves_the_process_is_broken() -> None:
    class Leaves(PioCard):
        def deliver(self, frames: Frames) -> None:
            sys.exit(0)

    finding = check_one(Subject(card(Leaves), None, PIO), "receive")
    assert "SystemExit: 0 (" in finding.broken


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["e1001"], 'did you mean "e1000"?'),
        (["nothing.py:X"], "no such file"),
        (["e1000", "--driver", "none.so"], "no such file"),
        (["e1000", "--driver", "nothing"], "write FILE.py:CLASS, or a shared library FILE.so"),
    ],
)
def test_what_is_not_there_is_one_line_and_2(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["check-nic", *words]) == 2
    told = capsys.readouterr().err
    assert says in told
    assert told.count("\n") == 1
