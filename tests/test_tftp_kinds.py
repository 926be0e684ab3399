"""Kinds ``tftp`` of client and server: whole runs, from boot to verdict, over a wire in memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.clock import VirtualClock
from bench.scenario import parse_scenario
from bench.servers.simhost.host import SimHost
from bench.servers.tftp.config import TftpConfig
from bench.servers.tftp.kind import SimulatedTftp
from bench.verdict import CaseResult
from bench.wire.memory import MemoryLink
from netdump.tftp.packets import SERVER_PORT
from tests.scenario_rig import played

_STORY = """
title = "A dump by TFTP"
why   = "The review of 2010 asked for it."
story = "Told in memory."
tiers = ["sim"]

[machine]
memory = "1 MiB"
load   = "none"

[nic]
rx_ring = 256

[server]
kind = "tftp"

[client]
kind = "tftp"

[[case]]
name = "case"
{}
"""

pytestmark = pytest.mark.sim


def run(tmp_path: Path, case: str, rest: str = "") -> CaseResult:
    scenario = parse_scenario(_STORY.format(case) + rest, "tftp", "tests/test_tftp_kinds.py")
    result = played(scenario, "sim", tmp_path)
    (found,) = result.cases
    assert found.met, found.unmet
    assert found.oracles["panic-hygiene"] == "held"
    assert found.oracles["liveness"] == "held"
    return found


@pytest.mark.parametrize(
    "parts",
    [
        "client = { windowsize = 32 }",
        "client = { options = false }",
        "client = { blksize = 8192, file = 'victim.core' }",
        "server = { options = false }",
        "server = { refuses_options = true }",
        "server = { blksize = 700, windowsize = 3 }\nclient = { windowsize = 9 }",
        "nic = { mtu = 576 }",
        "network = { gateway = true, latency_us = 5000 }\nclient = { windowsize = 64 }",
    ],
)
def test_a_dump_is_complete(tmp_path: Path, parts: str) -> None:
    run(tmp_path, parts + '\nexpect = { outcome = "complete", retransmissions = 0 }')


@pytest.mark.parametrize("windowsize", [1, 16])
def test_a_wire_that_loses_and_doubles_costs_no_byte(tmp_path: Path, windowsize: int) -> None:
    faults = "".join(
        f'[[wire.fault]]\ndoes = "{does}"\nkind = "any"\nchance = "5 %"\n'
        for does in ("drop", "duplicate")
    )
    case = f"client = {{ windowsize = {windowsize} }}\n"
    run(tmp_path, case + 'expect = { outcome = "complete", retransmissions = ">0" }', faults)


def test_a_full_disk_is_the_verdicts_reason(tmp_path: Path) -> None:
    case = 'server = { room = "300 KiB" }\n'
    found = run(tmp_path, case + 'expect = { outcome = "failed", error = "ENOSPC" }')
    assert "ERROR 3 (disk full)" in found.why


def test_nobody_at_home(tmp_path: Path) -> None:
    """The host answers ARP, and ICMP says that nothing listens: a dying kernel does not hear it."""
    case = "server = { present = false }\nclient = { retries = 2 }\n"
    found = run(tmp_path, case + 'expect = { outcome = "failed", error = "ETIMEDOUT" }')
    assert "the write request was not answered in 3 rounds" in found.why


def test_a_server_in_memory_has_several_lives(tmp_path: Path) -> None:
    """What it had stored stays, and is called unfinished; its sessions and descriptors go."""
    host = SimHost(MemoryLink(VirtualClock(), latency_ns=0, bits_per_second=0).host_end)
    server = SimulatedTftp(host, tmp_path / "dumps", TftpConfig())
    assert server.address == (host.config.ip, SERVER_PORT)
    server.start()
    assert host.ports == [SERVER_PORT]
    core = server.core
    assert core is not None
    request = b"\0\2vmcore\0octet\0"
    answer = core.herald(("198.18.0.2", 2000), request, 0.0)
    assert answer is not None
    assert answer.ack == b"\0\4\0\0"
    again = core.herald(("198.18.0.2", 2000), request, 1.0)
    assert again is not None
    assert (again.session_id, again.fresh) == (answer.session_id, False)
    assert server.fd_count() == 1
    server.restart()
    assert host.ports == [SERVER_PORT]
    assert server.fd_count() == 0
    assert [(dump.path.name, dump.complete) for dump in server.stored()] == [
        ("vmcore.partial", False)
    ]
    server.stop()
    assert host.ports == []
    assert not server.running


def test_a_silent_upload_is_given_up_and_requests_do_not_pile_up(tmp_path: Path) -> None:
    host = SimHost(MemoryLink(VirtualClock(), latency_ns=0, bits_per_second=0).host_end)
    server = SimulatedTftp(host, tmp_path / "dumps", TftpConfig(idle_s=30))
    server.start()
    core = server.core
    assert core is not None
    told = [
        core.herald(("198.18.0.2", port), b"\0\2f%d\0octet\0" % port, 0.0) for port in range(300)
    ]
    assert sum(answer is None for answer in told) == 300 - 128
    assert sum(answer is not None and answer.ack[1] == 4 for answer in told) == 64
    assert server.fd_count() == 64
    assert len(core.tick(1.0)) == 64, "those that were refused"
    assert len(core.tick(31.0)) == 64
    assert server.fd_count() == 0
    server.kill()
