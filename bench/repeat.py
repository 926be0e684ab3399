"""A scenario, many times over: do all runs come to the same?

Each run is a process of its own, with the next seed: the command that a user would type. What
counts is the *kind* of a run: its tier and host, and of each case the outcome, the error, the
oracles that are broken, and whether it met its expectation. Bytes, counts and times may differ.
Runs that are not of the most common kind are *odd*. A run that this machine disturbed is not judged
and of no kind: it has a row, and all others may be alike.

Run folders are large, so they go as soon as they are known to be ordinary: kept are the first run
of each kind, and what was odd at the time; at the end, if all runs are alike and passed, nothing.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final

from bench.errors import MachineLacks
from bench.scenario.values import show_ranges
from bench.servers.child import start_child
from bench.verdict import DISTURBED

#: How long a run may take to clean up after itself when it was told to end.
_END_TIMEOUT_S: Final = 30.0
#: Cases of an odd run that are told one by one.
_TOLD: Final = 3

#: Last characters that are kept of what a run printed on stderr.
_SAID: Final = 4000

#: Tier, host, and of each case: name, outcome, error, broken oracles, met. Of a run that has none:
#: its status and its message.
Kind = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of many."""

    seed: int
    status: int
    """The command's exit status, or minus the number of the signal that ended it."""
    document: dict[str, Any]
    """What it printed: its verdict, or its error."""
    seconds: float
    said: str = ""
    """The end of what it printed on stderr."""

    @property
    def cases(self) -> dict[str, dict[str, Any]]:
        """By name; none where it has no verdict."""
        return {case["name"]: case for case in self.document.get("cases", ())}

    @property
    def where(self) -> str:
        return f"{self.document['tier']}, {self.document['host']}"

    @property
    def kind(self) -> Kind:
        if "cases" not in self.document:
            # So many MiB, or so long: what it lacks is the same.
            return self.status, re.sub(r"\d[\d.,]*", "N", self.without_verdict)
        return self.where, *map(_case_kind, self.cases.values())

    @property
    def without_verdict(self) -> str:
        """Why it has none."""
        if "error" in self.document:
            return str(self.document["error"])
        lines = self.said.strip().splitlines() or ["it printed nothing"]
        ended = f"signal {-self.status}" if self.status < 0 else f"status {self.status}"
        return f"ended with {ended} and without a verdict: {lines[-1]}"

    @property
    def ended_early(self) -> bool:
        """It says that all is well, and never came to its verdict."""
        return self.status == 0 and "cases" not in self.document

    @property
    def judged(self) -> bool:
        """False: this machine disturbed it so much that it was not."""
        return all(case["outcome"] != DISTURBED for case in self.cases.values())

    @property
    def folder(self) -> Path | None:
        folder = self.document.get("run_folder")
        return Path(folder) if folder else None

    @property
    def disturbed(self) -> bool:
        return any(case.get("paused_s") for case in self.cases.values())


@dataclass(slots=True)
class Repeated:
    """All runs, as far as they have come."""

    scenario: str
    trials: list[Trial] = field(default_factory=list)
    kept: dict[int, Path] = field(default_factory=dict)
    """Seed -> run folder."""

    def add(self, trial: Trial) -> None:
        """One more run; its folder goes if the run is ordinary."""
        first = all(trial.kind != other.kind for other in self.trials)
        self.trials.append(trial)
        if trial.folder is None:
            return
        if first or not trial.judged or trial.kind != self.common:
            self.kept[trial.seed] = trial.folder
        else:
            shutil.rmtree(trial.folder, ignore_errors=True)

    @property
    def kinds(self) -> dict[Kind, list[Trial]]:
        """Kind -> its runs, the most common first."""
        judged = [trial for trial in self.trials if trial.judged]
        counts = Counter(trial.kind for trial in judged)
        return {
            kind: [trial for trial in judged if trial.kind == kind]
            for kind, _ in counts.most_common()
        }

    @property
    def not_judged(self) -> list[Trial]:
        return [trial for trial in self.trials if not trial.judged]

    @property
    def common(self) -> Kind:
        return next(iter(self.kinds), ())

    @property
    def alike(self) -> bool:
        return len(self.kinds) <= 1

    @property
    def status(self) -> int:
        """What the command exits with: 1 if the runs are not alike, or if one says 0 without a
        verdict; 3 if some were not judged; else that of the runs; as a shell has it, 128 and the
        number of the signal that ended them.
        """
        if not self.alike or any(trial.ended_early for trial in self.trials):
            return 1
        if self.not_judged:
            return MachineLacks.status
        status = self.trials[0].status
        return status if status >= 0 else 128 - status

    def finish(self) -> None:
        """Where all is well no folder is kept."""
        if self.alike and self.status == 0:
            self.forget()

    def forget(self) -> None:
        for folder in self.kept.values():
            shutil.rmtree(folder, ignore_errors=True)
        self.kept.clear()

    def as_json(self) -> dict[str, Any]:
        return {
            "scenario": self.scenario,
            "runs": len(self.trials),
            "alike": self.alike,
            "not_judged": [trial.seed for trial in self.not_judged],
            "kinds": [
                {
                    "seeds": [trial.seed for trial in trials],
                    "status": trials[0].status,
                    "outcomes": outcomes(trials[0]),
                    "median_s": round(statistics.median(t.seconds for t in trials), 3),
                    "disturbed": sum(trial.disturbed for trial in trials),
                    "folders": [str(self.kept[t.seed]) for t in trials if t.seed in self.kept],
                }
                for trials in self.kinds.values()
            ],
        }


def repeat(
    scenario: str,
    command: Callable[[int], Sequence[str]],
    seeds: Sequence[int],
    jobs: int,
    each: Callable[[Trial], None],
) -> Repeated:
    """Play it once for each seed, ``jobs`` at a time; ``each`` hears of a run that has ended.

    ``command(seed)`` plays one run, and prints its verdict as one JSON document. If this is
    interrupted the runs are ended, and no folder stays.
    """
    found = Repeated(scenario)

    def hear(trial: Trial) -> None:
        found.add(trial)
        each(trial)

    try:
        _play_all(command, seeds, jobs, hear)
    except BaseException:
        found.forget()
        raise
    found.trials.sort(key=lambda trial: trial.seed)
    found.finish()
    return found


def _play_all(
    command: Callable[[int], Sequence[str]],
    seeds: Sequence[int],
    jobs: int,
    hear: Callable[[Trial], None],
) -> None:
    """``hear`` of each run when it has ended."""
    running: list[subprocess.Popen[bytes]] = []
    over = threading.Event()

    def play(seed: int) -> Trial:
        began = time.monotonic()
        with (
            open(os.memfd_create("verdict"), "r+b") as output,
            open(os.memfd_create("stderr"), "r+b") as errors,
        ):
            child = start_child(command(seed), output.fileno(), errors=errors.fileno())
            running.append(child)
            if over.is_set():
                child.terminate()
            status = child.wait()  # a run's own budgets bound it
            running.remove(child)
            seconds = time.monotonic() - began
            output.seek(0)
            errors.seek(0)
            said = errors.read().decode(errors="replace")[-_SAID:]
            return Trial(seed, status, _document(output.read()), seconds, said)

    unheard: set[Future[Trial]] = set()
    try:
        # A child ends with the thread that started it: these live until all are done.
        with ThreadPoolExecutor(jobs, thread_name_prefix="repeat") as pool, _ended(running, over):
            waiting = iter(seeds)
            unheard |= {pool.submit(play, seed) for seed in islice(waiting, jobs)}
            while unheard:
                done, _ = wait(unheard, return_when=FIRST_COMPLETED)
                unheard |= {pool.submit(play, seed) for seed in islice(waiting, len(done))}
                for future in done:
                    hear(future.result())
                    unheard.remove(future)
    finally:
        # Left too early: these have ended, and their folders are in no account.
        for future in unheard:
            if future.exception() is None and (folder := future.result().folder):
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _ended(running: list[subprocess.Popen[bytes]], over: threading.Event) -> Iterator[None]:
    """What still runs when this is left too early is asked to end, and then ended."""
    try:
        yield
    finally:
        over.set()
        for child in list(running):
            child.terminate()
        for child in list(running):
            try:
                child.wait(_END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                child.kill()


def _document(output: bytes) -> dict[str, Any]:
    try:
        document = json.loads(output)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _case_kind(case: dict[str, Any]) -> Kind:
    broken = tuple(sorted(name for name, state in case["oracles"].items() if state == "broken"))
    return case["name"], case["outcome"], case["error"], broken, case["met"]


def outcomes(trial: Trial) -> str:
    """``57 complete``; ``2 complete, 1 silent-hole``; or why there are none."""
    if "cases" not in trial.document:
        return trial.without_verdict
    cases = trial.cases.values()
    counts = Counter(case["outcome"] for case in cases)
    wrong = sum(not case["met"] for case in cases)
    told = ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common())
    return f"{told}: " + (f"{wrong} NOT as expected" if wrong else "as expected")


def rows(found: Repeated) -> Iterator[tuple[str, str, str, str]]:
    """The table: how many runs, their seeds, what they came to, seconds."""
    several = len({trial.where for trial in found.trials if trial.cases}) > 1
    for trials in [*found.kinds.values(), found.not_judged]:
        if not trials:
            continue
        seconds = statistics.median(trial.seconds for trial in trials)
        said = outcomes(trials[0])
        if several and trials[0].cases:
            said += f", on {trials[0].where}"
        disturbed = sum(trial.disturbed for trial in trials)
        said += f" ({disturbed} disturbed)" * bool(disturbed)
        seeds = show_ranges(trial.seed for trial in trials)
        yield f"{len(trials)}", seeds, said, f"{seconds:.1f}"


def differences(found: Repeated) -> Iterator[str]:
    """What is odd about each kind but the most common, a line each; and where it is kept."""
    runs = [trials[0] for trials in found.kinds.values()]
    for odd in runs[1:]:
        lines = list(_odd_cases(runs[0], odd))
        for line in lines[:_TOLD]:
            yield f"seed {odd.seed}: {line}"
        if len(lines) > _TOLD:
            yield f"seed {odd.seed}: and {len(lines) - _TOLD} more cases"
    for trial in found.not_judged:
        disturbed = (case for case in trial.cases.values() if case["outcome"] == DISTURBED)
        yield f"seed {trial.seed}: not judged: {next(disturbed)['why']}"
    for trial in runs:
        if "cases" not in trial.document and "error" not in trial.document:
            yield from (f"seed {trial.seed} said: {line}" for line in trial.said.splitlines())
    for seed, folder in sorted(found.kept.items()):
        yield f"seed {seed} is kept: {folder}"


def _odd_cases(common: Trial, odd: Trial) -> Iterator[str]:
    """In what the cases of a run are not those of the common one."""
    ordinary = {name: _case_kind(case) for name, case in common.cases.items()}
    if not ordinary or not odd.cases:
        return  # their rows say it all
    for name, case in odd.cases.items():
        if name not in ordinary:
            yield f"{name}: no case of seed {common.seed}"
        elif _case_kind(case) != ordinary[name]:
            why = "; ".join(case["unmet"]) or case["why"] or "as expected"
            yield f"{name}: {case['outcome']}: {why}"
    yield from (f"{name}: is missing" for name in ordinary if name not in odd.cases)
