"""The life of one dump: its states, and what each step does to its files and its record.

                 BEGIN        COMPLETE    GIVE_UP       FAIL
    OFFERED      RECEIVING    -           INCOMPLETE    FAILED
    RECEIVING    -            COMPLETE    INCOMPLETE    FAILED

The table is ``MOVES``. The other states are ends: no step leads out of them.

    step        taken when                                  the files then
    BEGIN       the first VMCORE, KDH or key is in order    are made; the vmcore is .partial
    COMPLETE    the dump is whole, or is believed to be     final name; open, to be compared with
    GIVE_UP     nothing more will come, and it is not       stay as they are, closed
    FAIL        the disk refuses                            stay as they are, closed

At the end of one that has begun the manifest is written, from what is read back of the file
(``manifest.py``). A dump whose file is not what its client sent is no whole one (``Dump.damage``).
A HERALD alone, which anybody can forge, makes no files. The info file is written at each step, but
for an offer that comes to nothing, and whenever the record has news; a running dump whose info file
the disk refuses has FAILED.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from enum import Enum, auto
from typing import Final

from server.dump import Dump
from server.record import Record
from server.store import StoreError


class State(Enum):
    """The values are names for events and counters."""

    OFFERED = "offered"
    """A HERALD was acknowledged; there is no file yet."""
    RECEIVING = "receiving"
    COMPLETE = "complete"
    INCOMPLETE = "incomplete"
    """It ended early."""
    FAILED = "failed"
    """The disk refused."""

    @property
    def running(self) -> bool:
        return self in (State.OFFERED, State.RECEIVING)


class Step(Enum):
    """See the module's tables."""

    BEGIN = auto()
    COMPLETE = auto()
    GIVE_UP = auto()
    FAIL = auto()


#: Where a step leads. A pair that is not here is a defect of ours.
MOVES: Final[Mapping[tuple[State, Step], State]] = {
    (State.OFFERED, Step.BEGIN): State.RECEIVING,
    (State.OFFERED, Step.GIVE_UP): State.INCOMPLETE,
    (State.OFFERED, Step.FAIL): State.FAILED,
    (State.RECEIVING, Step.COMPLETE): State.COMPLETE,
    (State.RECEIVING, Step.GIVE_UP): State.INCOMPLETE,
    (State.RECEIVING, Step.FAIL): State.FAILED,
}


class Life:
    """Of one dump."""

    def __init__(self, dump: Dump, record: Record, manifest: Callable[[], str]) -> None:
        """``manifest``: its text, as things stand."""
        self.state = State.OFFERED
        self.errno = 0
        """The disk's reason, of one that has FAILED."""
        self._dump = dump
        self._record = record
        self._manifest = manifest
        self._info = ""

    def begun(self) -> bool:
        """Are the files there? Makes them for the first message that proves the session."""
        if self.state is State.OFFERED:
            try:
                self._dump.begin()
            except StoreError as error:
                self.fail(error)
                return False
            self.state = MOVES[self.state, Step.BEGIN]
            self._record.say("begin")
            self.write_info()
        return self.state is State.RECEIVING

    def complete(self) -> None:
        """It is whole, or is believed to be. If the disk refuses, it FAILED."""
        dump, record = self._dump, self._record
        if dump.has_footer:
            record.note("Footer Check: Pass")
        # What takes long comes first: who sees the final name soon sees all that belongs to it.
        with suppress(StoreError):
            dump.read_back()
        try:
            dump.finish()
        except StoreError as error:
            self.fail(error)
            return
        self._take(Step.COMPLETE, "Dump complete")
        self._write_manifest()
        self._publish()
        self.write_info()
        dump.seal()  # late copies are compared with the file
        record.say(self.state.value, outcome=record.outcome)

    def _publish(self) -> None:
        try:
            self._dump.publish()
        except StoreError as error:
            # The dump is whole and has its name. Only who looks for the latest is led astray.
            self._record.note(f"Latest dump not marked: {error}")

    def fail(self, error: StoreError) -> None:
        self.errno = error.errno
        self._close(Step.FAIL, f"Dump unsuccessful: {error}")

    def end(self, why: str, held: int) -> None:
        """Nothing more will come. A dump that lacks only its FINISHED is complete all the same.

        ``held``: acks that were held back until now.
        """
        if self.state is State.RECEIVING:
            named = self._record.named
            found = self._dump.faults(named) or self._dump.damage
            if not found:
                self._record.note(f"No FINISHED came: {why}")
                self.complete()
                return
            if held and not named.costs_the_header:
                # Either the client was lost in mid-chunk, or it is no FreeBSD kernel at all.
                found.append(f"{held} acks of an unfinished chunk were held (see --no-rescue)")
            self._close(Step.GIVE_UP, "; ".join([f"Dump incomplete: {why}", *found]))
        elif self.state is State.OFFERED:
            # Anybody can forge HERALDs by the thousand, so this is no news of a dump.
            self._close(Step.GIVE_UP, f"No dump came: {why}", "no-dump")

    def resume(self, finished: bool) -> None:
        """Another life of the server has begun this dump, or finished it."""
        self.state = State.COMPLETE if finished else State.RECEIVING
        self._record.outcome = "Dump complete" if finished else ""

    def end_resuming(self, has_manifest: bool, told: str, crashed: bool) -> None:
        """All of it is known again. What an earlier life had finished, it may not have told: the
        last line of its info file was ``told``. If it had, a later dump may be the latest by now.
        Of what a machine's crash may have damaged no manifest is made: it would call it right.
        """
        if self.state is State.COMPLETE:
            if crashed and not has_manifest:
                self._record.note("No manifest: the machine crashed, and this may not be what came")
            if told != self._record.outcome:
                if not (crashed or has_manifest):
                    self._write_manifest()
                self._publish()
        self.write_info()

    def give_up(self, why: str) -> None:
        """It can't be gone on with, and what is stored may be less than was acknowledged."""
        if self.state is State.RECEIVING:
            self._close(Step.GIVE_UP, f"Dump incomplete: {why}")

    def write_info(self) -> bool:
        """The info file as things stand. If the disk refuses it, so it does the dump."""
        text = self._record.text(self._dump.header)
        if text == self._info:
            return True
        try:
            self._dump.write_info(text)
        except StoreError as error:
            if self.state is State.RECEIVING:
                self.fail(error)
            else:
                self._record.say("info-lost", message=str(error))
            return False
        self._info = text
        return True

    def _close(self, step: Step, outcome: str, event: str = "") -> None:
        """It ends, and is not complete."""
        began = self.state is State.RECEIVING
        self._take(step, outcome)
        if began:
            self._write_manifest()
            self.write_info()
        self._dump.end_journal()
        self._dump.close()
        self._record.say(event or self.state.value, outcome=outcome)

    def _take(self, step: Step, outcome: str) -> None:
        self.state = MOVES[self.state, step]
        self._record.outcome = outcome

    def _write_manifest(self) -> None:
        if self.state is not State.FAILED:
            # What can't be read back now has no digest, and the manifest says so.
            with suppress(StoreError):
                self._dump.read_back()
        try:
            self._dump.write_manifest(self._manifest())
        except StoreError as error:
            self._record.note(f"No manifest: {error}")
