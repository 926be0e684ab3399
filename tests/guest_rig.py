"""Small kernels, modules, packages and sources of them, made here, octet by octet.

For the tests of the guest image (test_guest_cpio, _kernel, _modules, _cache, _sources) and of
kernels from elsewhere (test_guest_kernels). The real ones are in the image in the user's cache,
which is the fixture ``real_image``.
"""

from __future__ import annotations

import hashlib
import io
import lzma
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from bench.guests import guest_nics
from guest.linux import initramfs
from guest.linux.elf import PT_NOTE
from guest.linux.sources import Ingredients, Package, Progress
from tests.packers import sized
from tests.patience import HANG_S

RELEASE: Final = "9.9.0-1-amd64"
ENTRY: Final = 0x1000850


def elf(
    segments: tuple[tuple[int, bytes], ...] = (),
    sections: tuple[tuple[bytes, bytes], ...] = (),
    machine: int = 62,
) -> bytes:
    """An ELF64 file of (type, contents) segments and (name, contents) sections."""
    at = 64
    body = b""
    program = []
    for kind, data in segments:
        program.append(struct.pack("<IIQQQQQQ", kind, 4, at, 0, 0, len(data), len(data), 4))
        at, body = at + len(data), body + data
    headers = []
    names = b"\0.names\0"
    if sections:
        for name, data in sections:
            headers.append(
                struct.pack("<IIQQQQIIQQ", len(names), 1, 0, 0, at, len(data), 0, 0, 1, 0)
            )
            names += name + b"\0"
            at, body = at + len(data), body + data
        headers.append(struct.pack("<IIQQQQIIQQ", 1, 3, 0, 0, at, len(names), 0, 0, 1, 0))
        at, body = at + len(names), body + names
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        *(b"\x7fELF\2\1\1", 2, machine, 1, 0),
        *(at, at + 56 * len(program), 0, 64, 56, len(program)),
        *(64, len(headers), max(len(headers) - 1, 0)),
    )
    return header + body + b"".join(program) + b"".join(headers)


def note(owner: bytes, kind: int, desc: bytes) -> bytes:
    name = owner + b"\0"
    padded = [part + bytes(-len(part) % 4) for part in (name, desc)]
    return struct.pack("<III", len(name), len(desc), kind) + b"".join(padded)


def small_vmlinux(kind: int = 18, machine: int = 62) -> bytes:
    notes = note(b"GNU", 3, b"build") + note(b"Xen", kind, struct.pack("<Q", ENTRY))
    return elf(((1, b"code" * 500), (PT_NOTE, notes)), machine=machine)


def bzimage(payload: bytes, version: int = 0x20F) -> bytes:
    """One sector of boot, one of setup, 16 octets of unpacker, the payload, some more."""
    header = bytearray(1024)
    header[0x1F1] = 1
    header[0x1FE:0x200] = b"\x55\xaa"
    header[0x202:0x206] = b"HdrS"
    text = f"{RELEASE} (someone@somewhere) #1\0".encode()
    header[0x300 : 0x300 + len(text)] = text
    struct.pack_into("<H", header, 0x206, version)
    struct.pack_into("<H", header, 0x20E, 0x100)
    struct.pack_into("<II", header, 0x248, 16, len(payload))
    return bytes(header) + bytes(16) + payload + b"relocations"


def packed_xz(data: bytes) -> bytes:
    return sized(lzma.compress(data, check=lzma.CHECK_CRC32), data)


def module(depends: str = "") -> bytes:
    info = b"license=GPL\0" + f"depends={depends}".encode() + b"\0name=x\0"
    return elf(sections=((b".text", b"code"), (b".modinfo", info)))


def module_tree(folder: Path, builtin: tuple[str, ...] = ()) -> Path:
    """All that an initramfs wants, with the dependencies that matter."""
    depends = {
        "pvpanic-mmio": "pvpanic",
        "pvpanic-pci": "pvpanic",
        "virtio_net": "virtio",
        "virtio_pci": "virtio,virtio_ring",
        "virtio": "virtio_ring",
    }
    names = {*initramfs.BOOT_MODULES, *initramfs.OPTIONAL_MODULES, *guest_nics().modules}
    names |= {"virtio_ring", "pvpanic"}
    names = names - {"pvpanic_mmio", "pvpanic_pci"} | set(depends)
    (folder / "kernel" / "drivers").mkdir(parents=True)
    for name in sorted(names):
        (folder / "kernel" / "drivers" / f"{name}.ko").write_bytes(module(depends.get(name, "")))
    (folder / "modules.builtin").write_text("".join(f"kernel/{name}.ko\n" for name in builtin))
    return folder


def static_busybox(folder: Path) -> None:
    """A new folder with a program in it that passes for a static busybox."""
    folder.mkdir()
    (folder / "busybox").write_bytes(elf(((1, b"code"),)))
    (folder / "busybox").chmod(0o755)


class SmallSource:
    """A source that makes its ingredients, and counts how often it was asked."""

    name = "a small kernel"

    def __init__(self, version: str = "1", trouble: Exception | None = None) -> None:
        self.version = version
        self.asked = 0
        self.trouble = trouble
        self.bzimage = bzimage(packed_xz(small_vmlinux()))

    def fetch(self, folder: Path, tell: Progress) -> Ingredients:
        self.asked += 1
        if self.trouble:
            raise self.trouble
        (folder / "vmlinuz").write_bytes(self.bzimage)
        (folder / "busybox").write_bytes(b"busybox")
        return Ingredients(
            f"small {self.version}",
            (Package("small", self.version, "00"),),
            folder / "vmlinuz",
            module_tree(folder / "modules"),
            folder / "busybox",
        )


def read_newc(data: bytes) -> Iterator[tuple[str, int, bytes, tuple[int, int]]]:
    """Name, mode, contents and device of each entry: a second reading of the format's text."""
    stream = io.BytesIO(data)
    while True:
        head = stream.read(110)
        assert head[:6] == b"070701"
        field = [int(head[at : at + 8], 16) for at in range(6, 110, 8)]
        name = stream.read(field[11])[:-1].decode()
        stream.seek(-stream.tell() % 4, 1)
        contents = stream.read(field[6])
        stream.seek(-stream.tell() % 4, 1)
        if name == "TRAILER!!!":
            return
        yield name, field[1], contents, (field[9], field[10])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


class Repository:
    """A repository of Debian packages in a folder, and an apt that knows no other.

    A test that makes one is skipped where there is no apt.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
            pytest.skip("there is no apt-get or no dpkg-deb; cure: play the tests on Debian")
        self.folder = folder / "repository"
        self.state = folder / "state"
        self._stanzas: dict[str, str] = {}
        for path in (self.folder, self.state / "lists" / "partial", folder / "cache"):
            path.mkdir(parents=True)
        # copy: and not file:, of which apt may keep a link instead of a copy of the index.
        (folder / "sources.list").write_text(f"deb [trusted=yes] copy:{self.folder} ./\n")
        (folder / "apt.conf").write_text(
            f'Dir::Etc::sourcelist "{folder}/sources.list";\nDir::Etc::sourceparts "-";\n'
            f'Dir::State "{self.state}";\nDir::State::status "/dev/null";\n'
            f'Dir::Cache "{folder}/cache";\nAPT::Architecture "amd64";\n'
            'APT::Architectures { "amd64"; };\nAcquire::Languages "none";\n'
        )
        monkeypatch.setenv("APT_CONFIG", str(folder / "apt.conf"))

    def add(self, name: str, version: str, files: dict[str, bytes], depends: str = "") -> Path:
        """Build a package; it replaces an older one of that name."""
        tree = self.folder / "tree"
        (tree / "DEBIAN").mkdir(parents=True)
        control = f"Package: {name}\nVersion: {version}\nArchitecture: amd64\n"
        control += "Maintainer: Test <test@invalid>\nDescription: for a test\n"
        control += f"Depends: {depends}\n" if depends else ""
        (tree / "DEBIAN" / "control").write_text(control)
        for path, data in files.items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_bytes(data)
        for old in self.folder.glob(f"{name}_*.deb"):
            old.unlink()
        deb = self.folder / f"{name}_{version}_amd64.deb"
        self.run("dpkg-deb", "--build", "-Znone", tree, deb)
        shutil.rmtree(tree)
        checksum = hashlib.sha256(deb.read_bytes()).hexdigest()
        self._stanzas[name] = (
            f"{control}Filename: ./{deb.name}\nSize: {deb.stat().st_size}\nSHA256: {checksum}\n"
        )
        (self.folder / "Packages").write_text("\n".join(self._stanzas.values()))
        return deb

    def add_kernel(self, version: str, modules: Path) -> Path:
        """A kernel, and the metapackage that names it."""
        name = f"linux-image-{RELEASE}"
        files = {
            f"lib/modules/{RELEASE}/{path.relative_to(modules)}": path.read_bytes()
            for path in modules.rglob("*")
            if path.is_file()
        }
        files[f"boot/vmlinuz-{RELEASE}"] = bzimage(packed_xz(small_vmlinux()))
        self.add("linux-image-amd64", version, {}, f"{name} (= {version})")
        return self.add(name, version, files, "kmod, initramfs-tools | linux-initramfs-tool")

    def run(self, *command: object) -> None:
        subprocess.run(
            [str(word) for word in command], check=True, capture_output=True, timeout=HANG_S
        )
