"""``make bench``: how fast, next to a peer, in one run.

    tier  profile     MB/s (median of 3)   x tftpd-hpa   MB/s played   frames/s played   peak MiB

Rules: figures are medians of whole runs, oracles and capture included where it says so; a machine's
speed drifts, so every round plays each contestant once, in turn, and ratios are taken within the
round. Memory that a virtual machine has never used costs its first user up to 8 us a page, which is
nobody's speed here: as much as a run needs is touched before it. Nothing here is an assertion: a
slow machine prints small numbers and exits 0.

MB/s (10^6 bytes) is the dump's length over the time from the panic to the end of the dump, on the
run's clock: virtual in ``sim``, where it is the modelled machine's rate. What the bench itself
plays is told over the *real* time of the whole run, boot to verdict: MB/s of the dump, and frames/s
on the wire, both ways. (With selective acks there are half as many frames to a dump.)

us/frame is CPU time over frames on the wire: of the bench, which is client, NIC, wire and oracles,
and of what it started, the server and QEMU; of the whole run, so a small dump has much start in it.

Peak memory is that of one more run, which nobody takes the time of (``bench/peak``), and is told of
larger dumps, too: there the rate is that of the same run.

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
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from bench.clock import RealClock
from bench.contestants import CONTESTANTS, LARGE, Contestant, Played, play, scenario
from bench.errors import MachineLacks
from bench.footprint import footprint
from bench.headroom import memory_room, require_room
from bench.measure_guest import MARK_SINK_RATIO, GuestRates, measure_guest, touch_memory
from bench.peak import ChildFailed, peak_of, python
from bench.runs import scratch
from bench.scenario import expand_cases
from bench.servers.child import start_child
from bench.tiers import MIB, PROBES, ROWS
from bench.wire.contracts import WireError
from bench.wire.namespace import Namespace, open_namespace
from guest.linux.image import GuestImageUnavailable
from guest.qemu.errors import QemuError

BLKSIZE: Final = 1428
#: What in.tftpd needs to listen. It tells nobody, and curl would only ask again after a second.
LISTENS_US: Final = 300_000
TFTP_TIMEOUT_S: Final = 65
#: The marks that the project holds itself to.
MARK_SIM_FRAMES: Final = 150_000
MARK_TAP_RATIO: Final = 2.0

#: Memory is held to these: so many dumps, and so much besides.

#: Dump sizes of memory that a run takes: the machine, the server's file; some to spare.
WARM: Final = 4
#: The longest that a run may take that is watched.
_WATCHED_S: Final = 300.0
#: What --only has to be part of for the guest's takeover to be measured.
GUEST: Final = "qemu linux guest"
#: Its ratio to the sink wanders by a quarter from round to round, so there are some.
GUEST_ROUNDS: Final = 5


@dataclass(slots=True)
class Figures:
    """One contestant's, a round each."""

    rate: list[float] = field(default_factory=list)
    """MB/s on the run's clock."""
    frames: list[float] = field(default_factory=list)
    """Frames a second of real time."""
    played: list[float] = field(default_factory=list)
    """MB of dump a second of real time."""
    ratio: list[float] = field(default_factory=list)
    """To the peer, in the same round."""
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)
    """CPU time a frame, us: ``contestants.Played``."""
    peak: int | None = None
    """Bytes of memory that a run held at the most."""


@dataclass(frozen=True, slots=True)
class Large:
    """A run of a larger dump, and what it held; or why there is none."""

    contestant: Contestant
    mib: int
    played: Played | None
    peak: int = 0
    lacks: str = ""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make bench ARGS=...", description="Measure the bench.")
    parser.add_argument("--mib", type=int, default=64, help="dump size (%(default)s MiB)")
    parser.add_argument(
        "--guest-mib", type=int, default=256, help="memory of the Linux guest (%(default)s MiB)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds (%(default)s)")
    parser.add_argument(
        "--large-mib",
        type=int,
        nargs="*",
        default=[256, 1024],
        help="dump sizes of which only memory is measured (256 1024)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--only", default="", help="only tiers or profiles with this in the name")
    arguments = parser.parse_args(argv)
    if arguments.mib < 1 or arguments.rounds < 1 or not 96 <= arguments.guest_mib <= 3000:
        parser.error("--mib and --rounds are 1 or more, --guest-mib is 96 to 3000")
    wanted = [c for c in CONTESTANTS if arguments.only in str(c)]
    emulated = {tier: PROBES[tier]() for tier, row in ROWS.items() if row.emulated}
    lacking = {tier for tier, found in emulated.items() if not found.ok}
    wanted = [c for c in wanted if c.tier not in lacking]
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
    for contestant, figures in results.items():
        print(f"memory of {contestant}", file=sys.stderr)
        _, figures.peak = _watched(contestant, arguments.mib)
    large = [
        _large(contestant, mib)
        for mib in arguments.large_mib
        for contestant in LARGE
        if arguments.only in str(contestant) and contestant.tier not in lacking
    ]
    guest: list[GuestRates] = []
    no_guest = ""
    if not lacking and arguments.only in GUEST:
        print(f"a Linux guest of {arguments.guest_mib} MiB", file=sys.stderr)
        try:
            with scratch("guest") as folder:
                rounds = max(arguments.rounds, GUEST_ROUNDS)
                guest = measure_guest(arguments.guest_mib, rounds, folder.path)
        except (GuestImageUnavailable, QemuError, WireError) as error:
            no_guest = str(error).strip().splitlines()[-1]
    if arguments.json:
        document = _document(results, peer, lacks) | _large_document(large)
        json.dump(document | _guest_document(guest), sys.stdout, indent=2)
        print()
    else:
        _print(results, peer, lacks, arguments.mib, arguments.rounds)
        _print_large(large)
        _print_guest(guest, arguments.guest_mib)
        if no_guest:
            print(f"not measured: a Linux guest: {no_guest}")
        for tier in sorted(lacking):
            print(f"not measured: tier {tier}: {emulated[tier].why} (cure: {emulated[tier].cure})")
    return 0


def _measure(contestant: Contestant, mib: int, figures: Figures) -> None:
    gc.collect()
    touch_memory(WARM * mib)
    came = play(contestant, mib)
    figures.rate.append(came.rate)
    figures.frames.append(came.frames)
    figures.played.append(came.played)
    figures.ours.append(came.ours)
    figures.theirs.append(came.theirs)


def _watched(contestant: Contestant, mib: int) -> tuple[Played, int]:
    """A run in a process of its own, and the bytes that it held at the most."""
    command = python("bench.contestants", str(contestant), str(mib))
    try:
        said, peak = peak_of(command, _WATCHED_S)
    except ChildFailed as failed:
        raise SystemExit(f"{contestant} of {mib} MiB: {failed}") from None
    return Played(**json.loads(said.splitlines()[-1])), peak


def _large(contestant: Contestant, mib: int) -> Large:
    print(f"{mib} MiB, {contestant}", file=sys.stderr)
    (case,) = expand_cases(scenario(contestant, mib))
    try:
        require_room(footprint(case, contestant.tier), memory_room(), [])
    except MachineLacks as lacks:
        return Large(contestant, mib, None, lacks=str(lacks))
    return Large(contestant, mib, *_watched(contestant, mib))


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
        namespace = stack.enter_context(open_namespace())
        folder = stack.enter_context(scratch("tftp")).path
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
def _tftpd(namespace: Namespace, home: Path, log: int) -> Iterator[None]:
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


def _document(results: dict[Contestant, Figures], peer: Figures, lacks: str) -> dict[str, object]:
    return {
        "peer": {"name": "tftpd-hpa", "MB/s": _median(peer.rate), "lacks": lacks},
        "results": [
            {
                "tier": contestant.tier,
                "profile": contestant.profile,
                "selective_acks": contestant.offers,
                "line_rate": contestant.rate if contestant.virtual else None,
                "MB/s": _median(figures.rate),
                "frames/s": _median(figures.frames),
                "MB/s played": _median(figures.played),
                "ratio": None if contestant.virtual else _median(figures.ratio),
                "CPU us/frame, bench": _median(figures.ours),
                "CPU us/frame, server": _median(figures.theirs),
                "peak bytes": figures.peak,
            }
            for contestant, figures in results.items()
        ],
    }


def _print(
    results: dict[Contestant, Figures],
    peer: Figures,
    lacks: str,
    mib: int,
    rounds: int,
) -> None:
    table = Table(title=f"{mib} MiB, median of {rounds}, oracles and capture on")
    for heading in ("tier", "profile"):
        table.add_column(heading)
    headings = ("MB/s", "x tftpd-hpa", "MB/s played", "frames/s played")
    cpu = ("us/frame, bench", "server")
    for heading in (*headings, *cpu, "peak MiB", "x dump"):
        table.add_column(heading, justify="right")
    for contestant, figures in results.items():
        ratio = None if contestant.virtual else _median(figures.ratio)
        table.add_row(
            contestant.where,
            contestant.client,
            f"{_median(figures.rate) or 0:,.1f}" + " virtual" * contestant.virtual,
            "" if ratio is None else f"{ratio:.2f}",
            f"{_median(figures.played) or 0:,.1f}",
            f"{_median(figures.frames) or 0:,.0f}",
            f"{_median(figures.ours) or 0:,.1f}",
            f"{_median(figures.theirs) or 0:,.1f}",
            *_peak(figures.peak or 0, mib),
        )
    if peer.rate:
        table.add_row("loopback", f"tftpd-hpa, blksize {BLKSIZE}", f"{_median(peer.rate):,.1f}")
    console = Console() if sys.stdout.isatty() else Console(width=120)
    console.print(table)
    if lacks:
        print(f"not measured: tftpd-hpa: {lacks}")
    print(f"marks: sim {MARK_SIM_FRAMES:,} frames/s, where each frame is acknowledged by another;")
    print(f"tap netdump2 {MARK_TAP_RATIO:g} x tftpd-hpa")


def _peak(peak: int, mib: int) -> tuple[str, str]:
    return f"{peak / MIB:,.0f}", f"{peak / MIB / mib:.2f}"


def _mark_of(row: Large) -> float:
    """Bytes."""
    times, more = ROWS[row.contestant.tier].mark
    return (times * row.mib + more) * MIB


def _large_document(large: list[Large]) -> dict[str, object]:
    return {
        "memory": [
            {
                "tier": row.contestant.tier,
                "machine": row.contestant.machine,
                "MiB": row.mib,
                "MB/s": row.played.rate if row.played else None,
                "peak bytes": row.peak if row.played else None,
                "mark": _mark_of(row),
                "lacks": row.lacks,
            }
            for row in large
        ]
    }


def _print_large(large: list[Large]) -> None:
    table = Table(title="memory of bench, server and QEMU together, one run each, netdump2")
    for heading in ("tier", "dump MiB", "MB/s", "peak MiB", "x dump", "mark MiB"):
        table.add_column(heading, justify="left" if heading == "tier" else "right")
    for row in large:
        if row.played is not None:
            table.add_row(
                row.contestant.where,
                f"{row.mib:,}",
                f"{row.played.rate:,.1f}" + " virtual" * row.contestant.virtual,
                *_peak(row.peak, row.mib),
                f"{_mark_of(row) / MIB:,.0f}",
            )
    if table.row_count:
        console = Console() if sys.stdout.isatty() else Console(width=120)
        console.print(table)
    for row in large:
        if row.lacks:
            print(f"not measured: {row.mib} MiB, {row.contestant}: {row.lacks}")


#: Row of the guest's table -> its rate.
_GUEST_ROWS: Final[tuple[tuple[str, Callable[[GuestRates], float]], ...]] = (
    ("dump by its own NIC: data, all acknowledged, all compared", lambda r: r.dump),
    ("the same, from the takeover to the end", lambda r: r.whole),
    ("the same frames to a plain UDP sink", lambda r: r.sink),
    ("QMP dump-guest-memory, to memory", lambda r: r.qmp),
)


def _guest_document(guest: list[GuestRates]) -> dict[str, object]:
    rates = {name: _median([rate(r) for r in guest]) for name, rate in _GUEST_ROWS}
    ratio = _median([r.dump / r.sink for r in guest])
    return {"linux_guest": {"MB/s": rates, "dump / sink": ratio, "mark": MARK_SINK_RATIO}}


def _print_guest(guest: list[GuestRates], mib: int) -> None:
    if not guest:
        return
    table = Table(title=f"a crashed Linux guest of {mib} MiB on a TAP, median of {len(guest)}")
    for heading in ("what", "MB/s", "x sink"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    for name, rate in _GUEST_ROWS:
        of_sink = statistics.median(rate(r) / r.sink for r in guest)
        table.add_row(name, f"{_median([rate(r) for r in guest]):,.1f}", f"{of_sink:.2f}")
    console = Console() if sys.stdout.isatty() else Console(width=120)
    console.print(table)
    ratios = [r.dump / r.sink for r in guest]
    print(f"dump / sink was {min(ratios):.2f} to {max(ratios):.2f}; mark: {MARK_SINK_RATIO:g}")
    heard = min(r.sink_frames for r in guest)
    again = max(r.retransmissions for r in guest)
    print(f"a dump is {guest[0].frames:,} frames, at most {again} of them sent again; the sink")
    print(f"heard at least {heard:,}")


if __name__ == "__main__":
    sys.exit(main())
