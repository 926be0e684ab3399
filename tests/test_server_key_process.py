"""Keys on the command line, and a client with a key on real sockets."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from netdump.messages import MessageType
from netdump.nak import Reason, parse_nak
from netdump.sack import Sack
from server.cli import main
from server.config import ServerConfig
from server.core import ServerCore
from server.folder import DumpFolder
from server.neighbours import pin
from server.shell import MAX_COMPLAINTS, Shell
from tests.fakes import Told
from tests.keyed_rig import KEY, TAKEN, KeyedClient
from tests.patience import HANG_S
from tests.server_rig import IMAGE, herald
from tests.socket_rig import HOST, serving

LINE = f"* {KEY.hex()}\n"


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.touch(mode=0o600)
    path.write_text(LINE)
    return path


@pytest.fixture
def client(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
        own.bind((HOST, 0))
        own.settimeout(HANG_S)
        yield own


def keyed(own: socket.socket) -> KeyedClient:
    """It speaks through its socket, and has no other server."""
    return KeyedClient(None, address=own.getsockname())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--require-key"], "--require-key without --key-file would serve nobody"),
        (["--key-file", "KEYS", "--stock-acks"], "with --stock-acks nobody's offer is read"),
        (["--key-file", "none"], "--key-file none: No such file or directory"),
    ],
)
def test_keys_that_can_not_be(
    keys: Path, words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(keys) if word == "KEYS" else word for word in words]
    assert main(["--dumpdir", str(keys.parent), *words]) == 2
    assert says in capsys.readouterr().err


def test_a_file_of_keys_that_others_may_read_is_refused(
    keys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys.chmod(0o640)
    assert main(["--dumpdir", str(keys.parent), "--key-file", str(keys)]) == 2
    assert f"others may read or write it; chmod 600 {keys}" in capsys.readouterr().err
    keys.chmod(0o600)
    keys.write_text("* 123")
    assert main(["--dumpdir", str(keys.parent), "--key-file", str(keys)]) == 2
    assert f"--key-file {keys}: line 1 of the keys is not ADDRESS" in capsys.readouterr().err


def test_a_client_with_a_key_on_real_sockets(
    tmp_path: Path, keys: Path, client: socket.socket
) -> None:
    """The challenge comes from the port that HERALDs go to, the ack from the session's own; and a
    server that ends says so.
    """
    dumps = tmp_path / "dumps"
    dumps.mkdir()
    with serving(dumps, "--key-file", str(keys), "--require-key") as server:
        before = server.sockets()
        client.sendto(herald(7), server.address)  # without a key: silence
        own = keyed(client)
        for _ in range(20):
            client.sendto(own.herald, server.address)
        for _ in range(20):
            challenge, where = client.recvfrom(2048)
            assert where == server.address
        assert server.sockets() == before, "no HERALD has cost it a socket"
        client.sendto(own.proof(challenge), server.address)
        ack, session = client.recvfrom(2048)
        assert session[1] != server.address[1]
        assert own.heard(ack) == Sack(own.seqno + 1, (), TAKEN)
        client.sendto(own.message(MessageType.VMCORE, 1, 0, IMAGE[:1432]), session)
        assert own.heard(client.recv(2048)) == Sack(own.seqno + 2, (), TAKEN)
        server.end()
        octets = own.prover.unseal(client.recv(2048))
        assert octets is not None
        assert parse_nak(octets, own.seqno) == Reason.SHUTTING_DOWN
    assert (dumps / f"vmcore.{HOST}.0.partial").read_bytes()[:1432] == IMAGE[:1432]
    assert "server stopped" in (dumps / f"info.{HOST}.0").read_text()


@pytest.mark.parametrize(("code", "ends"), [(errno.ECONNREFUSED, False), (errno.ENETDOWN, True)])
def test_errors_that_anybody_can_forge_do_not_end_a_dump_with_a_key(
    tmp_path: Path, code: int, ends: bool
) -> None:
    """Where there is no filter a session's socket is connected, and ICMP makes it fail: nothing in
    that shows who has sent it.
    """
    core = ServerCore(ServerConfig(keys={"*": KEY}), DumpFolder(str(tmp_path), "none"))
    shell = Shell(core, HOST, 0, Failing(code))
    own = KeyedClient(None, address=(HOST, 9))  # type: ignore[arg-type]
    challenge = core.herald(own.address, own.herald, 0.0)
    assert challenge is not None
    proved = core.herald(own.address, own.proof(challenge.ack), 0.0)
    assert proved is not None
    shell._answer(proved, own.address, HOST)
    for _ in range(MAX_COMPLAINTS):
        shell._hear(proved.session_id)
    assert (proved.session_id not in core.sessions) == ends
    shell._close()


class Failing:
    """A ``Reader`` whose socket always has an error."""

    def __init__(self, code: int) -> None:
        self._code = code

    def read(self, _sock: socket.socket) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        raise OSError(self._code, "injected")


def test_a_heralds_socket_that_always_fails_gives_the_loop_back(tmp_path: Path) -> None:
    """The sessions have their turns all the same."""
    core = ServerCore(ServerConfig(keys={"*": KEY}), DumpFolder(str(tmp_path), "none"))
    shell = Shell(core, HOST, 0)
    own, tries = shell._herald, []

    class Broken:
        def recvmsg(self, *_: object) -> None:
            tries.append(1)
            assert len(tries) < 10_000, "it never gives up"
            raise OSError(errno.ENETDOWN, "injected")

    shell._herald = Broken()  # type: ignore[assignment]
    shell._hear_heralds()
    shell._herald = own
    shell._close()
    assert tries


def test_a_mac_is_pinned_on_the_interface_of_each_herald_not_of_the_first_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A forged one may come by another: loose reverse path filters let it in."""
    asked: list[int] = []
    monkeypatch.setattr("server.shell.pin", lambda _ip, _mac, interface: asked.append(interface))
    core = ServerCore(ServerConfig(keys={"*": KEY}), DumpFolder(str(tmp_path), "none"))
    shell = Shell(core, HOST, 0, macs={"198.18.0.2": bytes.fromhex("02005e0000fe")})
    for interface in (7, 2, 2, 7):
        shell._pin("198.18.0.2", interface)
    assert asked == [7, 2]
    shell._close()


def test_nothing_is_pinned_where_there_is_no_arp() -> None:
    """A permanent entry on the loopback would be the end of it."""
    mac = bytes.fromhex("02005e0000fe")
    assert pin(HOST, mac, socket.if_nametoindex("lo")) is None
    for bad in (bytes(6), b"\x01" + bytes(5), b"\x02"):
        assert pin("198.18.0.2", bad, 1) is None


def test_a_mac_that_can_not_be_pinned_is_told_once(tmp_path: Path) -> None:
    told = Told()
    core = ServerCore(ServerConfig(keys={"*": KEY}), DumpFolder(str(tmp_path), "none"))
    mac = bytes.fromhex("02005e0000fe")
    shell = Shell(core, HOST, 0, on_event=told, macs={"198.18.0.2": mac})
    for _ in range(3):
        shell._pin("198.18.0.2", 1 << 20)  # no such interface
        shell._pin("198.18.0.3", 1 << 20)  # nobody whose MAC is known
    ((kind, fields),) = [event for event in told.events if event[0] == "not-pinned"]
    assert (kind, fields["client"], fields["errno"]) == ("not-pinned", "198.18.0.2", "ENXIO")
    shell._close()
