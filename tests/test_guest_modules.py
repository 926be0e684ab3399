"""Modules: which are needed, in which order, and what modprobe finds in the initramfs."""

from __future__ import annotations

import gzip
import lzma
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.guests import guest_nics
from bench.parts import DEFAULT_NIC, nic_family
from guest.linux import initramfs
from guest.linux.image import GuestImage
from guest.linux.initramfs import GuestNic, Nics
from guest.linux.modules import BadModules, ModuleTree, load_order
from tests.guest_rig import RELEASE, elf, module, module_tree, read_newc
from tests.packers import zstd_frame


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
    assert "pktgen.ko:" in lines


# --- NICs -----------------------------------------------------------------------------------------

NE9000 = GuestNic(0x1234, 0x56, ("ne9000", "ne9000_phy"))


def test_a_kernel_may_lack_the_modules_of_a_nic_that_is_not_played(tmp_path: Path) -> None:
    tree = ModuleTree(module_tree(tmp_path))
    nics = Nics((*guest_nics().known, NE9000), needed=tuple(guest_nics().modules))
    made = initramfs.build(RELEASE, tree, b"busybox", nics)
    assert set(guest_nics().modules) <= set(made.modules)
    assert made.lacks == NE9000.modules
    files = {name: data for name, _, data, _ in read_newc(made.archive)}
    assert b"0x1234 0x0056 ne9000 ne9000_phy\n" in files["etc/nics"]
    with pytest.raises(BadModules, match="there is no module ne9000, and it is not built in"):
        initramfs.build(RELEASE, tree, b"busybox", replace(nics, needed=NE9000.modules))


def test_an_image_is_made_for_the_nic_in_play_and_for_every_registered_one() -> None:
    ours = nic_family(DEFAULT_NIC)
    assert ours.on_qemu is not None
    ne9000 = replace(ours.on_qemu, vendor=0x1234, pci_device=0x56, modules=NE9000.modules)
    usual = guest_nics()
    assert usual.needed == ()
    assert guest_nics(ours) == replace(usual, needed=ours.on_qemu.modules)
    assert guest_nics(replace(ours, on_qemu=None)) == usual
    found = guest_nics(replace(ours, on_qemu=ne9000))
    assert found.needed == NE9000.modules
    assert set(found.known) == {*usual.known, NE9000}


def test_the_real_modules_are_in_the_order_that_virtio_wants(real_image: GuestImage) -> None:
    place = {name: number for number, name in enumerate(real_image.modules)}
    chain = ("virtio_ring", "virtio", "virtio_pci", "virtio_net")
    there = [place[name] for name in chain if name in place]
    assert there == sorted(there)
    wanted = {*initramfs.BOOT_MODULES, *initramfs.OPTIONAL_MODULES, *guest_nics().modules}
    assert wanted <= set(real_image.modules)
    files = {name: data for name, _, data, _ in read_newc(real_image.initramfs.read_bytes())}
    lines = files[f"lib/modules/{real_image.release}/modules.dep"].decode().splitlines()
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
