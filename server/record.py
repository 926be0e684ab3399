"""What the operator is told of one dump: in the log, and in its info file.

The client hears acks or silence. So the reason of a silence is for the operator, who finds it here,
whichever place is looked at:

* the *log* is events, told as they come; those that a client can bring about as often as it likes
  are told as often as a log can bear (``refusals.py``);
* the *info file* is a text that is made anew from what is known: the header, of each reason for a
  refusal the first, notes, and as its last line the outcome.

Nothing is written here. ``life.py`` puts the text into the store, and knows what it means if that
fails.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from netdump.kdh import KernelDumpHeader
from server.infofile import render
from server.refusals import Named, OnEvent, Refusal, Refusals


class Record:
    """Of one dump."""

    def __init__(
        self,
        client: tuple[str, int],
        about: Callable[[], Mapping[str, Any]],
        refusals: Refusals,
        on_event: OnEvent,
    ) -> None:
        """``about``: what every event says of the dump, asked when it is told.
        ``refusals``: the server's, shared.
        """
        self.outcome = ""
        """The info file's last line; "" while there is none."""
        self.named = Named()
        """What was refused."""
        self._notes: list[str] = []
        self._client = client
        self._about = about
        self._refusals = refusals
        self._on_event = on_event

    def note(self, line: str) -> None:
        """A line for the info file."""
        self._notes.append(line)

    def text(self, header: KernelDumpHeader | None) -> str:
        """The info file as things stand, with the header that was taken."""
        named = self.named
        refused = [f"Refused: {why}" for why in named.sentences if why not in self.outcome]
        return render(self._client, header or named.header, [*refused, *self._notes], self.outcome)

    def say(self, kind: str, **fields: Any) -> None:
        """An event of the log."""
        client = f"{self._client[0]}:{self._client[1]}"
        self._on_event(kind, {"client": client, **self._about(), **fields})

    def refuse(self, refusal: Refusal, count: int = 1) -> None:
        """``count`` messages get silence, for this reason."""
        self.named.add(refusal)
        self._refusals.refuse(self._client, refusal, count, **self._about())

    def refuse_finish(self, outcome: str) -> bool:
        """A FINISHED gets silence: why. False if the last one got it for the same."""
        if outcome == self.outcome:
            return False
        self.outcome = outcome
        self._refusals.tell("finish-refused", self._client, **self._about(), outcome=outcome)
        return True

    def rewritten(self, offset: int, frames: int) -> None:
        """``frames`` came again with other bytes, those at ``offset`` first."""
        self.say("rewritten", offset=offset, frames=frames)
