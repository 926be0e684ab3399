"""The oracles: what "right" means, each a function from evidence to a ruling.

An oracle is *held*, *broken* (with the reason), *not applicable* (there was nothing to judge), or
*not ruled on*: there was something, but nobody could see it, as with a part that is somebody else's
(``Evidence.unseen``). It never looks at what the scenario expected: that is for ``expect.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from bench.judge.compare import Comparison, Expected, Stored, compare

#: "not-applicable": there was nothing to judge. "not-ruled-on": there may have been, but nobody saw
#: it.
OracleState = Literal["held", "broken", "not-applicable", "not-ruled-on"]


@dataclass(frozen=True, slots=True)
class Ruling:
    state: OracleState
    why: str = ""


HELD: Final = Ruling("held")


def broken(why: str) -> Ruling:
    return Ruling("broken", why)


def not_applicable(why: str) -> Ruling:
    return Ruling("not-applicable", why)


def not_ruled_on(why: str) -> Ruling:
    """There is something to judge; this server gives no sight of it, or never promised it."""
    return Ruling("not-ruled-on", why)


@dataclass(slots=True)
class Evidence:
    """What a played case left behind."""

    claims_success: bool = False
    gave_up: str = ""
    """Why the client ended without success, in its own words; "" if it did not."""
    deadlock: str = ""
    out_of_time: str = ""
    driver_crashed: str = ""
    """How a driver that is not ours crashed."""
    client_crashed: str = ""
    """The same of a client."""
    nothing_dumped: bool = False
    """The machine never came to its panic."""
    lost: str = ""
    """How the machine was lost before its dump had an end."""
    stored: Stored | None = None
    """The stored dump, complete or partial; None where nothing was stored."""
    other_files: list[str] = field(default_factory=list)
    """Where nothing was stored: names of files that a server left which may call them what it
    likes."""
    stored_as: str = ""
    """Its file name."""
    is_final: bool = False
    """It carries its final name: the server calls it complete."""
    comparison: Comparison | None = None
    not_undone: str = ""
    """Why it could not be decrypted and decompressed to its end, of a dump that has to be."""
    acked_key: int = 0
    """Pieces of its key block that the server acknowledged."""
    missing_key: int = 0
    """Of these, those that are not on the disk as sent."""
    holes_are_frames: bool = True
    """Where it has a hole no frame's payload is, octet for octet."""
    live_looks: int = 0
    """Acknowledged frames that were looked for on the disk while the dump ran."""
    live_missing: int = 0
    """Of these, those that were not there."""
    acked: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None
    """Offsets and lengths that the server acknowledged."""
    expected: Expected | None = None
    """What memory held, as the dump has it."""
    sent: Expected | None = None
    """What the client sent, where that may be something else; None: what memory held."""
    violations: list[str] = field(default_factory=list)
    memory_changes: list[tuple[int, int]] = field(default_factory=list)
    server_trouble: list[str] = field(default_factory=list)
    replayed: int = 0
    """Messages sent again after the end, for idempotence; 0 = not done."""
    replay_unanswered: int = 0
    """Of these, those that were not acknowledged again."""
    replay_changed: list[str] = field(default_factory=list)
    not_idempotent: str = ""
    """Why idempotence can't be ruled on for this server."""
    not_counted: str = ""
    """Why its descriptors could not be counted, and so a leak would not be seen."""
    in_pieces: str = ""
    """Why the witnesses of the wire have not seen all that the client sent; "" where they have."""
    unknown: int = 0
    """Of what the dump must be, the first bytes that nobody knows for that reason."""
    server_present: bool = True
    unseen: Mapping[str, str] = field(default_factory=dict)
    """Oracles whose evidence nobody could gather, and why: they are not ruled on."""

    @property
    def complete(self) -> bool:
        """A final dump, equal to memory."""
        found = self.comparison
        return self.is_final and found is not None and found.equal and not self.not_undone


def bytes_equal(seen: Evidence) -> Ruling:
    found = seen.comparison
    if found is None:
        return not_applicable("nothing was stored")
    if seen.not_undone and seen.is_final:
        return broken(_not_undone(seen.not_undone, found))
    if found.equal:
        return not_ruled_on(seen.in_pieces) if seen.unknown else HELD
    if not seen.is_final and found.only_holes and found.stored_length <= found.expected_length:
        undone = f", as far as it can be undone: {seen.not_undone}" if seen.not_undone else ""
        return not_applicable(f"the dump is partial, and says so; what it holds is right{undone}")
    if found.stored_length > found.expected_length and not found.ranges:
        return broken(f"{found.stored_length - found.expected_length} bytes too long")
    holes = sum(r.end - r.start for r in found.holes)
    wrong = sum(r.end - r.start for r in found.ranges if not r.hole)
    parts = [f"{holes} bytes are holes"] * bool(holes) + [f"{wrong} bytes differ"] * bool(wrong)
    first = found.ranges[0]
    return broken(f"{' and '.join(parts)}, the first at offset {first.start:#x}")


def _not_undone(why: str, found: Comparison) -> str:
    whole = "all of it came out before that, and is right"
    where = f"right up to offset {found.ranges[0].start:#x}" if found.ranges else whole
    return f"the dump can't be undone: {why}; {where}"


def no_false_success(seen: Evidence) -> Ruling:
    if not seen.claims_success:
        return not_applicable("the client did not claim success")
    if seen.complete:
        return HELD
    if seen.stored is None:
        return broken("the client claims success; nothing is stored")
    if not seen.is_final:
        return broken(f"the client claims success; the server keeps only {seen.stored_as}")
    return broken("both sides call the dump complete; it does not equal memory")


def no_false_failure(seen: Evidence) -> Ruling:
    if seen.client_crashed:
        return not_applicable("the client crashed, and reports nothing")
    if seen.complete and not seen.claims_success:
        return broken(f"the dump is complete and equal; the client reports: {seen.gave_up}")
    return HELD if seen.complete else not_applicable("no complete dump was stored")


def ack_means_kept(seen: Evidence) -> Ruling:
    sent = seen.sent or seen.expected
    if seen.missing_key:
        return broken(
            f"{seen.missing_key} of {seen.acked_key} acknowledged pieces of the key block are not"
            " on the disk as sent: nothing of the dump can be decrypted"
        )
    if seen.acked is None or sent is None or not len(seen.acked[0]):
        return not_applicable("no data was acknowledged")
    if seen.memory_changes:
        return not_applicable("memory changed under the dump: what was sent is not what it held")
    if seen.live_missing:
        return broken(
            f"{seen.live_missing} of {seen.live_looks} frames were not on the disk when they had"
            " been acknowledged"
        )
    offsets, lengths = seen.acked
    if seen.stored is None and seen.other_files:
        return not_ruled_on(
            f"no file fits the server's patterns, and it left {', '.join(seen.other_files[:3])}"
        )
    if seen.stored is None:
        return broken(f"{len(offsets)} frames were acknowledged; nothing is stored")
    if seen.sent is None and seen.comparison is not None and seen.comparison.equal:
        return HELD
    if seen.sent is not None and compare(seen.sent, seen.stored).equal:
        return HELD
    missing = 0
    for start, length in zip(offsets.tolist(), lengths.tolist(), strict=True):
        want = sent.read(start, start + length)
        missing += not np.array_equal(want, seen.stored.read(start, start + len(want)))
    if not missing:
        return HELD
    return broken(f"{missing} of {len(offsets)} acknowledged frames are not on the disk as sent")


def panic_hygiene(seen: Evidence) -> Ruling:
    faults = list(seen.violations)
    faults += [f"the driver crashed: {seen.driver_crashed}"] * bool(seen.driver_crashed)
    faults += [f"the client crashed: {seen.client_crashed}"] * bool(seen.client_crashed)
    if seen.memory_changes:
        start, end = seen.memory_changes[0]
        total = sum(b - a for a, b in seen.memory_changes)
        faults.append(f"{total} bytes outside the arena changed, first {start:#x}..{end:#x}")
    return broken("; ".join(faults)) if faults else HELD


def liveness(seen: Evidence) -> Ruling:
    return broken(seen.out_of_time) if seen.out_of_time else HELD


def server_safety(seen: Evidence) -> Ruling:
    if seen.nothing_dumped:
        return not_applicable("the machine never came to its panic")
    if not seen.server_present:
        return not_applicable("there is no server in this story")
    if seen.server_trouble:
        return broken("; ".join(seen.server_trouble))
    unseen = seen.in_pieces or seen.not_counted
    return not_ruled_on(unseen) if unseen else HELD


def idempotence(seen: Evidence) -> Ruling:
    if seen.not_idempotent:
        return not_ruled_on(seen.not_idempotent)
    if not seen.replayed:
        return not_applicable("no complete dump to send frames again to")
    if seen.replay_changed:
        changed = ", ".join(seen.replay_changed)
        return broken(f"{seen.replayed} messages sent again changed {changed}")
    if seen.replay_unanswered:
        return broken(
            f"{seen.replay_unanswered} of {seen.replayed} messages sent again were not acknowledged"
        )
    return HELD


def device_truth(_seen: Evidence) -> Ruling:
    return not_applicable("no second device to compare ours with in this tier")


#: The order is the order of the verdict.
ORACLES: Final[dict[str, Callable[[Evidence], Ruling]]] = {
    "bytes-equal": bytes_equal,
    "no-false-success": no_false_success,
    "no-false-failure": no_false_failure,
    "ack-means-kept": ack_means_kept,
    "panic-hygiene": panic_hygiene,
    "liveness": liveness,
    "server-safety": server_safety,
    "idempotence": idempotence,
    "device-truth": device_truth,
}


def rule(seen: Evidence) -> dict[str, Ruling]:
    """What each oracle says, where its evidence could be gathered."""
    return {
        name: not_ruled_on(seen.unseen[name]) if name in seen.unseen else oracle(seen)
        for name, oracle in ORACLES.items()
    }


def outcome(seen: Evidence) -> str:
    """One word for what happened: complete, silent-hole, false-success, failed, deadlock, hung,
    driver-crashed, client-crashed, lost, or not-seen, where the client's word can't be held against
    anything.

    A silent hole is one that *both* sides call a complete dump.
    """
    if seen.deadlock:
        return "deadlock"
    if seen.out_of_time:
        return "hung"
    if seen.driver_crashed:
        return "driver-crashed"
    if seen.client_crashed:
        return "client-crashed"
    if seen.lost:
        return "lost"
    if not seen.claims_success:
        return "failed"
    if "no-false-success" in seen.unseen:
        return "not-seen"
    if seen.complete:
        return "complete"
    return "silent-hole" if seen.is_final and seen.stored is not None else "false-success"
