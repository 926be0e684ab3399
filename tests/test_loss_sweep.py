"""The golden table: how long a dump takes, by loss, by round trip, by client; in virtual time.

On ``sim`` a run is a pure function of scenario and seed, so the table is compared to the
microsecond: whoever changes a window, a timer, the link or the server sees what that does to loss,
before and after. ``pytest tests/test_loss_sweep.py --write-golden`` writes it anew.

The stock client is given one chunk and its rest: at one loss in five each takes it seconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from bench.progress import Silent
from bench.runner import run_scenario
from bench.scenario import parse_scenario

GOLDEN: Final = Path(__file__).parent / "golden" / "loss-sweep.txt"
SIZES: Final = {"netdump2": "1 MiB", "freebsd-14": "64 KiB"}
LOSSES: Final = ("0 %", "0.1 %", "1 %", "5 %", "20 %")
ROUND_TRIPS_US: Final = (100, 1_000, 10_000, 100_000)
#: Columns of 12.
_WIDTH: Final = 12

_STORY: Final = """\
title = "A dump over a wire that loses"
why = "Loss is not congestion."
tiers = ["sim"]
[machine]
memory = "{memory}"
load = "none"
[network]
latency_us = {latency_us}
{loss}
[[case]]
profile = "{profile}"
expect = {{ outcome = "complete" }}
"""
_LOSS: Final = """\
[[wire.fault]]
does = "drop"
chance = "{chance}"
"""


def seconds(profile: str, round_trip_us: int, loss: str, folder: Path) -> float:
    """Of one dump, which must be complete."""
    text = _STORY.format(
        memory=SIZES[profile],
        latency_us=round_trip_us // 2,
        loss="" if loss == LOSSES[0] else _LOSS.format(chance=loss),
        profile=profile,
    )
    story = parse_scenario(text, "loss-sweep", __file__)
    result = run_scenario(
        story, tier="sim", why_this_tier="", seed=1, run_folder=folder, progress=Silent()
    )
    (case,) = result.cases
    assert case.met, (profile, round_trip_us, loss, case.unmet)
    return case.seconds


def table(folder: Path) -> str:
    lines = [
        "Seconds of virtual time that a dump takes on sim, 1 Gbit/s, by loss each way (all frames)",
        "and by round trip. Written by: pytest tests/test_loss_sweep.py --write-golden",
    ]
    for profile, memory in SIZES.items():
        lines += ["", f"{profile}, {memory} of memory"]
        lines.append("round trip".ljust(_WIDTH) + "".join(loss.rjust(_WIDTH) for loss in LOSSES))
        for round_trip in ROUND_TRIPS_US:
            row = f"{round_trip / 1000:g} ms".ljust(_WIDTH)
            for loss in LOSSES:
                run = folder / f"{profile}-{round_trip}-{loss.split()[0]}"
                row += f"{seconds(profile, round_trip, loss, run):{_WIDTH}.6f}"
            lines.append(row)
    return "\n".join(lines) + "\n"


def test_the_loss_sweep_is_the_golden_one(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    came = table(tmp_path)
    if request.config.getoption("--write-golden"):
        GOLDEN.write_text(came, encoding="utf-8")
    assert came == GOLDEN.read_text(encoding="utf-8")
