"""The image boots in QEMU, talks, and is crashed."""

from __future__ import annotations

import contextlib
import os
import re
import select
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from guest.linux import initramfs
from guest.linux.image import GuestImage
from guest.linux.initramfs import GuestNic
from guest.linux.modules import ModuleTree
from tests.guest_rig import read_newc
from tests.patience import HANG_S

HOST_MAC, HOST_IP = bytes.fromhex("02005e001001"), bytes([198, 18, 0, 1])
GUEST_MAC, GUEST_IP = bytes.fromhex("525400123456"), bytes([198, 18, 0, 2])


class Booted:
    """A guest in QEMU, its console, and a wire of whole frames to its NIC."""

    def __init__(self, made: GuestImage, parameters: str, nic: str = "e1000") -> None:
        self.wire, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.wire.setblocking(False)
        self.heard: set[str] = set()
        self.text = ""
        network = ["-netdev", f"dgram,id=n0,local.type=fd,local.str={theirs.fileno()}"]
        network += ["-device", f"{nic},netdev=n0,mac={GUEST_MAC.hex(':')}"]
        self.qemu = subprocess.Popen(
            [
                # It ends even if this process is killed.
                *("timeout", "--signal=KILL", f"{2 * HANG_S:.0f}"),
                *("qemu-system-x86_64", "-no-user-config", "-nodefaults", "-display", "none"),
                *("-no-reboot", "-accel", "tcg", "-machine", "pc", "-m", "260M"),
                *("-kernel", made.kernel, "-initrd", made.initramfs),
                *("-append", f"console=ttyS0 mem=256M {parameters}"),
                *("-chardev", "stdio,id=ser0,signal=off", "-serial", "chardev:ser0"),
                *("-device", "pvpanic", "-device", "vmcoreinfo", "-action", "panic=none"),
                *(network if nic != "none" else []),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=[theirs.fileno()],
        )
        theirs.close()

    def until(self, pattern: str, timeout: float = HANG_S) -> re.Match[str]:
        """Wait for it on the console, after the last match; answer the wire meanwhile."""
        assert self.qemu.stdout is not None
        output = self.qemu.stdout.fileno()
        deadline = time.monotonic() + timeout
        while not (found := re.search(pattern, self.text)):
            assert time.monotonic() < deadline, f"no {pattern!r} after:\n{self.text[-2000:]}"
            ready, _, _ = select.select([output, self.wire.fileno()], [], [], 0.5)
            if self.wire.fileno() in ready:
                self._answer(self.wire.recv(65536))
            if output in ready:
                data = os.read(output, 65536)
                assert data, f"QEMU ended; it printed:\n{self.text[-2000:]}"
                self.text += data.decode(errors="replace").replace("\r", "")
        self.text = self.text[found.end() :]
        return found

    def type(self, command: str) -> None:
        assert self.qemu.stdin is not None
        self.qemu.stdin.write(f"{command}\n".encode())
        self.qemu.stdin.flush()

    def shell(self, command: str) -> str:
        """What it prints, without what the kernel says meanwhile."""
        self.type(command)
        printed = self.until(rf"(?s)(.*?){re.escape(initramfs.PROMPT)}")[1]
        return re.sub(r"(?m)^\[ *\d+\.\d+\] .*\n", "", printed)

    def _answer(self, frame: bytes) -> None:
        """The host's part: ARP and ping are answered, UDP is noted."""
        kind, body = frame[12:14], frame[14:]
        answer = b""
        if kind == b"\x08\x06" and body[6:8] == b"\0\1" and body[24:28] == HOST_IP:
            self.heard.add("arp")
            answer = body[:6] + b"\0\2" + HOST_MAC + HOST_IP + body[8:18]
        elif kind == b"\x08\0" and body[9] == 1 and body[20] == 8:
            self.heard.add("ping")
            checksum = int.from_bytes(body[22:24], "big") + 0x800  # type 8 becomes 0
            checksum = (checksum & 0xFFFF) + (checksum >> 16)
            answer = body[:12] + body[16:20] + body[12:16] + b"\0\0"
            answer += checksum.to_bytes(2, "big") + body[24:]
        elif kind == b"\x08\0" and body[9] == 17 and body[22:24] == b"\0\x09":
            self.heard.add("udp")
        elif kind == b"\x08\0" and body[9] == 1 and body[20] == 0:
            self.heard.add("ping answered")
        if answer:
            with contextlib.suppress(BlockingIOError):
                self.wire.send(frame[6:12] + HOST_MAC + kind + answer)

    def ping(self) -> None:
        """An echo request from the host, which has the guest's MAC from nowhere."""
        icmp = b"\x08\0\xf7\xfe\0\1\0\0"
        header = bytearray(b"\x45\0\0\x1c\0\0\0\0\x40\1\0\0" + HOST_IP + GUEST_IP)
        total = sum(struct.unpack(">10H", header))
        header[10:12] = (~((total & 0xFFFF) + (total >> 16)) & 0xFFFF).to_bytes(2, "big")
        frame = GUEST_MAC + HOST_MAC + b"\x08\0" + bytes(header) + icmp
        self.wire.send(frame + bytes(60 - len(frame)))

    def answers_ping(self, tries: int = 10) -> bool:
        """QEMU's e1000 is deaf for a second after its receiver was set up."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._answer(self.wire.recv(65536))
        self.heard.discard("ping answered")
        for _ in range(tries):
            self.ping()
            end = time.monotonic() + 0.5
            while time.monotonic() < end:
                if select.select([self.wire], [], [], 0.1)[0]:
                    self._answer(self.wire.recv(65536))
                if "ping answered" in self.heard:
                    return True
        return False

    def close(self) -> None:
        self.qemu.terminate()
        self.qemu.wait(HANG_S)
        for stream in (self.qemu.stdin, self.qemu.stdout, self.wire):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()


@pytest.fixture
def boot(real_image: GuestImage) -> Iterator[Callable[..., Booted]]:
    started: list[Booted] = []

    def start(parameters: str, nic: str = "e1000", made: GuestImage = real_image) -> Booted:
        started.append(Booted(made, parameters, nic))
        return started[-1]

    yield start
    for guest in started:
        guest.close()


@pytest.mark.qemu
def test_a_guest_boots_talks_and_is_crashed(
    real_image: GuestImage, boot: Callable[..., Booted]
) -> None:
    guest = boot("nb.ip=198.18.0.2/24 nb.promisc=1 nb.hostname=victim")
    said = guest.until(r"netdump-bench guest: (ready|FAILED).*\n", HANG_S)
    mac = GUEST_MAC.hex(":")
    assert said[0] == f"{initramfs.READY} release={real_image.release} nic=eth0 mac={mac}\n"
    guest.until(re.escape(initramfs.PROMPT))

    # A command gives what it prints, and nothing but that.
    assert guest.shell("hostname; uname -r") == f"victim\n{real_image.release}\n"
    assert guest.shell("basename $(readlink /sys/class/net/eth0/device/driver)") == "e1000\n"
    loaded = {line.split()[0] for line in guest.shell("lsmod").splitlines()[1:]}
    assert loaded == {*initramfs.BOOT_MODULES, "pvpanic", "e1000"}
    kept = "panic panic_on_oops unknown_nmi_panic panic_on_unrecovered_nmi panic_on_io_nmi sysrq"
    assert guest.shell(f"cd /proc/sys/kernel; cat {kept}").split() == ["0", *["1"] * 5]
    assert guest.shell("cat printk").split()[0] == "8"
    assert guest.shell("cat /proc/net/if_inet6") == ""
    assert int(guest.shell("cat /sys/class/net/eth0/flags"), 16) & 0x100, "promiscuous"

    assert guest.shell("dmesg | grep 'initial console'") == "", "dev/console was there"
    # QEMU put the initramfs above mem=; the kernel moved it, and uses all that it was given.
    assert "-0fffffff : System RAM" in guest.shell("cat /proc/iomem")
    assert guest.answers_ping()

    guest.type("echo c > /proc/sysrq-trigger")
    guest.until("Kernel panic - not syncing: sysrq triggered crash")
    guest.until("end Kernel panic")
    assert not guest.answers_ping(tries=2)


@pytest.mark.qemu
def test_of_the_known_nics_the_one_that_is_there_gets_its_modules(
    real_image: GuestImage, boot: Callable[..., Booted], tmp_path: Path
) -> None:
    files = {name: data for name, _, data, _ in read_newc(real_image.initramfs.read_bytes())}
    for name, data in files.items():
        if name.endswith((".ko", ".builtin")):
            (tmp_path / Path(name).name).write_bytes(data)
    known = (GuestNic(0x1AF4, 0x1000, ("virtio_net",)), GuestNic(0x8086, 0x10D3, ("e1000e",)))
    tree, busybox = ModuleTree(tmp_path), files["bin/busybox"]
    root = initramfs.build(real_image.release, tree, busybox, initramfs.Nics(known))
    (tmp_path / "initramfs.cpio").write_bytes(root.archive)
    made = replace(real_image, initramfs=tmp_path / "initramfs.cpio")
    guest = boot("nb.ip=198.18.0.2/24", "e1000e", made)
    said = guest.until(r"netdump-bench guest: (ready|FAILED).*\n", HANG_S)
    assert said[0].startswith(initramfs.READY)
    guest.until(re.escape(initramfs.PROMPT))
    loaded = {line.split()[0] for line in guest.shell("lsmod").splitlines()[1:]}
    assert {"e1000e", "virtio_net"} & loaded == {"e1000e"}


@pytest.mark.qemu
@pytest.mark.parametrize(
    ("nic", "driver"), [("virtio-net-pci", "virtio_net"), ("e1000e", "e1000e")]
)
def test_other_nics_need_only_be_asked_for(
    boot: Callable[..., Booted], nic: str, driver: str
) -> None:
    guest = boot(
        f"nb.ip=198.18.0.2/24 nb.modules={driver} nb.load=198.18.0.1"
        " nb.netconsole=6665@198.18.0.2/eth0,6666@198.18.0.1/02:00:5e:00:10:01",
        nic,
    )
    said = guest.until(r"netdump-bench guest: (ready|FAILED).*\n", HANG_S)
    assert said[0].startswith(initramfs.READY)
    guest.until(re.escape(initramfs.PROMPT))
    assert "netconsole" in guest.shell("lsmod")
    # Its load asks who we are, pings, and throws datagrams at us; and it goes on.
    guest.heard.clear()
    guest.shell("sleep 1")
    assert guest.heard >= {"ping", "udp"}


@pytest.mark.qemu
def test_what_fails_at_boot_is_said_and_a_shell_is_left(boot: Callable[..., Booted]) -> None:
    guest = boot("nb.ip=198.18.0.2/24 nb.modules=nosuch nb.nonsense=1", nic="none")
    for told in (
        "unknown kernel parameter nb.nonsense=1",
        "module nosuch: modprobe: module nosuch not found in modules.dep",
        "nb.ip=198.18.0.2/24: there is no NIC that a loaded module drives",
    ):
        assert guest.until(rf"{initramfs.FAILED}(.*)\n", HANG_S)[1] == told
    guest.until(re.escape(initramfs.PROMPT))
    assert initramfs.READY not in guest.shell("dmesg")
