"""``make bench``: how fast each tier and profile is here, next to tftpd-hpa in the same minute.

A dump of one size is played with every oracle on; MB/s is dump bytes over the time from the panic to
the end of the dump, on the tier's own clock, and frames/s is the whole run, judging included, over
real time. MB = 10^6 bytes.

The rate to compare with is Debian's tftpd-hpa, which takes the same number of bytes by RFC 1350 with
blocks of 1428 (RFC 2348), the size that fills a frame as ours do. It is asked over loopback, which
is kinder to it than a TAP.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from bench.clock import RealClock
from bench.errors import BenchError, MachineLacks
from bench.play import play
from bench.progress import Silent
from bench.scenario import PROFILES, parse_scenario
from bench.scenario.values import parse_size, show_size
from bench.tiers import PROBES
from bench.verdict import to_text
from bench.wire.contracts import WireError
from bench.wire.namespace import NetNamespace

TIERS: Final = ("sim", "tap")
_STORY: Final = """\
title = "A dump to be measured"
why   = "How fast is it?"
[machine]
memory = "{size} B"
[[case]]
profile = "{profile}"
expect  = {{ outcome = "complete"{broken} }}
"""

_WRQ, _ACK, _OACK, _DATA = 2, 4, 6, 3
_BLOCK: Final = 1428
_PORT: Final = 6969
_TIMEOUT_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Rate:
    """One line of the table."""

    tier: str
    profile: str
    mb_per_s: float
    frames_per_s: float
    passed: bool = True
    ratio: float | None = None
    """To tftpd-hpa, where that was measured too and the clock is a real one."""


def measure(tier: str, profile: str, size: int) -> Rate:
    """Play one dump. Raises ``BenchError``."""
    broken = ', oracle_broken = "panic-hygiene"' if profile == "patch-2010" else ""
    text = _STORY.format(size=size, profile=profile, broken=broken)
    scenario = parse_scenario(text, "measure", "measure.toml")
    clock = RealClock()
    with tempfile.TemporaryDirectory(prefix="netdump-bench-") as runs:
        result = play(
            scenario,
            tier=tier,
            seed=1,
            runs=Path(runs),
            progress=Silent(),
            before_tap=lambda: None,
        )
    wall = clock.now_ns() / 1e9
    (case,) = result.cases
    return Rate(
        tier, profile, case.dump_bytes / case.seconds / 1e6, case.frames / wall, result.passed
    )


# --- tftpd-hpa ------------------------------------------------------------------------------------


def measure_tftp(size: int) -> Rate:
    """Put ``size`` bytes to a tftpd-hpa of our own. Raises ``MachineLacks``."""
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    program = shutil.which("in.tftpd", path=path)
    if program is None:
        raise MachineLacks("there is no in.tftpd: scripts/debian-packages bench, as root")
    try:
        with tempfile.TemporaryDirectory(prefix="netdump-bench-") as folder, NetNamespace() as net:
            with _tftpd(program, Path(folder), net), net.run(_client_socket) as client:
                clock = RealClock()
                blocks = _put(client, os.urandom(1 << 20), size)
                seconds = clock.now_ns() / 1e9
            stored = (Path(folder) / "dump").stat().st_size
    except WireError as error:
        raise MachineLacks(str(error)) from None
    return Rate("-", "tftpd-hpa", size / seconds / 1e6, 2 * blocks / seconds, stored == size)


@contextlib.contextmanager
def _tftpd(program: str, folder: Path, net: NetNamespace) -> Iterator[None]:
    command = [program, "--foreground", "--listen", "--address", f"127.0.0.1:{_PORT}"]
    command += ["--create", "--user", "root", "--secure", str(folder)]
    server: subprocess.Popen[bytes] = net.run(
        lambda: subprocess.Popen(command, stdin=subprocess.DEVNULL)
    )
    try:
        yield
    finally:
        server.terminate()
        server.wait(10)


def _client_socket() -> socket.socket:
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.settimeout(_TIMEOUT_S)
    return client


def _put(client: socket.socket, filler: bytes, size: int) -> int:
    """RFC 1350's lock step; how many blocks it took. The last one is short, or empty."""
    request = struct.pack(">H", _WRQ) + b"dump\0octet\0blksize\0%d\0" % _BLOCK
    peer: tuple[str, int] = ("127.0.0.1", _PORT)
    reply, peer = _ask(client, request, peer, lambda r: r[:2] == struct.pack(">H", _OACK))
    blocks = size // _BLOCK + 1
    for number in range(1, blocks + 1):
        at = (number - 1) * _BLOCK % (len(filler) - _BLOCK)
        length = min(_BLOCK, size - (number - 1) * _BLOCK)
        head = struct.pack(">HH", _DATA, number & 0xFFFF)
        wanted = struct.pack(">HH", _ACK, number & 0xFFFF)
        _ask(client, head + filler[at : at + length], peer, wanted.__eq__)
    return blocks


def _ask(
    client: socket.socket, message: bytes, peer: tuple[str, int], good: Callable[[bytes], bool]
) -> tuple[bytes, tuple[str, int]]:
    for _ in range(5):
        client.sendto(message, peer)
        try:
            reply, sender = client.recvfrom(2048)
        except TimeoutError:
            continue
        if good(reply):
            return reply, sender
    raise MachineLacks(f"tftpd-hpa at {peer[0]}:{peer[1]} does not answer as RFC 1350 has it")


# --- the table ------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.measure", description="MB/s, compared")
    parser.add_argument("--size", type=parse_size, default=64 << 20, help="64MiB by default")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    arguments = parser.parse_args(argv)
    notes: list[str] = []
    try:
        tftp = measure_tftp(arguments.size)
    except BenchError as error:
        tftp = None
        notes.append(f"no comparison with tftpd-hpa: {error}")
    rates = [] if tftp is None else [tftp]
    for tier in TIERS:
        found = PROBES[tier]()
        if not found.ok:
            notes.append(f"tier {tier} not measured: {found.why} (cure: {found.cure})")
            continue
        for profile in reversed(PROFILES):
            rate = measure(tier, profile, arguments.size)
            ratio = rate.mb_per_s / tftp.mb_per_s if tftp and tier != "sim" else None
            rates.append(Rate(tier, profile, rate.mb_per_s, rate.frames_per_s, rate.passed, ratio))
            if not arguments.json:
                print(f"measured {tier} {profile}", file=sys.stderr)
    passed = all(rate.passed for rate in rates)
    if arguments.json:
        rows = [asdict(rate) for rate in rates]
        sys.stdout.write(to_text({"dump_bytes": arguments.size, "rates": rows, "notes": notes}))
    else:
        _print(rates, notes, arguments.size)
    return 0 if passed else 1


def _print(rates: list[Rate], notes: list[str], size: int) -> None:
    print(f"{show_size(size)}, MTU 1500, all oracles on")
    print(f"{'tier':<6}{'profile':<14}{'MB/s':>8}{'frames/s':>12}{'to tftpd-hpa':>15}")
    for rate in rates:
        ratio = "" if rate.ratio is None else f"{rate.ratio:.2f}"
        line = f"{rate.tier:<6}{rate.profile:<14}{rate.mb_per_s:>8.1f}{rate.frames_per_s:>12,.0f}"
        print(f"{line}{ratio:>15}" + ("" if rate.passed else "   NOT AS EXPECTED"))
    print("MB/s: on the tier's own clock (sim: virtual time). frames/s: whole runs, in real time.")
    for note in notes:
        print(note)


if __name__ == "__main__":
    sys.exit(main())
