"""The real server: a process, sockets on 127.0.0.1, files, signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from netdump.kdh import KernelDumpHeader
from netdump.messages import pack_acks
from server.packets import AckSender
from server.readers import BatchReader, LoopReader, Reader
from tests.patience import HANG_S
from tests.server_rig import finished, frames, herald, image_of, kdh, seqnos, vmcore
from tests.socket_rig import HOST, ROOT, SERVER, Client, Pair, connected, serving

IMAGE = image_of(4 * 65536 + 8192)
HEADER = KernelDumpHeader(dumplength=len(IMAGE))
COMMAND = [*SERVER, "--bind", HOST]


@pytest.mark.parametrize("seqno", [1, 0, 0x5EED])
def test_a_dump_over_real_sockets_is_exact_and_finished_is_acked_again(
    tmp_path: Path, seqno: int
) -> None:
    with serving(tmp_path) as process, Client(process.address) as client:
        client.herald(seqno)
        parts = frames(IMAGE, seqno + 1)
        for first in range(0, len(parts), 46):
            chunk = parts[first : first + 46]
            client.send(*chunk)
            assert sorted(client.acks(len(chunk))) == seqnos(chunk)
        last = seqno + 1 + len(parts)
        client.send(kdh(last, HEADER))
        assert client.acks(1) == [last]
        client.send(finished(last + 1), finished(last + 1))
        assert client.acks(2) == [last + 1] * 2
        assert (tmp_path / f"vmcore.{HOST}.0").read_bytes() == IMAGE
        assert process.stop() == ["begin", "complete", "stopped"]


def test_what_is_too_long_on_the_heralds_port_is_refused_for_what_it_is(tmp_path: Path) -> None:
    """Cut on its way in, a good message looked like one whose length lies. And what the log had
    left out when the server stopped was never told.
    """
    with serving(tmp_path) as server, Client(server.address) as client:
        for _ in range(3):
            client.sock.sendto(vmcore(1, 0, b"x" * 1400), server.address)
        client.herald()  # answered: so the others have been read
        server.popen.send_signal(signal.SIGTERM)
        out, _ = server.popen.communicate(timeout=HANG_S)
    told = [json.loads(line) for line in out.splitlines()]
    refused = [event for event in told if event["event"] == "refused"]
    assert [(event["reason"], event.get("left_out")) for event in refused] == [
        ("not-a-herald", None),
        ("not-a-herald", 2),
    ]


def test_a_storm_of_heralds_opens_one_socket(tmp_path: Path) -> None:
    with serving(tmp_path) as process, Client(process.address) as client:
        before = process.sockets()
        peers = {client.herald(1) for _ in range(50)}
        assert len(peers) == 1
        assert process.sockets() == before + 1


def test_a_herald_in_mid_dump_leaves_the_dump_alone(tmp_path: Path) -> None:
    with serving(tmp_path) as process, Client(process.address) as client:
        client.herald(1)
        first = client.peer
        parts = frames(IMAGE[:65536], 2)
        client.send(*parts)
        assert len(client.acks(46)) == 46
        assert client.herald(1) != first
        client.peer = first
        client.send(kdh(48, KernelDumpHeader(dumplength=65536)), finished(49))
        assert client.acks(2) == [48, 49]
        assert (tmp_path / f"vmcore.{HOST}.0").read_bytes() == IMAGE[:65536]


def test_what_was_acked_survives_the_death_of_the_server(tmp_path: Path) -> None:
    with serving(tmp_path) as process, Client(process.address) as client:
        client.herald()
        parts = frames(IMAGE, 0)
        client.send(*parts[:100])
        acks = client.acks(30)
        process.popen.send_signal(signal.SIGKILL)
        process.popen.wait(HANG_S)
        stored = (tmp_path / f"vmcore.{HOST}.0.partial").read_bytes()
        image = dict(zip(seqnos(parts), parts, strict=True))
        for ack in acks:
            offset = int.from_bytes(image[ack][8:16], "big")
            assert stored[offset:].startswith(image[ack][24:])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_server_in_order(tmp_path: Path, number: int) -> None:
    with serving(tmp_path) as process, Client(process.address) as client:
        client.herald()
        client.send(*frames(IMAGE, 2)[:3])
        assert client.acks(3) == [2, 3, 4]
        assert process.stop(number) == ["begin", "incomplete", "stopped"]
        info = (tmp_path / f"info.{HOST}.0").read_text()
        assert info.splitlines()[-1].startswith("Dump incomplete: server stopped")


def test_others_datagrams_to_a_sessions_port_are_not_heard(tmp_path: Path) -> None:
    with serving(tmp_path) as process, Client(process.address) as client:
        client.herald()
        with Client(process.address) as stranger:
            stranger.peer = client.peer
            stranger.send(*frames(IMAGE, 2)[:3])
            client.send(frames(IMAGE, 7)[0])
            assert client.acks(1) == [7]
            assert stranger.silence()


def test_bound_to_all_addresses_it_answers_from_the_one_that_was_asked(tmp_path: Path) -> None:
    with (
        serving(tmp_path, "--bind", "0.0.0.0") as process,
        Client(("127.0.0.2", process.address[1])) as client,
    ):
        assert process.address[0] == "0.0.0.0"
        host, _port = client.herald()
        assert host == "127.0.0.2"


def test_the_hold_time_ends_and_the_socket_goes(tmp_path: Path) -> None:
    with serving(tmp_path, "--hold", "0.3") as process, Client(process.address) as client:
        before = process.sockets()
        client.herald()
        client.send(vmcore(2, 0, bytes(512)), kdh(3, KernelDumpHeader(dumplength=512)), finished(4))
        assert client.acks(3) == [2, 3, 4]
        assert process.sockets() == before + 1
        events = ["begin", "complete"]
        assert client.silence(1.2)
        assert process.sockets() == before
        assert process.stop() == [*events, "stopped"]


def test_the_ready_fd_gets_the_address(tmp_path: Path) -> None:
    read, write = os.pipe()
    options = ["--port", "0", "--quiet", "--dumpdir", str(tmp_path), "--ready-fd", str(write)]
    with subprocess.Popen(
        [*COMMAND, *options],
        cwd=ROOT,
        pass_fds=[write],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        os.close(write)
        with os.fdopen(read) as stream:
            address, port = stream.read().split()
        process.terminate()
        out, _ = process.communicate(timeout=HANG_S)
    assert out == f"ready {address} {port}\n"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--bind", "::1"], "is no IPv4 address"),
        (["--bind", "198.51.100.7"], "no interface of this machine has that address"),
        (["--port", "65536"], "is no number from 0 to 65535"),
        (["--dumpdir", "/nonexistent/dumps"], "can't open the dump folder '/nonexistent/dumps'"),
        (["--dumpdir", __file__], "Not a directory"),
        (["--max-dump", "many"], "is no size such as"),
        (["--hold", "-1"], "is no number of seconds above 0"),
        (["--ready-fd", "99"], "can't write to --ready-fd"),
    ],
)
def test_bad_arguments_are_told_in_one_line(tmp_path: Path, options: list[str], words: str) -> None:
    command = [*SERVER, "--port", "0", "--dumpdir", str(tmp_path), *options]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=HANG_S, check=False
    )
    assert done.returncode == 2
    assert words in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_taken_port_is_told_in_one_line(tmp_path: Path) -> None:
    with serving(tmp_path) as process:
        done = subprocess.run(
            [
                *SERVER,
                "--bind",
                HOST,
                "--dumpdir",
                str(tmp_path),
                "--port",
                str(process.address[1]),
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=HANG_S,
            check=False,
        )
    assert done.returncode == 2
    assert "another server has it" in done.stderr
    assert len(done.stderr.splitlines()) == 1


# -- packets -----------------------------------------------------------------------------------


@pytest.fixture
def pair() -> Iterator[Pair]:
    with connected() as pair:
        yield pair


@pytest.mark.parametrize("make", [BatchReader, LoopReader])
def test_readers_bring_every_datagram_whole_or_marked_as_cut(
    pair: Pair, make: type[BatchReader] | type[LoopReader]
) -> None:
    one, two = pair
    reader: Reader = make(rows=4, stride=100)
    data, lengths = reader.read(two)
    assert len(data) == len(lengths) == 0
    for size in (0, 1, 100, 101, 50):
        one.send(bytes([size]) * size)
    data, lengths = reader.read(two)
    assert lengths.tolist() == [0, 1, 100, 101]
    assert data[2].tolist() == [100] * 100
    data, lengths = reader.read(two)
    assert lengths.tolist() == [50]
    assert data[0, :50].tolist() == [50] * 50
    # What the kernel says about earlier datagrams is an OSError for the loop to judge.
    one.close()
    two.send(b"into the void")
    with pytest.raises(ConnectionRefusedError):
        reader.read(two)


@pytest.mark.parametrize("segments", [True, False])
@pytest.mark.parametrize("count", [0, 1, 2, 63, 64, 65, 200])
def test_acks_are_a_datagram_each_in_order(pair: Pair, segments: bool, count: int) -> None:
    one, two = pair
    sender = AckSender(segments)
    sender.send(one, pack_acks(np.arange(count)))
    received = []
    while True:
        try:
            received.append(two.recv(100))
        except BlockingIOError:
            break
    assert received == [n.to_bytes(4, "big") for n in range(count)]
    assert sender.lost == 0


def test_a_selective_ack_is_one_datagram_of_its_own(tmp_path: Path) -> None:
    """Cut into words of four octets it would be stock acks of messages that were never sent."""
    with serving(tmp_path) as process, Client(process.address) as client:
        client.sock.sendto(herald(100, offer=0x4E443201), client.server)
        ack, client.peer = client.sock.recvfrom(100)
        assert ack.hex(" ", 4) == "4e443201 00000065"
        parts = frames(IMAGE, 101)
        client.send(*parts[:40])
        while client.sock.recv(100).hex(" ", 4) != "4e443201 0000008d":
            pass
        assert client.silence()


def test_an_ack_of_another_size_is_one_datagram(
    pair: Pair,
) -> None:
    one, two = pair
    sender = AckSender()
    acks = np.arange(40, dtype=np.uint8).reshape(2, 20)
    sender.send(one, acks)
    assert [two.recv(100), two.recv(100)] == [acks[0].tobytes(), acks[1].tobytes()]
    with pytest.raises(BlockingIOError):
        two.recv(100)


def test_acks_to_a_client_that_is_gone_are_counted_and_forgotten(
    pair: Pair,
) -> None:
    one, two = pair
    two.close()
    sender = AckSender(segments=False)
    for _ in range(50):
        sender.send(one, pack_acks([1, 2, 3]))
    assert sender.lost <= 150
