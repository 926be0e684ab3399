"""``python -m bench.truth``: play random traces until enough steps are played, and say what came.

Exit status: 0 no difference but those of the table, 1 another one (shown as the shortest trace),
2 bad arguments or no QEMU.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random

from bench.truth.pair import Theirs
from bench.truth.rig import Difference, Rig, Tally
from bench.truth.shrink import shrink
from bench.truth.steps import Step, listing
from bench.truth.table import ROWS, document
from bench.truth.traces import trace
from guest.qemu.errors import QemuError

#: Steps of a trace.
LENGTH = 160


def hunt(rig: Rig, steps: int, seed: int) -> tuple[list[Step], Difference] | None:
    """Traces of ``seed`` until ``steps`` more are played; the first that differs, shortened."""
    rng = Random(seed)
    enough = rig.tally.total + steps
    while rig.tally.total < enough:
        played = trace(rng, LENGTH)
        found = rig.play(played)
        if found is not None:
            return explain(rig, played, found)
    return None


def explain(rig: Rig, played: Sequence[Step], found: Difference) -> tuple[list[Step], Difference]:
    """The shortest trace that differs where ``played`` did, and how it differs.

    It is ``played`` itself if that does not differ a second time. The tally does not count this.
    """
    kept, rig.tally = rig.tally, Tally()

    def differs(candidate: list[Step]) -> bool:
        again = rig.play(candidate)
        return again is not None and again.where == found.where

    try:
        if not differs(list(played)):
            return list(played), found
        short = shrink(played, differs)
        return short, rig.play(short) or found
    finally:
        rig.tally = kept


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m bench.truth", description=__doc__)
    parser.add_argument("--steps", type=int, default=100_000, help="to play (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the traces (default %(default)s)")
    parser.add_argument("--document", action="store_true", help="print the table and end")
    options = parser.parse_args(arguments)
    if options.document:
        sys.stdout.write(document())
        return 0
    if options.steps <= 0:
        parser.error(f"--steps {options.steps} plays nothing: give a positive number")
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="truth.") as folder:
        try:
            with Theirs(Path(folder)) as theirs:
                rig = Rig(theirs, ROWS)
                found = hunt(rig, options.steps, options.seed)
                _report(rig, options.seed, time.monotonic() - started)
        except QemuError as error:
            sys.stderr.write(f"bench.truth: {error}\n")
            return 2
    if found is not None:
        short, difference = found
        sys.stdout.write(f"\nDIFFERENT: {difference}\ntrace = {listing(short)}\n")
        return 1
    return 0


def _report(rig: Rig, seed: int, seconds: float) -> None:
    tally, version = rig.tally, rig.theirs.version
    out = sys.stdout.write
    out(
        f"QEMU {version[0]}.{version[1]}, seed {seed}: {tally.total} steps,"
        f" {tally.traces} traces, {seconds:.0f} s;"
        f" {tally.frames_in} frames stored, {tally.frames_out} sent\n"
    )
    out("steps: " + ", ".join(f"{kind} {n}" for kind, n in tally.steps.most_common()) + "\n")
    out("explained by a row, times:\n")
    for row in ROWS:
        out(f"    {tally.rows[row.name]:8}  {row.name}\n")
    out(f"    {tally.rows['out of scope']:8}  (out of scope)\n")


if __name__ == "__main__":
    sys.exit(main())
