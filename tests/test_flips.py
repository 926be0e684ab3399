"""A bit flips on its way from memory to the disk: in a dump of netdump2 each flip is noticed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench import stations
from bench.clock import VirtualClock
from bench.errors import BadInput
from bench.servers.names import OURS
from bench.story.flips import Carriers
from bench.verdict import CaseResult
from bench.wire.actions import mend
from bench.wire.faults import Faults, Rule
from guest.synthetic.load import checksum
from nic_models.frames import Frames
from server.verify import WRONG, verify
from tests import tftp_frames as tf
from tests import wire_frames as wf
from tests.fakes import FakeWire
from tests.scenario_rig import made, played

pytestmark = pytest.mark.sim

PAGE = Path(__file__).parent.parent / "docs" / "who-notices.md"
#: A 64 KiB machine's dump: its bits, and the header before memory.
BITS = 8 * ((64 << 10) + 4096)
SMALL = """
[machine]
memory = "64 KiB"
arena = "512 KiB"
load = "none"
[nic]
rx_ring = 64
tx_ring = 256
[client]
polls = 40
retries = 1
window = 1024
"""


def sum_is_right(frame: bytes) -> bool:
    """The UDP checksum, by code that shares nothing with the bench's."""
    return checksum(frame[26:34] + b"\0\x11" + frame[38:40] + frame[34:]) == 0


@pytest.mark.parametrize("action", ["mended", "swap-words", "ones-for-zeros"])
@pytest.mark.parametrize("size", [64, 65, 1448])
def test_what_the_udp_checksum_can_not_see(action: str, size: int) -> None:
    frame = wf.vmcore(7, size)
    frame = frame[:90] + bytes(2) + frame[92:]
    row = np.frombuffer(frame, np.uint8).copy()
    mend(row, len(frame))
    frame = row.tobytes()
    assert sum_is_right(frame)
    inner = FakeWire()
    wire = Faults(inner, [Rule(action, index=(0,))], seed=3, clock=VirtualClock())
    wire.send(Frames.of([frame]))
    (got,) = inner.sent
    assert got != frame
    assert len(got) == len(frame)
    assert sum_is_right(got)
    assert got[:40] == frame[:40]


def test_a_bit_can_be_chosen() -> None:
    frame = wf.vmcore(7, 64)
    for action, at in (("corrupt", 9), ("mended", 42 + 9)):
        inner = FakeWire()
        rule = Rule(action, index=(0,), bit=8 * 9 + 3)
        Faults(inner, [rule], seed=1, clock=VirtualClock()).send(Frames.of([frame]))
        assert inner.sent[0][at] == frame[at] ^ 0x10


@pytest.mark.parametrize(("after", "number"), [(0xFFFF, 0), (0, 1), (1, 2)])
def test_an_octet_is_found_in_blocks_that_only_have_a_number(after: int, number: int) -> None:
    """Also beyond block 65,535, where the numbers begin anew."""
    blocks = [1, 0x7000, 0xE000, 0xFFFF, *range(after + 1 if after < 0xFFFF else 0)]
    carriers = Carriers()
    for block in blocks:
        assert carriers.find(Frames.of([tf.data(block, bytes(512))]), 1 << 40) is None
    place = (65_536 + number - 1) * 512 + 9
    frames = Frames.of([wf.vmcore(1), tf.data(number, bytes(range(100)))])
    found = carriers.find(frames, place)
    assert found is not None
    row, column = found
    assert (row, frames.data[row, column]) == (1, 9)
    assert carriers.find(frames, place + 100) is None, "the last block is shorter"


def test_the_page_of_who_notices_is_what_the_scenario_shows() -> None:
    assert PAGE.read_text() == stations.document(), (
        "python -m bench.stations --document > docs/who-notices.md"
    )


def sweep(runs: Path, cases: list[str]) -> list[CaseResult]:
    """One run of each case of netdump2."""
    text = SMALL + "".join(
        f'[[case]]\nname = "{i}"\nprofile = "netdump2"\n{case}\n'
        'expect = { outcome = "complete" }\n'
        for i, case in enumerate(cases)
    )
    return played(made(text), "sim", runs).cases


def dumps_of(runs: Path, case: CaseResult) -> Path:
    (folder,) = runs.glob(f"*/cases/{case.name}/dumps")
    return folder


#: Flips a station. Of those on the wire all are in one run, for a message that is refused is sent
#: again; the others decide about a whole dump.
ALONE = 25


def drawn(seed: int, count: int = ALONE, below: int = BITS) -> list[int]:
    return np.random.default_rng(seed).integers(0, below, count).tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize(("action", "count"), [("corrupt", 350), ("mended", 500)])
def test_each_bit_that_flips_on_the_wire_is_noticed(
    tmp_path: Path, action: str, count: int
) -> None:
    text = (
        '[machine]\nmemory = "1 MiB"\nload = "none"\n[nic]\nrx_ring = 256\n[[wire.fault]]\n'
        f'does = "{action}"\nkind = "vmcore"\ndirection = "to-server"\nindex = "0..{count - 1}"\n'
        '[[case]]\nprofile = "netdump2"\nexpect = { outcome = "complete" }\n'
    )
    (case,) = played(made(text), "sim", tmp_path).cases
    assert case.outcome == "complete", "and so equal to memory"
    assert case.wire == {action: count}
    if action == "mended":
        assert case.retransmissions >= count * 0.9, "some copies were damaged, too"


@pytest.mark.parametrize("station", ["nic", "nic-sums"])
def test_each_bit_that_flips_in_the_nic_is_noticed(tmp_path: Path, station: str) -> None:
    flips = [f'machine = {{ flips = "{station}", flip_bit = {bit} }}' for bit in drawn(1)]
    for case in sweep(tmp_path, flips):
        assert case.outcome == "complete"
        assert case.retransmissions + case.probes == 1
        info = next(dumps_of(tmp_path, case).glob("info.*.0")).read_text()
        assert ("CRC32C is wrong" in info) == (station == "nic-sums")


@pytest.mark.parametrize("station", ["buffer", "memory", "cache"])
def test_each_bit_that_flips_behind_the_checksums_is_noticed(tmp_path: Path, station: str) -> None:
    """In the machine's buffer, the server's memory, and its cache or disk."""
    flips = [
        f'machine = {{ flips = "buffer", flip_bit = {bit} }}'
        if station == "buffer"
        else f'server = {{ kind = "flipping", station = "{station}", bit = {bit} }}'
        for bit in drawn(2)
    ]
    for case in sweep(tmp_path, flips):
        assert (case.outcome, case.error) == ("failed", "ETIMEDOUT")
        dumps = dumps_of(tmp_path, case)
        assert "not what the client sent" in next(dumps.glob("info.*.0")).read_text()
        (dump,) = OURS.dumps_in(dumps)
        assert not dump.complete


def test_each_bit_that_flips_on_the_disk_later_is_noticed_by_verify(tmp_path: Path) -> None:
    flips = [f'server = {{ kind = "flipping", station = "disk", bit = {bit} }}' for bit in drawn(3)]
    for case in sweep(tmp_path, flips):
        (dump,) = OURS.dumps_in(dumps_of(tmp_path, case))
        assert dump.complete
        assert verify(str(dump.path))[0] == WRONG


@pytest.mark.parametrize(
    ("client", "server", "flipping"),
    [
        ('profile = "freebsd-14"', "", 'kind = "flipping"'),
        (
            'client = { kind = "tftp" }',
            'server = { kind = "tftp" }',
            'kind = "flipping", protocol = "tftp"',
        ),
    ],
)
def test_neither_a_stock_client_nor_tftp_notices_any_of_these(
    tmp_path: Path, client: str, server: str, flipping: str
) -> None:
    places = drawn(4, 5)
    cases = [
        f'machine = {{ flips = "{s}", flip_bit = {bit} }}\n{server}'
        for s in ("nic-sums", "buffer")
        for bit in places
    ]
    cases += [
        f'server = {{ {flipping}, station = "{s}", bit = {bit} }}'
        for s in ("memory", "cache", "disk")
        for bit in places
    ]
    text = SMALL.replace("retries = 1", "retries = 9") + "".join(
        f'[[case]]\nname = "{i}"\n{client}\n{case}\nexpect = {{ outcome = "silent-hole" }}\n'
        for i, case in enumerate(cases)
    )
    assert {case.outcome for case in played(made(text), "sim", tmp_path).cases} == {"silent-hole"}


def test_a_tftp_server_that_flips_is_told_nothing_that_only_netdumps_knows() -> None:
    with pytest.raises(BadInput, match=r"server\.rescue.*says nothing"):
        made(
            '[[case]]\nclient = { kind = "tftp" }\nexpect = { outcome = "complete" }\nserver = '
            '{ kind = "flipping", protocol = "tftp", station = "disk", rescue = false }\n'
        )
