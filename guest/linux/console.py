"""The guest's serial line: what it prints, and what is typed to it.

Whoever waits for what it will say does so with a limit, and lets the world have its turn meanwhile.
"""

from __future__ import annotations

import codecs
import re
import time
from collections.abc import Callable
from typing import Final

from guest.qemu.errors import QemuError
from guest.qemu.serial import SerialLine

_TAIL: Final = 200
#: Between two looks, seconds.
_TURN_S: Final = 0.002


class ConsoleSilent(QemuError):
    """What was waited for did not come: one line, with the last that did."""

    def __init__(self, awaited: str, timeout_s: float, text: str) -> None:
        lines = [line for line in text.splitlines() if line.strip()] or ["(nothing)"]
        super().__init__(
            f"the guest did not say {awaited} within {timeout_s:g} s; its console's last line is:"
            f" {lines[-1][-_TAIL:]}"
        )


class Console:
    """One end of the line."""

    def __init__(self, line: SerialLine) -> None:
        self.text = ""
        """All that was printed and drained, carriage returns left out."""
        self._line = line
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def drain(self) -> None:
        """Read what there is."""
        self.text += self._decode(self._line.read()).replace("\r", "")

    def type(self, text: str) -> None:
        """Send keystrokes: a few, which always fit."""
        self._line.write(text.encode())

    def wait_for(
        self,
        pattern: re.Pattern[str],
        timeout_s: float,
        idle: Callable[[], None],
        start: int = 0,
        what: str = "",
    ) -> re.Match[str]:
        """The first match from position ``start`` of ``text`` on. ``idle`` is called meanwhile.

        ``what``: what is waited for, in words.

        Raises:
            ConsoleSilent: it did not come in time.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            self.drain()
            if match := pattern.search(self.text, start):
                return match
            if time.monotonic() > deadline:
                raise ConsoleSilent(what or repr(pattern.pattern), timeout_s, self.text)
            idle()
            time.sleep(_TURN_S)
