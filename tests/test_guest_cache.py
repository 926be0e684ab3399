"""The image in the cache: built once, checked, made anew, never half an image."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from bench.guests import guest_nics
from guest.linux import image
from guest.linux.hostkernel import HostKernel
from guest.linux.image import GuestImage, GuestImageUnavailable, guest_image
from guest.linux.initramfs import GuestNic, Nics
from guest.linux.modules import BadModules
from guest.linux.packages import DebianPackages
from guest.linux.sources import Source, SourceUnavailable
from tests.guest_rig import RELEASE, SmallSource, bzimage, flip, small_vmlinux
from tests.patience import HANG_S

ROOT: Final = Path(__file__).parent.parent


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


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
    """A process of its own that builds."""
    prelude = (
        "import sys, time\nfrom pathlib import Path\n"
        "from guest.linux.image import guest_image\n"
        "from tests.guest_rig import SmallSource\nfrom tests.patience import HANG_S\n"
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
        class Stuck(SmallSource):
            def fetch(self, folder, tell):
                found = super().fetch(folder, tell)
                print("half done", flush=True)
                time.sleep(HANG_S)
                return found
        guest_image(Path(sys.argv[1]), sources=[Stuck()])
        """,
        tmp_path,
    )
    assert stuck.stdout is not None
    with stuck.stdout:
        try:
            assert stuck.stdout.readline() == "half done\n"
        finally:
            stuck.send_signal(signal.SIGKILL)
            stuck.wait(HANG_S)
    assert list(tmp_path.glob(".building-*"))
    assert image.cached_image(tmp_path) is None
    made = guest_image(tmp_path, sources=[SmallSource()])
    assert sorted(path.name for path in tmp_path.iterdir()) == [made.kernel.parent.name, "lock"]


def test_of_two_that_build_at_the_same_time_one_builds(tmp_path: Path) -> None:
    code = """
        class Slow(SmallSource):
            def fetch(self, folder, tell):
                print("builds", flush=True)
                # Until the other one waits for us.
                end = time.monotonic() + HANG_S
                while not (Path(sys.argv[1]) / "waits").exists() and time.monotonic() < end:
                    time.sleep(0.01)
                return super().fetch(folder, tell)
        def tell(line):
            if line.startswith("waiting for another process"):
                (Path(sys.argv[1]) / "waits").touch()
                print("waits", flush=True)
        print(guest_image(Path(sys.argv[1]), tell, sources=[Slow()]).kernel)
    """
    builders = [child(code, tmp_path) for _ in range(2)]
    outputs = []
    for builder in builders:
        output, _ = builder.communicate(timeout=HANG_S)
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


def test_an_image_is_of_the_nics_that_were_asked_for_and_has_the_modules_of_the_one_in_play(
    tmp_path: Path,
) -> None:
    ne9000 = GuestNic(0x1234, 0x56, ("ne9000",))
    usual, more = guest_nics(), Nics((*guest_nics().known, ne9000))
    first = guest_image(tmp_path, sources=[SmallSource()], nics=usual)
    second = guest_image(tmp_path, sources=[SmallSource()], nics=more)
    assert first.kernel.parent != second.kernel.parent
    for nics, made in ((usual, first), (more, second)):
        assert guest_image(tmp_path, sources=[], nics=nics) == made
        playing = replace(nics, needed=tuple(usual.modules))
        assert guest_image(tmp_path, sources=[], nics=playing) == made
    playing = replace(more, needed=ne9000.modules)
    assert image.cached_image(tmp_path, nics=playing) is None
    with pytest.raises(GuestImageUnavailable, match=r"small kernel: .* there is no module ne9000"):
        guest_image(tmp_path, sources=[SmallSource()], nics=playing)


def test_a_cached_image_needs_neither_network_nor_apt(
    real_image: GuestImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    told = list[str]()
    assert guest_image(progress=told.append, sources=[], nics=guest_nics()) == real_image
    assert told == []
