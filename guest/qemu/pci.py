"""PCI as software sees it: configuration mechanism #1, and what it says of one function.

A configuration register is chosen by a write to port 0xcf8 and appears at port 0xcfc (PCI Local
Bus 3.0, 3.2.2.3.2). With firmware the base address registers (BARs) are assigned already; on a
machine that has none, whoever comes first assigns them.
"""

from __future__ import annotations

from typing import Final, Protocol

from guest.qemu.errors import QemuError

CONFIG_ADDRESS: Final = 0xCF8
CONFIG_DATA: Final = 0xCFC
_ENABLE: Final = 1 << 31

#: PCI Local Bus 3.0, 6.1: configuration registers, and bits in them.
ID, COMMAND, BAR0 = 0x00, 0x04, 0x10
IO_SPACE, MEMORY_SPACE, BUS_MASTER = 1, 2, 4
_STATUS_SHIFT: Final = 16
_INTERRUPT_STATUS: Final = 1 << 3
_NOTHING: Final = 0xFFFF_FFFF

#: A place for a memory BAR on a PC without firmware: above any RAM that we give, below the APICs.
FIRST_BAR: Final = 0xFE00_0000


class Ports(Protocol):
    """I/O ports and physical address space; ``qtest`` has them."""

    def inl(self, port: int) -> int: ...

    def outl(self, port: int, value: int) -> None: ...

    def readb(self, address: int) -> int: ...

    def readw(self, address: int) -> int: ...

    def readl(self, address: int) -> int: ...

    def writeb(self, address: int, value: int) -> None: ...

    def writew(self, address: int, value: int) -> None: ...

    def writel(self, address: int, value: int) -> None: ...


class NoSuchDevice(QemuError):
    """It is not on bus 0."""


class PciFunction:
    """Function 0 of a device on bus 0; its registers are those of one BAR."""

    def __init__(self, ports: Ports, slot: int, bar: int = 0) -> None:
        self.slot: Final = slot
        self._bar = BAR0 + 4 * bar
        self._ports = ports
        self._base = 0

    def config_read(self, register: int) -> int:
        """32 bits; ``register`` is a multiple of 4."""
        self._ports.outl(CONFIG_ADDRESS, _ENABLE | self.slot << 11 | register)
        return self._ports.inl(CONFIG_DATA)

    def config_write(self, register: int, value: int) -> None:
        self._ports.outl(CONFIG_ADDRESS, _ENABLE | self.slot << 11 | register)
        self._ports.outl(CONFIG_DATA, value)

    def enable(self, assign: int = FIRST_BAR) -> int:
        """Let it decode memory and be a bus master; where its BAR is.

        ``assign``: where to put a BAR that nobody has assigned.
        """
        base = self.config_read(self._bar) & ~0xF
        if not base:
            self.config_write(self._bar, assign)
            base = assign
        command = self.config_read(COMMAND) & 0xFFFF
        self.config_write(COMMAND, command | IO_SPACE | MEMORY_SPACE | BUS_MASTER)
        self._base = base
        return base

    def decodes_at(self, base: int) -> PciFunction:
        """It is known where its BAR is; the function itself, with nothing changed."""
        self._base = base
        return self

    def interrupt_pending(self) -> bool:
        """The level of its INTx: PCI Local Bus 3.0, 6.2.3, Interrupt Status."""
        return bool(self.config_read(COMMAND) >> _STATUS_SHIFT & _INTERRUPT_STATUS)

    # Reads of the BAR, and writes, which are posted.

    def read8(self, offset: int) -> int:
        return self._ports.readb(self._base + offset)

    def read16(self, offset: int) -> int:
        return self._ports.readw(self._base + offset)

    def read32(self, offset: int) -> int:
        return self._ports.readl(self._base + offset)

    def write8(self, offset: int, value: int) -> None:
        self._ports.writeb(self._base + offset, value)

    def write16(self, offset: int, value: int) -> None:
        self._ports.writew(self._base + offset, value)

    def write32(self, offset: int, value: int) -> None:
        self._ports.writel(self._base + offset, value)


def find(ports: Ports, vendor: int, device: int, bar: int = 0) -> PciFunction:
    """The first such device on bus 0; its registers are those of ``bar``.

    Raises:
        NoSuchDevice: there is none; says what there is.
    """
    seen: list[str] = []
    for slot in range(32):
        function = PciFunction(ports, slot, bar)
        identity = function.config_read(ID)
        if identity == device << 16 | vendor:
            return function
        if identity != _NOTHING:
            seen.append(f"{identity & 0xFFFF:04x}:{identity >> 16:04x}")
    raise NoSuchDevice(
        f"no {vendor:04x}:{device:04x} on PCI bus 0; there are: {', '.join(seen) or 'none'}"
    )
