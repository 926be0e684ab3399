"""The guest's first and only root file system: busybox, modules, and ``init.sh``.

    /init                        init.sh: what the machine does from its first process on
    /bin/busybox                 all its programs; /sbin is /bin
    /dev/console                 the kernel opens it for /init, before devtmpfs is mounted
    /etc/modules                 what /init loads, one name a line
    /etc/nics                    "VENDOR DEVICE MODULE...": what it loads besides for each such NIC
    /lib/modules/RELEASE/        NAME.ko, and modules.dep and modules.builtin for modprobe
    /proc /sys /tmp

It is not compressed: under TCG, unpacking costs more than reading it.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import Final

from guest.linux import cpio
from guest.linux.modules import Module, ModuleTree, load_order

#: What init.sh says on the console, and what its shell asks with.
READY: Final = "netdump-bench guest: ready"
FAILED: Final = "netdump-bench guest: FAILED: "
PROMPT: Final = "netdump-bench# "

#: Without these no story can be played, and without the NIC's: what tells QEMU of a panic.
NEEDED_MODULES: Final = ("pvpanic_mmio",)
#: Loaded at boot, those that the kernel has; qemu_fw_cfg tells QEMU where VMCOREINFO is.
BOOT_MODULES: Final = (*NEEDED_MODULES, "pvpanic_pci", "qemu_fw_cfg")
#: Loaded when a kernel parameter asks for them; those that the kernel has.
OPTIONAL_MODULES: Final = ("e1000e", "netconsole", "pktgen", "virtio_net")
#: What a module needs to be of use, though it can be loaded without: a bus that finds its devices.
ALSO_NEEDED: Final[dict[str, tuple[str, ...]]] = {"virtio_net": ("virtio_pci",)}


@dataclass(frozen=True, order=True, slots=True)
class GuestNic:
    """A NIC that a guest may have: its PCI ids, and the modules that drive it."""

    vendor: int
    device: int
    modules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Nics:
    """What an image is to have for the NICs of its guests."""

    known: tuple[GuestNic, ...] = ()
    """All that there are. A kernel that lacks one's modules is still good for guests with
    another."""
    needed: tuple[str, ...] = ()
    """The modules of the NIC that is to be played now."""

    @property
    def modules(self) -> list[str]:
        return [name for nic in self.known for name in nic.modules]


NO_NICS: Final = Nics()


@dataclass(frozen=True, slots=True)
class Initramfs:
    """The archive, and the modules in it, in an order in which they can be loaded."""

    archive: bytes
    modules: tuple[str, ...]
    lacks: tuple[str, ...]
    """Modules of known NICs that the kernel does not have."""


def init_script() -> bytes:
    """The guest's /init."""
    return (resources.files("guest.linux") / "init.sh").read_bytes()


def wanted_modules(tree: ModuleTree, nics: Nics) -> list[Module]:
    """The modules of an image, of those that this kernel has.

    Raises:
        BadModules: one that is needed is missing, or one is damaged.
    """
    wanted = [*NEEDED_MODULES, *nics.needed]
    wanted += filter(tree.has, (*BOOT_MODULES, *nics.modules, *OPTIONAL_MODULES))
    return tree.closure(list(dict.fromkeys(wanted)), ALSO_NEEDED)


def build(release: str, tree: ModuleTree, busybox: bytes, nics: Nics = NO_NICS) -> Initramfs:
    """Put it together for the kernel of that ``uname -r``.

    Raises:
        BadModules: a module is missing or damaged.
    """
    modules = wanted_modules(tree, nics)
    at_boot = [name for name in BOOT_MODULES if tree.has(name)]
    folder = f"lib/modules/{release}"
    entries = [
        cpio.file("init", init_script(), 0o755),
        cpio.file("bin/busybox", busybox, 0o755),
        cpio.symlink("sbin", "bin"),
        cpio.directory("proc"),
        cpio.directory("sys"),
        cpio.directory("tmp", 0o1777),
        cpio.character_device("dev/console", 5, 1),
        cpio.file("etc/modules", "".join(f"{name}\n" for name in at_boot).encode()),
        cpio.file("etc/nics", "".join(map(_etc_nics, nics.known)).encode()),
        cpio.file(f"{folder}/modules.dep", _modules_dep(modules).encode()),
        cpio.file(
            f"{folder}/modules.builtin",
            "".join(f"kernel/{name}.ko\n" for name in sorted(tree.builtin)).encode(),
        ),
        *(cpio.file(f"{folder}/{module.name}.ko", module.data) for module in modules),
    ]
    return Initramfs(
        cpio.archive(entries),
        tuple(module.name for module in modules),
        tuple(name for name in nics.modules if not tree.has(name)),
    )


def _etc_nics(nic: GuestNic) -> str:
    """Its line, the ids as /sys/bus/pci/devices/*/vendor and device have them."""
    return f"{nic.vendor:#06x} {nic.device:#06x} {' '.join(nic.modules)}\n"


def _modules_dep(modules: list[Module]) -> str:
    """modules.dep(5): all that each needs, directly or not, what is loaded first at the end."""
    there = {module.name: module for module in modules}

    def needs(name: str) -> list[str]:
        wanted = (*there[name].needs, *ALSO_NEEDED.get(name, ()))
        return [need for need in wanted if need in there]

    lines = []
    for module in modules:
        *before, _ = load_order([module.name], needs)
        lines.append(" ".join([f"{module.name}.ko:", *(f"{name}.ko" for name in before[::-1])]))
    return "".join(f"{line}\n" for line in lines)
