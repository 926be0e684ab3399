"""QEMU's gdb server: the only way to let some CPUs of a machine run, and others not.

The remote serial protocol (GDB manual, appendix E): ``$PACKET#CHECKSUM``, which the other side
answers with ``+`` and, to some packets, with a packet of its own. QEMU's server stops the machine
when it is attached, and ``vCont`` says which of its threads (CPUs, numbered from 1) go on; the
others stand, while the machine as such is running: its timers and its NIC are.
"""

from __future__ import annotations

import socket
from typing import Final

from guest.qemu.errors import QemuError, QemuGone

#: QEMU hangs when it takes longer, seconds.
ANSWER_TIMEOUT_S: Final = 120.0


class Gdb:
    """Our end of the socket; for one thread. It stays open: a gdb that hangs up lets all go on."""

    def __init__(self, end: socket.socket) -> None:
        end.settimeout(ANSWER_TIMEOUT_S)
        self._socket = end

    def resume_alone(self, cpu: int) -> None:
        """Let the CPU of this number (from 0) run, and no other. It is done when the machine is
        running.

        Raises:
            QemuError: the server does not take it.
        """
        packet = f"vCont;c:{cpu + 1:x}".encode()
        self._send(b"$" + packet + b"#%02x" % (sum(packet) % 256))
        while (letter := self._receive()) != b"+":
            if letter == b"-":
                raise QemuError(f"QEMU's gdb server does not take {packet.decode()}")

    def _send(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise QemuGone(f"QEMU's gdb server no longer listens: {error}") from error

    def _receive(self) -> bytes:
        try:
            letter = self._socket.recv(1)
        except OSError as error:
            raise QemuGone(f"QEMU's gdb server does not answer: {error}") from error
        if not letter:
            raise QemuGone("QEMU ended before its gdb server answered")
        return letter
