"""Kernels from elsewhere: Ubuntu's packages, kernels that the user names, today's compression.

The real kernel is that of the image in the user's cache, packed anew; modules and busybox are
taken out of its initramfs. So all but the last of these tests need no network.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from bench.cli import main
from bench.errors import BadInput
from bench.guests import another_kernel, as_played, guest_nics, sound_guest, with_kernel
from bench.progress import Silent
from bench.runner import run_scenario
from bench.scenario import Scenario, load_scenario, parse_scenario
from bench.verdict import Guest, RunResult
from guest.linux import kernel, ownkernel
from guest.linux.image import GuestImage, GuestImageUnavailable, default_cache, guest_image
from guest.linux.kernel import BadKernel
from guest.linux.ownkernel import BadChoice, examine
from guest.linux.packages import DebianPackages
from guest.linux.sources import KernelChoice, SourceUnavailable
from tests.guest_rig import (
    RELEASE,
    Repository,
    SmallSource,
    bzimage,
    elf,
    module_tree,
    packed_xz,
    read_newc,
    small_vmlinux,
    static_busybox,
)
from tests.packers import packed_lz4, packed_lzo, packed_zstd, repacked, sealed
from tests.qemu_rig import leaves_nothing

BANNER: Final = f"Linux version {RELEASE} (someone@somewhere)".encode()
STORY: Final = """
title = "a test"
why   = "a test"
tiers = ["qemu"]

[machine]
kind   = "linux"
memory = "96 MiB"
cpus   = 1
load   = "none"

[nic]
rx_ring = 512

[[case]]
profile = "netdump2"
expect  = { outcome = "complete" }
"""


# --- what can't be opened -------------------------------------------------------------------------


def flagged(made: bytes, flags: int) -> bytes:
    return made[:0x236] + struct.pack("<H", flags) + made[0x238:]


@pytest.mark.parametrize(
    "payload", [b"odd compression of tomorrow", packed_xz(small_vmlinux(kind=17))]
)
def test_a_bzimage_that_cant_be_opened_boots_by_itself(payload: bytes) -> None:
    made = flagged(bzimage(payload), 1)
    boots = kernel.bootable(made)
    assert (boots.packed, boots.data, boots.release) == (True, made, RELEASE)
    with pytest.raises(BadKernel, match="not for x86-64, and the kernel "):
        kernel.bootable(flagged(made, 0))


def test_what_is_damaged_does_not_boot_by_itself() -> None:
    made = flagged(bzimage(packed_xz(small_vmlinux())[:-4] + b"\1\0\0\0"), 1)
    with pytest.raises(BadKernel, match="damaged"):
        kernel.bootable(made)


def test_an_image_of_it_has_the_bzimage_alone(tmp_path: Path) -> None:
    source = SmallSource()
    source.bzimage = flagged(bzimage(b"odd compression of tomorrow"), 1)
    made = guest_image(tmp_path, sources=[source])
    assert made.packed
    assert made.kernel.read_bytes() == source.bzimage
    assert sorted(os.listdir(made.kernel.parent)) == ["initramfs.cpio", "manifest.json", "vmlinuz"]
    assert guest_image(tmp_path, sources=[]) == made


# --- Ubuntu's packages ----------------------------------------------------------------------------


@pytest.fixture
def ubuntu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """Kernel, modules and more modules are packages of their own, e1000 among the last."""
    made = Repository(tmp_path, monkeypatch)
    made.add("busybox-static", "1:1.36.1-6ubuntu3", {"bin/busybox": b"busybox"})
    whole = module_tree(tmp_path / "modules")
    files = {path.relative_to(whole): path.read_bytes() for path in whole.rglob("*.*")}
    parts: dict[str, dict[str, bytes]] = {"modules": {}, "modules-extra": {}}
    for path, data in files.items():
        part = "modules-extra" if path.name == "e1000.ko" else "modules"
        parts[part][f"lib/modules/{RELEASE}/{path}"] = data
    for part, contents in parts.items():
        made.add(f"linux-{part}-{RELEASE}", "9.9.0-1.1", contents)
    image = {f"boot/vmlinuz-{RELEASE}": bzimage(packed_zstd(small_vmlinux()))}
    needs = f"kmod, linux-base (>= 4.5ubuntu1~16.04.1), linux-modules-{RELEASE}"
    made.add(f"linux-image-{RELEASE}", "9.9.0-1.1", image, needs)
    needs = f"linux-image-{RELEASE}, linux-modules-extra-{RELEASE}, linux-firmware, intel-microcode"
    made.add("linux-image-generic", "9.9.0.1.1", {}, needs)
    return made


def test_ubuntus_kernel_comes_with_the_modules_that_are_packages_of_their_own(
    ubuntu: Repository, tmp_path: Path
) -> None:
    ubuntu.run("apt-get", "update")
    made = guest_image(tmp_path / "guests", sources=[DebianPackages()], nics=guest_nics())
    assert made.source == f"Debian package linux-image-{RELEASE} 9.9.0-1.1"
    assert (made.release, made.kernel.read_bytes()) == (RELEASE, small_vmlinux())
    assert "e1000" in made.modules


def test_a_kernel_for_another_architecture_is_told_before_it_is_downloaded(
    ubuntu: Repository, tmp_path: Path
) -> None:
    index = ubuntu.folder / "Packages"
    arm = index.read_text().replace("Architecture: amd64", "Architecture: arm64")
    index.write_text(arm)
    conf = tmp_path / "apt.conf"
    conf.write_text(conf.read_text().replace("amd64", "arm64"))
    told = list[str]()
    (tmp_path / "work").mkdir()
    ubuntu.run("apt-get", "update")
    with pytest.raises(SourceUnavailable, match="is for arm64, and the guest is amd64"):
        DebianPackages().fetch(tmp_path / "work", told.append)
    assert told == []


# --- a kernel that the user names -----------------------------------------------------------------


@pytest.fixture
def named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small kernel with its modules beside it, a busybox, and an empty cache."""
    root = tmp_path / "root"
    module_tree(root / "lib" / "modules" / RELEASE)
    (root / "boot").mkdir()
    (root / "boot" / "vmlinuz").write_bytes(bzimage(packed_zstd(small_vmlinux())))
    static_busybox(root / "bin")
    monkeypatch.setenv("PATH", str(root / "bin"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return root / "boot" / "vmlinuz"


def test_a_named_kernel_serves_only_who_names_it(named: Path) -> None:
    usual = guest_image(sources=[SmallSource()])
    own = guest_image(choice=KernelChoice(named))
    assert own.kernel.parent != usual.kernel.parent
    assert own.source == f"the kernel {named}"
    assert guest_image(choice=KernelChoice(named), sources=[]) == own
    assert guest_image(sources=[]) == usual, "the newest image is not that of everybody"


def test_another_kernel_or_module_under_the_same_name_is_another_image(named: Path) -> None:
    nics = guest_nics()
    first = examine(KernelChoice(named), nics).identity
    modules = named.parent.parent / "lib" / "modules" / RELEASE
    e1000 = modules / "kernel" / "drivers" / "e1000.ko"
    e1000.write_bytes(e1000.read_bytes() + b"x")
    second = examine(KernelChoice(named), nics).identity
    named.write_bytes(bzimage(packed_lz4(small_vmlinux())))
    assert len({first, second, examine(KernelChoice(named), nics).identity}) == 3


def test_its_modules_are_found_beside_it_or_where_it_lies(named: Path, tmp_path: Path) -> None:
    modules = named.parent.parent / "lib" / "modules" / RELEASE
    assert examine(KernelChoice(named)).modules == modules
    among = modules / "vmlinuz"
    shutil.copy(named, among)
    assert examine(KernelChoice(among)).modules == modules
    moved = tmp_path / "elsewhere"
    shutil.copytree(modules, moved)
    lonely = tmp_path / "lonely" / "deep" / "vmlinuz"
    lonely.parent.mkdir(parents=True)
    shutil.copy(named, lonely)
    assert examine(KernelChoice(lonely, moved)).modules == moved
    with pytest.raises(BadChoice, match=rf"its modules are neither in lib/modules/{RELEASE}"):
        examine(KernelChoice(lonely))
    with pytest.raises(BadChoice, match=f"there are no modules of Linux {RELEASE} in it"):
        examine(KernelChoice(lonely, tmp_path / "lonely"))


def no_e1000(named: Path) -> None:
    (named.parent.parent / "lib/modules" / RELEASE / "kernel/drivers/e1000.ko").unlink()


def of_another_kernel(named: Path) -> None:
    info = b"vermagic=1.2.3 SMP mod_unload\0depends=\0"
    data = elf(sections=((b".text", b"code"), (b".modinfo", info)))
    (named.parent.parent / "lib/modules" / RELEASE / "kernel/drivers/e1000.ko").write_bytes(data)


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (Path.unlink, "vmlinuz: there is no such file; name a bzImage"),
        (lambda path: path.write_bytes(b"text"), "vmlinuz: this is no bzImage"),
        (
            lambda path: path.write_bytes(small_vmlinux(machine=183) + BANNER),
            "machine 183, not for x86-64",
        ),
        (lambda path: path.write_bytes(small_vmlinux(kind=17) + BANNER), "no PVH entry"),
        (lambda path: path.write_bytes(path.read_bytes()[:-200]), "is cut short"),
        (no_e1000, "there is no module e1000, and it is not built in"),
        (of_another_kernel, "e1000 is a module of Linux 1.2.3, not 9.9.0"),
    ],
)
def test_a_kernel_that_cant_be_played_is_told_in_a_line_before_anything_is_fetched(
    named: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    harm: Callable[[Path], object],
    told: str,
) -> None:
    harm(named)
    monkeypatch.setattr(ownkernel, "fetch_busybox", lambda *_: pytest.fail("it was fetched"))
    for words in (["run", "--runs", str(tmp_path / "runs")], ["needs"]):
        assert main([*words, "--kernel", str(named), "nmi-panic"]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert told in said
    assert not (tmp_path / "cache").exists()
    assert not (tmp_path / "runs").exists()


def test_without_a_busybox_and_without_apt_a_line_says_so(
    named: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "root" / "bin" / "busybox").unlink()
    assert main(["needs", "--kernel", str(named), "nmi-panic"]) == 3
    assert "there is no busybox; install a static one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["clean-dump", "--kernel", "k"], "for a Linux guest, and clean-dump has none"),
        (["nmi-panic", "--modules", "m"], "name that with --kernel"),
        (["qemu-dies-mid-dump", "--tier", "sim", "--kernel", "k"], "tier sim plays none"),
        (["nmi-panic", "--kernel", ""], "is empty: name a file"),
    ],
)
def test_a_kernel_where_it_makes_no_sense_is_refused(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *words]) == 2
    assert told in capsys.readouterr().err


# --- a replay -------------------------------------------------------------------------------------


def test_a_replay_takes_the_kernel_of_its_run_or_says_that_it_is_another(named: Path) -> None:
    story = load_scenario("nmi-panic")
    then = {
        "release": RELEASE,
        "source": "the kernel k",
        "sha256": "00",
        "kernel": str(named),
        "modules": None,
    }
    assert sound_guest(then)
    assert sound_guest(None)
    assert not sound_guest({**then, "kernel": 7})
    assert not sound_guest({**then, "release": None})
    assert as_played(story, then, Path("run")).kernel == KernelChoice(named)
    assert as_played(story, {**then, "kernel": None}, Path("run")).kernel is None
    result = RunResult("nmi-panic", "qemu", "", 1, guest=Guest("9.9.1", "package p", "01"))
    assert another_kernel(then, result) == (
        f"Its guest was Linux {RELEASE}, the kernel k; this time it was another kernel,"
        " Linux 9.9.1, package p"
    )
    assert another_kernel({**then, "sha256": "01"}, result) == ""
    named.unlink()
    with pytest.raises(BadInput, match=r"run was played with a kernel of its own: .* no such file"):
        as_played(story, then, Path("run"))


# --- they are crashed and dumped ------------------------------------------------------------------


@pytest.fixture
def real(_played_or_skipped: None) -> GuestImage:
    return guest_image(nics=guest_nics())


@pytest.fixture
def unpacked(real: GuestImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The real image taken apart: /boot without a kernel, modules, and a busybox on the PATH."""
    root = tmp_path / "root"
    for name, mode, data, _ in read_newc(real.initramfs.read_bytes()):
        if mode & 0o170000 == 0o100000 and name.startswith(("lib/", "bin/busybox")):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)
    (root / "bin" / "busybox").chmod(0o755)
    (root / "boot").mkdir()
    monkeypatch.setenv("PATH", f"{root / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return root / "boot" / "vmlinuz"


def dumped(scenario: Scenario, folder: Path) -> str:
    """Crash the guest of a scenario; its dump must be equal to the last byte. The QEMU command."""
    folder.mkdir()
    with leaves_nothing():
        (case,) = run_scenario(
            scenario, tier="qemu", why_this_tier="", seed=1, run_folder=folder, progress=Silent()
        ).cases
    assert (case.outcome, case.met, case.why) == ("complete", True, "")
    assert case.oracles["bytes-equal"] == "held"
    assert not [text for text in case.notes if "VMCOREINFO" in text], case.notes
    return (folder / "qemu.command").read_text()


@pytest.mark.qemu
@pytest.mark.parametrize("packer", [packed_zstd, packed_lzo])
def test_a_real_kernel_comes_out_as_it_went_in(
    real: GuestImage, packer: Callable[[bytes], bytes]
) -> None:
    came, vmlinux = real.kernel.with_name("vmlinuz").read_bytes(), real.kernel.read_bytes()
    assert kernel.bootable(repacked(came, packer, vmlinux)).data == vmlinux


@pytest.mark.qemu
def test_a_guest_of_an_lz4_kernel_is_crashed_and_dumped(
    real: GuestImage, unpacked: Path, tmp_path: Path
) -> None:
    came = real.kernel.with_name("vmlinuz").read_bytes()
    unpacked.write_bytes(repacked(came, packed_lz4, real.kernel.read_bytes()))
    story = with_kernel(parse_scenario(STORY, "made", "made.toml"), unpacked, None, None)
    command = dumped(story, tmp_path / "run")
    assert re.search(rf"-kernel {re.escape(str(tmp_path))}/cache/\S*/vmlinux ", command)
    made = guest_image(choice=story.kernel, nics=guest_nics())
    assert made.kernel.read_bytes() == real.kernel.read_bytes()


@pytest.mark.qemu
def test_a_bzimage_that_cant_be_opened_is_crashed_and_dumped(
    real: GuestImage, unpacked: Path, tmp_path: Path
) -> None:
    unpacked.write_bytes(sealed(real.kernel.with_name("vmlinuz").read_bytes()))
    story = with_kernel(parse_scenario(STORY, "made", "made.toml"), unpacked, None, None)
    command = dumped(story, tmp_path / "run")
    assert re.search(rf"-kernel {re.escape(str(tmp_path))}/cache/\S*/vmlinuz ", command)
    assert "nokaslr" in command


@pytest.mark.qemu
def test_a_vmlinux_that_was_named_is_crashed_and_dumped(
    real: GuestImage, unpacked: Path, tmp_path: Path
) -> None:
    unpacked.write_bytes(real.kernel.read_bytes())
    story = with_kernel(parse_scenario(STORY, "made", "made.toml"), unpacked, None, None)
    dumped(story, tmp_path / "run")
    made = guest_image(choice=story.kernel, nics=guest_nics())
    assert (made.release, made.source) == (real.release, f"the kernel {unpacked}")


# --- Debian 13's ----------------------------------------------------------------------------------

APT_TIMEOUT_S: Final = 60.0


def debian_mirror() -> str:
    """The machine's own mirror of Debian; empty if it has none."""
    target = "$(RELEASE) $(COMPONENT) $(REPO_URI)"
    command = ["apt-get", "indextargets", "--format", target, "Created-By: Packages"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=APT_TIMEOUT_S)
        known = Path("/etc/os-release").read_text()
    except (OSError, subprocess.TimeoutExpired):
        return ""
    codename = re.search(r"^VERSION_CODENAME=(\w+)$", known, re.MULTILINE)
    if not codename or "\nID=debian\n" not in f"\n{known}":
        return ""
    found = (line.split(" ") for line in said.stdout.splitlines())
    mine = [uri for release, part, uri in found if (release, part) == (codename[1], "main")]
    return next(iter(mine), "")


@pytest.fixture
def trixie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, _played_or_skipped: None) -> None:
    """An apt that knows Debian 13 alone, and a cache of its own, which later tests find again."""
    mirror = debian_mirror()
    if not mirror:
        pytest.skip("apt has no mirror of Debian; cure: play the tests on Debian")
    home = default_cache() / "debian-13"
    for path in ("lists/partial", "archives/partial"):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "sources.list").write_text(f"deb [trusted=yes] {mirror} trixie main\n")
    (tmp_path / "apt.conf").write_text(
        f'Dir::Etc::sourcelist "{tmp_path}/sources.list";\nDir::Etc::sourceparts "/dev/null";\n'
        f'Dir::State::lists "{tmp_path}/lists";\nDir::Cache "{tmp_path}";\n'
        'APT::Sandbox::User "root";\nAcquire::Languages "none";\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    try:
        guest_image(sources=[], nics=guest_nics())
    except GuestImageUnavailable:
        update = ["apt-get", "-q", "-o", "Acquire::http::Timeout=20", "update"]
        subprocess.run(update, capture_output=True, timeout=2 * APT_TIMEOUT_S, check=False)
        if not any((tmp_path / "lists").glob("*trixie*Packages*")):
            pytest.skip(f"{mirror} does not answer; cure: let apt-get reach it once")


@pytest.mark.qemu
@pytest.mark.usefixtures("trixie")
def test_debian_13s_kernel_is_crashed_and_dumped(tmp_path: Path) -> None:
    made = guest_image(progress=print, nics=guest_nics())
    assert made.release.startswith("6.12.")
    came = made.kernel.with_name("vmlinuz").read_bytes()
    (offset,) = struct.unpack_from("<I", came, 0x248)
    assert came.startswith(b"\x28\xb5\x2f\xfd", (came[0x1F1] + 1) * 512 + offset), "zstd"
    dumped(parse_scenario(STORY, "made", "made.toml"), tmp_path / "run")
