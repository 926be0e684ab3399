"""Attackers: what they forge is as right as can be, and it does nothing to a dump with a key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.clock import VirtualClock
from bench.verdict import CaseResult
from bench.wire.attackers import (
    FIRST_PORT,
    FORGED,
    FORGED_AT,
    GUESSES,
    MAC,
    PORTS,
    ArpRacer,
    Attacker,
    DataForger,
    Forger,
    Replayer,
    to_ports,
)
from bench.wire.bystanders import Bystanders, Trick, are_attackers
from guest.synthetic.load import checksum
from netdump import arp
from netdump.inet import Expect, classify_and_validate
from netdump.messages import MessageType, parse_block
from nic_models.frames import Frames
from server.infofile import render
from tests import wire_frames as wf
from tests.fakes import FakeWire
from tests.scenario_rig import made, played
from tests.test_vectors import reasons

pytestmark = pytest.mark.sim

CLIENT_MAC, SERVER_MAC = (bytes.fromhex(m.replace(":", "")) for m in (wf.CLIENT_MAC, wf.SERVER_MAC))
CLIENT_IP, SERVER_IP = bytes([198, 18, 0, 2]), bytes([198, 18, 0, 1])
TURNS = -(-PORTS // GUESSES)


def introduced(attacker: Attacker) -> Any:
    """It has heard ARP, which everybody hears."""
    attacker.hears("to-server", Frames.of([arp.request(CLIENT_MAC, CLIENT_IP, SERVER_IP)]))
    attacker.hears(
        "to-client", Frames.of([arp.reply(SERVER_MAC, SERVER_IP, CLIENT_MAC, CLIENT_IP)])
    )
    return attacker


def listed(frames: Frames) -> list[bytes]:
    return [frames.bytes_of(row) for row in range(len(frames))]


def sums_are_right(frame: bytes) -> bool:
    """By code that shares nothing with the bench's."""
    length = int.from_bytes(frame[38:40], "big")
    pseudo = frame[26:34] + b"\0\x11" + frame[38:40]
    return not checksum(frame[14:34]) and not checksum(pseudo + frame[34 : 34 + length])


def port_of(frame: bytes) -> int:
    return int.from_bytes(frame[36:38], "big")


@pytest.mark.parametrize("make", [ArpRacer, DataForger, Forger, Replayer])
def test_who_has_heard_nothing_says_nothing(make: type[Attacker]) -> None:
    assert [len(frames) for frames in make().says(3)] == [0, 0]


def test_arp_in_the_server_s_name_is_believed_by_every_test_there_is() -> None:
    heard, said = introduced(ArpRacer()).says(2)
    assert len(heard) == len(said) == 2
    asked = arp.parse(said.bytes_of(0))
    assert (asked.operation, asked.sender_mac) == (arp.REQUEST, MAC)
    assert (asked.sender_ip, asked.target_ip) == (CLIENT_IP, SERVER_IP)
    packet = arp.parse(heard.bytes_of(0))
    assert arp.accepts(packet, CLIENT_MAC, CLIENT_IP, {SERVER_IP}) == ""
    assert (packet.sender_mac, packet.sender_ip) == (MAC, SERVER_IP)


def test_data_are_forged_for_each_port_in_turn() -> None:
    attacker = introduced(DataForger())
    tried: set[int] = set()
    for _ in range(TURNS):
        heard, said = attacker.says(1)
        assert not len(heard)
        assert len(said) == GUESSES
        tried |= {port_of(frame) for frame in listed(said)}
    assert tried == set(range(FIRST_PORT, FIRST_PORT + PORTS))
    frame = said.bytes_of(3)
    assert sums_are_right(frame)
    assert (frame[:6], frame[6:12], frame[26:34]) == (SERVER_MAC, MAC, CLIENT_IP + SERVER_IP)
    assert reasons(frame[42:]) == [], "the CRC, too"
    block = parse_block(np.frombuffer(frame[42:], np.uint8)[None, :], np.array([len(frame) - 42]))
    assert (block.types[0], block.offsets[0]) == (MessageType.VMCORE, FORGED_AT)
    assert frame[66:] == FORGED


def test_everything_is_tried() -> None:
    heard, said = introduced(Forger()).says(60)
    assert all(map(sums_are_right, (*listed(heard), *listed(said))))
    expect = Expect(CLIENT_MAC, CLIENT_IP, SERVER_IP, 20024)
    assert classify_and_validate(heard.data, heard.lengths, expect).refused == {}
    lengths = {int(n) for n in (heard.data[:, 38].astype(int) << 8) + heard.data[:, 39] - 8}
    assert lengths == {4, 8, 24, 32, 40}, (
        "stock and selective acks, without a tag and with one; challenges, NAKs"
    )
    kinds = {frame[45] for frame in listed(said)}
    assert kinds == {MessageType.HERALD, MessageType.VMCORE, MessageType.KDH, MessageType.FINISHED}
    words = {frame[62:66].hex() for frame in listed(said) if frame[45] == MessageType.HERALD}
    assert words == {"00000000", "4e443201", "4e443207", "4e443227", "4e445027"}


def test_what_was_recorded_is_said_again_and_to_the_port_of_today() -> None:
    attacker = Replayer()
    old = [wf.datagram(wf.message(wf.HERALD, 7)), wf.vmcore(8, dport=40001)]
    attacker.remember("to-server", old)
    attacker.remember("to-client", [wf.ack(7, sport=40001), wf.ack(8, sport=40001)])
    assert [listed(frames) for frames in attacker.says(1)] == [
        [wf.ack(7, sport=40001), wf.ack(8, sport=40001)],
        old,
    ]
    fresh = [wf.vmcore(100, dport=50002), wf.vmcore(101, dport=50002)]
    attacker.hears("to-server", Frames.of(fresh))
    heard, said = attacker.says(1)
    assert listed(said) == [*old, *fresh, wf.vmcore(8, dport=50002)]
    assert listed(heard)[2:] == [wf.ack(7, sport=50002), wf.ack(8, sport=50002)]


@given(
    st.lists(st.integers(0, 65535), min_size=1, max_size=8), st.sampled_from([34, 36]), st.data()
)
def test_another_port_and_a_right_checksum(
    ports: list[int], column: int, data: st.DataObject
) -> None:
    frames = Frames.of(
        [wf.vmcore(data.draw(st.integers(0, 99)), data.draw(st.integers(0, 60))) for _ in ports]
    )
    for port, frame in zip(ports, listed(to_ports(frames, column, np.array(ports))), strict=True):
        assert frame[column : column + 2] == port.to_bytes(2, "big")
        assert sums_are_right(frame)


def test_what_attackers_say_passes_the_faults_by_and_is_no_evidence() -> None:
    faults, server = FakeWire(), FakeWire()
    notes: list[dict[int, str]] = []

    def observe(_direction: str, _frames: Frames, said: Any) -> None:
        notes.append(dict(said))

    wire = Bystanders(
        faults,
        [Trick("replayed-dump", every=2), Trick("unicast-to-others", every=2)],
        clock=VirtualClock(),
        observer=observe,
        to_server=server,
    )
    frames = [wf.vmcore(n) for n in range(4)]
    wire.send(Frames.of(frames))
    assert faults.sent == frames
    assert server.sent == frames
    wire.receive()
    assert [are_attackers(said) for said in notes] == [True, False]
    assert wire.added == {"replayed-dump": 4, "unicast-to-others": 2}


# --- stories --------------------------------------------------------------------------------------

KEY = bytes(range(32)).hex()
STORY = f"""
[machine]
memory = "512 KiB"
load = "none"
[nic]
rx_ring = 128
tx_ring = 256
[server]
key = "{KEY}"
require_key = true
pin = true
[[case]]
profile = "netdump2"
client = {{ key = "{KEY}" }}
expect = {{ outcome = "complete" }}
"""
ATTACKS = {
    "forged-dump": ["forged-dump"],
    "arp-race": ["arp-race"],
    "both": ["arp-race", "forged-dump"],
    "replayed-dump": ["replayed-dump"],
}


def play(attack: list[str], runs: Path) -> tuple[CaseResult, Path]:
    hosts = "".join(
        f'[[wire.bystander]]\nsends = "{sends}"\nevery = "2 frames"\n' for sends in attack
    )
    head, case = STORY.split("[[case]]")
    result = played(made(f"{head}{hosts}[[case]]{case}"), "sim", runs)
    (run,) = result.cases
    assert run.met, run.unmet
    return run, Path(result.run_folder)


@pytest.mark.parametrize("name", ATTACKS)
def test_a_dump_with_a_key_is_not_slowed_by_more_than_the_line_takes(
    tmp_path: Path, name: str
) -> None:
    """In virtual time: what they send takes its time on a line of 1 Gbit/s, the server 2 us for a
    frame that is meant for one of its sockets, and that is all.
    """
    clean, _ = play([], tmp_path / "clean")
    attacked, _ = play(ATTACKS[name], tmp_path / "attacked")
    count = sum(attacked.wire.values())
    assert count > 1000 or name == "arp-race"
    assert attacked.seconds <= clean.seconds + count * (2e-6 + 8 * 1538 / 1e9)
    assert attacked.retransmissions == 0


@pytest.mark.parametrize("name", ATTACKS)
def test_a_server_that_demands_keys_stores_nothing_for_attackers(tmp_path: Path, name: str) -> None:
    _, folder = play(ATTACKS[name], tmp_path)
    dumps = 2 if name == "replayed-dump" else 1  # its own earlier one
    names = [
        f"{what}.198.18.0.2.{number}"
        for number in range(dumps)
        for what in ("info", "journal", "manifest", "vmcore")
    ]
    names += ["bounds.198.18.0.2", "info.198.18.0.2.last", "vmcore.198.18.0.2.last"]
    assert sorted(path.name for path in (folder / "dumps").iterdir()) == sorted(names)
    info = (folder / "dumps" / f"info.198.18.0.2.{dumps - 1}").read_text()
    assert info.startswith(render(("198.18.0.2", 0), None).splitlines()[0])
    assert info.splitlines()[-1] == "Dump complete"
