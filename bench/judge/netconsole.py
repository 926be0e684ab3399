"""netconsole: how much of a Linux kernel's last words came over the network.

Linux has a panic path of its own (net/core/netpoll.c): while it dies, it sends each line of its log
as a UDP datagram, polling the same NIC. The same lines go to the serial console, so it is known
what was to arrive. A line that did not is *explained* if the wire broke the frame that carried it.

    console      lines that the serial console printed from the crash on
    sent         frames with such lines that left the NIC, seen before any fault
    arrived      datagrams that a socket of the other side received
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Final

from bench.verdict import LastWords
from bench.wire.actions import NOTES_OF_LOSS
from bench.wire.contracts import Direction
from bench.wire.kinds import CODE, classify
from nic_models.frames import Frames

_UDP_PAYLOAD: Final = 42
#: A record of the kernel's log, as it is printed: its time, then its text. On the console it may
#: stand behind a shell's prompt.
_RECORD: Final = re.compile(r"\[ *\d+\.\d{6}\] .*$", re.MULTILINE)


def records(text: str) -> list[str]:
    """The lines of a console's output that are the kernel's."""
    return [line.rstrip() for line in _RECORD.findall(text.replace("\r", ""))]


class NetconsoleWatch:
    """Observes what leaves the NIC; see ``sent``."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str]] = []
        """(text, what the wire did to its frame), in order; "" where it did nothing."""

    def observe(self, direction: Direction, frames: Frames, notes: Mapping[int, str]) -> None:
        if direction != "to-server":
            return
        kinds = classify(frames)
        for index in (kinds == CODE["netconsole"]).nonzero()[0].tolist():
            text = frames.bytes_of(index)[_UDP_PAYLOAD:].rstrip(b"\0").decode("utf-8", "replace")
            self.sent.append((text, notes.get(index, "")))


def judge(console: str, sent: list[tuple[str, str]], arrived: list[str]) -> LastWords:
    """Hold the three against each other. ``console``: what was printed from the crash on."""
    printed = Counter(records(console))
    heard = Counter(line for text in arrived for line in records(text))
    broken = Counter(
        line for text, note in sent if note.startswith(NOTES_OF_LOSS) for line in records(text)
    )
    lost = printed - heard
    unexplained = lost - broken
    return LastWords(
        console=printed.total(),
        sent=len(sent),
        arrived=(printed & heard).total(),
        lost=lost.total(),
        unexplained=unexplained.total(),
        first_unexplained=next(iter(unexplained), ""),
    )
