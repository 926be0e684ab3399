"""What QEMU says a machine's memory holds: QMP's dump-guest-memory, read back.

The dump is an ELF core (QEMU dump/dump.c): PT_NOTE, with a NT_PRSTATUS for each CPU, QEMU's own
notes and, where the guest left one in fw_cfg, VMCOREINFO; then a PT_LOAD for each block of RAM,
whose p_paddr is its physical address. It goes to memory, not to a disk, and is read where it lies.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from guest.kernel.mapping import Mapping
from guest.qemu.errors import QemuError

_EHDR: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR: Final = struct.Struct("<IIQQQQQQ")
_PT_LOAD, _PT_NOTE = 1, 4
_IDENT: Final = b"\x7fELF\x02\x01"


@dataclass(frozen=True, slots=True)
class CoreDump:
    """Memory and notes of one instant."""

    notes: bytes
    blocks: tuple[tuple[int, NDArray[np.uint8]], ...]
    """(physical address, contents), ascending."""
    memory: Mapping
    """Where they lie."""

    def read(self, start: int, length: int) -> NDArray[np.uint8]:
        """A stretch of physical memory, uint8.

        Raises:
            QemuError: it is not all RAM of one block.
        """
        for address, block in self.blocks:
            if address <= start and start + length <= address + len(block):
                return block[start - address : start - address + length]
        said = ", ".join(f"{a:#x}..{a + len(b):#x}" for a, b in self.blocks)
        raise QemuError(f"{start:#x}..{start + length:#x} is not RAM that QEMU dumped: {said}")


def parse(fd: int) -> CoreDump:
    """``fd`` holds the dump, which is not cut short from now on. It is mapped, not copied, and what
    is written to the result stays with it.

    Raises:
        QemuError: it is no such core.
    """
    size = os.fstat(fd).st_size
    if size < _EHDR.size:
        raise QemuError(f"dump-guest-memory wrote {size} bytes: no ELF header fits in that")
    memory = Mapping(size, fd, private=True)
    data = memory.array
    header = _EHDR.unpack_from(data.data)
    if header[0][:6] != _IDENT:
        raise QemuError(f"dump-guest-memory wrote no 64-bit ELF core: {header[0].hex()}")
    if header[9] != _PHDR.size:
        raise QemuError(f"dump-guest-memory wrote program headers of {header[9]} bytes each")

    def part(offset: int, length: int) -> NDArray[np.uint8]:
        if offset + length > size:
            raise QemuError(
                f"dump-guest-memory wrote {size} bytes, and promised {length:#x} at {offset:#x}"
            )
        return data[offset : offset + length]

    notes = b""
    blocks: list[tuple[int, NDArray[np.uint8]]] = []
    for kind, _, offset, _, physical, length, _, _ in _PHDR.iter_unpack(
        part(header[5], header[10] * _PHDR.size).data
    ):
        if kind == _PT_NOTE:
            notes += part(offset, length).tobytes()
        elif kind == _PT_LOAD:
            blocks.append((physical, part(offset, length)))
    return CoreDump(notes, tuple(sorted(blocks, key=lambda block: block[0])), memory)
