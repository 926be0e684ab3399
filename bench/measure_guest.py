"""How fast a crashed Linux guest's memory leaves through its own NIC, next to what is possible.

One guest, crashed by an NMI; its NIC is on a TAP, with no middleware of ours between. Then, round
by round, with the same driver on the same NIC:

    dump    the client and the server: every frame acknowledged, every stored byte compared
    sink    the same frames, made by the same code in such batches, to a plain UDP socket, whose
            reader counts them: what the NIC, the TAP and the kernel can carry
    QMP     dump-guest-memory of the same machine, to memory: QEMU's own way to get a dump

A rate is of the dump's bytes. That of the dump is told twice: from the first data frame to the last
ack, which is what a sink's can be compared with; and whole, from the takeover on. Most of the
difference is one second in which QEMU's e1000 is deaf: it hears nothing for that long after RCTL
was written.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

import numpy as np

from bench.again import module
from bench.board import Board, BoardNic
from bench.clock import Budget, RealClock
from bench.guests import guest_nics
from bench.judge.compare import Image, Stored, compare
from bench.parts import nic_family
from bench.qemu_nic import QemuNic
from bench.servers.child import start_child
from bench.servers.process import ServerProcess
from bench.story.stage import CLIENT_IP, CLIENT_MAC, HOST_MAC, SERVER_IP
from bench.story.told import Takeover
from bench.wire.namespace import Namespace, open_namespace
from bench.wire.segment import Segment, configure, open_tap
from guest.linux.guest import LinuxConfig, LinuxGuest
from guest.linux.image import guest_image
from guest.qemu.accel import accelerator
from guest.qemu.corpse import GuestCorpse
from netdump.client import DumpRequest, NetdumpClient, Report, Step
from netdump.dumper import DumperInfo, DumpImage
from netdump.kdh import KernelDumpHeader
from netdump.link import DebugnetLink
from netdump.messages import HERALD_PORT, MessageType
from netdump.profiles import PROFILES
from netdump.udplink import LinkConfig
from netdump.window import FRAGMENT, fragment
from nic_models.contracts import Driver
from nic_models.frames import Frames

#: The mark that the project holds itself to: dump over sink.
MARK_SINK_RATIO: Final = 0.6
RING: Final = 2048
RX_RING: Final = 1024
WINDOW: Final = 2048
ARENA: Final = 8 << 20
#: Frames of a doorbell on the way to the sink, at most: as in a dump.
SINK_BATCH: Final = WINDOW
SINK_PORT: Final = 9999
_PROFILE: Final = replace(PROFILES["netdump2"], window_frames=WINDOW)
#: Dump sizes of memory that a round takes: the file, QMP's dump, the sink's queue, whose frames are
#: nearly twice as large in the kernel; and some to spare.
WARM: Final = 6
_SINK_BUFFER: Final = 256 << 20
_SINK_STARTS_S: Final = 20.0
_SINK_IDLE_S: Final = 1.0
_BUDGET_NS: Final = 120 * 10**9
_SO_RCVBUFFORCE: Final = 33


@dataclass(frozen=True, slots=True)
class GuestRates:
    """What one round came to; MB/s."""

    dump: float
    whole: float
    sink: float
    qmp: float
    frames: int
    """Of the dump, in both attempts."""
    sink_frames: int
    """That the sink counted."""
    retransmissions: int


@dataclass(slots=True)
class _Rig:
    """A crashed guest, and the driver that takes it over."""

    namespace: Namespace
    guest: LinuxGuest
    corpse: GuestCorpse
    board: Board
    driver: Driver
    client: NetdumpClient
    clock: RealClock
    reach: list[tuple[int, int]]
    """Memory that the NIC may have written to before it was stopped; empty from then on."""


class _Elsewhere:
    """The NIC's cable leads to a TAP that QEMU serves itself. A ``Wire``."""

    def send(self, frames: Frames) -> None: ...

    def receive(self) -> Frames:
        return Frames.empty()

    def close(self) -> None: ...


class _AnyMbufs:
    """Buffers without end: the sink's frames are nobody's dump."""

    def take(self, count: int) -> bool:
        return True

    def give(self, count: int) -> None: ...


def measure_guest(mib: int, rounds: int, folder: Path) -> list[GuestRates]:
    """So many rounds on one guest. ``SystemExit`` if a dump is not complete and equal."""
    with ExitStack() as stack:
        namespace, guest = _boot(stack, mib, folder)
        guest.crash("nmi", _idle)
        truth = guest.freeze()
        clock = RealClock()
        family = nic_family(guest.config.nic)
        assert family.on_qemu is not None, "it runs on QEMU"
        nic = QemuNic(guest.vm, family.on_qemu, clock)
        board = Board(
            clock,
            nic,
            family.doorbells,
            _Elsewhere(),
            _never,
            Budget(clock, rounds * _BUDGET_NS),
            _tell,
        )
        corpse = GuestCorpse(guest, truth, panic_mbufs=5 * RING, delay_us=board.delay_us)
        driver = family.driver(board, corpse.memory, corpse, tx_ring=RING, rx_ring=RX_RING)
        image = DumpImage(corpse.memory, corpse.dump_segments())
        client = NetdumpClient(_PROFILE, corpse.memory, image)
        nic.power_on()
        nic.machine_died()
        reach = nic.reach()
        guest.park()
        rig = _Rig(namespace, guest, corpse, board, driver, client, clock, reach)
        return [_round(rig, folder / str(number)) for number in range(rounds)]


def _round(rig: _Rig, folder: Path) -> GuestRates:
    folder.mkdir()
    length = rig.client.image.length
    touch_memory(WARM * (length >> 20))
    rig.driver.tx_zone = rig.corpse.panic_pool
    report, data_ns, whole_ns = _dump(rig, folder)
    rig.driver.tx_zone = _AnyMbufs()
    sink_ns, sent, heard = _sink(rig)
    core = os.memfd_create("core")
    try:
        began = rig.clock.now_ns()
        rig.guest.vm.dump_into(core)
        qmp_ns = rig.clock.now_ns() - began
    finally:
        os.close(core)
    shutil.rmtree(folder)
    return GuestRates(
        dump=length / data_ns * 1e3,
        whole=length / whole_ns * 1e3,
        sink=length * min(heard / sent, 1.0) / sink_ns * 1e3,
        qmp=rig.guest.vm.options.memory_size / qmp_ns * 1e3,
        frames=report.stats.frames_sent,
        sink_frames=heard,
        retransmissions=report.stats.retransmissions,
    )


def touch_memory(mib: int) -> None:
    """See to it that so many MiB of free memory are memory that the host has given us already; at
    most half of what there is.
    """
    free_kib = int(re.findall(r"MemAvailable: +([0-9]+)", Path("/proc/meminfo").read_text())[0])
    np.ones(min(mib << 20, free_kib << 9), np.uint8)


def _boot(stack: ExitStack, mib: int, folder: Path) -> tuple[Namespace, LinuxGuest]:
    """A guest that talks to the host of a namespace over a TAP of its own."""
    namespace = stack.enter_context(open_namespace())
    segment = Segment(server_ip=SERVER_IP, gateway_ip=None, mac=HOST_MAC.hex(":"), mtu=1500)
    tap, name = namespace.run(open_tap, segment.name)
    stack.callback(os.close, tap)
    namespace.run(configure, replace(segment, name=name))
    config = LinuxConfig(
        image=guest_image(nics=guest_nics()),
        memory_size=mib << 20,
        arena_size=ARENA,
        mac=CLIENT_MAC,
        address=f"{CLIENT_IP}/24",
        accelerator=accelerator(start_child).name,
        netdev_fd=tap,
    )
    guest = stack.enter_context(LinuxGuest(config, folder, start_child))
    guest.boot(_idle)
    return namespace, guest


def _dump(rig: _Rig, folder: Path) -> tuple[Report, int, int]:
    """The client against the server; (report, ns of the data, ns in all)."""
    corpse, client, clock = rig.corpse, rig.client, rig.clock
    image = client.image
    steps: dict[str, int] = {}

    def tell(kind: str, **fields: object) -> None:
        if kind == "step":
            steps[str(fields["step"])] = clock.now_ns()

    def take_stock(taken_over: bool) -> None:
        """What the NIC still wrote before it was stopped, the first time, is dumped as it is."""
        assert corpse.truth is not None, "there was a panic"
        while taken_over and rig.reach:
            corpse.truth.accept(*rig.reach.pop(), corpse.memory.buffer)

    header = KernelDumpHeader(dumplength=image.length, dumpextent=image.length, hostname="bench")
    request = DumpRequest(link=_link(HERALD_PORT), header=header)
    nic = Takeover(rig.driver, rig.board, take_stock)
    dumps = folder / "dumps"
    options = ("--fsync", "none")
    with ServerProcess(rig.namespace, dumps, folder / "server.log", options=options):
        began = clock.now_ns()
        report = client.dump(request, nic, corpse.panic_pool, corpse.delay_us, tell)
        whole_ns = clock.now_ns() - began
    if not report.claims_success:
        raise SystemExit(f"the guest's dump ended with {report.error}: nothing was measured")
    _verify(dumps, rig)
    return report, steps[Step.HEADER.value] - steps[Step.DATA.value], whole_ns


def _verify(dumps: Path, rig: _Rig) -> None:
    (path,) = (p for p in dumps.glob("vmcore.*") if not p.is_symlink())
    truth = rig.corpse.truth
    assert truth is not None, "there was a panic"
    image = rig.client.image
    parts = [np.frombuffer(image.header, np.uint8)]
    parts += [truth.read(s.physical, s.physical + s.length) for s in image.segments]
    with closing(Stored(path)) as stored:
        equal = compare(Image(parts), stored).equal
    if path.name.endswith(".partial") or not equal:
        raise SystemExit(f"{path.name} is not what memory held: nothing was measured")


def _sink(rig: _Rig) -> tuple[int, int, int]:
    """(ns for all frames of the dump, how many they are, how many the sink heard)."""
    with rig.namespace.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _SINK_BUFFER)
        listener.bind((SERVER_IP, SINK_PORT))
        fd = listener.fileno()
        command = module("bench.measure_guest", str(fd))
        child = subprocess.Popen(command, pass_fds=[fd], stdout=subprocess.PIPE, text=True)
        try:
            took, sent = _swallow(rig)
            heard, _ = child.communicate(timeout=60)
        finally:
            child.kill()
            child.wait(10)
    return took, sent, int(heard)


def _swallow(rig: _Rig) -> tuple[int, int]:
    """Send the dump's frames and wait for nobody; (ns, frames)."""
    nic = BoardNic(rig.driver, rig.board)
    memory, nobody = rig.corpse.memory, _AnyMbufs()
    link = DebugnetLink(_PROFILE, _link(SINK_PORT), nic, memory, nobody, rig.corpse.delay_us, _tell)
    link.open()
    began = rig.clock.now_ns()
    waiting = np.empty(0, FRAGMENT)
    for piece in rig.client.image.pieces(DumperInfo(unlimited=True)):
        cut = fragment(piece.offset, piece.address, piece.length, link.payload_size)
        waiting = np.concatenate([waiting, cut])
        while len(waiting) >= SINK_BATCH:
            waiting = waiting[link.send(MessageType.VMCORE, waiting[:SINK_BATCH]) :]
    while len(waiting):
        waiting = waiting[link.send(MessageType.VMCORE, waiting) :]
    rig.guest.vm.qtest.flush()  # all of them have left
    took = rig.clock.now_ns() - began
    nic.poll(0)  # reclaims: the next dump's buffers are counted
    link.close()
    return took, link.stats.frames_sent


def _link(port: int) -> LinkConfig:
    return LinkConfig(
        client_ip=IPv4Address(CLIENT_IP).packed,
        server_ip=IPv4Address(SERVER_IP).packed,
        server_port=port,
    )


def _idle() -> None:
    """The guest's frames need no turn of ours."""


def _never(_now_ns: int) -> None: ...


def _tell(_kind: str, **_fields: object) -> None: ...


def count_datagrams(fd: int) -> int:
    """Receive until nothing has come for ``_SINK_IDLE_S`` since the last."""
    count = 0
    buffer = bytearray(2048)
    with socket.socket(fileno=fd) as listener:
        listener.settimeout(_SINK_STARTS_S)
        try:
            while listener.recv_into(buffer):
                count += 1
                if count == 1:
                    listener.settimeout(_SINK_IDLE_S)
        except TimeoutError:
            return count
    return count


if __name__ == "__main__":
    print(count_datagrams(int(sys.argv[1])))
