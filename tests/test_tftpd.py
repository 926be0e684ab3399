"""Debian's TFTP servers, as kinds: started, and played by clients that are not ours.

What is held here of each is what docs/tftp.md says of it. The clients are curl, tftp-hpa's, and a
socket that says what those two never would.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from bench.clock import RealClock
from bench.cures import CURES
from bench.kinds import NamespacePlace, ServerKind
from bench.servers import tftpd
from bench.servers.command import CommandServer
from bench.servers.tftpd import ATFTP_SERVER, ATFTPD, HPA, HPA_SERVER, Daemon, can_play
from bench.wire.namespace import NetNamespace
from bench.wire.segment import Segment
from bench.wire.tap import TapWire, can_tap
from tests.patience import HANG_S
from tests.scenario_rig import made, played

TAP: Final = can_tap()
LACKS: Final = [found.why for found in (TAP, can_play(HPA), can_play(ATFTPD)) if not found.ok]
tap = [
    pytest.mark.tap,
    pytest.mark.skipif(bool(LACKS), reason=f"{'; '.join(LACKS)}; cure: {CURES['tftp']}"),
]
pytestmark = tap
SERVER: Final = "198.18.0.1"
KINDS: Final = {"tftpd-hpa": (HPA_SERVER, HPA), "atftpd": (ATFTP_SERVER, ATFTPD)}
both = pytest.mark.parametrize("kind", KINDS)

Start = Callable[..., CommandServer]


@pytest.fixture(scope="module")
def namespace() -> Iterator[NetNamespace]:
    """One with a TAP on which nobody is: the server's clients are in it, too."""
    with NetNamespace() as made:
        wire = TapWire.open(made, Segment(), RealClock())
        yield made
        wire.close()


@pytest.fixture
def start(namespace: NetNamespace, tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as closing:

        def one(kind: str, **options: object) -> CommandServer:
            part: ServerKind = KINDS[kind][0]
            place = NamespacePlace(
                namespace=namespace,
                tap=None,  # type: ignore[arg-type]  # it is not moved
                segment=Segment(),
                address=SERVER,
                dumpdir=tmp_path / "dumps",
                folder=tmp_path,
                mtu=1500,
                closing=closing,
            )
            assert part.in_namespace is not None
            server = part.in_namespace(place, part.options.model_validate(options))
            assert isinstance(server, CommandServer)
            closing.callback(server.kill)
            server.start()
            return server

        yield one


# --- clients that are not ours --------------------------------------------------------------------


def curl(source: Path, name: str, *words: str) -> list[str]:
    return [
        *("curl", "-sS", "--max-time", "60", *words),
        "-T",
        str(source),
        f"tftp://{SERVER}/{name}",
    ]


def tftp(source: Path, name: str, *_: str) -> list[str]:
    return ["tftp", "-m", "binary", SERVER, "-c", "put", str(source), name]


def put(namespace: NetNamespace, command: list[str]) -> subprocess.CompletedProcess[str]:
    if shutil.which(command[0]) is None:
        pytest.skip(f"no {command[0]}; cure: {CURES['tftp']}")

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, capture_output=True, text=True, timeout=HANG_S, check=False)

    return namespace.run(run)


@both
@pytest.mark.parametrize(
    "client",
    [tftp, curl, lambda *of: curl(*of, "--tftp-blksize", "1428")],
    ids=["tftp", "curl", "curl-1428"],
)
def test_what_a_client_puts_is_on_the_disk(
    kind: str,
    client: Callable[[Path, str], list[str]],
    start: Start,
    namespace: NetNamespace,
    tmp_path: Path,
) -> None:
    server = start(kind)
    source = tmp_path / "memory"
    source.write_bytes(os.urandom(300_000))
    done = put(namespace, client(source, "vmcore"))
    assert done.returncode == 0, done.stderr
    assert until_it_has(server, source.read_bytes())
    (dump,) = server.stored()
    assert (dump.path.name, dump.complete) == ("vmcore", True)
    assert dump.path.stat().st_uid == pwd.getpwnam(KINDS[kind][1].user).pw_uid
    assert server.running
    assert server.trouble() == []


@both
def test_a_file_that_is_there_is_written_anew(
    kind: str, start: Start, namespace: NetNamespace, tmp_path: Path
) -> None:
    server = start(kind)
    source = tmp_path / "memory"
    for size in (50_000, 20_000):
        source.write_bytes(os.urandom(size))
        assert put(namespace, curl(source, "vmcore")).returncode == 0
        assert until_it_has(server, source.read_bytes())


@both
def test_a_server_that_was_killed_comes_up_again_over_the_same_folder(
    kind: str, start: Start, namespace: NetNamespace, tmp_path: Path
) -> None:
    server = start(kind)
    source = tmp_path / "memory"
    source.write_bytes(b"before")
    assert put(namespace, curl(source, "one")).returncode == 0
    assert until_it_has(server, b"before", "one")
    server.restart()
    assert put(namespace, curl(source, "two")).returncode == 0
    assert until_it_has(server, b"before", "two")
    assert (server.dumpdir / "one").read_bytes() == b"before"
    server.stop()
    assert (server.running, server.trouble()) == (False, [])


# --- what each does, packet by packet -------------------------------------------------------------


class Talk:
    """One client port: says a packet, and hears the answer."""

    def __init__(self, namespace: NetNamespace, **options: int) -> None:
        self.sock = namespace.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind((SERVER, 0))
        words = b"".join(f"{name}\0{value}\0".encode() for name, value in options.items())
        self.wrq = b"\0\2vmcore\0octet\0" + words
        self.peer = (SERVER, 69)

    def __enter__(self) -> Talk:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def hear(self, patience_s: float = HANG_S) -> bytes:
        """The next answer; b"" where there is none so soon."""
        self.sock.settimeout(patience_s)
        try:
            packet, self.peer = self.sock.recvfrom(2048)
        except TimeoutError:
            return b""
        return packet

    def begin(self) -> bytes:
        self.sock.sendto(self.wrq, (SERVER, 69))
        return self.hear()

    def data(self, number: int, payload: bytes) -> None:
        self.sock.sendto(struct.pack(">HH", 3, number) + payload, self.peer)

    def block(self, number: int, payload: bytes) -> bytes:
        self.data(number, payload)
        return self.hear()


def ack(number: int) -> bytes:
    return struct.pack(">HH", 4, number)


#: How long who should be silent is listened to, seconds.
QUIET_S: Final = 0.3


def test_tftpd_hpa_leaves_a_window_out_of_its_oack(start: Start, namespace: NetNamespace) -> None:
    start("tftpd-hpa")
    with Talk(namespace, blksize=1428, windowsize=16) as talk:
        assert talk.begin() == b"\0\6blksize\x001428\0"
        assert talk.block(1, bytes(1428)) == ack(1)


def test_atftpd_keeps_to_the_window_that_it_agrees_to(
    start: Start, namespace: NetNamespace
) -> None:
    server = start("atftpd")
    with Talk(namespace, blksize=1000, windowsize=4) as talk:
        assert talk.begin() == b"\0\6blksize\x001000\0windowsize\x004\0"
        for number in (1, 2, 3):
            talk.data(number, bytes([number]) * 1000)
        assert talk.hear(QUIET_S) == b"", "a window is acknowledged when it is whole"
        assert talk.block(4, bytes([4]) * 1000) == ack(4)
        for number in (5, 7):
            talk.data(number, bytes([number]) * 1000)
        assert talk.hear() == ack(5), "and at once where a block is missing (RFC 7440, 4)"
        talk.data(6, bytes([6]) * 1000)
        assert talk.block(7, b"end") == ack(7)
    whole = b"".join(bytes([number]) * 1000 for number in range(1, 7)) + b"end"
    assert until_it_has(server, whole)


def until_it_has(server: CommandServer, whole: bytes, name: str = "vmcore") -> bool:
    """Its last bytes may come when its thread ends, which is after the last ACK."""
    clock = RealClock()
    for _ in range(int(HANG_S * 100)):
        if (server.dumpdir / name).read_bytes() == whole:
            return True
        clock.delay_us(10_000)
    return False


def roll(talk: Talk, blocks: int, numbers: Callable[[int], int]) -> int:
    """Blocks of 32 bytes, one at a time; how many were acknowledged."""
    for index in range(blocks):
        number = numbers(index)
        talk.data(number, b"" if index == blocks - 1 else bytes(32))
        if talk.hear(2.0) != ack(number):
            return index
    return blocks


def at_0(index: int) -> int:
    return (index + 1) & 0xFFFF


def at_1(index: int) -> int:
    return index % 65_535 + 1


@pytest.mark.parametrize(
    ("kind", "numbers", "options", "taken"),
    [
        ("tftpd-hpa", at_0, {}, 65_540),
        ("tftpd-hpa", at_1, {}, 65_535),
        ("tftpd-hpa", at_1, {"rollover": 1}, 65_540),
        ("atftpd", at_0, {}, 65_540),
        ("atftpd", at_1, {}, 65_535),
    ],
)
def test_block_numbers_go_on_at_0_and_at_1_only_where_that_was_agreed_on(
    kind: str,
    numbers: Callable[[int], int],
    options: dict[str, int],
    taken: int,
    start: Start,
    namespace: NetNamespace,
) -> None:
    start(kind)
    with Talk(namespace, blksize=32, **options) as talk:
        talk.begin()
        assert roll(talk, 65_540, numbers) == taken


def test_on_a_full_disk_tftpd_hpa_loses_the_rest_and_says_nothing(
    start: Start, namespace: NetNamespace, tmp_path: Path
) -> None:
    server = start("tftpd-hpa", max_file="64 KiB")
    source = tmp_path / "memory"
    source.write_bytes(os.urandom(200_000))
    assert put(namespace, curl(source, "vmcore")).returncode == 0, "it was all acknowledged"
    assert (server.dumpdir / "vmcore").read_bytes() == source.read_bytes()[:65_536]


def test_on_a_full_disk_atftpd_says_error_3(start: Start, namespace: NetNamespace) -> None:
    server = start("atftpd", max_file=8192)
    with Talk(namespace, blksize=1024) as talk:
        talk.begin()
        answers = (talk.block(number, bytes(1024)) for number in range(1, 33))
        refused = next(packet for packet in answers if packet[:2] != b"\0\4")
    assert refused[:4] == b"\0\5\0\3"
    assert (server.dumpdir / "vmcore").stat().st_size == 8192, "and what it has stays, as it is"


def test_what_tftpd_hpa_has_acknowledged_is_in_the_file(
    start: Start, namespace: NetNamespace
) -> None:
    server = start("tftpd-hpa")
    with Talk(namespace) as talk:
        talk.begin()
        for number in (1, 2, 3):
            assert talk.block(number, bytes(512)) == ack(number)
        server.kill()
    assert (server.dumpdir / "vmcore").stat().st_size >= 2 * 512


def test_what_atftpd_has_acknowledged_may_be_in_no_file(
    start: Start, namespace: NetNamespace
) -> None:
    server = start("atftpd")
    with Talk(namespace) as talk:
        talk.begin()
        for number in (1, 2, 3):
            assert talk.block(number, bytes(512)) == ack(number)
        server.kill()
    assert (server.dumpdir / "vmcore").stat().st_size == 0


def test_who_missed_the_last_ack_hears_it_again_from_tftpd_hpa(
    start: Start, namespace: NetNamespace
) -> None:
    """It stays for as long as it waits for a block, which its client may ask for (RFC 2349)."""
    start("tftpd-hpa")
    with Talk(namespace, timeout=60) as talk:
        assert talk.begin() == b"\0\6timeout\x0060\0"
        assert talk.block(1, b"end") == ack(1)
        time.sleep(1.5)  # by itself it would have gone after a second
        assert talk.block(1, b"end") == ack(1)


def test_who_missed_the_last_ack_does_not_hear_it_again_from_atftpd(
    start: Start, namespace: NetNamespace
) -> None:
    server = start("atftpd")
    with Talk(namespace) as talk:
        talk.begin()
        assert talk.block(1, b"end") == ack(1)
        assert until_it_has(server, b"end"), "its thread has ended"
        talk.data(1, b"end")
        assert talk.hear(QUIET_S) == b""


@both
def test_the_latest_block_is_acknowledged_again_and_an_older_one_is_not(
    kind: str, start: Start, namespace: NetNamespace
) -> None:
    start(kind)
    with Talk(namespace) as talk:
        talk.begin()
        for number in (1, 2, 2):
            assert talk.block(number, bytes(512)) == ack(number)
        talk.data(1, bytes(512))
        assert talk.hear(QUIET_S) == b""


@pytest.mark.parametrize(("kind", "transfers"), [("tftpd-hpa", 1), ("atftpd", 4)])
def test_each_copy_of_a_wrq_is_a_transfer_of_its_own_to_atftpd_alone(
    kind: str, transfers: int, start: Start, namespace: NetNamespace
) -> None:
    """Each opens the file. tftpd-hpa's one says its OACK again after a second."""
    start(kind)
    with Talk(namespace, blksize=1000) as talk:
        ports = set()
        for _ in range(4):
            assert talk.begin() == b"\0\6blksize\x001000\0"
            ports.add(talk.peer[1])
    assert len(ports) == transfers


@pytest.mark.parametrize(("kind", "answer"), [("tftpd-hpa", ack(0)), ("atftpd", b"\0\6")])
def test_without_options_one_acks_block_0_and_the_other_sends_an_empty_oack(
    kind: str, answer: bytes, start: Start, namespace: NetNamespace
) -> None:
    start(kind, oack=False)
    with Talk(namespace, blksize=1428, windowsize=8) as talk:
        assert talk.begin() == answer
        assert talk.block(1, bytes(512)) == ack(1)


def test_tftpd_hpa_lowers_a_block_to_what_it_may(start: Start, namespace: NetNamespace) -> None:
    start("tftpd-hpa", blksize=1024)
    with Talk(namespace, blksize=1428) as talk:
        assert talk.begin() == b"\0\6blksize\x001024\0"


@both
def test_what_the_udp_checksum_does_not_see_no_stock_server_notices(
    kind: str, tmp_path: Path
) -> None:
    """As docs/who-notices.md says of a server of ours."""
    wire = 'wire = {{ fault = [{{ does = "{}", kind = "data", index = {} }}] }}'
    stations = {
        "the NIC": ('machine = { flips = "nic" }', "complete"),
        "the wire": (wire.format("corrupt", "20, bit = 5_000"), "complete"),
        "the buffer": ('machine = { flips = "buffer" }', "silent-hole"),
        "sums": ('machine = { flips = "nic-sums" }', "silent-hole"),
        "mended": (wire.format("mended", "20, bit = 5_000"), "silent-hole"),
        "swapped": (wire.format("swap-words", "'20..40'"), "silent-hole"),
    }
    text = (
        '[machine]\nmemory = "256 KiB"\nload = "none"\nflip_bit = 800_003\n[nic]\nrx_ring = 64\n'
        f'[client]\nkind = "tftp"\n[server]\nkind = "{kind}"\n'
    ) + "".join(
        f'[[case]]\nname = "{name}"\n{how}\nexpect = {{ outcome = "{outcome}" }}\n'
        for name, (how, outcome) in stations.items()
    )
    cases = played(made(text, "tap"), "tap", tmp_path).cases
    assert {case.group: case.outcome for case in cases} == {
        name: outcome for name, (_, outcome) in stations.items()
    }


# --- what a machine lacks -------------------------------------------------------------------------


@pytest.mark.parametrize("daemon", [HPA, ATFTPD], ids=lambda daemon: daemon.package)
def test_a_server_that_is_not_here_says_where_it_is_had(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tftpd, "find", lambda _daemon: None)
    found = can_play(daemon)
    assert (found.ok, found.cure) == (False, CURES["tftp"])


def test_atftpd_by_the_name_of_the_other_is_not_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "in.tftpd"
    program.write_text("#!/bin/sh\necho 'atftp-0.8.0 (server)'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    found = can_play(HPA)
    assert not found.ok
    assert "is not tftpd-hpa: atftp-0.8.0" in found.why
