"""The real server as a child in a namespace: started, hurt, questioned."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench.servers import DumpServer
from bench.servers.native import ServerLaunchFailure
from bench.servers.process import ServerProcess
from bench.wire.namespace import NetNamespace
from bench.wire.tap import can_tap
from tests import wire_frames as wf
from tests.patience import HANG_S, until
from tests.qemu_rig import alive

CAPABILITY = can_tap()
pytestmark = [
    pytest.mark.tap,
    pytest.mark.skipif(not CAPABILITY.ok, reason=f"{CAPABILITY.why}; {CAPABILITY.cure}"),
]


@pytest.fixture(scope="module")
def namespace() -> Iterator[NetNamespace]:
    with NetNamespace() as made:
        yield made


@pytest.fixture
def server(namespace: NetNamespace, tmp_path: Path) -> Iterator[ServerProcess]:
    log = tmp_path / "server.log"
    with ServerProcess(namespace, tmp_path / "dumps", log, bind="127.0.0.1") as started:
        yield started


def herald(
    namespace: NetNamespace, seqno: int, patience_s: float = HANG_S
) -> tuple[bytes, int] | None:
    """What the server answers, and from which port; None: nothing in that time."""
    with namespace.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 20024))
        sock.settimeout(patience_s)
        sock.sendto(wf.message(wf.HERALD, seqno), ("127.0.0.1", 20023))
        try:
            ack, (_, port) = sock.recvfrom(100)
        except TimeoutError:
            return None
        return ack, port


def test_when_start_returns_it_listens_in_the_namespace_only(
    namespace: NetNamespace, server: ServerProcess
) -> None:
    contract: DumpServer = server
    assert contract.running
    assert contract.fd_count() > 2
    answer = herald(namespace, 5)
    assert answer is not None
    assert answer[0] == (5).to_bytes(4, "big")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outside:
        outside.bind(("127.0.0.1", 20023))  # free: the server is elsewhere


def test_paused_it_is_silent_and_resumed_it_goes_on(
    namespace: NetNamespace, server: ServerProcess
) -> None:
    server.pause()
    assert herald(namespace, 6, 0.5) is None
    server.resume()
    assert herald(namespace, 7) is not None


def test_killed_it_is_gone_and_restarted_it_is_back(
    namespace: NetNamespace, server: ServerProcess
) -> None:
    before = server.pid
    server.kill()
    assert (server.running, server.status, server.fd_count()) == (False, -signal.SIGKILL, 0)
    server.restart()
    assert server.pid != before
    assert herald(namespace, 8) is not None


def test_stopped_it_ends_in_good_order_even_when_it_was_paused(server: ServerProcess) -> None:
    server.pause()
    server.stop()
    assert server.status == 0


def test_it_starts_beside_more_than_a_thousand_open_files(
    namespace: NetNamespace, tmp_path: Path
) -> None:
    """select(2) knows no descriptor beyond 1023, and a bench may have that many."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], 4096), before[1]))
    with ExitStack() as closing:
        closing.callback(resource.setrlimit, resource.RLIMIT_NOFILE, before)
        for _ in range(1024):
            closing.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        with ServerProcess(
            namespace, tmp_path, tmp_path / "server.log", bind="127.0.0.1"
        ) as server:
            assert server.running


def test_one_that_cannot_start_shows_the_command_and_what_it_printed(
    namespace: NetNamespace, tmp_path: Path
) -> None:
    log = tmp_path / "server.log"
    server = ServerProcess(namespace, tmp_path / "dumps", log, bind="203.0.113.1")
    with pytest.raises(ServerLaunchFailure) as failure:
        server.start()
    assert failure.value.status not in (None, 0)
    assert "203.0.113.1" in " ".join(failure.value.command)
    assert "203.0.113.1" in failure.value.output


def test_it_dies_with_a_bench_that_is_killed(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path;"
        "from bench.servers.process import ServerProcess;"
        "from bench.wire.namespace import NetNamespace;"
        f"d = Path({str(tmp_path)!r});"
        "s = ServerProcess(NetNamespace(), d / 'dumps', d / 'log', bind='127.0.0.1');"
        "s.start(); print(s.pid, flush=True); time.sleep(600)"
    )
    bench = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert bench.stdout is not None
    pid = int(bench.stdout.readline())
    assert Path(f"/proc/{pid}").exists()
    bench.kill()
    bench.wait(HANG_S)
    bench.stdout.close()
    until(lambda: not alive(pid), "the end of a server whose parent was killed")


def test_it_starts_one_thread_of_its_own_and_none_of_openblas(server: ServerProcess) -> None:
    # OpenBLAS's, one a core, cost more time than all the rest of the start.
    assert len(list(Path(f"/proc/{server.pid}/task").iterdir())) == 2


def test_killed_and_started_again_it_says_that_it_is_ready_and_then_what_it_goes_on_with(
    namespace: NetNamespace, server: ServerProcess
) -> None:
    answer = herald(namespace, 1)
    assert answer is not None
    with namespace.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 20024))
        sock.settimeout(HANG_S)

        def said(seqno: int, offset: int, payload: bytes) -> bytes:
            message = wf.message(wf.VMCORE, seqno, payload, offset)
            sock.sendto(message, ("127.0.0.1", answer[1]))
            return sock.recv(100)

        assert said(2, 0, bytes(4096)) == (2).to_bytes(4, "big")
        server.restart()
        assert said(2, 0, bytes(4096)) == (2).to_bytes(4, "big"), "at the same port"
    lines = server.output().splitlines()
    lives = [line.split()[0] for line in lines if line.split()[0] in ("ready", "resumed")]
    assert lives == ["ready", "ready", "resumed"]
