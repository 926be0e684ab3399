"""``python -m bench.truth``: play random traces until enough steps are played, and say what came.

Exit status: 0 no difference but those of the table, 1 another one (shown as the shortest trace),
2 bad arguments, a NIC that can't be compared, or no QEMU.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random

from bench.errors import BadInput
from bench.parts import DEFAULT_NIC
from bench.truth.families import comparable
from bench.truth.page import document
from bench.truth.rig import OUT_OF_SCOPE, Difference, Rig, Tally
from bench.truth.shrink import shrink
from bench.truth.theirs import Theirs
from bench.truth.traces import trace
from guest.qemu.errors import QemuError
from nic_models.differential.contract import Differential
from nic_models.differential.steps import Step, listing

#: Steps of a trace.
LENGTH = 160


def hunt(of: Differential, rig: Rig, steps: int, seed: int) -> tuple[list[Step], Difference] | None:
    """Traces of ``seed`` until ``steps`` more are played; the first that differs, shortened."""
    rng = Random(seed)
    enough = rig.tally.total + steps
    while rig.tally.total < enough:
        played = trace(of, rng, LENGTH)
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
    parser.add_argument("--nic", default=DEFAULT_NIC, help="the family (default %(default)s)")
    parser.add_argument("--steps", type=int, default=100_000, help="to play (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the traces (default %(default)s)")
    parser.add_argument("--document", action="store_true", help="print the table and end")
    options = parser.parse_args(arguments)
    if options.steps <= 0:
        parser.error(f"--steps {options.steps} plays nothing: give a positive number")
    try:
        of, on_qemu = comparable(options.nic)
    except BadInput as error:
        return _fail(error)
    if options.document:
        sys.stdout.write(document(options.nic, of))
        return 0
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="truth.") as folder:
        try:
            with Theirs(of, on_qemu, Path(folder)) as theirs:
                rig = Rig(of, theirs)
                found = hunt(of, rig, options.steps, options.seed)
                _report(rig, theirs.version, options.seed, time.monotonic() - started)
        except QemuError as error:
            return _fail(error)
    if found is not None:
        short, difference = found
        sys.stdout.write(f"\nDIFFERENT: {difference}\ntrace = {listing(short)}\n")
        return 1
    return 0


def _fail(error: Exception) -> int:
    sys.stderr.write(f"bench.truth: {error}\n")
    return BadInput.status


def _report(rig: Rig, version: tuple[int, int], seed: int, seconds: float) -> None:
    tally = rig.tally
    out = sys.stdout.write
    out(
        f"QEMU {version[0]}.{version[1]}, seed {seed}: {tally.total} steps,"
        f" {tally.traces} traces, {seconds:.0f} s;"
        f" {tally.frames_in} frames stored, {tally.frames_out} sent\n"
    )
    out("steps: " + ", ".join(f"{kind} {n}" for kind, n in tally.steps.most_common()) + "\n")
    out("explained by a row, times:\n")
    for row in rig.rows:
        out(f"    {tally.rows[row.name]:8}  {row.name}\n")
    out(f"    {tally.rows[OUT_OF_SCOPE]:8}  ({OUT_OF_SCOPE})\n")


if __name__ == "__main__":
    sys.exit(main())
