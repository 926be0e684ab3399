"""The guest image: a kernel unpacked, an initramfs packed, a cache that survives, and it boots.

The small kernels, modules and packages below are made here, octet by octet; the real ones are those
of the image in the user's cache, which is built if need be (from Debian's packages, in seconds).
"""

from __future__ import annotations

import bz2
import contextlib
import fcntl
import gzip
import hashlib
import io
import json
import lzma
import os
import re
import select
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Final

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import given, settings
from hypothesis import strategies as st

from guest.linux import cpio, image, initramfs, kernel, packages
from guest.linux.elf import PT_INTERP, PT_NOTE, BadElf, Elf
from guest.linux.hostkernel import HostKernel
from guest.linux.image import GuestImage, GuestImageUnavailable, guest_image
from guest.linux.kernel import BadKernel
from guest.linux.modules import BadModules, ModuleTree, load_order
from guest.linux.packages import DebianPackages
from guest.linux.sources import Ingredients, Package, Progress, Source, SourceUnavailable
from tests.packers import (
    packed_lz4,
    packed_lzo,
    packed_zstd,
    packed_zstd_in_frames,
    sized,
    zstd_frame,
)
from tests.patience import HANG_S

ROOT: Final = Path(__file__).parent.parent
RELEASE: Final = "9.9.0-1-amd64"
ENTRY: Final = 0x1000850
CHILD_TIMEOUT_S: Final = HANG_S


@pytest.fixture(scope="session")
def real() -> GuestImage:
    """The image that the bench itself would use."""
    try:
        return guest_image(progress=print)
    except GuestImageUnavailable as error:
        pytest.skip(f"no guest image: {error.why}; cure: {error.cure}")


# --- made by hand ---------------------------------------------------------------------------------


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
    names = {*initramfs.BOOT_MODULES, *initramfs.OPTIONAL_MODULES} | {"virtio_ring", "pvpanic"}
    names = names - {"pvpanic_mmio", "pvpanic_pci"} | set(depends)
    (folder / "kernel" / "drivers").mkdir(parents=True)
    for name in sorted(names):
        (folder / "kernel" / "drivers" / f"{name}.ko").write_bytes(module(depends.get(name, "")))
    (folder / "modules.builtin").write_text("".join(f"kernel/{name}.ko\n" for name in builtin))
    return folder


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


# --- cpio -----------------------------------------------------------------------------------------


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


@pytest.fixture(scope="session")
def busybox(real: GuestImage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image's own busybox: its cpio was written by others."""
    contents = {name: data for name, _, data, _ in read_newc(real.initramfs.read_bytes())}
    program = tmp_path_factory.mktemp("busybox") / "busybox"
    program.write_bytes(contents["bin/busybox"])
    program.chmod(0o755)
    return program


def test_busybox_unpacks_what_was_packed(busybox: Path, tmp_path: Path) -> None:
    contents = {"etc/empty": b"", "etc/odd": b"x" * 4097, "init": b"#!/bin/sh\n"}
    archive = tmp_path / "archive"
    archive.write_bytes(
        cpio.archive(
            [
                *(cpio.file(name, data, 0o640) for name, data in contents.items()),
                cpio.symlink("sbin", "usr/bin"),
                cpio.directory("a/b", 0o700),
            ]
        )
    )
    command: list[str | Path] = [busybox, "cpio", "-i", "-d", "-F", archive]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=CHILD_TIMEOUT_S)
    for name, data in contents.items():
        assert (tmp_path / name).read_bytes() == data
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o640
    assert os.readlink(tmp_path / "sbin") == "usr/bin"
    assert stat.S_IMODE((tmp_path / "a/b").stat().st_mode) == 0o700


def test_busybox_lists_all_of_the_real_initramfs(busybox: Path, real: GuestImage) -> None:
    listed = subprocess.run(
        [busybox, "cpio", "-i", "-t", "-v", "-F", real.initramfs],
        check=True,
        capture_output=True,
        text=True,
        timeout=CHILD_TIMEOUT_S,
    ).stdout
    names = {line.split(" -> ")[0].split()[-1] for line in listed.splitlines()}
    assert names == {name for name, *_ in read_newc(real.initramfs.read_bytes())}
    assert re.search(r"^crw------- .* dev/console$", listed, re.MULTILINE)
    assert {f"lib/modules/{real.release}/{name}.ko" for name in real.modules} <= names


NAMES = st.lists(st.sampled_from(["a", "b", "c.d", "-", "z"]), min_size=1, max_size=3).map("/".join)


@given(st.dictionaries(NAMES, st.binary(max_size=9), max_size=6), st.randoms())
def test_the_order_of_entries_does_not_matter(files: dict[str, bytes], random: Random) -> None:
    entries = [cpio.file(name, data) for name, data in files.items()]
    below_a_file = any(a != b and b.startswith(f"{a}/") for a in files for b in files)
    if below_a_file:
        with pytest.raises(ValueError, match="no directory"):
            cpio.archive(entries)
        return
    archive = cpio.archive(entries)
    random.shuffle(entries)
    assert cpio.archive(entries) == archive
    read = list(read_newc(archive))
    assert {name: data for name, mode, data, _ in read if stat.S_ISREG(mode)} == files
    # A directory comes before what lies in it: the kernel makes none by itself.
    seen = {""}
    for name, *_ in read:
        assert name.rpartition("/")[0] in seen
        seen.add(name)


def test_a_device_has_its_two_numbers_where_the_kernel_looks() -> None:
    assert list(read_newc(cpio.archive([cpio.character_device("console", 5, 1)]))) == [
        ("console", stat.S_IFCHR | 0o600, b"", (5, 1))
    ]


@pytest.mark.parametrize("name", ["/init", "a//b", "../a", "a/", "", ".", "TRAILER!!!", "a\0b"])
def test_a_name_that_leads_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="can't be a name"):
        cpio.archive([cpio.file(name, b"")])


def test_a_name_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="init is in the archive twice"):
        cpio.archive([cpio.file("init", b"1"), cpio.file("init", b"2")])


# --- the kernel -----------------------------------------------------------------------------------

PACKERS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "xz": packed_xz,
    "xz-bcj": lambda data: sized(
        lzma.compress(
            data,
            check=lzma.CHECK_CRC32,
            filters=[{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2}],
        ),
        data,
    ),
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "bzip2": lambda data: sized(bz2.compress(data), data),
    "lzma": lambda data: sized(lzma.compress(data, lzma.FORMAT_ALONE), data),
    "zstd": packed_zstd,
    "zstd-in-frames": packed_zstd_in_frames,
    "lz4": packed_lz4,
    "lzo": packed_lzo,
}


@pytest.mark.parametrize("packer", PACKERS)
def test_a_kernel_comes_out_as_it_went_in(packer: str) -> None:
    vmlinux = small_vmlinux()
    made = bzimage(PACKERS[packer](vmlinux))
    assert kernel.vmlinux(made) == vmlinux
    assert kernel.release(made) == RELEASE


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (b"", "no bzImage: there is no boot sector"),
        (bytes(4096), "no bzImage: there is no boot sector"),
        (bzimage(b"")[:0x1FE] + b"\x55\xaa" + bytes(999), "no bzImage: there is no setup header"),
        (bzimage(b"x", version=0x207), r"boot protocol 2\.07"),
        (bzimage(b"\x28\xb5\x2f\xfd rest"), "damaged: "),
        (
            bzimage(b"\x02\x21\x4c\x18 rest"),
            "damaged: lz4: a block of 1936028192 octets, 1 are left",
        ),
        (bzimage(packed_zstd(small_vmlinux())[:-9] + bytes(9)), "damaged: "),
        (bzimage(packed_zstd(small_vmlinux())[:-4] + b"\1\0\0\0"), "damaged: .* 1 went in"),
        (bzimage(packed_lz4(small_vmlinux())[:-4] + b"\1\0\0\0"), "damaged: .* 1 went in"),
        (bzimage(packed_lzo(small_vmlinux())[:-4] + b"\1\0\0\0"), "damaged: .* 1 went in"),
        (bzimage(packed_lzo(small_vmlinux())[:60] + bytes(99)), "damaged: lzo: a block"),
        (bzimage(b"plain text"), "unknown way: it begins 70 6c 61 69 6e 20"),
        (bzimage(packed_xz(small_vmlinux()))[:-200], "cut short: its payload is octets 1040 to"),
        (bzimage(packed_xz(small_vmlinux())[:-4] + b"\1\0\0\0"), "damaged: .* 1 went in"),
        (bzimage(packed_xz(small_vmlinux())[:-4] + b"\xff" * 4), "has 4294967295 octets"),
        (bzimage(packed_xz(b"no ELF file")), "no kernel: this is no ELF file"),
        (bzimage(packed_xz(small_vmlinux(kind=17))), "no PVH entry"),
        (bzimage(packed_xz(small_vmlinux(machine=183))), "machine 183, not for x86-64"),
    ],
)
def test_what_is_no_such_kernel_is_told_in_a_line(made: bytes, told: str) -> None:
    with pytest.raises(BadKernel, match=told) as caught:
        kernel.vmlinux(made)
    assert "\n" not in str(caught.value)


@given(st.sampled_from(sorted(PACKERS)), st.integers(0), st.binary(min_size=1, max_size=8))
@settings(max_examples=300)
def test_a_damaged_bzimage_gives_its_kernel_or_a_typed_error(
    packer: str, where: int, damage: bytes
) -> None:
    vmlinux = small_vmlinux()
    whole = bzimage(PACKERS[packer](vmlinux))
    at = where % len(whole)
    damaged = whole[:at] + damage + whole[at + len(damage) :]
    with contextlib.suppress(BadKernel):  # anything else fails here
        found = kernel.vmlinux(damaged)
        # All carry a checksum but plain lzma and lz4.
        assert packer in ("lzma", "lz4") or found == vmlinux


@given(st.binary(max_size=200), st.integers(0), st.booleans())
@settings(max_examples=300)
def test_a_damaged_elf_file_is_read_or_refused(damage: bytes, where: int, cut: bool) -> None:
    whole = elf(((PT_NOTE, note(b"Xen", 18, b"12345678")),), ((b".modinfo", b"depends=a\0"),))
    at = where % len(whole)
    damaged = whole[:at] + damage + (b"" if cut else whole[at + len(damage) :])
    with contextlib.suppress(BadElf):
        file = Elf(damaged)
        file.section(b".modinfo")
        list(file.notes())


def test_the_real_kernel_is_the_one_in_the_real_bzimage(real: GuestImage) -> None:
    packed = real.kernel.with_name("vmlinuz").read_bytes()
    vmlinux = real.kernel.read_bytes()
    assert kernel.vmlinux(packed) == vmlinux
    assert kernel.release(packed) == real.release
    # Another reader of ELF files finds the entry where QEMU will look for it.
    found = ELFFile(io.BytesIO(vmlinux))
    notes = next(s for s in found.iter_segments() if s["p_type"] == "PT_NOTE").data()
    at = notes.index(struct.pack("<III", 4, 8, 18) + b"Xen\0")
    assert kernel.pvh_entry(vmlinux) == int.from_bytes(notes[at + 16 : at + 24], "little")
    loaded = [s for s in found.iter_segments() if s["p_type"] == "PT_LOAD"]
    entry = kernel.pvh_entry(vmlinux)
    assert any(s["p_paddr"] <= entry < s["p_paddr"] + s["p_filesz"] for s in loaded)


@pytest.mark.parametrize("part", [0.2, 0.999])
def test_one_bit_in_the_real_bzimage_is_noticed(real: GuestImage, part: float) -> None:
    packed = bytearray(real.kernel.with_name("vmlinuz").read_bytes())
    offset, length = struct.unpack_from("<II", packed, 0x248)
    packed[(packed[0x1F1] + 1) * 512 + offset + int(length * part)] ^= 0x10
    with pytest.raises(BadKernel, match="damaged: xz"):
        kernel.vmlinux(bytes(packed))


# --- modules --------------------------------------------------------------------------------------


@given(st.data())
def test_a_module_is_loaded_once_and_after_all_that_it_needs(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 12))
    needs = {
        str(n): data.draw(st.lists(st.sampled_from([str(m) for m in range(n)]), max_size=4))
        if n
        else []
        for n in range(count)
    }
    wanted = data.draw(st.lists(st.sampled_from(sorted(needs)), max_size=6))
    order = load_order(wanted, needs.__getitem__)
    assert len(set(order)) == len(order)
    assert set(wanted) <= set(order)
    for place, name in enumerate(order):
        assert set(needs[name]) <= set(order[:place])
        assert name in wanted or any(name in needs[other] for other in order[place:])


def test_modules_that_need_each_other_are_told_of() -> None:
    needs = {"a": ["b"], "b": ["c"], "c": ["b"]}
    with pytest.raises(BadModules, match="in a circle: b needs c needs b"):
        load_order(["a"], needs.__getitem__)


def test_modules_are_read_however_they_are_packed(tmp_path: Path) -> None:
    files = {
        "top.ko.xz": lzma.compress(module("middle,built-in")),
        "middle.ko.gz": gzip.compress(module("low-level")),
        "low_level.ko": module(),
        "newest.ko.zst": zstd_frame(module("top")),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "modules.builtin").write_text("kernel/lib/built-in.ko\n")
    loaded = ModuleTree(tmp_path).closure(["newest", "built-in"])
    assert [module.name for module in loaded] == ["low_level", "middle", "top", "newest"]
    assert all(module.data.startswith(b"\x7fELF") for module in loaded)


@pytest.mark.parametrize(
    ("file", "data", "told"),
    [
        ("other.ko", module(), "there is no module wanted, and it is not built in"),
        ("wanted.ko.br", b"", r"named \*\.ko\.br can't be read"),
        ("wanted.ko.zst", zstd_frame(module())[:-9], r"wanted\.ko\.zst: "),
        ("wanted.ko.zst", zstd_frame(module()) + b"more", "does not end where the file ends"),
        ("wanted.ko.xz", lzma.compress(module())[:-20], r"wanted\.ko\.xz: "),
        ("wanted.ko.gz", gzip.compress(module())[:-9], r"wanted\.ko\.gz: "),
        ("wanted.ko", module()[:100], r"wanted\.ko: the section table is said to be"),
        ("wanted.ko", elf(), "this is no module"),
        ("wanted.ko", module("missing"), "there is no module missing"),
    ],
)
def test_a_module_that_is_no_use_is_told_of(
    tmp_path: Path, file: str, data: bytes, told: str
) -> None:
    (tmp_path / file).write_bytes(data)
    with pytest.raises(BadModules, match=told):
        ModuleTree(tmp_path).closure(["wanted"])


def test_what_is_built_in_is_not_packed(tmp_path: Path) -> None:
    tree = ModuleTree(module_tree(tmp_path, builtin=("virtio_pci", "virtio", "virtio_ring")))
    made = initramfs.build(RELEASE, tree, b"busybox")
    files = {name: data for name, _, data, _ in read_newc(made.archive)}
    assert "virtio_net" in made.modules
    assert "virtio_pci" not in made.modules
    # modprobe succeeds with what it finds here.
    builtin = files[f"lib/modules/{RELEASE}/modules.builtin"].decode().split()
    assert "kernel/virtio_pci.ko" in builtin
    assert "virtio_net.ko:\n" in files[f"lib/modules/{RELEASE}/modules.dep"].decode()


def test_modprobe_finds_all_that_a_module_needs_and_a_bus_for_it(tmp_path: Path) -> None:
    made = initramfs.build(RELEASE, ModuleTree(module_tree(tmp_path)), b"busybox")
    files = {name: data for name, _, data, _ in read_newc(made.archive)}
    lines = files[f"lib/modules/{RELEASE}/modules.dep"].decode().splitlines()
    # modules.dep(5): what has to be loaded first stands last.
    assert "virtio_net.ko: virtio_pci.ko virtio.ko virtio_ring.ko" in lines
    assert "pvpanic_mmio.ko: pvpanic.ko" in lines
    assert "e1000.ko:" in lines


def test_the_real_modules_are_in_the_order_that_virtio_wants(real: GuestImage) -> None:
    place = {name: number for number, name in enumerate(real.modules)}
    chain = ("virtio_ring", "virtio", "virtio_pci", "virtio_net")
    there = [place[name] for name in chain if name in place]
    assert there == sorted(there)
    assert {*initramfs.BOOT_MODULES, *initramfs.OPTIONAL_MODULES} <= set(real.modules)
    files = {name: data for name, _, data, _ in read_newc(real.initramfs.read_bytes())}
    lines = files[f"lib/modules/{real.release}/modules.dep"].decode().splitlines()
    needs = dict(line.split(":") for line in lines)
    # modules.dep(5): what has to be loaded first stands last.
    loaded = needs["virtio_net.ko"].split()[::-1]
    assert [name for name in loaded if name.removesuffix(".ko") in chain] == [
        f"{name}.ko" for name in chain[:-1] if name in place
    ]


def test_init_says_what_the_constants_say() -> None:
    script = initramfs.init_script().decode()
    assert f"PROMPT='{initramfs.PROMPT}'" in script
    said = re.search(r'say\(\) \{ echo "(.*) \$\*"', script)
    assert said
    assert f"{said[1]} ready" == initramfs.READY
    assert f"{said[1]} FAILED: " == initramfs.FAILED


# --- the cache ------------------------------------------------------------------------------------


def test_an_image_is_built_once_and_tells_of_what(tmp_path: Path) -> None:
    source, told = SmallSource("6.1-1"), list[str]()
    made = guest_image(tmp_path, told.append, sources=[source])
    assert (made.release, made.source) == (RELEASE, "small 6.1-1")
    assert made.kernel.read_bytes() == small_vmlinux()
    assert told[-1] == f"the guest image is {made.kernel.parent}: small 6.1-1"
    manifest = json.loads(made.kernel.with_name("manifest.json").read_text())
    assert manifest["packages"] == [{"name": "small", "version": "6.1-1", "sha256": "00"}]
    for name, checksum in manifest["files"].items():
        data = (made.kernel.parent / name).read_bytes()
        assert hashlib.sha256(data).hexdigest() == checksum
    told.clear()
    assert guest_image(tmp_path, told.append, sources=[source]) == made
    assert (source.asked, told) == (1, [])
    assert sorted(path.name for path in tmp_path.iterdir()) == [made.kernel.parent.name, "lock"]


def test_the_same_ingredients_make_the_same_octets(tmp_path: Path) -> None:
    made = [guest_image(tmp_path / name, sources=[SmallSource()]) for name in "ab"]
    assert made[0].kernel.parent.name == made[1].kernel.parent.name
    assert made[0].initramfs.read_bytes() == made[1].initramfs.read_bytes()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("name", "damage", "told"),
    [
        ("vmlinux", flip, "vmlinux has changed"),
        ("initramfs.cpio", halve, "initramfs.cpio has changed"),
        ("vmlinux", Path.unlink, "vmlinux is missing"),
        ("manifest.json", halve, "manifest.json can't be read"),
        ("manifest.json", Path.unlink, "manifest.json is missing"),
    ],
)
def test_a_damaged_image_is_made_anew(
    tmp_path: Path, name: str, damage: Callable[[Path], None], told: str
) -> None:
    source, lines = SmallSource(), list[str]()
    made = guest_image(tmp_path, sources=[source])
    damage(made.kernel.with_name(name))
    assert image.cached_image(tmp_path) is None
    assert guest_image(tmp_path, lines.append, sources=[source]) == made
    assert f"{made.kernel.parent} is damaged ({told}): removing it" in lines[0]
    assert made.kernel.read_bytes() == small_vmlinux()
    assert image.cached_image(tmp_path) == made
    assert source.asked == 2


def test_on_demand_the_source_is_asked_again_and_the_newest_serves(tmp_path: Path) -> None:
    old = guest_image(tmp_path, sources=[SmallSource("1")])
    os.utime(old.kernel, (1, 1))
    new = guest_image(tmp_path, sources=[SmallSource("2")], rebuild=True)
    assert new.source == "small 2"
    assert guest_image(tmp_path, sources=[]) == new
    # The same packages again: replaced where it is.
    again = SmallSource("2")
    assert guest_image(tmp_path, sources=[again], rebuild=True) == new
    assert again.asked == 1
    assert new.kernel.read_bytes() == small_vmlinux()


def test_a_rebuild_that_fails_leaves_what_there_was(tmp_path: Path) -> None:
    made = guest_image(tmp_path, sources=[SmallSource()])
    offline = SmallSource(trouble=SourceUnavailable("apt-get exited 100: no network"))
    with pytest.raises(GuestImageUnavailable, match="a small kernel: apt-get exited 100"):
        guest_image(tmp_path, sources=[offline], rebuild=True)
    assert guest_image(tmp_path, sources=[]) == made
    assert not list(tmp_path.glob(".building-*"))


def test_an_image_of_another_recipe_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = guest_image(tmp_path, sources=[SmallSource()])
    with monkeypatch.context() as other:
        other.setattr(image, "FORMAT", image.FORMAT + 1)
        theirs = guest_image(tmp_path, sources=[SmallSource()])
        assert theirs.kernel.parent != ours.kernel.parent
    assert guest_image(tmp_path, sources=[]) == ours


@pytest.mark.parametrize(
    "trouble", ["unavailable", "damaged", "no module"], ids=lambda text: text.replace(" ", "-")
)
def test_the_next_source_is_tried(tmp_path: Path, trouble: str) -> None:
    first, second = SmallSource("1"), SmallSource("2")
    if trouble == "unavailable":
        first.trouble = SourceUnavailable("there is no apt-get")
    elif trouble == "damaged":
        first.bzimage = bzimage(b"\x28\xb5\x2f\xfd rest")
    else:
        first.trouble = BadModules("there is no module e1000")
    assert guest_image(tmp_path, sources=[first, second]).source == "small 2"


def child(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A process of its own that builds; it imports this module."""
    prelude = (
        "import sys, os, time\nfrom pathlib import Path\nfrom tests import test_guest_image as t\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", prelude + textwrap.dedent(code), *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_killed_build_leaves_nothing_that_looks_like_an_image(tmp_path: Path) -> None:
    stuck = child(
        """
        class Stuck(t.SmallSource):
            def fetch(self, folder, tell):
                found = super().fetch(folder, tell)
                print("half done", flush=True)
                time.sleep(t.HANG_S)
                return found
        t.guest_image(Path(sys.argv[1]), sources=[Stuck()])
        """,
        tmp_path,
    )
    assert stuck.stdout is not None
    with stuck.stdout:
        try:
            assert stuck.stdout.readline() == "half done\n"
        finally:
            stuck.send_signal(signal.SIGKILL)
            stuck.wait(CHILD_TIMEOUT_S)
    assert list(tmp_path.glob(".building-*"))
    assert image.cached_image(tmp_path) is None
    made = guest_image(tmp_path, sources=[SmallSource()])
    assert sorted(path.name for path in tmp_path.iterdir()) == [made.kernel.parent.name, "lock"]


def test_of_two_that_build_at_the_same_time_one_builds(tmp_path: Path) -> None:
    code = """
        class Slow(t.SmallSource):
            def fetch(self, folder, tell):
                print("builds", flush=True)
                # Until the other one waits for us.
                end = time.monotonic() + t.HANG_S
                while not (Path(sys.argv[1]) / "waits").exists() and time.monotonic() < end:
                    time.sleep(0.01)
                return super().fetch(folder, tell)
        def tell(line):
            if line.startswith("waiting for another process"):
                (Path(sys.argv[1]) / "waits").touch()
                print("waits", flush=True)
        print(t.guest_image(Path(sys.argv[1]), tell, sources=[Slow()]).kernel)
    """
    builders = [child(code, tmp_path) for _ in range(2)]
    outputs = []
    for builder in builders:
        output, _ = builder.communicate(timeout=CHILD_TIMEOUT_S)
        assert builder.returncode == 0, output
        outputs.append(output.split())
    assert sorted(output[0] for output in outputs) == ["builds", "waits"]
    assert outputs[0][1:] == outputs[1][1:] == [str(guest_image(tmp_path, sources=[]).kernel)]


def test_the_wait_for_another_builder_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "LOCK_TIMEOUT_S", 0.2)
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(GuestImageUnavailable, match=f"see who holds {tmp_path}/lock"):
            guest_image(tmp_path, sources=[SmallSource()])


def test_a_cache_that_can_not_be_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(GuestImageUnavailable, match="set XDG_CACHE_HOME to another") as caught:
        guest_image(tmp_path / "file" / "cache", sources=[SmallSource()])
    assert "\n" not in str(caught.value)


def test_the_cache_is_where_the_user_keeps_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache/me")
    assert image.default_cache() == Path("/var/cache/me/netdump-bench")
    monkeypatch.setenv("HOME", "/home/me")
    for ignored in ("", "relative/folder"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert image.default_cache() == Path("/home/me/.cache/netdump-bench")


def test_without_apt_and_without_a_kernel_one_line_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    sources: list[Source] = [DebianPackages(), HostKernel(tmp_path, "6.18.0")]
    with pytest.raises(GuestImageUnavailable) as caught:
        guest_image(tmp_path / "cache", sources=sources)
    assert caught.value.why == (
        "no guest kernel is to be had (Debian packages: there is no apt-get and no dpkg-deb,"
        f" the host's own kernel: {tmp_path}/boot/vmlinuz-6.18.0: No such file or directory)"
    )
    assert "install a static busybox" in caught.value.cure


def test_a_cached_image_needs_neither_network_nor_apt(
    real: GuestImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    told = list[str]()
    assert guest_image(progress=told.append, sources=[]) == real
    assert told == []


# --- the host's kernel ----------------------------------------------------------------------------


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with a kernel of its own, and a static busybox on the PATH."""
    root = tmp_path / "root"
    (root / "boot").mkdir(parents=True)
    (root / "boot" / f"vmlinuz-{RELEASE}").write_bytes(bzimage(packed_xz(small_vmlinux())))
    module_tree(root / "usr" / "lib" / "modules" / RELEASE)
    (root / "bin").mkdir()
    (root / "bin" / "busybox").write_bytes(elf(((1, b"code"),)))
    (root / "bin" / "busybox").chmod(0o755)
    monkeypatch.setenv("PATH", str(root / "bin"))
    return root


def test_without_apt_the_hosts_own_kernel_serves(host: Path, tmp_path: Path) -> None:
    sources: list[Source] = [DebianPackages(), HostKernel(host, RELEASE)]
    made = guest_image(tmp_path / "cache", sources=sources)
    assert (made.release, made.source) == (RELEASE, "the host's kernel")
    assert made.kernel.read_bytes() == small_vmlinux()
    assert (host / "boot" / f"vmlinuz-{RELEASE}").exists()


def test_a_busybox_that_needs_libraries_is_no_use(host: Path, tmp_path: Path) -> None:
    needy = elf(((PT_INTERP, b"/lib64/ld-linux-x86-64.so.2\0"),))
    (host / "bin" / "busybox").write_bytes(needy)
    with pytest.raises(SourceUnavailable, match="busybox needs shared libraries; install a static"):
        HostKernel(host, RELEASE).fetch(tmp_path, print)
    (host / "bin" / "busybox").unlink()
    with pytest.raises(SourceUnavailable, match="there is no busybox; install a static"):
        HostKernel(host, RELEASE).fetch(tmp_path, print)


# --- Debian's packages ----------------------------------------------------------------------------


class Repository:
    """A repository of Debian packages in a folder, and an apt that knows no other."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
        control += "Maintainer: nobody <nobody@invalid>\nDescription: for a test\n"
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


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        pytest.skip("there is no apt-get or no dpkg-deb: this is played on Debian")
    made = Repository(tmp_path, monkeypatch)
    made.add("busybox-static", "1:1.35.0-4+b1", {"bin/busybox": b"busybox"})
    made.add_kernel("9.9.1-1", module_tree(tmp_path / "modules"))
    return made


def test_where_apt_has_no_index_the_build_fetches_its_own(
    repository: Repository, tmp_path: Path
) -> None:
    told = list[str]()
    made = guest_image(tmp_path / "guests", told.append, sources=[DebianPackages()])
    assert "trying again with a fresh index" in told[0]
    assert (made.release, made.kernel.read_bytes()) == (RELEASE, small_vmlinux())
    assert made.source == f"Debian package linux-image-{RELEASE} 9.9.1-1"
    manifest = json.loads(made.kernel.with_name("manifest.json").read_text())
    assert [(package["name"], package["version"]) for package in manifest["packages"]] == [
        (f"linux-image-{RELEASE}", "9.9.1-1"),
        ("busybox-static", "1:1.35.0-4+b1"),
    ]
    # The machine's own lists are as they were.
    assert not list(repository.state.rglob("*Packages*"))


def test_an_index_that_names_packages_which_are_gone_is_not_the_end(
    repository: Repository, tmp_path: Path
) -> None:
    repository.run("apt-get", "update")
    lists = {path.name: path.read_bytes() for path in repository.state.glob("lists/*Packages*")}
    assert lists
    repository.add_kernel("9.9.2-1", tmp_path / "modules")
    told = list[str]()
    made = guest_image(tmp_path / "guests", told.append, sources=[DebianPackages()])
    assert made.source.endswith(" 9.9.2-1")
    assert told[0] == (
        f"downloading linux-image-{RELEASE}=9.9.1-1 and busybox-static=1:1.35.0-4+b1"
    )
    assert told[2].startswith(f"downloading linux-image-{RELEASE}=9.9.2-1 and ")
    assert lists == {
        path.name: path.read_bytes() for path in repository.state.glob("lists/*Packages*")
    }


def test_a_package_that_was_tampered_with_is_refused(
    repository: Repository, tmp_path: Path
) -> None:
    flip(next(repository.folder.glob("busybox-static_*.deb")))
    with pytest.raises(SourceUnavailable, match=r"(?i)hash|SHA-256"):
        DebianPackages().fetch(tmp_path / "modules", print)


def test_a_package_is_checked_once_more(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.run("apt-get", "update")
    found = tuple(replace(package, sha256="0" * 64) for package in packages.resolve())
    monkeypatch.setattr(packages, "resolve", lambda options: found)
    with pytest.raises(SourceUnavailable, match=r"_amd64\.deb is not what apt's index describes"):
        DebianPackages().fetch(tmp_path / "modules", print)


def test_a_distribution_without_that_kernel_is_told_of(
    repository: Repository, tmp_path: Path
) -> None:
    (repository.folder / "Packages").write_text("")
    with pytest.raises(SourceUnavailable) as caught:
        DebianPackages().fetch(tmp_path / "modules", print)
    assert "\n" not in str(caught.value)
    assert "No packages found" in str(caught.value)


# --- it boots -------------------------------------------------------------------------------------

BOOT_TIMEOUT_S: Final = HANG_S
ANSWER_TIMEOUT_S: Final = HANG_S
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
                # Whatever becomes of this process, it ends.
                *("timeout", "--signal=KILL", f"{2 * BOOT_TIMEOUT_S:.0f}"),
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

    def until(self, pattern: str, timeout: float = ANSWER_TIMEOUT_S) -> re.Match[str]:
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
        self.qemu.wait(ANSWER_TIMEOUT_S)
        for stream in (self.qemu.stdin, self.qemu.stdout, self.wire):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()


@pytest.fixture
def boot(real: GuestImage) -> Iterator[Callable[..., Booted]]:
    started: list[Booted] = []

    def start(parameters: str, nic: str = "e1000") -> Booted:
        started.append(Booted(real, parameters, nic))
        return started[-1]

    yield start
    for guest in started:
        guest.close()


@pytest.mark.qemu
def test_a_guest_boots_talks_and_is_crashed(real: GuestImage, boot: Callable[..., Booted]) -> None:
    guest = boot("nb.ip=198.18.0.2/24 nb.promisc=1 nb.hostname=victim")
    said = guest.until(r"netdump-bench guest: (ready|FAILED).*\n", BOOT_TIMEOUT_S)
    mac = GUEST_MAC.hex(":")
    assert said[0] == f"{initramfs.READY} release={real.release} nic=eth0 mac={mac}\n"
    guest.until(re.escape(initramfs.PROMPT))

    # A command gives what it prints, and nothing but that.
    assert guest.shell("hostname; uname -r") == f"victim\n{real.release}\n"
    assert guest.shell("basename $(readlink /sys/class/net/eth0/device/driver)") == "e1000\n"
    loaded = {line.split()[0] for line in guest.shell("lsmod").splitlines()[1:]}
    assert loaded == {*initramfs.BOOT_MODULES, "pvpanic"}
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
    said = guest.until(r"netdump-bench guest: (ready|FAILED).*\n", BOOT_TIMEOUT_S)
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
        assert guest.until(rf"{initramfs.FAILED}(.*)\n", BOOT_TIMEOUT_S)[1] == told
    guest.until(re.escape(initramfs.PROMPT))
    assert initramfs.READY not in guest.shell("dmesg")
