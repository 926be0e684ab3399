"""A server in a container: started, hurt, questioned, judged; and what it leaves: nothing."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import ICMP
from scapy.layers.l2 import ARP, Ether

from bench.clock import RealClock
from bench.errors import BadInput
from bench.kinds import NamespacePlace
from bench.progress import Silent
from bench.runner import run_scenario
from bench.scenario import parse_scenario
from bench.servers import CannotCount, DumpServer, engine
from bench.servers.contained import CONTAINER, IMAGE, ContainerOptions, ImageOptions
from bench.servers.container import ContainerServer
from bench.servers.engine import EngineError, connect, owner, remove_leftovers
from bench.servers.image import python_plan, server_image
from bench.servers.native import ServerLaunchFailure
from bench.servers.sparse import copy_folder
from bench.verdict import CaseResult
from bench.wire.namespace import open_namespace
from bench.wire.segment import Segment
from bench.wire.tap import TapWire
from nic_models.frames import Frames
from tests import wire_frames as wf
from tests.patience import HANG_S, until

ROOT = Path(__file__).parent.parent
SEGMENT = Segment(mac=wf.SERVER_MAC)
docker = [pytest.mark.docker, pytest.mark.tap]


@pytest.fixture(autouse=True)
def _ours_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests, and other people's runs, may be in the same engine at the same time."""
    monkeypatch.setattr(engine, "LABEL", f"netdump-bench-test-{os.getpid()}")


def in_engine() -> list[str]:
    """What is in the engine of ours: names of containers and volumes."""
    client = connect()
    try:
        wanted = {"label": engine.LABEL}
        found = client.containers.list(all=True, filters=wanted)
        found += client.volumes.list(filters=wanted)
        return [one.name for one in found]
    finally:
        client.close()


class Rig:
    """A run's place, and a client's frames."""

    def __init__(self, folder: Path, closing: ExitStack) -> None:
        self.folder = folder
        namespace = closing.enter_context(open_namespace())
        self.tap = TapWire.open(namespace, SEGMENT, RealClock())
        closing.callback(self.tap.close)
        (folder / "dumps").mkdir()
        self.place = NamespacePlace(
            namespace=namespace,
            tap=self.tap,
            segment=SEGMENT,
            address=SEGMENT.server_ip,
            dumpdir=folder / "dumps",
            folder=folder,
            mtu=1500,
            closing=closing,
        )
        self.port = 20023

    def ours(self, **options: object) -> ContainerServer:
        assert CONTAINER.in_namespace is not None
        server = CONTAINER.in_namespace(self.place, ContainerOptions.model_validate(options))
        assert isinstance(server, ContainerServer)
        return server

    def heard(self, what: Callable[[Any], bool], patience_s: float = HANG_S) -> Any:
        """The first frame that is it; None if there is none in that time."""
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            frames = self.tap.receive()
            for i in range(len(frames)):
                packet = Ether(frames.bytes_of(i))
                if what(packet):
                    return packet
            time.sleep(0.001)
        return None

    def introduce(self) -> None:
        self.tap.send(Frames.of([wf.arp_request()]))
        answer = self.heard(lambda packet: ARP in packet)
        assert answer is not None
        assert answer[ARP].hwsrc == wf.SERVER_MAC

    def say(self, message: bytes, patience_s: float = HANG_S) -> bool:
        """Whether a message of the client is acknowledged."""
        self.tap.send(Frames.of([wf.datagram(message, dport=self.port)]))
        seqno = message[4:8]
        found = self.heard(lambda packet: bytes(packet)[42:46] == seqno, patience_s)
        if found is not None:
            self.port = found.sport
        return found is not None


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """Afterwards nothing of it may be left in the engine."""
    with ExitStack() as closing:
        yield Rig(tmp_path, closing)
    assert in_engine() == []


# --- its life -------------------------------------------------------------------------------------


class TestLife:
    pytestmark = docker

    def test_when_start_returns_it_listens_behind_the_tap(self, rig: Rig) -> None:
        server = rig.ours()
        contract: DumpServer = server
        contract.start()
        assert contract.running
        assert contract.fd_count() > 2
        assert (contract.stored(), contract.trouble()) == ([], [])
        rig.introduce()
        assert rig.say(wf.message(wf.HERALD, 9))
        with rig.place.namespace.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind((SEGMENT.server_ip, 4444))  # the run's host is where the TAP is

    def test_its_dumps_are_in_the_runs_folder_and_are_ours(self, rig: Rig) -> None:
        server = rig.ours()
        server.start()
        rig.introduce()
        assert rig.say(wf.message(wf.HERALD, 9))
        assert rig.say(wf.message(wf.VMCORE, 10, b"kept" * 100))
        (dump,) = server.stored()
        assert not dump.complete
        assert dump.path.parent == rig.folder / "dumps"
        assert dump.path.stat().st_uid == os.getuid()
        assert dump.path.read_bytes() == b"kept" * 100
        server.kill()
        assert dump.path.read_bytes() == b"kept" * 100

    def test_its_death_does_not_take_the_tap_away(self, rig: Rig) -> None:
        server = rig.ours()
        server.start()
        rig.introduce()
        assert rig.say(wf.message(wf.HERALD, 9))
        server.kill()
        assert (server.running, server.fd_count(), server.status) == (False, 0, -signal.SIGKILL)
        assert server.trouble() == [], "we did it"
        rig.port = 20023
        rig.tap.send(Frames.of([wf.datagram(wf.message(wf.HERALD, 10))]))
        refusal = rig.heard(lambda packet: ICMP in packet)
        assert (refusal[ICMP].type, refusal[ICMP].code) == (3, 3), "port unreachable"
        server.restart()
        assert rig.say(wf.message(wf.HERALD, 11))

    def test_paused_it_is_silent_and_what_came_waits_for_it(self, rig: Rig) -> None:
        server = rig.ours()
        server.start()
        rig.introduce()
        server.pause()
        server.pause()
        assert server.running
        assert not rig.say(wf.message(wf.HERALD, 9), 0.5)
        server.resume()
        assert rig.heard(lambda packet: bytes(packet)[42:46] == bytes([0, 0, 0, 9])) is not None

    def test_stopped_it_ends_in_good_order_even_when_it_was_paused(self, rig: Rig) -> None:
        server = rig.ours()
        server.start()
        server.pause()
        server.stop()
        assert (server.status, server.trouble()) == (0, [])
        assert "stopped" in server.output()

    def test_the_runs_addresses_have_names(self, rig: Rig) -> None:
        server = rig.ours()
        server.start()
        asked = "import socket; print(*(socket.gethostbyaddr(f'198.18.0.{i}')[0] for i in (1, 2)))"
        done = server._container.exec_run(["python3", "-c", asked])
        assert done.output.decode().split() == ["server", "client"]

    def test_what_it_printed_is_in_the_runs_folder_at_the_end(self, tmp_path: Path) -> None:
        with ExitStack() as closing:
            rig = Rig(tmp_path, closing)
            server = rig.ours()
            server.start()
        assert (tmp_path / "server.log").read_text() == server.output()
        assert "ready 198.18.0.1 20023" in server.output()


# --- what goes wrong ------------------------------------------------------------------------------


class TestTrouble:
    pytestmark = docker

    def test_an_end_that_we_did_not_ask_for_is_trouble(self, rig: Rig) -> None:
        server = rig.ours()
        server.start()
        os.kill(server._pid, signal.SIGKILL)
        until(lambda: not server.running, "its end")
        (line,) = server.trouble()
        assert line.startswith("the server was killed by SIGKILL: ")

    def test_one_that_takes_more_memory_than_it_may_is_told_so(self, rig: Rig) -> None:
        server = rig.ours(memory="6 MiB")
        with pytest.raises(ServerLaunchFailure, match="killed by the kernel for lack of memory"):
            server.start()

    def test_one_that_ends_before_it_listens_is_known_at_once_with_what_it_said(
        self, rig: Rig
    ) -> None:
        assert IMAGE.in_namespace is not None
        client = connect()
        image = server_image(client).tag
        client.close()
        options = ImageOptions(image=image, argv=("--bind", "{address}", "--no-such-option"))
        server = IMAGE.in_namespace(rig.place, options)
        with pytest.raises(ServerLaunchFailure, match="unrecognized arguments") as failure:
            server.start()
        assert failure.value.status == 2

    def test_a_full_disk_keeps_what_was_acknowledged(self, rig: Rig) -> None:
        server = rig.ours(disk="64 KiB")
        server.start()
        rig.introduce()
        assert rig.say(wf.message(wf.HERALD, 9))
        kept = 0
        while kept < 100 and rig.say(
            wf.message(wf.VMCORE, 10 + kept, b"%04d" % kept * 300, kept * 1200), 2.0
        ):
            kept += 1
        assert 30 < kept < 60
        (dump,) = server.stored()
        assert not dump.path.is_relative_to(rig.folder), "it is on the small disk"
        server.kill()
        whole = b"".join(b"%04d" % number * 300 for number in range(kept))
        assert dump.path.read_bytes()[: len(whole)] == whole
        server.close()
        (copied,) = server.stored()
        assert copied.path.parent == rig.folder / "dumps"
        assert copied.path.read_bytes()[: len(whole)] == whole
        info = next((rig.folder / "dumps").glob("info.*.0")).read_text()
        assert "No space left on device" in info

    def test_descriptors_that_are_not_to_be_seen_are_not_said_to_be_none(
        self, rig: Rig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server = rig.ours()
        server.start()
        listed = os.listdir

        def closed(path: Any = ".") -> list[str]:
            if str(path) == f"/proc/{server._pid}/fd":
                raise PermissionError(13, "Permission denied")
            return listed(path)

        monkeypatch.setattr(os, "listdir", closed)
        with pytest.raises(CannotCount, match="can't be counted: Permission denied"):
            server.fd_count()

    def test_an_image_that_is_not_there_is_one_line(self, rig: Rig) -> None:
        assert IMAGE.in_namespace is not None
        server = IMAGE.in_namespace(rig.place, ImageOptions(image="no-such-image:1"))
        with pytest.raises(EngineError, match="No such image: no-such-image:1") as failure:
            server.start()
        assert "\n" not in str(failure.value)


def test_an_engine_that_is_not_there_is_one_line_with_its_cure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    with pytest.raises(EngineError, match=r"; scripts/docker-engine start, as root") as failure:
        connect()
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ('kind = "container"\nmemory = "1 MiB"', "memory"),
        ('kind = "container"\nimage = "x"', "unknown key"),
        ('kind = "image"', "image: is missing"),
        ('kind = "image"\nimage = "x"\nargv = ["{dir}"]', "no place is named dir"),
    ],
)
def test_what_can_not_be_played_is_told_with_its_place(options: str, says: str) -> None:
    with pytest.raises(BadInput, match=says) as failure:
        parse_scenario(STORY.format(server=options), "made", "/here/made.toml")
    assert re.match(r"/here/made.toml:\d+: server", str(failure.value))


# --- what is left ---------------------------------------------------------------------------------

SERVES = """
import sys, time
from contextlib import ExitStack
from pathlib import Path
from bench.servers import engine
from tests.test_server_container import Rig
engine.LABEL = sys.argv[2]
with ExitStack() as closing:
    rig = Rig(Path(sys.argv[1]), closing)
    rig.ours(disk="1 MiB").start()
    print("serves", flush=True)
    time.sleep(600)
"""


def serving(folder: Path) -> subprocess.Popen[str]:
    bench = subprocess.Popen(
        [sys.executable, "-c", SERVES, str(folder), engine.LABEL],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
    )
    assert bench.stdout is not None
    line = bench.stdout.readline()
    assert line == "serves\n", bench.communicate()
    return bench


class TestLeftovers:
    pytestmark = docker

    def test_a_run_that_is_interrupted_leaves_nothing(self, tmp_path: Path) -> None:
        bench = serving(tmp_path)
        assert len(in_engine()) == 3, "a holder, a server and a small disk"
        os.killpg(bench.pid, signal.SIGINT)
        _, said = bench.communicate(timeout=HANG_S)
        assert said.strip().endswith("KeyboardInterrupt")
        assert in_engine() == []

    def test_what_a_killed_one_left_is_removed_by_the_next_and_said(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "one").mkdir()
        (tmp_path / "two").mkdir()
        bench = serving(tmp_path / "one")
        bench.kill()
        bench.communicate(timeout=HANG_S)
        left = in_engine()
        assert len(left) == 3
        with ExitStack() as closing:
            Rig(tmp_path / "two", closing).ours()
            said = capfd.readouterr().err.splitlines()
            assert not set(left) & set(in_engine())
        assert sorted(line.split()[3] for line in said) == sorted(f"{name}," for name in left)
        assert all(line.endswith("left by a run that was killed") for line in said)
        assert in_engine() == []

    def test_what_has_a_living_owner_or_one_of_elsewhere_is_left_alone(self) -> None:
        client = connect()
        elsewhere = "pid:[1] 5 77"
        made = [
            client.volumes.create(f"{engine.LABEL}-{i}", labels={engine.LABEL: whose})
            for i, whose in enumerate((owner(), elsewhere, f"{owner()}0"))
        ]
        try:
            assert remove_leftovers(client) == [f"volume {engine.LABEL}-2"]
        finally:
            for volume in made[:2]:
                volume.remove()
            client.close()


def test_a_copy_keeps_holes_links_and_times(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "below").mkdir(parents=True)
    with (source / "below" / "vmcore.0").open("wb") as file:
        file.write(b"begin")
        file.seek(1 << 40)
        file.write(b"far")
        file.truncate((1 << 40) + (1 << 20))
    os.utime(source / "below" / "vmcore.0", (5, 7))
    (source / "last").symlink_to("below/vmcore.0")
    target.mkdir()
    (target / "last").write_text("in the way")
    copy_folder(source, target)
    copied = target / "last"
    assert copied.is_symlink()
    status = copied.stat()
    assert (status.st_size, status.st_mtime) == ((1 << 40) + (1 << 20), 7)
    assert status.st_blocks < 100
    with copied.open("rb") as file:
        assert file.read(6) == b"begin\0"
        file.seek((1 << 40) - 1)
        assert file.read(5) == b"\0far\0"


# --- the image ------------------------------------------------------------------------------------


class TestImage:
    pytestmark = docker

    def test_it_is_built_once_and_has_the_very_python_and_numpy_that_run_here(self) -> None:
        import numpy

        script = [ROOT / "scripts" / "server-image"]
        tags = [
            subprocess.run(script, capture_output=True, text=True, timeout=HANG_S, check=True)
            for _ in range(2)
        ]
        assert tags[0].stdout == tags[1].stdout
        assert "was there" in tags[1].stderr
        client = connect()
        try:
            asked = "import sys, numpy, ssl; print(sys.version, numpy.__version__, sep='|')"
            said = client.containers.run(
                tags[0].stdout.strip(),
                ["-c", asked],
                entrypoint="python3",
                network_mode="none",
                read_only=True,
                remove=True,
            )
        finally:
            client.close()
        assert said.decode().strip() == f"{sys.version}|{numpy.__version__}"

    def test_the_other_part_of_the_dockerfile_is_for_who_has_a_registry(self) -> None:
        text = (ROOT / "server" / "Dockerfile").read_text()
        for copied in re.findall(r"^COPY (\S+)", text, re.MULTILINE):
            assert (ROOT / copied).exists()
            assert f"!{copied}" in (ROOT / ".dockerignore").read_text()
        assert re.search(r"^ARG PYTHON=python:3-slim$", text, re.MULTILINE)


def test_a_key_is_of_contents_and_not_of_times_or_caches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.servers import image

    def key() -> str:
        return image._key(list(image._code()), "text")

    monkeypatch.setattr(image, "_ROOT", tmp_path)
    for name in image.CODE:
        (tmp_path / name / "__pycache__").mkdir(parents=True)
        (tmp_path / name / "a.py").write_text("1")
    before = key()
    os.utime(tmp_path / "server" / "a.py", (1, 1))
    (tmp_path / "server" / "__pycache__" / "a.cpython-311.pyc").write_bytes(b"x")
    assert key() == before
    (tmp_path / "server" / "a.py").write_text("2")
    assert key() != before


# --- judged ---------------------------------------------------------------------------------------

STORY = """
title = "a test"
why   = "a test"
tiers = ["tap"]
[machine]
memory = "4 MiB"
[server]
{server}
[[case]]
profile = "netdump2"
expect  = {{ outcome = "complete" }}
"""


def played(server: str, folder: Path) -> CaseResult:
    result = run_scenario(
        parse_scenario(STORY.format(server=server), "made", "made.toml"),
        tier="tap",
        why_this_tier="",
        seed=1,
        run_folder=folder,
        progress=Silent(),
    )
    (case,) = result.cases
    return case


class TestJudged:
    pytestmark = docker

    def test_ours_is_held_to_all_that_it_promises(self, tmp_path: Path) -> None:
        case = played('kind = "container"', tmp_path)
        assert case.met, case.unmet
        assert case.selective_acks > 0
        held = {name for name, state in case.oracles.items() if state == "held"}
        assert {"bytes-equal", "ack-means-kept", "server-safety", "idempotence"} <= held
        assert in_engine() == []

    def test_a_disk_that_is_too_small_is_a_failed_dump_and_no_defect(self, tmp_path: Path) -> None:
        case = played('kind = "container"\ndisk = "2 MiB"', tmp_path)
        assert case.outcome == "failed"
        assert case.oracles["ack-means-kept"] == "held"
        assert case.oracles["server-safety"] == "held"
        assert list((tmp_path / "dumps").glob("vmcore.*.partial")), "what was there was copied"

    def test_somebody_elses_image_is_played_by_its_entry_point(self, tmp_path: Path) -> None:
        client = connect()
        context = io.BytesIO()
        dockerfile = (
            f"FROM {python_plan().tag}\n"
            "COPY write_then_ack.py /\n"
            'ENTRYPOINT ["python3", "/write_then_ack.py"]\n'
        )
        try:
            server_image(client)
            with tarfile.open(fileobj=context, mode="w") as tar:
                member = tarfile.TarInfo("Dockerfile")
                member.size = len(dockerfile)
                tar.addfile(member, io.BytesIO(dockerfile.encode()))
                tar.add(ROOT / "examples/servers/write_then_ack.py", "write_then_ack.py")
            context.seek(0)
            image, _ = client.images.build(fileobj=context, custom_context=True, rm=True)
        finally:
            client.close()
        words = ["{address}", "{port}", "{dumpdir}"]
        case = played(
            f'kind = "image"\nimage = "{image.id}"\nargv = {json.dumps(words)}\n'
            'finished = "dump.*"\nunfinished = "dump.*.part"',
            tmp_path,
        )
        assert case.met, case.unmet
        assert case.oracle_reasons["idempotence"].startswith("a stock server takes")
