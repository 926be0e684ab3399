"""A disk that a PC boots: a sector of real-mode code, so that a test has a system of its own.

It writes its own first sector to the second one of its disk, reads that back to another place, and
prints a text from what it read: that appears only if the disk keeps what the machine writes. Then
it listens at the serial line (COM1, polled), and when a line has come in it says that it dies, and
halts.
"""

from __future__ import annotations

from typing import Final

#: A firmware counts cylinders of 16 heads and 63 sectors, and needs a whole one.
SECTOR, SECTORS = 512, 2048
READY: Final = "disk guest: what was written was read"
DIES: Final = "disk guest: it dies"
#: Where the firmware puts the boot sector, and where that reads its copy to.
_ORIGIN, _COPY = 0x7C00, 0x8000
_READY_AT, _DIES_AT = 0x100, 0x140


def boot_disk() -> bytes:
    """The disk image, raw."""
    code = _code("31c0 8ed8 8ec0 8ed0 bc 007c")  # xor ax,ax; ds = es = ss = ax; mov sp,0x7c00
    code += _disk(0x0301, _ORIGIN)  # write one sector
    code += _disk(0x0201, _COPY)  # read one sector
    code += _print(_COPY + _READY_AT)
    code += _code(
        "fa"  # cli: the firmware's own console would read what comes
        "ba fd03 ec a801 74f8"  # until there is a letter: mov dx,0x3fd; in al,dx; test al,1; jz
        "ba f803 ec 3c0d 75f0"  # until it is Return: mov dx,0x3f8; in al,dx; cmp al,13; jnz
    )
    code += _print(_ORIGIN + _DIES_AT)
    code += _code("fa f4 ebfc")  # cli; hlt; jmp back
    sector = bytearray(code.ljust(SECTOR, b"\0"))
    for at, text in ((_READY_AT, READY), (_DIES_AT, DIES)):
        line = text.encode() + b"\r\n\0"
        sector[at : at + len(line)] = line
    sector[-2:] = b"\x55\xaa"
    return bytes(sector) + bytes(SECTOR * (SECTORS - 1))


def reset_by_nmi() -> bytes:
    """A disk image whose code says ``READY``, and has no table of interrupts any more: an NMI ends
    in a triple fault, which resets the PC.
    """
    code = _code("31c0 8ed8 8ec0 8ed0 bc 007c") + _print(_ORIGIN + _READY_AT)
    code += _code("0f011e 407d")  # lidt [0x7d40]: base and limit 0
    code += _code("fa f4 ebfc")  # cli; hlt; jmp back
    sector = bytearray(code.ljust(SECTOR, b"\0"))
    line = READY.encode() + b"\r\n\0"
    sector[_READY_AT : _READY_AT + len(line)] = line
    sector[-2:] = b"\x55\xaa"
    return bytes(sector) + bytes(SECTOR * (SECTORS - 1))


def _code(text: str) -> bytes:
    return bytes.fromhex(text)


def _disk(what: int, buffer: int) -> bytes:
    """int 0x13 with ax = ``what``, for cylinder 0, head 0, sector 2 of the first disk."""
    return b"".join(
        opcode + value.to_bytes(2, "little")
        for opcode, value in ((b"\xb8", what), (b"\xbb", buffer), (b"\xb9", 2), (b"\xba", 0x80))
    ) + _code("cd13")


def _print(address: int) -> bytes:
    """A text that ends with a zero, to COM1."""
    # mov si,address; lodsb; test al,al; jz end; mov dx,0x3f8; out dx,al; jmp to lodsb
    return b"\xbe" + address.to_bytes(2, "little") + _code("ac 84c0 7406 ba f803 ee ebf5")
