"""Somebody's server, by command: started, hurt, and ended; who it is, and whom it knows."""

from __future__ import annotations

import os
import pwd
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.errors import BadInput, MachineLacks
from bench.servers import CannotCount, DumpServer
from bench.servers.command import CommandOptions, CommandServer
from bench.servers.native import ServerLaunchFailure
from bench.servers.ports import is_bound
from bench.wire.namespace import Namespace, NetNamespace
from tests import wire_frames as wf
from tests.foreign import GOOD_SERVER, HASTY_SERVER, HERE, server_command
from tests.patience import HANG_S, until


def python(text: str, **options: object) -> CommandOptions:
    """A server of a few lines, which has the words of ``HERE`` in ``sys.argv``."""
    return server_command(sys.executable, "-c", text, *HERE, **options)


BIND = (
    "import socket, sys, time, os, signal, subprocess\n"
    "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
    "s.bind((sys.argv[1], int(sys.argv[2])))\n"
)
STAY = "print('here', flush=True)\ntime.sleep(600)\n"

Make = Callable[[CommandOptions], CommandServer]


@pytest.fixture(scope="module")
def namespace() -> Iterator[NetNamespace]:
    with NetNamespace() as made:
        yield made


@pytest.fixture
def make(namespace: NetNamespace, tmp_path: Path) -> Iterator[Make]:
    made: list[CommandServer] = []

    def server(wanted: CommandOptions) -> CommandServer:
        one = CommandServer(
            namespace,
            tmp_path / "dumps",
            tmp_path / "server.log",
            wanted,
            bind="127.0.0.1",
            hosts={"127.0.0.9": "client.example"},
        )
        made.append(one)
        return one

    yield server
    for one in made:
        one.kill()


class Client:
    """As little of a client as a dump needs; each message is answered, or not."""

    def __init__(self, namespace: Namespace, address: tuple[str, int]) -> None:
        self._sock = namespace.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.bind(("127.0.0.1", 20024))
        self._to = address

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def say(self, message: bytes, patience_s: float = HANG_S) -> bool:
        self._sock.settimeout(patience_s)
        self._sock.sendto(message, self._to)
        try:
            ack, self._to = self._sock.recvfrom(100)
        except TimeoutError:
            return False
        return ack == message[4:8]


class TestLife:
    pytestmark = pytest.mark.tap

    def test_when_start_returns_its_port_is_bound_in_the_namespace_only(self, make: Make) -> None:
        server = make(GOOD_SERVER)
        contract: DumpServer = server
        contract.start()
        assert contract.running
        assert contract.fd_count() > 2
        assert not is_bound(Path("/proc/self/net"), "127.0.0.1", 20023)
        assert (contract.stored(), contract.trouble()) == ([], [])

    def test_a_dump_is_unfinished_and_then_finished(
        self, make: Make, namespace: NetNamespace
    ) -> None:
        server = make(GOOD_SERVER)
        server.start()
        data = os.urandom(1000)
        header = bytes(40) + struct.pack(">Q", len(data)) + bytes(464)
        with Client(namespace, server.address) as client:
            assert client.say(wf.message(wf.HERALD, 1))
            assert client.say(wf.message(wf.VMCORE, 2, data))
            assert [(d.path.name, d.complete) for d in server.stored()] == [("dump.0.part", False)]
            assert client.say(wf.message(wf.KDH, 3, header))
            assert client.say(wf.message(wf.FINISHED, 4))
        (dump,) = server.stored()
        assert (dump.path.name, dump.complete) == ("dump.0", True)
        assert dump.path.read_bytes() == data

    def test_what_it_acknowledged_and_had_only_in_memory_is_lost_when_it_is_killed(
        self, make: Make, namespace: NetNamespace
    ) -> None:
        for wanted, kept in ((GOOD_SERVER, b"kept" * 100), (HASTY_SERVER, b"")):
            server = make(wanted)
            server.start()
            with Client(namespace, server.address) as client:
                assert client.say(wf.message(wf.HERALD, 1))
                assert client.say(wf.message(wf.VMCORE, 2, b"kept" * 100))
            server.kill()
            (dump,) = server.stored()
            assert dump.path.read_bytes() == kept
            dump.path.unlink()

    def test_paused_it_is_silent_and_resumed_it_goes_on(
        self, make: Make, namespace: NetNamespace
    ) -> None:
        server = make(GOOD_SERVER)
        server.start()
        with Client(namespace, server.address) as client:
            server.pause()
            assert not client.say(wf.message(wf.HERALD, 6), 0.5)
            server.resume()
            assert client.say(wf.message(wf.HERALD, 6))

    def test_our_own_kill_and_stop_are_no_trouble_and_restart_brings_it_back(
        self, make: Make
    ) -> None:
        server = make(GOOD_SERVER)
        server.start()
        first = server.pid
        server.restart()
        assert server.pid != first
        server.kill()
        assert (server.running, server.fd_count(), server.trouble()) == (False, 0, [])
        server.start()
        server.pause()
        server.stop()
        assert (server.status, server.trouble()) == (-signal.SIGTERM, [])

    def test_it_listens_when_it_has_said_so(self, make: Make) -> None:
        said = "print('I am not re', end='', flush=True); time.sleep(0.2); print('ady at port 5')\n"
        server = make(python(BIND + said + "time.sleep(600)", ready=r"ready at port \d$"))
        server.start()
        assert "ready at port 5" in server.output()

    def test_with_no_argument_for_the_folder_it_is_the_current_one(
        self, make: Make, tmp_path: Path
    ) -> None:
        text = BIND + "open('here', 'w').close()\n" + STAY
        server = make(server_command(sys.executable, "-c", text, "{address}", "{port}"))
        server.start()
        until((tmp_path / "dumps" / "here").exists, "the file")

    def test_its_environment_is_ours_and_what_it_is_given(self, make: Make) -> None:
        text = BIND + "print(os.environ['ANSWER'], 'PATH' in os.environ, flush=True)\n" + STAY
        server = make(python(text, environment={"ANSWER": "42"}, ready="here"))
        server.start()
        assert "42 True" in server.output()

    def test_what_it_forked_ends_with_it_and_gives_its_port_back(
        self, make: Make, namespace: NetNamespace
    ) -> None:
        text = BIND + "s.set_inheritable(True)\nif os.fork() == 0: time.sleep(600)\n" + STAY
        server = make(python(text))
        for _ in range(2):
            server.start()
            server.kill()
            until(
                lambda: not namespace.run(is_bound, Path("/proc/thread-self/net"), *server.address),
                "the port to be free",
            )

    def test_one_that_leaves_its_group_is_refused_in_a_line_and_ended(
        self, make: Make, namespace: NetNamespace
    ) -> None:
        text = "import os, time\nif os.fork() == 0:\n    os.setsid()\n"
        away = text + "".join(f"    {line}\n" for line in (BIND + STAY).splitlines()) + STAY
        server = make(python(away))
        for _ in range(2):
            with pytest.raises(BadInput, match="has left its process group") as refused:
                server.start()
            assert "\n" not in str(refused.value)
            assert not namespace.run(is_bound, Path("/proc/thread-self/net"), *server.address)

    @pytest.mark.parametrize("clears", [False, True])
    def test_what_has_left_its_group_ends_with_it(
        self, make: Make, tmp_path: Path, clears: bool
    ) -> None:
        words = ["env", *["-i"] * clears, "setsid", "sh", "-c", 'echo $$ > "$0"; sleep 600']
        starts = f"subprocess.Popen({words} + [sys.argv[3] + '/pid'])\n"
        server = make(python(BIND + starts + STAY))
        server.start()
        pid = tmp_path / "dumps" / "pid"
        until(lambda: pid.exists() and bool(pid.read_text().strip()), "the number")
        assert in_group(int(pid.read_text()))
        server.kill()
        assert not in_group(int(pid.read_text()))

    def test_the_descriptors_of_all_its_processes_are_counted(
        self, make: Make, tmp_path: Path
    ) -> None:
        text = (
            BIND + "if os.fork() == 0:\n"
            "    if os.fork() == 0: os.setsid()\n"
            "    kept = [open('/dev/null') for _ in range(50)]\n"
            "    open(sys.argv[3] + f'/{os.getpid()}', 'w')\n"
            "    time.sleep(600)\n" + STAY
        )
        server = make(python(text))
        server.start()
        until(lambda: len(list((tmp_path / "dumps").iterdir())) == 2, "its children's word")
        assert server.fd_count() > 100

    def test_descriptors_of_one_that_dies_meanwhile_can_not_be_counted(
        self, make: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server = make(GOOD_SERVER)
        server.start()
        monkeypatch.setattr(CommandServer, "running", True)
        assert server.pid is not None
        os.kill(server.pid, 9)
        until(lambda: not in_group(server.pid), "its end")
        assert server.status == -9
        with pytest.raises(CannotCount, match="can't be counted: No such file"):
            server.fd_count()
        monkeypatch.undo()

    def test_it_dies_with_a_bench_that_is_killed(self, tmp_path: Path) -> None:
        script = (
            "import sys, time; from pathlib import Path;"
            "from bench.servers.command import *; from bench.wire.namespace import NetNamespace;"
            f"w = CommandOptions(argv={GOOD_SERVER.argv!r});"
            f"d = Path({str(tmp_path)!r});"
            "s = CommandServer(NetNamespace(), d / 'dumps', d / 'log', w, bind='127.0.0.1');"
            "s.start(); print(s.pid, flush=True); time.sleep(600)"
        )
        bench = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        assert bench.stdout is not None
        pid = int(bench.stdout.readline())
        bench.kill()
        bench.wait(HANG_S)
        bench.stdout.close()
        until(lambda: not Path(f"/proc/{pid}/fd").exists() or _zombie(pid), "the server's end")


def in_group(group: int | None) -> list[str]:
    """Processes of a process group that live."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, leader = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(leader) == group and state != "Z":
            found.append(stat.parent.name)
    return found


def _zombie(pid: int) -> bool:
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return True


# --- what goes wrong ------------------------------------------------------------------------------


class TestTrouble:
    pytestmark = pytest.mark.tap

    @pytest.mark.parametrize(
        ("does", "says"),
        [
            ("print('no disk'); sys.exit(5)", "ended with status 5: no disk"),
            ("os.kill(os.getpid(), signal.SIGSEGV)", "was killed by SIGSEGV"),
            ("raise ValueError('bad frame')", "Traceback"),
        ],
    )
    def test_an_end_that_we_did_not_ask_for_is_trouble(
        self, make: Make, does: str, says: str
    ) -> None:
        server = make(python(BIND + f"s.recv(1)\n{does}\n"))
        server.start()
        with server._namespace.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as poke:
            poke.sendto(b"x", server.address)
        until(lambda: not server.running, "its end")
        assert says in "; ".join(server.trouble())

    def test_a_defect_that_it_survives_is_trouble(self, make: Make) -> None:
        text = "import traceback\ntry: 1 / 0\nexcept ZeroDivisionError: traceback.print_exc()\n"
        server = make(python(BIND + text + STAY, ready="here"))
        server.start()
        (line,) = server.trouble()
        assert "the server raised: Traceback" in line
        assert "ZeroDivisionError" in line

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("print('bad option -x'); raise SystemExit(64)", "ended with status 64"),
            ("import os; os.fork() and os._exit(0); import time; time.sleep(99)", "status 0"),
        ],
    )
    def test_one_that_ends_before_it_listens_is_known_at_once_with_what_it_said(
        self, make: Make, text: str, says: str
    ) -> None:
        server = make(python(text))
        with pytest.raises(ServerLaunchFailure, match=says) as failure:
            server.start()
        assert failure.value.output == ("bad option -x\n" if "64" in says else "")
        until(lambda: not in_group(server.pid), "the end of what it forked")

    def test_one_that_never_listens_is_given_up(
        self, make: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("bench.servers.command.START_TIMEOUT_S", 0.3)
        server = make(python("import time\n" + STAY))
        with pytest.raises(ServerLaunchFailure, match=r"did not listen in time: here$"):
            server.start()
        assert not server.running

    def test_a_port_that_somebody_has_is_told_before_anything_is_started(
        self, make: Make, namespace: NetNamespace
    ) -> None:
        with namespace.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind(("0.0.0.0", 20023))
            with pytest.raises(MachineLacks, match=r"UDP port 20023 of 127\.0\.0\.1 is taken"):
                make(GOOD_SERVER).start()

    def test_a_program_that_can_not_be_run_is_named(self, make: Make, tmp_path: Path) -> None:
        program = tmp_path / "program"
        program.write_text("#!/nowhere/interpreter\n")
        program.chmod(0o755)
        with pytest.raises(BadInput, match=r"the server .*program: No such file"):
            make(server_command(program)).start()


# --- who it is, and whom it knows -----------------------------------------------------------------

LOOKUP = (
    "import time\n"
    "def name(address):\n"
    "    try: return socket.getnameinfo((address, 0), socket.NI_NAMEREQD)[0]\n"
    "    except socket.gaierror as error: return error.args[0] == socket.EAI_NONAME\n"
    "before = time.monotonic()\n"
    "print(name('127.0.0.9'), name('198.18.7.7'), 'in', int(time.monotonic() - before), 's')\n"
)


class TestSurroundings:
    pytestmark = pytest.mark.tap

    def test_a_name_is_looked_up_at_once_and_so_is_one_that_nobody_has(self, make: Make) -> None:
        hosts = Path("/etc/hosts").read_bytes()
        server = make(python(BIND + LOOKUP + STAY, ready="here"))
        server.start()
        assert server.notes == []
        # "No such name", and not "try again".
        assert "client.example True in 0 s" in server.output()
        assert Path("/etc/hosts").read_bytes() == hosts, "only the child sees other files"

    def test_without_the_right_to_mount_it_runs_and_that_is_told(
        self, make: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(_flags: int) -> int:
            import ctypes

            ctypes.set_errno(1)
            return -1

        monkeypatch.setattr("bench.servers.nameservice._libc.unshare", refuse)
        server = make(GOOD_SERVER)
        server.start()
        (note,) = server.notes
        assert "no name service: no mount for it (unshare: Operation not permitted)" in note

    @pytest.mark.skipif(os.geteuid() != 0, reason="who is not root can't be another user; as root")
    def test_as_another_user_its_dumps_are_his_and_are_read_by_us(
        self, make: Make, namespace: NetNamespace, tmp_path: Path
    ) -> None:
        for folder in (tmp_path, *tmp_path.parents):
            if not folder.stat().st_mode & 1:
                folder.chmod(0o711)
            if folder.name.startswith("pytest-of"):
                break
        nobody = pwd.getpwnam("nobody")
        # A shell: the Python that the tests run in may be root's own.
        text = 'id -u; id -g; printf his > "$0/vmcore.0"; echo here; exec sleep 600'
        words = ("/bin/sh", "-c", text, "{dumpdir}")
        server = make(server_command(*words, user="nobody", ready="here"))
        server.start()
        (dump,) = server.stored()
        assert dump.path.read_bytes() == b"his"
        assert dump.path.stat().st_uid == nobody.pw_uid
        assert server.output().split()[:2] == [str(nobody.pw_uid), str(nobody.pw_gid)]
        assert server.fd_count() > 2
        server.pause()
        server.kill()
        assert not server.running

    @pytest.mark.skipif(os.geteuid() != 0, reason="who is not root can't be another user; as root")
    def test_a_user_who_can_not_reach_the_folder_is_told(self, make: Make, tmp_path: Path) -> None:
        tmp_path.chmod(0o700)
        server = make(python(BIND + STAY, user="nobody"))
        with pytest.raises(MachineLacks, match=r"user nobody can't reach .*--runs"):
            server.start()
