"""What a verdict of a TFTP scenario does not say: counted frame by frame, in its capture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.utils import RawPcapNgReader

from bench.scenario import load_scenario
from bench.servers.tftp.folder import Upload
from bench.verdict import CaseResult
from tests.scenario_rig import made, played

pytestmark = pytest.mark.sim

DATA, ACK = b"\0\3", b"\0\4"


def cases(scenario: str, tmp_path: Path) -> Iterator[tuple[CaseResult, list[IP]]]:
    """Each case of a scenario, and its datagrams, in memory."""
    result = played(load_scenario(scenario), "sim", tmp_path)
    assert result.passed
    for case in result.cases:
        yield case, datagrams(Path(result.run_folder) / "cases" / case.name / "wire.pcapng")


def datagrams(capture: Path) -> list[IP]:
    with RawPcapNgReader(str(capture)) as packets:
        frames = [Ether(octets) for octets, *_ in packets]
    return [frame[IP] for frame in frames if IP in frame]


def blocks(packets: list[IP]) -> Counter[bytes]:
    """How often each block was sent: by the number that it has on the wire."""
    payloads = [bytes(packet[UDP].payload) for packet in packets if UDP in packet]
    return Counter(payload[2:4] for payload in payloads if payload[:2] == DATA)


def test_doubled_acks_and_blocks_send_no_block_twice(tmp_path: Path) -> None:
    played_here = list(cases("tftp-sorcerer", tmp_path))
    assert len(played_here) == 3
    for case, packets in played_here:
        sent = blocks(packets)
        assert len(sent) == 187, "4,096 + 256 KiB + 512 bytes, 1,428 in each"
        assert set(sent.values()) == {1}, case.name
        assert case.wire["duplicate"] > 0, "the wire did double some"


def test_an_mtu_that_is_too_small_makes_smaller_blocks_and_no_fragment(tmp_path: Path) -> None:
    for case, packets in cases("tftp-small-mtu", tmp_path):
        mtu = 576 if case.name.startswith("as-small") else 1000
        assert max(packet.len for packet in packets) == mtu, "as large as it may be"
        assert not any(packet.frag or packet.flags.MF for packet in packets)
        (wrq,) = [bytes(p[UDP].payload) for p in packets if UDP in p and p[UDP].dport == 69]
        assert f"blksize\0{mtu - 32}\0".encode() in wrq


DOUBTFUL = """
[machine]
memory = "64 KiB"
load = "none"
[nic]
rx_ring = 64
[client]
kind = "tftp"
[server]
kind = "tftp"
{server}
[[wire.fault]]
{fault}
[[case]]
name = "x"
expect = {{ outcome = "{outcome}" }}
"""


def test_a_wire_that_loses_blocks_makes_the_witness_count_those_again(tmp_path: Path) -> None:
    text = DOUBTFUL.format(
        server="", fault='does = "drop"\nkind = "data"\nindex = "3..5"', outcome="complete"
    )
    result = played(made(text), "sim", tmp_path)
    (case,) = result.cases
    assert case.met, case.unmet
    assert case.retransmissions == 3
    assert any(", 3 of them again" in note for note in case.notes)
    assert sum(blocks(datagrams(Path(result.run_folder) / "wire.pcapng")).values()) == 53


def test_a_server_that_acknowledges_what_it_does_not_keep_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Upload.write
    monkeypatch.setattr(Upload, "write", lambda self, data: write(self, bytes(len(data))))
    text = DOUBTFUL.format(
        server="", fault='does = "drop"\nkind = "error"\nindex = 0', outcome="silent-hole"
    )
    (case,) = played(made(text), "sim", tmp_path).cases
    assert case.outcome == "silent-hole"
    assert case.oracles["ack-means-kept"] == "broken"
    assert "were not on the disk when they had been" in case.oracle_reasons["ack-means-kept"]
