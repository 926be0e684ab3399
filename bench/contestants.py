"""What `make bench` plays: which client on which tier, and one run of it.

By itself it plays one, in a process of its own, and prints what came of it:

    python -m bench.contestants "tap netdump2 1 Gbit/s" 256
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass
from typing import Final

from bench.clock import RealClock
from bench.parts import DEFAULT_MACHINE
from bench.progress import Silent
from bench.runner import run_scenario
from bench.runs import scratch
from bench.scenario import Scenario, parse_scenario
from bench.tiers import ROWS
from netdump.profiles import PROFILES

_STORY: Final = """\
title = "A measured dump"
why = "make bench"
tiers = ["{tier}"]
[machine]
kind = "{machine}"
memory = "{mib} MiB"
load = "none"
[nic]
rate = "{rate}"
[[case]]
profile = "{profile}"
client = {{ selective_acks = {selective} }}
expect = {{ outcome = "complete"{also} }}
"""


@dataclass(frozen=True, slots=True)
class Contestant:
    """What is measured; ``rate`` is that of the modelled wire, and so of no meaning but in sim."""

    tier: str
    profile: str
    rate: str = "1 Gbit/s"
    selective: bool | None = None
    """False: the client offers no selective acks, so each frame is acknowledged by another. None:
    as the profile has it."""
    machine: str | None = None
    """Its kind; None: the synthetic one that every tier has."""

    @property
    def client(self) -> str:
        """The profile, and how it strays from it."""
        strays = self.selective is False
        return f"{self.profile}, an ack a frame" if strays else self.profile

    @property
    def offers(self) -> bool:
        if self.selective is None:
            return PROFILES[self.profile].selective_acks
        return self.selective

    @property
    def virtual(self) -> bool:
        """Its rate is that of the modelled wire, on a clock of its own."""
        return ROWS[self.tier].virtual

    @property
    def where(self) -> str:
        """The tier, and what of it makes a difference."""
        row = ROWS[self.tier]
        if self.machine is not None:
            return f"{self.tier}, {self.machine}"
        return f"{self.tier}, {self.rate}" if row.virtual else self.tier + ", halted" * row.emulated

    def __str__(self) -> str:
        machine = f" {self.machine}" if self.machine else ""
        return f"{self.tier}{machine} {self.client} {self.rate}"


CONTESTANTS: Final = (
    Contestant("sim", "netdump2", "10 Gbit/s"),
    Contestant("sim", "netdump2", "10 Gbit/s", selective=False),
    Contestant("sim", "netdump2"),
    Contestant("sim", "freebsd-14"),
    Contestant("sim", "patch-2010"),
    Contestant("tap", "netdump2"),
    Contestant("tap", "netdump2", selective=False),
    Contestant("tap", "freebsd-14"),
    Contestant("tap", "patch-2010"),
    Contestant("qemu", "netdump2"),
    Contestant("qemu", "freebsd-14"),
)
#: Those whose memory is measured at larger sizes, too.
LARGE: Final = (
    Contestant("sim", "netdump2", "10 Gbit/s"),
    Contestant("tap", "netdump2"),
    Contestant("qemu", "netdump2"),
    Contestant("qemu", "netdump2", machine="linux"),
)


@dataclass(frozen=True, slots=True)
class Played:
    """What one run came to."""

    rate: float
    """MB/s on the run's clock."""
    frames: float
    """Frames a second of real time."""
    played: float
    """MB of dump a second of real time."""
    ours: float
    """CPU time of the bench a frame, us, of the whole run: boot, client, NIC, wire, oracles."""
    theirs: float
    """The same of the processes that it started: the server, and QEMU where there is one."""


def play(contestant: Contestant, mib: int) -> Played:
    """One run. ``SystemExit`` if it does not come out as it should."""
    clock = RealClock()
    story = scenario(contestant, mib)  # loads the parts: that is no part of the run
    with scratch("run") as folder:
        began, before = clock.now_ns(), os.times()
        result = run_scenario(
            story,
            tier=contestant.tier,
            why_this_tier="",
            seed=1,
            run_folder=folder.path,
            progress=Silent(),
        )
        took, after = (clock.now_ns() - began) / 1e9, os.times()
    case = result.cases[0]
    if not case.met:
        raise SystemExit(f"{contestant}: {'; '.join(case.unmet)}: nothing was measured")
    return Played(
        rate=case.dump_bytes / case.seconds / 1e6,
        frames=case.frames / took,
        played=case.dump_bytes / took / 1e6,
        ours=sum(after[:2], -sum(before[:2])) / case.frames * 1e6,
        theirs=sum(after[2:4], -sum(before[2:4])) / case.frames * 1e6,
    )


def scenario(contestant: Contestant, mib: int) -> Scenario:
    also = ', oracle_broken = "panic-hygiene"' if contestant.profile == "patch-2010" else ""
    text = _STORY.format(
        mib=mib,
        tier=contestant.tier,
        machine=contestant.machine or DEFAULT_MACHINE,
        rate=contestant.rate,
        profile=contestant.profile,
        selective=str(contestant.offers).lower(),
        also=also,
    )
    return parse_scenario(text, "bench", "bench/contestants.py")


def named(name: str) -> Contestant:
    return next(one for one in (*CONTESTANTS, *LARGE) if str(one) == name)


if __name__ == "__main__":
    json.dump(asdict(play(named(sys.argv[1]), int(sys.argv[2]))), sys.stdout)
