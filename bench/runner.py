"""Plays every run of a scenario and judges it.

A run is: set the stage, tell the story, collect the evidence, ask the oracles, compare with what
was expected.

    FOLDER/                events.jsonl, wire.pcapng, dumps/     one run
    FOLDER/cases/NAME/     the same, for each of several
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path

from bench.assemble import Tried, lacks, make_story, why_not
from bench.capture.pcapng import PcapngWriter
from bench.drivers.errors import DriverCrashed, DriverHangs, UnusableDriver
from bench.errors import BadInput
from bench.events import EventLog
from bench.heartbeat import Heartbeat
from bench.judge.compare import Comparison
from bench.judge.evidence import gather, read_disk
from bench.judge.expect import uncounted, unmet
from bench.judge.live import LiveDisk
from bench.judge.netconsole import NetconsoleWatch
from bench.judge.netconsole import judge as judge_last_words
from bench.judge.oracles import ORACLES, Evidence, broken, not_applicable, outcome, rule
from bench.judge.witness import WITNESSES, Witness
from bench.kinds import Host
from bench.progress import Progress
from bench.runs import SNAP_ABOVE, SNAPLEN
from bench.scenario import ResolvedCase, Scenario, expand_cases, with_values
from bench.servers.native import ServerLaunchFailure
from bench.story.stage import CLIENT_MAC, HOST_MAC, Stage, set_stage
from bench.story.told import NoSuchStep, Told
from bench.tiers import ROWS
from bench.verdict import (
    BROKE_DOWN,
    DISTURBED,
    SERVER_DOWN,
    CaseResult,
    Difference,
    Hole,
    LastWords,
    PanicContext,
    RunResult,
)
from bench.wire.bystanders import are_attackers
from bench.wire.contracts import Direction
from guest.qemu.errors import QemuError, QemuGone
from guest.synthetic import OutOfMemory
from netdump.dumper import DumpImage
from nic_models.frames import Frames


def run_scenario(
    scenario: Scenario,
    *,
    tier: str,
    why_this_tier: str,
    seed: int,
    run_folder: Path,
    progress: Progress,
    host: Host | None = None,
) -> RunResult:
    """Play all runs; what they leave is in ``run_folder``, which exists.

    ``host`` is what the wire ends at, by default the most real one of the tier.
    """
    host = host or ROWS[tier].hosts[0]
    result = RunResult(scenario.name, tier, why_this_tier, seed, host)
    runs: list[ResolvedCase] = []
    counted: set[str] = set()
    tried: Tried = {}
    for case in expand_cases(scenario):
        lack = lacks(case, tried)
        if why := why_not(case, tier, host) or (lack.why if lack else ""):
            says = f"'{case.group}': {why}"
            result.not_played += [] if says in result.not_played else [says]
            continue
        if case.sweep_over is None or case.sweep_value is not None:
            runs.append(case)
            continue
        try:
            with _impossible(scenario, case):
                every = _every(tier, host, case, seed, run_folder)
        except ServerLaunchFailure as error:
            result.cases.append(_never_came_up(case, error, Heartbeat()))
            continue
        runs += every
        counted |= {run.name for run in every}
    progress.cases(len(runs))
    for run in runs:
        folder = run_folder if len(runs) == 1 else run_folder / "cases" / run.name
        folder.mkdir(parents=True, exist_ok=True)
        with _impossible(scenario, run):
            played = _played(tier, host, run, seed, folder, progress, counted=run.name in counted)
        result.cases.append(played)
    return result


@contextmanager
def _impossible(scenario: Scenario, case: ResolvedCase) -> Iterator[None]:
    """What turns out to be impossible only when it is tried is bad input all the same."""
    try:
        yield
    except (NoSuchStep, OutOfMemory, UnusableDriver, DriverCrashed, DriverHangs) as error:
        raise BadInput(f"{scenario.file}: case {case.group}: {error}") from None


def _every(
    tier: str, host: Host, case: ResolvedCase, seed: int, folder: Path
) -> list[ResolvedCase]:
    """The runs of a sweep over every step: one is played dry, on the same tier, to count them."""
    dry = folder / "dry"
    with (
        _removed(dry),
        _beating(tier) as beat,
        set_stage(tier, host, case, seed, dry, _nobody, beat.lost_s) as stage,
    ):
        count = case.machine_part.kind.count_steps
        assert count is not None, "the rules refuse it"
        steps = count(case, stage, seed)
    return with_values(case, range(steps))


@contextmanager
def _removed(folder: Path) -> Iterator[None]:
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _nobody(_direction: Direction, _frames: Frames, _notes: Mapping[int, str]) -> None: ...


def _played(
    tier: str,
    host: Host,
    run: ResolvedCase,
    seed: int,
    folder: Path,
    progress: Progress,
    *,
    counted: bool,
) -> CaseResult:
    """One run; if QEMU or its guest breaks down, that costs this run, and none of the others.

    ``counted``: the step at which the panic strikes was counted here, not written by the user.
    """
    with ExitStack() as closing, _beating(tier) as beat:
        try:
            result = _run(tier, host, run, seed, folder, progress, beat, closing)
        except (DriverCrashed, DriverHangs) as error:
            result = _never_panicked(run, error, beat)
        except ServerLaunchFailure as error:
            result = _never_came_up(run, error, beat)
        except QemuError as error:
            result = _no_outcome(run, BROKE_DOWN, str(error).strip().splitlines()[-1], beat)
        except NoSuchStep as error:
            if not counted:
                raise
            why = f"its life took another course than when it was counted: {error}"
            result = _no_outcome(run, BROKE_DOWN, why, beat)
    return _unless_disturbed(run, result, beat)


def _beating(tier: str) -> AbstractContextManager[Heartbeat]:
    """Measures whether we get the CPU. Virtual time takes no notice of that."""
    return nullcontext(Heartbeat()) if ROWS[tier].virtual else Heartbeat()


def _unless_disturbed(run: ResolvedCase, result: CaseResult, beat: Heartbeat) -> CaseResult:
    """A run is not held against anybody whose peers may have given us up with good reason."""
    patience_s = min(run.client_part.kind.patience_s, run.server_part.kind.patience_s)
    if result.met or result.longest_pause_s < patience_s:
        return result
    came = f"It came to {result.outcome}" + (f" ({result.why})" if result.why else "")
    why = f"{came}; the bench did not run for {result.longest_pause_s:.0f} s at once"
    return _no_outcome(run, DISTURBED, why, beat)


def _never_panicked(
    run: ResolvedCase, error: DriverCrashed | DriverHangs, beat: Heartbeat
) -> CaseResult:
    """Of a run whose driver, which is not ours, ended the machine's ordinary life."""
    seen = Evidence(nothing_dumped=True)
    if isinstance(error, DriverHangs):
        seen.out_of_time = str(error)
    else:
        seen.driver_crashed = str(error)
    rulings = rule(seen)
    result = _no_outcome(run, outcome(seen), f"In ordinary life, before the panic: {error}", beat)
    result.oracles = {name: ruling.state for name, ruling in rulings.items()}
    result.oracle_reasons = {name: ruling.why for name, ruling in rulings.items() if ruling.why}
    result.unmet = unmet(run.expect, result, rulings)
    result.met = not result.unmet
    return result


def _never_came_up(run: ResolvedCase, error: ServerLaunchFailure, beat: Heartbeat) -> CaseResult:
    """Of a run whose server, which is not ours, did not come up; of ours that is no verdict."""
    if run.server_part.kind.ours:
        raise error
    why = str(error).strip().splitlines()[-1]
    rulings = dict.fromkeys(ORACLES, not_applicable("the server did not come up"))
    rulings["server-safety"] = broken(f"it did not come up: {why}")
    result = _no_outcome(run, SERVER_DOWN, why, beat)
    result.oracles = {name: ruling.state for name, ruling in rulings.items()}
    result.oracle_reasons = {name: ruling.why for name, ruling in rulings.items()}
    result.unmet = unmet(run.expect, result, rulings)
    return result


def _no_outcome(run: ResolvedCase, instead: str, why: str, beat: Heartbeat) -> CaseResult:
    """Of a run that is not judged."""
    return CaseResult(
        name=run.name,
        group=run.group,
        profile=run.profile,
        mode=_mode(run),
        outcome=instead,
        expected=str(run.expect),
        met=False,
        why=why,
        sweep_over=run.sweep_over,
        sweep_value=run.sweep_value,
        paused_s=beat.lost_s(),
        longest_pause_s=beat.longest_s,
    )


def _run(
    tier: str,
    host: Host,
    run: ResolvedCase,
    seed: int,
    folder: Path,
    progress: Progress,
    beat: Heartbeat,
    closing: ExitStack,
) -> CaseResult:
    """One run; ``closing`` takes what is to be given back when it has been judged."""
    progress.case(run.name, run.machine.memory)
    watch: Witness | None = None  # there is nothing to watch for before the panic
    overheard = NetconsoleWatch() if _has_last_words(run) else None
    disk: LiveDisk | None = None
    with (folder / "wire.pcapng").open("wb") as file, EventLog(folder / "events.jsonl") as events:
        capture = PcapngWriter(file, snaplen=SNAPLEN if run.machine.memory > SNAP_ABOVE else 0)

        def observe(direction: Direction, frames: Frames, notes: Mapping[int, str]) -> None:
            capture.write(direction, frames, notes)
            if overheard is not None:
                overheard.observe(direction, frames, notes)
            if watch is not None and disk is not None and not are_attackers(notes):
                watch.observe(direction, frames, notes)
                if direction == "to-client":
                    disk.look()
                progress.sent(watch.data_bytes)

        with set_stage(tier, host, run, seed, folder, observe, beat.lost_s) as stage:

            def tell(kind: str, **fields: object) -> None:
                events.emit(kind, stage.clock.now_ns(), **fields)

            story = make_story(run, stage, seed, tell)
            closing.callback(story.give_back)
            try:
                story.boot()
                struck = story.live()
                tell("panic", where=struck)
                expected = story.expected()
                speaks = "stock" if stage.server is None else stage.server.protocol
                watch = WITNESSES[speaks](CLIENT_MAC, HOST_MAC)
                disk = LiveDisk(stage.places, watch, story.sent(expected))
                told = story.dump(struck)
            except QemuGone:
                if story.emulator is not None:
                    story.emulator.check()  # it knows best why it ended
                raise
            tell(
                "end",
                error=told.report.error,
                deadlock=told.deadlock,
                hung=told.out_of_time,
                crashed=told.crashed or told.client_crashed,
                lost=told.lost,
            )
            evidence = gather(told, stage, watch, disk, expected)
            paused_s, longest_pause_s = beat.lost_s(), beat.longest_s
    read_disk(evidence, stage, watch, told)
    if evidence.stored is not None:
        closing.callback(evidence.stored.close)
    if overheard is not None:
        last_words = judge_last_words(told.console, overheard.sent, told.netconsole or [])
        result = _judge(run, told, stage, watch, evidence, last_words)
    else:
        result = _judge(run, told, stage, watch, evidence)
    result.paused_s, result.longest_pause_s = paused_s, longest_pause_s
    return result


def _has_last_words(run: ResolvedCase) -> bool:
    return run.machine_part.kind.last_words(run.machine_part.options)


# --- judgement ------------------------------------------------------------------------------------


def _judge(
    run: ResolvedCase,
    told: Told,
    stage: Stage,
    watch: Witness,
    seen: Evidence,
    last_words: LastWords | None = None,
) -> CaseResult:
    rulings = rule(seen)
    report, stats = told.report, told.report.stats
    result = CaseResult(
        name=run.name,
        group=run.group,
        profile=run.profile,
        mode=_mode(run),
        outcome=outcome(seen),
        expected=str(run.expect),
        met=False,
        oracles={name: ruling.state for name, ruling in rulings.items()},
        oracle_reasons={name: ruling.why for name, ruling in rulings.items() if ruling.why},
        dump_bytes=0 if seen.expected is None else seen.expected.length,
        seconds=told.seconds,
        frames=watch.frames,
        retransmissions=stats.retransmissions,
        probes=stats.probes,
        selective_acks=stats.selective_acks,
        refused=dict(stats.refused),
        first_difference=(
            None if told.lost else _first_difference(told, seen.comparison)  # it ends early: known
        ),
        sweep_over=run.sweep_over,
        sweep_value=run.sweep_value,
        error=report.error,
        why=(
            told.deadlock
            or told.out_of_time
            or told.crashed
            or told.client_crashed
            or told.lost
            or _why(report.failed_in, report.detail)
        ),
        panic_context=_panic_context(told),
        foreign_frames_accepted=stats.foreign_accepted,
        nic_wrote_pages=len(_pages(told)),
        netconsole=last_words,
        wire=_wire_deeds(stage),
        uncounted=uncounted(run.expect, told.uncounted),
        violations=seen.violations,
        notes=[*_notes(told, watch, seen), *(stage.server.notes if stage.server else ())],
    )
    if seen.comparison is not None and result.outcome == "silent-hole":
        holes = seen.comparison.holes
        result.holes = [Hole(hole.start, hole.end) for hole in holes]
        result.hole_bytes = sum(hole.end - hole.start for hole in holes)
    result.unmet = unmet(run.expect, result, rulings)
    result.met = not result.unmet
    return result


def _mode(run: ResolvedCase) -> str:
    """How the driver was used; a client that is on the wire by itself has none."""
    return run.nic.mode if run.client_part.kind.drives else ""


def _why(failed_in: object, detail: str) -> str:
    step = getattr(failed_in, "value", "")
    return f"It could not {step}: {detail}" if step else detail


def _first_difference(told: Told, found: Comparison | None) -> Difference | None:
    if found is None or not found.ranges:
        return None
    offset = found.ranges[0].start
    physical = None if told.client is None else _physical(told.client.image, offset)
    return Difference(offset, found.expected_at_first.hex(), found.stored_at_first.hex(), physical)


def _physical(image: DumpImage, offset: int) -> int | None:
    """Where in memory a byte of the dump comes from; None for its header."""
    at = offset - len(image.header)
    for segment in image.segments if at >= 0 else ():
        if at < segment.length:
            return segment.physical + at
        at -= segment.length
    return None


def _panic_context(told: Told) -> PanicContext | None:
    machine = told.machine
    if machine is None:
        return None
    guard, pool = machine.guard, machine.panic_pool
    return PanicContext(
        pool_high_water=pool.high_water,
        pool_size=pool.size,
        locks_bypassed=guard.locks_bypassed,
        locks_held_by_stopped_cpus=guard.bypassed_while_held,
        polls=told.report.stats.polls,
        interrupts=guard.interrupts_asserted,
    )


def _wire_deeds(stage: Stage) -> dict[str, int]:
    deeds: dict[str, int] = {}
    for count in stage.faults.counts:
        deeds[count.rule.action] = deeds.get(count.rule.action, 0) + count.struck
    return deeds | {str(name): count for name, count in stage.bystanders.added.items()}


def _pages(told: Told) -> set[int]:
    """Numbers of the pages that the NIC wrote to by itself."""
    return {page for a, b in told.nic_wrote for page in range(a >> 12, -(-b >> 12))}


def _page_count(pages: set[int]) -> str:
    return "1 page" if len(pages) == 1 else f"{len(pages)} pages"


def _notes(told: Told, watch: Witness, seen: Evidence) -> list[str]:
    notes: list[str] = []
    if seen.comparison is not None and seen.claims_success and seen.holes_are_frames:
        notes += [
            f"The hole at {hole.start:#x}: {watch.history(hole.start)}; the client moved on."
            for hole in seen.comparison.holes[:2]
        ]
    notes += [told.death] if told.death else []
    if told.nic_wrote:
        pages = _pages(told)
        notes.append(
            f"Between the panic and the takeover the NIC wrote to memory by itself, into"
            f" {_page_count(pages)} from {min(pages) << 12:#x} on: dumped as it left them."
        )
    notes += told.notes
    notes += watch.notes()
    if seen.stored_as and not seen.is_final:
        notes.append(f"The server keeps what came as {seen.stored_as}.")
    return notes
