"""The server where the kernel refuses the fast calls, ignores them, or changes its mind."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from netdump.kdh import KernelDumpHeader
from netdump.messages import pack_acks
from server.packets import AckSender, probe
from server.readers import BatchReader, Lack, LoopReader, SureReader
from tests import seccomp
from tests.fakes import AckSocket, ErringReader
from tests.patience import HANG_S
from tests.server_rig import finished, frames, image_of, kdh, seqnos
from tests.socket_rig import HOST, ROOT, SERVER, Client, Pair, Process, connected, serving

IMAGE = image_of(5 * 65536)
FILTER = pytest.mark.skipif(bool(seccomp.why_not()), reason=seccomp.why_not() or "-")

#: A kernel that takes UDP_SEGMENT and ignores it, as gVisor's does.
IGNORING = """
import socket
class Ignoring(socket.socket):
    def sendmsg(self, buffers, ancillary=(), *rest):
        return super().sendmsg(buffers)
socket.socket = Ignoring
"""
#: One that refuses the fast calls from a signal on.
CHANGING = f"""
import signal
from tests.seccomp import install
def change(*_):
    install(recvmmsg={errno.EPERM}, sendmsg={errno.EPERM})
    print('{{"event": "changed"}}', flush=True)
signal.signal(signal.SIGUSR1, change)
"""
MAIN = "\nimport sys; from server.cli import main; sys.exit(main(sys.argv[1:]))"


def send(client: Client, parts: list[bytes]) -> None:
    """By chunks, as a stock client does; each ack is a datagram of its own."""
    for first in range(0, len(parts), 46):
        chunk = parts[first : first + 46]
        client.send(*chunk)
        assert sorted(client.acks(len(chunk))) == seqnos(chunk)


def end(client: Client, first: int) -> None:
    client.send(kdh(first, KernelDumpHeader(dumplength=len(IMAGE))))
    assert client.acks(1) == [first]
    client.send(finished(first + 1))
    assert client.acks(1) == [first + 1]


def dump(server: Process) -> None:
    with Client(server.address) as client:
        client.herald(1)
        parts = frames(IMAGE, 2)
        send(client, parts)
        end(client, 2 + len(parts))


def plain_calls(events: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(e["call"], e["errno"]) for e in events if e["event"] == "plain-calls"]


@FILTER
@pytest.mark.parametrize(
    ("calls", "lacking"),
    [
        ({}, []),
        ({"recvmmsg": errno.ENOSYS}, [("recvmmsg", "ENOSYS")]),
        ({"recvmmsg": errno.EPERM}, [("recvmmsg", "EPERM")]),
        ({"recvmmsg": errno.EINVAL}, [("recvmmsg", "EINVAL")]),
        ({"sendmsg": errno.EPERM}, [("UDP_SEGMENT", "EPERM")]),
        ({"sendmsg": errno.ENOPROTOOPT}, [("UDP_SEGMENT", "ENOPROTOOPT")]),
        (
            {"recvmmsg": errno.ENOSYS, "sendmsg": errno.ENOSYS, "sendmmsg": errno.ENOSYS},
            [("recvmmsg", "ENOSYS"), ("UDP_SEGMENT", "ENOSYS")],
        ),
    ],
)
def test_a_server_whose_fast_calls_are_refused_takes_dumps_by_plain_ones_and_says_so_once(
    tmp_path: Path, calls: dict[str, int], lacking: list[tuple[str, str]]
) -> None:
    with serving(tmp_path, command=[*seccomp.refusing(**calls), *SERVER]) as server:
        dump(server)
        dump(server)
        assert plain_calls(server.events()) == lacking
    for number in (0, 1):
        assert (tmp_path / f"vmcore.{HOST}.{number}").read_bytes() == IMAGE


@FILTER
def test_the_default_log_names_the_call_and_the_errno(tmp_path: Path) -> None:
    command = [*seccomp.refusing(recvmmsg=errno.EPERM), *SERVER]
    with serving(tmp_path, command=command, as_json=False) as server:
        assert server.end().startswith(
            "plain-calls    call=recvmmsg errno=EPERM message=Operation not permitted: from now on"
        )


def test_a_kernel_that_takes_segments_and_ignores_them_is_found_out_at_the_start(
    tmp_path: Path,
) -> None:
    with serving(tmp_path, command=[sys.executable, "-c", IGNORING + MAIN]) as server:
        dump(server)
        events = server.events()
        assert plain_calls(events) == [("UDP_SEGMENT", "none")]
        assert "takes it and ignores it" in events[0]["message"]
    assert (tmp_path / f"vmcore.{HOST}.0").read_bytes() == IMAGE


@FILTER
def test_a_refusal_in_mid_dump_costs_nothing(tmp_path: Path) -> None:
    with (
        serving(tmp_path, command=[sys.executable, "-c", CHANGING + MAIN]) as server,
        Client(server.address) as client,
    ):
        client.herald(1)
        parts = frames(IMAGE, 2)
        send(client, parts[:92])
        server.popen.send_signal(signal.SIGUSR1)
        while json.loads(server.line())["event"] != "changed":
            pass
        send(client, parts[92:])
        end(client, 2 + len(parts))
        assert sorted(plain_calls(server.events())) == [
            ("UDP_SEGMENT", "EPERM"),
            ("recvmmsg", "EPERM"),
        ]
    assert (tmp_path / f"vmcore.{HOST}.0").read_bytes() == IMAGE


def test_without_a_loopback_the_server_starts_and_leaves_segments_alone() -> None:
    """A new network namespace has one that is down."""
    code = (
        "import ctypes, sys\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "if libc.unshare(0x10000000 | 0x40000000): sys.exit(77)\n"
        "from server.packets import probe\n"
        "print(*[(lack.call, lack.why) for lack in probe()], sep='\\n')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    if done.returncode == 77:
        pytest.skip("no network namespace to be had: be root, or allow user namespaces")
    lines = done.stdout.splitlines()
    assert [line.partition(" \"can't be tried over the loopback: ")[0] for line in lines] == [
        "('UDP_SEGMENT',",
        "('UDP_GRO',",
    ]


# -- piece by piece ----------------------------------------------------------------------------


class Swallowing(socket.socket):
    """A loopback that loses everything."""

    def sendmsg(self, *args: object) -> int:
        return 8


def test_a_probe_that_hears_nothing_ends_and_believes_the_worst() -> None:
    (lack,) = [lack for lack in probe(Swallowing) if lack.call == "UDP_SEGMENT"]
    assert lack.name == "ETIMEDOUT"


class Old(socket.socket):
    """Of a kernel before 5.0."""

    def setsockopt(self, *args: object) -> None:
        raise OSError(errno.ENOPROTOOPT, os.strerror(errno.ENOPROTOOPT))


def test_a_kernel_that_merges_nothing_is_found_out() -> None:
    (lack,) = probe(Old)
    assert (lack.call, lack.name) == ("UDP_GRO", "ENOPROTOOPT")


def test_a_probe_without_descriptors_is_no_failure() -> None:
    def none_left(family: int, kind: int) -> socket.socket:
        raise OSError(errno.EMFILE, "injected")

    assert Lack(
        "UDP_SEGMENT",
        errno.EMFILE,
        "can't be tried over the loopback: " + os.strerror(errno.EMFILE),
    ) in probe(none_left)


def test_a_probe_leaves_no_descriptor_behind() -> None:
    before = os.listdir("/proc/self/fd")
    probe()
    probe(Swallowing)
    assert os.listdir("/proc/self/fd") == before


@pytest.fixture
def pair() -> Iterator[Pair]:
    with connected() as pair:
        yield pair


def refuse(reader: SureReader, code: int) -> None:
    """From now on its fast call fails."""
    assert isinstance(reader._fast, BatchReader)
    reader._fast = ErringReader(code)  # type: ignore[assignment]


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EPERM, errno.EACCES, errno.EINVAL])
def test_what_waited_while_the_call_was_refused_is_read_by_the_plain_one(
    pair: Pair, code: int
) -> None:
    told: list[Lack] = []
    reader = SureReader(64, on_lack=told.append)
    pair[0].send(b"before")
    assert reader.read(pair[1])[1].tolist() == [6]
    pair[0].send(b"after")
    pair[0].send(b"and after")
    refuse(reader, code)
    data, lengths = reader.read(pair[1])
    assert [row[:n].tobytes() for row, n in zip(data, lengths, strict=True)] == [
        b"after",
        b"and after",
    ]
    assert len(reader.read(pair[1])[1]) == 0
    assert [(lack.call, lack.code) for lack in told] == [("recvmmsg", code)]


@pytest.mark.parametrize("code", [errno.ECONNREFUSED, errno.ENOPROTOOPT, errno.EHOSTUNREACH])
def test_a_complaint_that_anybody_can_forge_does_not_slow_the_server_down(
    pair: Pair, code: int
) -> None:
    told: list[Lack] = []
    reader = SureReader(64, on_lack=told.append)
    refuse(reader, code)
    with pytest.raises(OSError, match="injected"):
        reader.read(pair[1])
    assert not told


def test_an_error_that_the_plain_call_has_too_is_the_sockets(
    monkeypatch: pytest.MonkeyPatch, pair: Pair
) -> None:
    told: list[Lack] = []
    reader = SureReader(64, on_lack=told.append)
    refuse(reader, errno.EINVAL)

    def erring(self: LoopReader, sock: socket.socket) -> tuple[Any, Any]:
        raise OSError(errno.EINVAL, "the socket's")

    monkeypatch.setattr(LoopReader, "read", erring)
    with pytest.raises(OSError, match="the socket's"):
        reader.read(pair[1])
    assert not told


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EPERM, errno.EACCES, errno.EINVAL, errno.EIO])
def test_acks_whose_segmented_send_is_refused_leave_one_by_one(code: int) -> None:
    told: list[Lack] = []
    sender, sock = AckSender(on_lack=told.append), AckSocket(code)
    sender.send(sock, pack_acks(np.arange(100)))  # type: ignore[arg-type]
    sender.send(sock, pack_acks(np.arange(100, 200)))  # type: ignore[arg-type]
    assert sock.sent == [n.to_bytes(4, "big") for n in range(200)]
    assert sender.lost == 0
    assert [(lack.call, lack.code) for lack in told] == [("UDP_SEGMENT", code)]


def test_a_send_that_fails_also_by_itself_is_no_refusal_of_segments() -> None:
    """A firewall that drops what the server sends says EPERM, too."""
    told: list[Lack] = []
    sender, sock = AckSender(on_lack=told.append), AckSocket(errno.EPERM, complaints=1)
    sender.send(sock, pack_acks(np.arange(100)))  # type: ignore[arg-type]
    assert (sender.segments, sender.lost, told) == (True, 100, [])
