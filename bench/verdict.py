"""What came of a run: plain data, the same for people (``report.py``), for programs, and on disk.

``RunResult.as_json`` is the document that ``run --json`` prints and ``verdict.json`` holds. Its
keys are a promise; new ones may be added, none of these changes its meaning:

    scenario tier why_this_tier seed passed run_folder replay
    cases[]: profile mode outcome expected met oracles{} dump_bytes seconds frames
             retransmissions refused{} first_difference

Everything that can grow with the dump is bounded here, at the last place before the reader.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from bench.judge.oracles import ORACLES, OracleState

#: Holes, violations and notes that are listed; the rest is counted.
MAX_LISTED: Final = 100


#: Instead of an outcome: the emulator, or its guest, did not do what it is there for.
BROKE_DOWN: Final = "broke-down"
#: Instead of an outcome other than expected: this machine kept the bench from running for so long
#: that its peers may have given it up.
DISTURBED: Final = "disturbed"
#: The client claims success, and nobody has seen what it sent.
NOT_SEEN: Final = "not-seen"
#: The server, which is not ours, did not come up.
SERVER_DOWN: Final = "server-down"
#: Runs that are not judged: they accuse nobody, and pass for nothing.
NOT_JUDGED: Final = frozenset({BROKE_DOWN, DISTURBED})

#: How a run may end, and what that means.
OUTCOMES: Final = {
    "complete": "The stored dump equals memory at the panic, byte for byte.",
    "silent-hole": "The client reports success, yet what is stored is not what memory held.",
    "false-success": "The client reports success, yet the server has no complete dump.",
    "failed": "The client gave up, and said so.",
    "deadlock": "The driver waits for a lock whose owner will never run again.",
    "lost": "The machine was gone before its dump had an end.",
    "hung": "The run used up its time without an end.",
    "driver-crashed": "The driver crashed, and no kernel survives that.",
    "client-crashed": "The client crashed, and no kernel survives that.",
    BROKE_DOWN: "QEMU, or its guest, broke down: there is nothing to judge.",
    DISTURBED: "This machine kept the bench from running: what came is not judged.",
    SERVER_DOWN: "The server did not come up: there was nothing to dump to.",
    NOT_SEEN: "The client reports success; what it sent was not seen, so its dump is not judged.",
}
#: Those that a case may be there to see.
EXPECTABLE: Final = tuple(
    name for name in OUTCOMES if name not in {*NOT_JUDGED, NOT_SEEN, SERVER_DOWN}
)


@dataclass(slots=True)
class Difference:
    """The first place where the stored dump is not what memory held. Bytes are hex."""

    offset: int
    """In the dump."""
    expected: str
    stored: str
    physical_address: int | None = None


@dataclass(slots=True)
class Hole:
    """Bytes ``start`` to ``end`` (exclusive) of the dump that were never stored."""

    start: int
    end: int


@dataclass(slots=True)
class PanicContext:
    """What the dying kernel did with its last means, from the panic to the end of the dump."""

    pool_high_water: int = 0
    """Most buffers of the panic pool in use at once."""
    pool_size: int = 0
    locks_bypassed: int = 0
    locks_held_by_stopped_cpus: int = 0
    """How many of the bypassed ones a stopped CPU owned."""
    polls: int = 0
    interrupts: int = 0
    """Interrupts that fired although nobody could serve them."""


@dataclass(slots=True)
class LastWords:
    """What became of a Linux kernel's last words; ``judge/netconsole.py``. Numbers of lines."""

    console: int = 0
    sent: int = 0
    arrived: int = 0
    lost: int = 0
    """Lines of the console that never arrived."""
    unexplained: int = 0
    """Of these, those that no fault of the wire explains."""
    first_unexplained: str = ""


@dataclass(slots=True)
class CaseResult:
    """One run of one case."""

    name: str
    profile: str
    mode: str
    outcome: str
    """One of ``OUTCOMES``."""
    expected: str
    met: bool
    oracles: dict[str, OracleState] = field(default_factory=dict)
    dump_bytes: int = 0
    seconds: float = 0.0
    """From the panic to the end of the dump, on the run's clock."""
    frames: int = 0
    """Seen on the wire, both ways."""
    retransmissions: int = 0
    probes: int = 0
    """Frames sent once more to be answered, when nothing had been heard for a while."""
    selective_acks: int = 0
    """Acks that stood for many frames (``netdump/sack.py``); 0 = each frame had one of its own."""
    refused: dict[str, int] = field(default_factory=dict)
    first_difference: Difference | None = None

    group: str = ""
    """The case of the file that this run is one of; ``name`` where there is no sweep."""
    sweep_over: str | None = None
    sweep_value: int | None = None
    error: str | None = None
    """errno's name, as the dump's caller saw it."""
    why: str = ""
    """The client's or the bench's own account of an end other than complete."""
    unmet: list[str] = field(default_factory=list)
    """What was expected and did not come."""
    oracle_reasons: dict[str, str] = field(default_factory=dict)
    """For each oracle that is not held: why."""
    panic_context: PanicContext | None = field(default_factory=PanicContext)
    """None: the client was a program, and no guard saw it."""
    foreign_frames_accepted: int = 0
    nic_wrote_pages: int = 0
    """Pages of memory that the NIC wrote to between the panic and the takeover."""
    netconsole: LastWords | None = None
    """What became of the last words that a Linux guest sent; None where it sent none."""
    wire: dict[str, int] = field(default_factory=dict)
    """What the wire did to frames: ``{"drop": 3}``."""
    paused_s: float = 0.0
    """Time for which the bench did not get the CPU (``bench/heartbeat``); 0 in virtual time, which
    takes no notice of it.
    """
    longest_pause_s: float = 0.0
    uncounted: list[str] = field(default_factory=list)
    """Keys of the case's ``expect`` for what nobody could count: it is not asked for."""
    violations: list[str] = field(default_factory=list)
    holes: list[Hole] = field(default_factory=list)
    hole_bytes: int = 0
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        whole = asdict(self)
        for name in ("holes", "violations", "notes"):
            whole[name] = whole[name][:MAX_LISTED]
        whole["refused"] = dict(sorted(self.refused.items()))
        whole["oracles"] = {o: self.oracles.get(o, "not-applicable") for o in ORACLES}
        for name in ("seconds", "paused_s", "longest_pause_s"):
            whole[name] = round(whole[name], 6)
        return whole


@dataclass(frozen=True, slots=True)
class Guest:
    """The kernel of a scenario's Linux guests."""

    release: str
    source: str
    """Where it came from, for the reader."""
    sha256: str
    """Of what QEMU booted."""
    kernel: str | None = None
    """The file that was named; None: the distribution's kernel was taken."""
    modules: str | None = None
    """The folder of its modules, where that was named, too."""

    def __str__(self) -> str:
        return f"Linux {self.release}, {self.source}"


@dataclass(slots=True)
class RunResult:
    """One scenario on one tier."""

    scenario: str
    tier: str
    why_this_tier: str
    """Empty where it is the scenario's first choice; else why, and what would enable that one."""
    seed: int
    host: str = ""
    """What the wire ends at: namespace or simulated."""
    run_folder: str = ""
    replay: str = ""
    """The command that plays it again."""
    cases: list[CaseResult] = field(default_factory=list)
    title: str = ""
    why: str = ""
    story: str = ""
    guest: Guest | None = None
    """What its Linux guests booted; None where it has none."""
    only_profile: str | None = None
    """Set where --profile left out the others' cases."""
    parts: dict[str, Any] = field(default_factory=dict)
    """What stood in for the scenario's own nic, server or client: its table, where its relative
    paths start, and the user's word for it."""
    part_files: dict[str, str] = field(default_factory=dict)
    """Path -> SHA-256 of the files of all its parts (``bench/part_files``)."""
    base: str = ""
    """Where the scenario's relative paths start."""
    not_played: list[str] = field(default_factory=list)
    """Cases that this tier can't play, and why; a line each."""

    @property
    def not_judged(self) -> bool:
        """A case has no outcome at all: the emulator or its guest failed, or this machine did."""
        return any(case.outcome in NOT_JUDGED for case in self.cases)

    @property
    def passed(self) -> bool:
        """Every case met its expectation, and there was one."""
        return bool(self.cases) and all(case.met for case in self.cases)

    def as_json(self) -> dict[str, Any]:
        return {
            "scenario": self.scenario,
            "tier": self.tier,
            "why_this_tier": self.why_this_tier,
            "seed": self.seed,
            "host": self.host,
            "passed": self.passed,
            "run_folder": self.run_folder,
            "replay": self.replay,
            "title": self.title,
            "why": self.why,
            "guest": None if self.guest is None else asdict(self.guest),
            "only_profile": self.only_profile,
            "parts": {**self.parts, **({"files": self.part_files} if self.part_files else {})},
            "base": self.base,
            "not_played": self.not_played,
            "cases": [case.as_json() for case in self.cases],
        }


def to_text(document: dict[str, Any]) -> str:
    """A JSON document for a person's eyes and a program's: indented, one trailing newline."""
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    # A file's name may be no UTF-8: its odd bytes, \udc80 and up, become JSON's own escapes.
    return text.encode("utf-8", "backslashreplace").decode()
