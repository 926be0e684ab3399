"""``make bench``: how fast, next to a peer, in one run.

    tier  profile     MB/s (median of 3)   frames/s   x tftpd-hpa

Rules: figures are medians of whole runs, oracles and capture included where it says so; a machine's
speed drifts, so every round plays each contestant once, in turn, and ratios are taken within the
round. Nothing here is an assertion: a slow machine prints small numbers and exits 0.

MB/s (10^6 bytes) is the dump's length over the time from the panic to the end of the dump, on the
run's clock: virtual in ``sim``, where it is the modelled machine's rate. frames/s is what the bench
itself plays: all frames on the wire over the *real* time of the whole run, from boot to verdict.

The peer is Debian's tftpd-hpa, which takes the same bytes from curl with a blksize of 1428 (a full
frame at MTU 1500), over the loopback of a namespace: the shortest way there is, its best case.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from bench.clock import RealClock
from bench.progress import Silent
from bench.runner import run_scenario
from bench.scenario import Scenario, parse_scenario
from bench.servers.child import start_child
from bench.wire.namespace import NetNamespace

BLKSIZE: Final = 1428
#: What in.tftpd needs to listen. It tells nobody, and curl would only ask again after a second.
LISTENS_US: Final = 300_000
TFTP_TIMEOUT_S: Final = 65
#: The marks that the project holds itself to.
MARK_SIM_FRAMES: Final = 150_000
MARK_TAP_RATIO: Final = 2.0

_STORY: Final = """\
title = "A measured dump"
why = "make bench"
tiers = ["tap", "sim"]
[machine]
memory = "{mib} MiB"
load = "none"
[nic]
rate = "{rate}"
[[case]]
profile = "{profile}"
expect = {{ outcome = "complete"{also} }}
"""
#: Tier, profile, line rate of the modelled wire.
CONTESTANTS: Final = (
    ("sim", "netdump2", "10 Gbit/s"),
    ("sim", "netdump2", "1 Gbit/s"),
    ("sim", "freebsd-14", "1 Gbit/s"),
    ("sim", "patch-2010", "1 Gbit/s"),
    ("tap", "netdump2", "1 Gbit/s"),
    ("tap", "freebsd-14", "1 Gbit/s"),
    ("tap", "patch-2010", "1 Gbit/s"),
)


@dataclass(slots=True)
class Figures:
    """One contestant's, a round each."""

    rate: list[float] = field(default_factory=list)
    """MB/s on the run's clock."""
    frames: list[float] = field(default_factory=list)
    """Frames a second of real time."""
    ratio: list[float] = field(default_factory=list)
    """To the peer, in the same round."""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make bench ARGS=...", description="Measure the bench.")
    parser.add_argument("--mib", type=int, default=64, help="dump size (%(default)s MiB)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (%(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--only", default="", help="only tiers or profiles with this in the name")
    arguments = parser.parse_args(argv)
    if arguments.mib < 1 or arguments.rounds < 1:
        parser.error("--mib and --rounds are 1 or more")
    wanted = [c for c in CONTESTANTS if arguments.only in f"{c[0]} {c[1]} {c[2]}"]
    results = {contestant: Figures() for contestant in wanted}
    peer = Figures()
    lacks = _peer_lacks()
    for number in range(arguments.rounds):
        print(f"round {number + 1} of {arguments.rounds}", file=sys.stderr)
        if not lacks:
            peer.rate.append(_tftp(arguments.mib))
        for contestant, figures in results.items():
            _measure(contestant, arguments.mib, figures)
            if peer.rate:
                figures.ratio.append(figures.rate[-1] / peer.rate[-1])
    if arguments.json:
        json.dump(_document(results, peer, lacks), sys.stdout, indent=2)
        print()
    else:
        _print(results, peer, lacks, arguments.mib, arguments.rounds)
    return 0


def _measure(contestant: tuple[str, str, str], mib: int, figures: Figures) -> None:
    tier, profile, rate = contestant
    scenario = _scenario(profile, rate, mib)
    clock = RealClock()
    gc.collect()  # a machine is a knot of references: the last one's memory is free only now
    with tempfile.TemporaryDirectory(prefix="netdump-bench-", dir=_fast_folder()) as folder:
        began = clock.now_ns()
        result = run_scenario(
            scenario,
            tier=tier,
            why_this_tier="",
            seed=1,
            run_folder=Path(folder),
            progress=Silent(),
        )
        took = (clock.now_ns() - began) / 1e9
    case = result.cases[0]
    if not case.met:
        raise SystemExit(f"{tier} {profile}: {'; '.join(case.unmet)}: nothing was measured")
    figures.rate.append(case.dump_bytes / case.seconds / 1e6)
    figures.frames.append(case.frames / took)


def _scenario(profile: str, rate: str, mib: int) -> Scenario:
    also = ', oracle_broken = "panic-hygiene"' if profile == "patch-2010" else ""
    text = _STORY.format(mib=mib, rate=rate, profile=profile, also=also)
    return parse_scenario(text, "bench", "bench/measure.py")


def _fast_folder() -> str | None:
    """Memory, where there is some: the disk is not what is measured, for any contestant."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


# --- the peer -------------------------------------------------------------------------------------


def _peer_lacks() -> str:
    """What is missing to measure the peer; empty when nothing is."""
    for program, package in (("in.tftpd", "tftpd-hpa"), ("curl", "curl")):
        if not _find(program):
            return (
                f"{program} is not installed: scripts/debian-packages bench, or install {package}"
            )
    if os.geteuid() != 0:
        return "tftpd-hpa needs root (port 69, chroot)"
    return ""


def _find(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _tftp(mib: int) -> float:
    """MB/s of one upload to tftpd-hpa."""
    clock = RealClock()
    with ExitStack() as stack:
        namespace = stack.enter_context(NetNamespace())
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="tftp-", dir=_fast_folder()))
        )
        home = folder / "home"
        home.mkdir()
        source = folder / "memory"
        source.write_bytes(os.urandom(1 << 20) * mib)
        log = stack.enter_context((folder / "log").open("wb"))
        stack.enter_context(_tftpd(namespace, home, log.fileno()))
        curl = [
            *(
                _find("curl") or "curl",
                "--silent",
                "--show-error",
                "--max-time",
                str(TFTP_TIMEOUT_S - 5),
            ),
            *("--tftp-blksize", str(BLKSIZE), "--upload-file", str(source)),
            "tftp://127.0.0.1/dump",
        ]
        clock.delay_us(LISTENS_US)
        began = clock.now_ns()
        status = namespace.run(start_child, curl, log.fileno()).wait(TFTP_TIMEOUT_S)
        took = (clock.now_ns() - began) / 1e9
        if status:
            raise SystemExit(f"tftpd-hpa took nothing: {(folder / 'log').read_text()[-500:]}")
        if (home / "dump").read_bytes() != source.read_bytes():
            raise SystemExit("tftpd-hpa stored other bytes than curl sent: nothing was measured")
    return mib * (1 << 20) / took / 1e6


@contextmanager
def _tftpd(namespace: NetNamespace, home: Path, log: int) -> Iterator[None]:
    command = [
        *(_find("in.tftpd") or "in.tftpd", "--ipv4", "--foreground", "--listen"),
        *("--create", "--user", "root", "--secure", str(home)),
    ]
    child: subprocess.Popen[bytes] = namespace.run(start_child, command, log)
    try:
        yield
    finally:
        child.terminate()
        child.wait(10)


# --- the report -----------------------------------------------------------------------------------


def _median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None


def _document(
    results: dict[tuple[str, str, str], Figures], peer: Figures, lacks: str
) -> dict[str, object]:
    return {
        "peer": {"name": "tftpd-hpa", "MB/s": _median(peer.rate), "lacks": lacks},
        "results": [
            {
                "tier": tier,
                "profile": profile,
                "line_rate": rate if tier == "sim" else None,
                "MB/s": _median(figures.rate),
                "frames/s": _median(figures.frames),
                "ratio": _median(figures.ratio) if tier == "tap" else None,
            }
            for (tier, profile, rate), figures in results.items()
        ],
    }


def _print(
    results: dict[tuple[str, str, str], Figures],
    peer: Figures,
    lacks: str,
    mib: int,
    rounds: int,
) -> None:
    table = Table(title=f"{mib} MiB, median of {rounds}, oracles and capture on")
    for heading in ("tier", "profile", "MB/s", "frames/s played", "x tftpd-hpa"):
        table.add_column(heading, justify="left" if heading in ("tier", "profile") else "right")
    for (tier, profile, rate), figures in results.items():
        ratio = _median(figures.ratio) if tier == "tap" else None
        table.add_row(
            tier if tier == "tap" else f"sim, {rate}",
            profile,
            f"{_median(figures.rate) or 0:,.1f}" + (" virtual" if tier == "sim" else ""),
            f"{_median(figures.frames) or 0:,.0f}",
            "" if ratio is None else f"{ratio:.2f}",
        )
    if peer.rate:
        table.add_row("loopback", f"tftpd-hpa, blksize {BLKSIZE}", f"{_median(peer.rate):,.1f}")
    console = Console() if sys.stdout.isatty() else Console(width=100)
    console.print(table)
    if lacks:
        print(f"not measured: tftpd-hpa: {lacks}")
    print(f"marks: sim {MARK_SIM_FRAMES:,} frames/s; tap netdump2 {MARK_TAP_RATIO:g} x tftpd-hpa")


if __name__ == "__main__":
    sys.exit(main())
