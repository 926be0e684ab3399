"""Clients with ordinary sockets: the kernel's stack, its fragments, and a dump of their own."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.l2 import ARP, Ether

from bench.clients.machine_end import Place, open_machine_end
from bench.clock import RealClock
from bench.verdict import CaseResult
from nic_models.frames import Frames
from tests import wire_frames as wf
from tests.command_rig import STOCK, Played, python, sockets

pytestmark = pytest.mark.tap


@pytest.fixture
def play(tmp_path: Path) -> Played:
    return Played(tmp_path)


def test_what_a_kernel_cut_into_fragments_is_held_against_nobody(play: Played) -> None:
    case = play(sockets(dumps="memory", piece=4096))
    assert case.met, case.unmet
    for oracle in ("ack-means-kept", "server-safety"):
        assert case.oracles[oracle] == "not-ruled-on", oracle
        assert "were IP fragments" in case.oracle_reasons[oracle]
    assert case.oracles["bytes-equal"] == "held"


def test_headers_in_fragments_are_not_ruled_on_and_memory_is(play: Played) -> None:
    case = play(sockets(dumps="memory", headers=4096, piece=4096))
    assert case.met, case.unmet
    assert case.oracles["bytes-equal"] == "not-ruled-on"
    (play.folder / "again").mkdir()
    wrong = Played(play.folder / "again")(
        sockets(dumps="memory", headers=4096, piece=4096, flipped=5000),
        expect='outcome = "silent-hole"',
    )
    assert wrong.met, wrong.unmet
    assert wrong.oracles["bytes-equal"] == "broken"


def test_what_a_client_sent_of_its_own_in_fragments_was_not_seen(play: Played) -> None:
    case = play(sockets(piece=4096))
    assert not case.met
    assert case.unmet == ["expected complete, came not-seen"]
    assert {case.oracles[one] for one in ("bytes-equal", "no-false-success")} == {"not-ruled-on"}
    assert "what it sent was not seen" in play.text


@pytest.mark.parametrize("gateway", ["false", "true"])
def test_a_client_with_ordinary_sockets_gets_the_kernels_stack(play: Played, gateway: str) -> None:
    case = play(sockets(), f"network = {{ gateway = {gateway} }}")
    assert case.met, (case.unmet, (play.folder / "client.log").read_text())
    assert case.dump_bytes == 4096
    assert "held against what it sent" in play.text


def test_a_client_without_the_stack_has_no_address(play: Played) -> None:
    script = (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
        "s.connect(('198.18.0.1', 20023))"
    )
    case = play(python(script), expect='outcome = "failed"')
    assert "Network is unreachable" in case.why


def test_a_client_that_dumps_its_own_is_held_to_what_it_promised(play: Played) -> None:
    """Its header says 4096 bytes, and it sends 3072: a server that counts refuses, netdumpd not."""
    case = play(sockets(left_out=1024), expect='outcome = "silent-hole"', server=STOCK)
    assert case.met, case.unmet
    assert [(hole.start, hole.end) for hole in case.holes] == [(3072, 4096)]


def small(play: Played, client: str, expect: str, server: str = "{}") -> CaseResult:
    return play(client, expect=expect, server=server, memory="64 KiB")


@pytest.mark.parametrize("footer", [False, True])
@pytest.mark.parametrize("headers", [0, 512, 4096])
def test_a_client_may_put_headers_before_memory_and_a_footer_behind_it(
    play: Played, headers: int, footer: bool
) -> None:
    client = sockets(dumps="memory", headers=headers, footer=footer)
    case = small(play, client, 'outcome = "complete"')
    assert case.met, case.unmet
    assert case.dump_bytes == headers + (64 << 10)
    assert (f"It put {headers:,} bytes of headers before memory." in case.notes) == bool(headers)


def test_a_byte_of_memory_that_a_client_gets_wrong_is_found_behind_its_headers(
    play: Played,
) -> None:
    """Both sides call it a dump, and the server has kept what it was sent."""
    client = sockets(dumps="memory", headers=4096, flipped=5000)
    case = small(play, client, 'outcome = "silent-hole"')
    assert case.met, case.unmet
    assert case.first_difference is not None
    assert case.first_difference.offset == 5000
    assert case.oracles["ack-means-kept"] == "held"


def test_what_a_client_says_in_its_own_headers_is_its_own_affair(play: Played) -> None:
    client = sockets(dumps="memory", headers=4096, flipped=100)
    assert small(play, client, 'outcome = "complete"').met


def test_a_client_that_leaves_out_the_end_of_memory_has_not_dumped_it(play: Played) -> None:
    client = sockets(dumps="memory", left_out=1024)
    case = small(play, client, 'outcome = "silent-hole"', STOCK)
    assert case.met, case.unmet
    assert [(hole.start, hole.end) for hole in case.holes] == [(63 << 10, 64 << 10)]


@pytest.mark.parametrize("stack", [False, True])
def test_the_kernel_speaks_on_a_clients_interface_only_if_it_is_asked_to(stack: bool) -> None:
    """It is asked where it is, pinged, and told things by datagram and by broadcast."""
    clock, mac = RealClock(), bytes.fromhex(wf.CLIENT_MAC.replace(":", ""))
    asked = Ether(src=wf.SERVER_MAC, dst="ff:ff:ff:ff:ff:ff") / ARP(
        op=1, hwsrc=wf.SERVER_MAC, psrc=wf.SERVER_IP, pdst=wf.CLIENT_IP
    )
    ether, ip = Ether(src=wf.SERVER_MAC, dst=wf.CLIENT_MAC), IP(src=wf.SERVER_IP, dst=wf.CLIENT_IP)
    told = [ether / ip / ICMP(), ether / ip / UDP(dport=20024) / b"ack!"]
    told += [Ether(src=wf.SERVER_MAC) / IP(src=wf.SERVER_IP, dst="255.255.255.255") / UDP()]
    with ExitStack() as closing:
        place = Place(mac, 1500, wf.CLIENT_IP, stack=stack)
        end = open_machine_end(place, clock, closing)
        end.wire.send(Frames.of([bytes(frame) for frame in (asked, *told)]))
        said: list[Any] = []
        for _ in range(50):
            heard = end.wire.receive()
            said += [Ether(heard.bytes_of(row)) for row in range(len(heard))]
            clock.delay_us(10_000)
    assert bool(said) == stack, said
    assert any(ARP in frame and frame[ARP].op == 2 for frame in said) == stack
