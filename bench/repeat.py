"""A scenario, many times over: do all runs come to the same?

Each run is a process of its own, with the next seed: the command that a user would type. What
counts is the *kind* of a run: its tier, and of each case the outcome, the error, the oracles that
are broken, and whether it met its expectation. Bytes, counts and times may differ. Runs that are
not of the most common kind are *odd*.

Run folders are large, so they go as soon as they are known to be ordinary: kept are the first run
of each kind, and what was odd at the time; at the end, if all runs are alike and passed, nothing.
"""

from __future__ import annotations

import json
import os
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

from bench.scenario.values import show_ranges
from bench.servers.child import start_child

#: How long a run may take to clean up after itself when it was told to end.
_END_TIMEOUT_S: Final = 30.0
#: Cases of an odd run that are told one by one.
_TOLD: Final = 3

#: Of each case: name, outcome, error, broken oracles, met; or of a run that has none: its message.
Kind = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of many."""

    seed: int
    status: int
    """The command's exit status."""
    document: dict[str, Any]
    """What it printed: its verdict, or its error."""
    seconds: float

    @property
    def kind(self) -> Kind:
        if "cases" not in self.document:
            return self.status, self.document.get("error", "it printed nothing")
        return self.document["tier"], *map(_case_kind, self.document["cases"])

    @property
    def folder(self) -> Path | None:
        folder = self.document.get("run_folder")
        return Path(folder) if folder else None

    @property
    def disturbed(self) -> bool:
        return any(case.get("paused_s") for case in self.document.get("cases", ()))


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
        if first or trial.kind != self.common:
            self.kept[trial.seed] = trial.folder
        else:
            shutil.rmtree(trial.folder, ignore_errors=True)

    @property
    def kinds(self) -> dict[Kind, list[Trial]]:
        """Kind -> its runs, the most common first."""
        counts = Counter(trial.kind for trial in self.trials)
        return {
            kind: [trial for trial in self.trials if trial.kind == kind]
            for kind, _ in counts.most_common()
        }

    @property
    def common(self) -> Kind:
        return next(iter(self.kinds))

    @property
    def alike(self) -> bool:
        return len(self.kinds) <= 1

    @property
    def status(self) -> int:
        """What the command exits with: that of the runs if they are alike, else 1."""
        return self.trials[0].status if self.alike else 1

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
        with open(os.memfd_create("verdict"), "r+b") as output, open(os.devnull, "r+b") as nowhere:
            child = start_child(command(seed), output.fileno(), errors=nowhere.fileno())
            running.append(child)
            if over.is_set():
                child.terminate()
            status = child.wait()  # a run's own budgets bound it
            running.remove(child)
            output.seek(0)
            return Trial(seed, status, _document(output.read()), time.monotonic() - began)

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
    cases = trial.document.get("cases")
    if cases is None:
        return str(trial.kind[1])
    counts = Counter(case["outcome"] for case in cases)
    wrong = sum(not case["met"] for case in cases)
    told = ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common())
    return f"{told}: " + (f"{wrong} NOT as expected" if wrong else "as expected")


def rows(found: Repeated) -> Iterator[tuple[str, str, str, str]]:
    """The table: how many runs, their seeds, what they came to, seconds."""
    for trials in found.kinds.values():
        seconds = statistics.median(trial.seconds for trial in trials)
        said = outcomes(trials[0])
        disturbed = sum(trial.disturbed for trial in trials)
        said += f" ({disturbed} disturbed)" * bool(disturbed)
        seeds = show_ranges(trial.seed for trial in trials)
        yield f"{len(trials)}", seeds, said, f"{seconds:.1f}"


def differences(found: Repeated) -> Iterator[str]:
    """What is odd about each kind but the most common, a line each; and where it is kept."""
    common = dict.fromkeys(found.common)
    for kind, trials in list(found.kinds.items())[1:]:
        odd = trials[0]
        cases = {case["name"]: case for case in odd.document.get("cases", ())}
        differing = [part for part in kind if part not in common and isinstance(part, tuple)]
        for name, outcome, *_ in differing[:_TOLD]:
            why = "; ".join(cases[name]["unmet"]) or cases[name]["why"] or "as expected"
            yield f"seed {odd.seed}: {name}: {outcome}: {why}"
        if len(differing) > _TOLD:
            yield f"seed {odd.seed}: and {len(differing) - _TOLD} more cases"
    for seed, folder in sorted(found.kept.items()):
        yield f"seed {seed} is kept: {folder}"
