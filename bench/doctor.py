"""What this machine can play: a table of checks, each tried, with what it enables and its cure."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from bench import cures
from bench.cures import CURES
from bench.wire.contracts import Capability

_TIMEOUT_S: Final = 120.0
_MIN_FREE: Final = 1 << 30
_WIDTH: Final = 100


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the table."""

    name: str
    enables: str
    probe: Callable[[], Capability]
    required: bool = False
    """Nothing works without it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of a check."""

    name: str
    ok: bool
    found: str
    enables: str
    cure: str
    required: bool


def _output(*command: str) -> str:
    """What a command prints. Raises ``OSError`` or ``SubprocessError``."""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=_TIMEOUT_S,
        check=False,
        text=True,
    )
    if done.returncode:
        tail = done.stdout.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        raise OSError(f"{' '.join(command)}: {tail[0]}")
    return done.stdout.strip()


def _python() -> Capability:
    return Capability(
        sys.version_info >= (3, 11),
        f"{platform.python_implementation()} {platform.python_version()}",
        CURES["python"],
    )


def _numpy() -> Capability:
    version = metadata.version("numpy")
    return Capability(int(version.split(".")[0]) >= 2, version, CURES["numpy"])


def _tun_device() -> Capability:
    from bench.wire.contracts import WireError
    from bench.wire.segment import TUN_DEVICE, open_tun

    try:
        os.close(open_tun())
    except WireError as error:
        why, _, cure = str(error).partition("; ")
        return Capability(False, why, cure)
    return Capability(True, f"{TUN_DEVICE} opens")


def _user_namespace() -> Capability:
    unshare = shutil.which("unshare")
    if not unshare:
        return Capability(False, "there is no unshare(1)", CURES["unshare-absent"])
    try:
        _output(unshare, "--user", "--map-root-user", "true")
    except (OSError, subprocess.SubprocessError) as error:
        return Capability(False, str(error), cures.user_namespace())
    return Capability(True, "unshare --user works")


def _net_namespace() -> Capability:
    from bench.wire.namespace import rootless_reexec_command
    from bench.wire.tap import can_tap

    found = can_tap()
    if not found.ok and rootless_reexec_command(["true"]):
        return Capability(True, "works in a user namespace of its own, which `run` makes by itself")
    return found


def _super_frames() -> Capability:
    from bench.wire.contracts import WireError
    from bench.wire.namespace import open_namespace
    from bench.wire.segment import offer_super_frames, open_tap

    try:
        with open_namespace() as namespace:
            fd, _ = namespace.run(open_tap, "probe")
            try:
                ok = offer_super_frames(fd)
            finally:
                os.close(fd)
    except WireError as error:
        _, _, cure = str(error).partition("; ")
        return Capability(False, "can only be tried with a TAP", cure)
    return Capability(ok, "TUNSETOFFLOAD takes USO" if ok else "no USO", CURES["uso"])


def _udp_offload() -> Capability:
    """What the server itself finds out at its start, by the same trial."""
    from server.packets import probe

    lacks = probe()
    why = "; ".join(f"{lack.call}: {lack.why}" for lack in lacks)
    why = why or "recvmmsg, UDP_GRO and UDP_SEGMENT work"
    return Capability(not lacks, why, CURES["udp-segment"])


def _qemu() -> Capability:
    program = shutil.which("qemu-system-x86_64")
    if not program:
        return Capability(False, "not installed", CURES["qemu"])
    return Capability(True, _output(program, "--version").splitlines()[0])


def _qemu_nic() -> Capability:
    from bench.qemu_nic import can_qemu

    return can_qemu()


def _guest_image() -> Capability:
    from bench.guests import guest_nics
    from guest.linux.image import cached_image

    image = cached_image(nics=guest_nics())
    if image is None:
        what = "none yet: the first scenario that wants one downloads a kernel and builds it"
        return Capability(False, what, CURES["guest-image"])
    return Capability(True, f"Linux {image.release}, {image.source}, in {image.kernel.parent}")


def _kvm() -> Capability:
    from bench.servers.child import start_child
    from guest.qemu.accel import accelerator

    if not shutil.which("qemu-system-x86_64"):
        return Capability(False, "can only be tried with QEMU", CURES["qemu"])
    chosen = accelerator(start_child)
    return Capability(chosen.name == "kvm", chosen.why, CURES["kvm"])


def _vmcore_tools() -> Capability:
    found = [name for name in ("makedumpfile", "crash") if shutil.which(name)]
    if not found:
        return Capability(False, "no makedumpfile, no crash", CURES["qemu"])
    return Capability(True, " and ".join(found))


def _docker() -> Capability:
    from bench.servers.engine import can_docker

    return can_docker()


def _disk() -> Capability:
    free = shutil.disk_usage(Path.cwd()).free
    return Capability(free >= _MIN_FREE, f"{free / (1 << 30):.1f} GiB free here", CURES["disk"])


def _tftp() -> Capability:
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    missing = [name for name in ("in.tftpd", "curl") if not shutil.which(name, path=path)]
    if missing:
        return Capability(
            False,
            f"no {' and no '.join(missing)}",
            CURES["bench"],
        )
    return Capability(True, "in.tftpd and curl")


def _tftp_servers() -> Capability:
    from bench.servers.tftpd import ATFTPD, HPA, can_play

    tried = {daemon.package: can_play(daemon) for daemon in (HPA, ATFTPD)}
    lacks = [f"{name}: {found.why}" for name, found in tried.items() if not found.ok]
    cures = [found.cure for found in tried.values() if not found.ok]
    return Capability(not lacks, "; ".join(lacks) or " and ".join(tried), *cures[:1])


CHECKS: Final[tuple[Check, ...]] = (
    Check("python", "everything", _python, required=True),
    Check("numpy", "everything", _numpy, required=True),
    Check("disk", "run folders", _disk, required=True),
    Check("tun device", "tier tap", _tun_device),
    Check("user namespaces", "tier tap without root", _user_namespace),
    Check("network namespace", "tier tap", _net_namespace),
    Check("USO on a TAP", "speed of tier tap: super-frames", _super_frames),
    Check("UDP offload", "speed of the server: many datagrams a call", _udp_offload),
    Check("qemu-system-x86_64", "tier qemu", _qemu),
    Check("QEMU's e1000", "tier qemu", _qemu_nic),
    Check("guest image", "Linux guests in tier qemu", _guest_image),
    Check("kvm", "Linux guests at full speed", _kvm),
    Check("vmcore tools", "reading a Linux guest's dump", _vmcore_tools),
    Check("docker engine", "dump servers in containers", _docker),
    Check("TFTP servers", "dumps to tftpd-hpa and atftpd", _tftp_servers),
    Check("tftpd-hpa", "make bench: the rate to compare with", _tftp),
)


def examine(checks: tuple[Check, ...] = CHECKS) -> list[Finding]:
    """Try everything. A check that breaks down is one that failed."""
    findings = []
    for check in checks:
        try:
            found = check.probe()
        except Exception as error:
            found = Capability(False, f"{type(error).__name__}: {error}")
        findings.append(
            Finding(
                check.name,
                found.ok,
                found.why,
                check.enables,
                "" if found.ok else found.cure,
                check.required,
            )
        )
    return findings


def as_json(findings: list[Finding]) -> dict[str, Any]:
    return {"ok": healthy(findings), "checks": [asdict(finding) for finding in findings]}


def healthy(findings: list[Finding]) -> bool:
    """All that nothing works without is there."""
    return all(finding.ok for finding in findings if finding.required)


def print_findings(findings: list[Finding], console: Console) -> None:
    """Is it there, what, what it is good for and what was found; the cure below."""
    for finding in findings:
        style = "" if finding.ok else "bold red" if finding.required else "yellow"
        text = f"{finding.enables}: {finding.found.rstrip('.')}"
        _row("ok" if finding.ok else "missing", finding.name, text, console, style)
        if finding.cure:
            _row("", "", f"cure: {finding.cure}", console, "")


def _row(state: str, name: str, text: str, console: Console, style: str) -> None:
    """One cell wrapped beside two short ones."""
    first = f"{state:<8} {name:<19} "
    width = max(min(console.width, _WIDTH), len(first) + 20)
    lines = textwrap.wrap(text, width - len(first), break_on_hyphens=False)
    for number, line in enumerate(lines):
        margin = first if number == 0 else " " * len(first)
        console.print(Text(margin + line, style), soft_wrap=True)
