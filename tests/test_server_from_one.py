"""A session's socket hears its client, and neither strangers nor ICMP."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import numpy as np
import pytest

from netdump.checksum import ones_sum
from server.from_one import FromOne
from server.merged import keep_merged
from server.packets import AckSender
from server.readers import SureReader

HOST = "127.0.0.1"
Pair = tuple[FromOne, socket.socket]


@pytest.fixture(params=[True, False], ids=["filtered", "connected"])
def pair(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    """A session's socket, with a filter or without, and its client's."""
    if not request.param:
        monkeypatch.setattr(FromOne, "_filter", lambda _self: False)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.bind((HOST, 0))
        client.settimeout(60)
        with FromOne(HOST, client.getsockname()) as own:
            assert own.filters == request.param
            yield own, client


def test_it_hears_its_client_and_answers_it(pair: Pair) -> None:
    own, client = pair
    client.sendto(b"data", own.getsockname())
    assert own.recv(100) == b"data"
    own.send(b"ack1")
    own.sendmsg([b"ack2"])
    assert [client.recvfrom(100) for _ in range(2)] == [
        (b"ack1", own.getsockname()),
        (b"ack2", own.getsockname()),
    ]


def test_it_does_not_hear_anybody_else(pair: Pair) -> None:
    own, client = pair
    for source, port in ((HOST, 0), ("127.0.0.2", client.getsockname()[1])):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.bind((source, port))
            stranger.sendto(b"forged", own.getsockname())
    client.sendto(b"data", own.getsockname())
    assert own.recv(100) == b"data"
    with pytest.raises(BlockingIOError):
        own.recv(100)


def test_acks_leave_in_segments_and_merged_datagrams_come_as_they_were(pair: Pair) -> None:
    own, client = pair
    keep_merged(own)
    sender = AckSender()
    sender.send(own, np.arange(40, dtype=np.uint8).reshape(10, 4))
    assert [client.recv(100) for _ in range(10)] == [
        bytes(range(n, n + 4)) for n in range(0, 40, 4)
    ]
    assert sender.lost == 0
    client.connect(own.getsockname())
    client.sendmsg([bytes(300)], [(17, 103, struct.pack("@H", 100))])  # UDP_SEGMENT
    _, lengths = SureReader(2048).read(own)
    assert lengths.tolist() == [100] * 3


@pytest.mark.tap
@pytest.mark.parametrize(("kind", "code"), [(3, 3), (3, 8), (12, 0)])
def test_no_icmp_keeps_data_from_being_read(kind: int, code: int) -> None:
    """A connected one reports it before the data: "source host isolated" 1000 times is its end."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as forger,
    ):
        client.bind((HOST, 0))
        with FromOne(HOST, client.getsockname()) as own:
            lie = icmp(kind, code, own.getsockname()[1], client.getsockname()[1])
            for number in range(200):
                forger.sendto(lie, (HOST, 0))
                client.sendto(b"%d" % number, own.getsockname())
                forger.sendto(lie, (HOST, 0))
                assert own.recv(100) == b"%d" % number
                own.send(b"ack")


def icmp(kind: int, code: int, from_port: int, to_port: int) -> bytes:
    """Of a datagram from one port to another, both of ``HOST``: why it was not delivered."""
    host = socket.inet_aton(HOST)
    quoted = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 32, 1, 0x4000, 64, 17, 0, host, host)
    quoted += struct.pack(">HHHH", from_port, to_port, 12, 0)
    head = struct.pack(">BBHI", kind, code, 0, 0)
    return head[:2] + struct.pack(">H", 0xFFFF - ones_sum(head + quoted)) + head[4:] + quoted
