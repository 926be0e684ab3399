"""qtest: registers, ports and guest memory, one line of text a command.

    writel 0xfe003818 0x10   ->  OK
    readl 0xfe000008         ->  OK 0x0000000080080783

QEMU's ``-qtest`` server (docs/devel/qtest.rst) works beside any accelerator. Two rules:

1. *Writes are posted*, as on PCI: they are sent, and their answers are collected by whatever comes
   next that has to wait. A command costs 3 us in a row of them, 15 us when each is waited for.
   At most ``MAX_POSTED`` are under way: QEMU stops to read when nobody reads its answers.
2. *Bulk never goes this way*: 4 KiB cost 400 us. The guest's RAM is mapped; see ``vm``.

A read is answered when QEMU's main loop has done all that was asked before it, so it also is the
barrier: what a posted doorbell made the device do has happened then.
"""

from __future__ import annotations

import socket
from typing import Final

from guest.qemu.errors import QemuGone, QtestRefused

MAX_POSTED: Final = 64
#: QEMU hangs when one answer takes longer, seconds. (Who dies hangs up, which is noticed at once.)
ANSWER_TIMEOUT_S: Final = 120.0


class Qtest:
    """One end of a qtest socket; for one thread."""

    def __init__(self, end: socket.socket) -> None:
        """``end``: connected, stream; ours from now on."""
        end.settimeout(ANSWER_TIMEOUT_S)
        self._socket = end
        self._received = b""
        self._posted: list[str] = []
        self.commands = 0
        """Sent so far."""

    # 8, 16 and 32 bits of physical address space; writes are posted.

    def readb(self, address: int) -> int:
        return self._ask(f"readb {address:#x}")

    def readw(self, address: int) -> int:
        return self._ask(f"readw {address:#x}")

    def readl(self, address: int) -> int:
        return self._ask(f"readl {address:#x}")

    def writeb(self, address: int, value: int) -> None:
        self._post(f"writeb {address:#x} {value:#x}")

    def writew(self, address: int, value: int) -> None:
        self._post(f"writew {address:#x} {value:#x}")

    def writel(self, address: int, value: int) -> None:
        self._post(f"writel {address:#x} {value:#x}")

    def inl(self, port: int) -> int:
        """32 bits of an I/O port."""
        return self._ask(f"inl {port:#x}")

    def outl(self, port: int, value: int) -> None:
        """Posted."""
        self._post(f"outl {port:#x} {value:#x}")

    def write(self, address: int, data: bytes) -> None:
        """A few bytes of physical memory, in a way that QEMU's translated code notices. Posted."""
        self._post(f"write {address:#x} {len(data):#x} 0x{data.hex()}")

    def flush(self) -> None:
        """Wait until all that was posted is done."""
        self._collect()

    def close(self) -> None:
        self._socket.close()

    def _ask(self, command: str) -> int:
        self._send(command)
        # It waits its turn: should a write before it be refused, its own answer is still to come.
        self._posted.append(command)
        said = self._collect()
        try:
            return int(said, 16)
        except ValueError:
            raise QtestRefused(f"qtest {command!r} was answered with {said!r}") from None

    def _post(self, command: str) -> None:
        self._send(command)
        self._posted.append(command)
        if len(self._posted) >= MAX_POSTED:
            self.flush()

    def _collect(self) -> str:
        """All answers that are due; what the last of them holds."""
        said = ""
        while self._posted:
            said = self._answer(self._posted.pop(0))
        return said

    def _send(self, command: str) -> None:
        self.commands += 1
        try:
            self._socket.sendall(command.encode() + b"\n")
        except OSError as error:
            raise QemuGone(f"QEMU no longer takes qtest commands ({command}): {error}") from error

    def _answer(self, command: str) -> str:
        """What an "OK" line holds besides.

        Raises:
            QemuGone: the socket ended, or nothing came in ``ANSWER_TIMEOUT_S``.
            QtestRefused: the answer is not "OK".
        """
        while b"\n" not in self._received:
            try:
                more = self._socket.recv(65536)
            except OSError as error:
                raise QemuGone(f"QEMU did not answer {command!r}: {error}") from error
            if not more:
                raise QemuGone(f"QEMU ended before it answered {command!r}")
            self._received += more
        line, self._received = self._received.split(b"\n", 1)
        status, _, rest = line.decode("ascii", "replace").partition(" ")
        if status != "OK":
            raise QtestRefused(f"qtest {command!r} was answered with {line!r}")
        return rest
