"""Where a guest's kernel comes from: the host's own, or Debian's packages."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from guest.linux import packages
from guest.linux.elf import PT_INTERP
from guest.linux.hostkernel import HostKernel
from guest.linux.image import guest_image
from guest.linux.packages import DebianPackages
from guest.linux.sources import Source, SourceUnavailable
from tests.guest_rig import (
    RELEASE,
    Repository,
    bzimage,
    elf,
    flip,
    module_tree,
    packed_xz,
    small_vmlinux,
    static_busybox,
)

# --- the host's kernel ----------------------------------------------------------------------------


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with a kernel of its own, and a static busybox on the PATH."""
    root = tmp_path / "root"
    (root / "boot").mkdir(parents=True)
    (root / "boot" / f"vmlinuz-{RELEASE}").write_bytes(bzimage(packed_xz(small_vmlinux())))
    module_tree(root / "usr" / "lib" / "modules" / RELEASE)
    static_busybox(root / "bin")
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


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
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
