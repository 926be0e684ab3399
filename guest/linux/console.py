"""The guest's serial line: what it prints, and what is typed to it.

A line that nobody reads blocks the guest's UART after some 300 characters, and a panic then seems
to hang half printed. So whoever waits for anything reads the console meanwhile: ``drain``.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable
from typing import Final

from guest.qemu.errors import QemuError

_TAIL: Final = 600
#: Between two looks, seconds.
_TURN_S: Final = 0.002


class ConsoleSilent(QemuError):
    """What was waited for did not come. Carries the last lines."""


class Console:
    """One end of the line."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self.text = ""
        """All that was printed, carriage returns left out."""
        self._socket = end

    def drain(self) -> None:
        """Read what there is."""
        try:
            while data := self._socket.recv(65536):
                self.text += data.decode("utf-8", "replace").replace("\r", "")
        except (BlockingIOError, ConnectionError):
            pass

    def type(self, text: str) -> None:
        """Send keystrokes: a few, which always fit."""
        self._socket.send(text.encode())

    def wait_for(
        self,
        pattern: re.Pattern[str],
        timeout_s: float,
        idle: Callable[[], None],
        start: int = 0,
    ) -> re.Match[str]:
        """The first match from position ``start`` of ``text`` on. ``idle`` is called meanwhile.

        Raises:
            ConsoleSilent: it did not come in time.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            self.drain()
            if match := pattern.search(self.text, start):
                return match
            if time.monotonic() > deadline:
                raise ConsoleSilent(
                    f"the guest's console ends with:\n{self.text[-_TAIL:]}\nand"
                    f" {pattern.pattern!r} did not come in {timeout_s:g} s"
                )
            idle()
            time.sleep(_TURN_S)
