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
#: Lines that tell where a console got stuck.
_LAST: Final = 3
#: What moves a terminal's cursor or sets its colours (ECMA-48): a firmware's, an installer's.
_ESCAPE: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[^\[])")
_UNFINISHED: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*)?\Z")
#: Between two looks, seconds.
_TURN_S: Final = 0.002


class ConsoleSilent(QemuError):
    """What was waited for did not come: one line, with the last lines that did."""

    def __init__(self, awaited: str, timeout_s: float, text: str) -> None:
        lines = [line.strip() for line in text.splitlines() if line.strip()] or ["(nothing)"]
        last = " | ".join(line[-_TAIL:] for line in lines[-_LAST:])
        super().__init__(
            f"the guest did not say {awaited} within {timeout_s:g} s; its console ends with: {last}"
        )


class Console:
    """One end of the line."""

    def __init__(self, line: SerialLine) -> None:
        self.text = ""
        """All that was printed and drained, without carriage returns and escape sequences."""
        self._line = line
        self._unfinished = ""
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def drain(self) -> None:
        """Read what there is."""
        text = self._unfinished + self._decode(self._line.read()).replace("\r", "")
        cut = _UNFINISHED.search(text)
        self._unfinished = cut[0] if cut else ""
        self.text += _ESCAPE.sub("", text.removesuffix(self._unfinished))

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
