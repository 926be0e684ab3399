"""The commands of ``netdump-bench``, by name: each plays its options and returns an exit status."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from rich.table import Table
from rich.text import Text

from bench import catalogue, doctor, put_in
from bench.again import module
from bench.console import console, printing
from bench.errors import BadInput, MachineLacks
from bench.guests import with_kernel
from bench.play import MAX_SEED, play, replay, require_room_for
from bench.progress import Progress, make_progress
from bench.repeat import Trial, outcomes, repeat
from bench.report import print_repeated, print_verdict
from bench.scenario import (
    PROFILES,
    TIERS,
    Scenario,
    expand_cases,
    list_scenarios,
    load_scenario,
    only_profile,
)
from bench.spelling import nearest
from bench.tiers import first_choice, missing_packages
from bench.verdict import to_text
from server import cli as server_cli
from server.verify import verify

# --- run and replay -------------------------------------------------------------------------------


def _run(arguments: argparse.Namespace, words: list[str]) -> int:
    scenario = load_scenario(arguments.scenario)
    if arguments.profile is not None:
        if arguments.profile not in PROFILES:
            raise BadInput(
                f'no profile is named "{arguments.profile}"{nearest(arguments.profile, PROFILES)}'
                f" ({', '.join(PROFILES)})"
            )
        scenario = only_profile(scenario, arguments.profile)
    scenario = _with_parts(scenario, arguments)
    scenario = with_kernel(scenario, arguments.kernel, arguments.modules, arguments.tier)
    if arguments.repeat:
        return _repeat(arguments, scenario)
    if arguments.jobs:
        raise BadInput("-j is how many runs of --repeat are played at a time: give --repeat, too")
    with _progress(arguments) as progress:
        result = play(
            scenario,
            tier=arguments.tier,
            seed=arguments.seed,
            runs=arguments.runs,
            progress=progress,
            before_tap=lambda: _restart_as_namespace_root(words),
        )
    with printing():
        if arguments.json:
            sys.stdout.write(to_text(result.as_json()))
        else:
            print_verdict(result, console())
    if result.not_judged:
        return MachineLacks.status
    return 0 if result.passed else 1


def _with_parts(scenario: Scenario, arguments: argparse.Namespace) -> Scenario:
    return put_in.with_parts(
        scenario, {section: getattr(arguments, section) for section in put_in.SECTIONS}
    )


def _repeat(arguments: argparse.Namespace, scenario: Scenario) -> int:
    """Each run is this command again, for one seed."""
    seeds = range(arguments.seed, arguments.seed + arguments.repeat)
    if seeds[-1] > MAX_SEED:
        raise BadInput(f"--repeat {arguments.repeat}: the last seed would be beyond 2^63-1")
    again = [*module("bench", "run", "--json", "--quiet", "--runs"), arguments.runs]
    for option in ("tier", "profile", *put_in.SECTIONS, "kernel", "modules"):
        if (value := getattr(arguments, option)) is not None:
            again += [f"--{option}", str(value)]

    def say(trial: Trial) -> None:
        if not (arguments.quiet or arguments.json):
            line = f"seed {trial.seed}: {outcomes(trial)}, {trial.seconds:.1f} s"
            print(line, file=sys.stderr, flush=True)

    def command(seed: int) -> list[str]:
        return [*map(str, again), "--seed", str(seed), "--", arguments.scenario]

    jobs = min(arguments.jobs or 1, len(seeds))
    tier = first_choice(scenario, arguments.tier)
    if tier in TIERS and not missing_packages(scenario, tier):
        # Each run looks for itself, but none of them sees what the others are about to take.
        require_room_for(scenario, tier, arguments.runs, jobs)
    found = repeat(scenario.name, command, seeds, jobs, say)
    with printing():
        if arguments.json:
            sys.stdout.write(to_text(found.as_json()))
        else:
            print_repeated(found, console())
    return found.status


def _replay(arguments: argparse.Namespace, words: list[str]) -> int:
    with _progress(arguments) as progress:
        found = replay(
            arguments.folder,
            runs=arguments.runs,
            progress=progress,
            before_tap=lambda: _restart_as_namespace_root(words),
        )
    with printing():
        if arguments.json:
            sys.stdout.write(to_text(found.as_json()))
        else:
            out = console()
            print_verdict(found.result, out)
            out.print(Text(f"{found}"), soft_wrap=True)
    return 0 if found.same else 1


@contextlib.contextmanager
def _progress(arguments: argparse.Namespace) -> Iterator[Progress]:
    progress = make_progress(arguments.json or arguments.quiet)
    try:
        yield progress
    finally:
        progress.close()


def _restart_as_namespace_root(words: list[str]) -> None:
    """Become root of a user namespace of our own, where that gives us the tap tier."""
    from bench.wire.namespace import rootless_reexec_command

    command = rootless_reexec_command(module("bench", *words))
    if command:
        sys.stdout.flush()
        os.execvp(command[0], command)


# --- needs, list, parts, schema, doctor, serve, verify, decrypt -----------------------------------


def _needs(arguments: argparse.Namespace, _words: list[str]) -> int:
    """For ``make scenario``, which installs them where it may."""
    scenario = load_scenario(arguments.scenario)
    scenario = _with_parts(scenario, arguments)
    # A kernel that can't be played is told before anything is installed for it.
    with_kernel(scenario, arguments.kernel, arguments.modules, arguments.tier)
    groups = missing_packages(scenario, arguments.tier)
    with printing():
        print(*groups)
    return 0


def _list(arguments: argparse.Namespace, _words: list[str]) -> int:
    scenarios = [load_scenario(name) for name in list_scenarios()]
    if arguments.json:
        rows = [
            {
                "name": scenario.name,
                "title": scenario.title,
                "why": scenario.why,
                "tiers": list(scenario.tiers),
                "profiles": list(dict.fromkeys(c.profile for c in expand_cases(scenario))),
            }
            for scenario in scenarios
        ]
        with printing():
            sys.stdout.write(to_text({"scenarios": rows}))
        return 0
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for scenario in scenarios:
        table.add_row(scenario.name, Text(f"{scenario.title} ({', '.join(scenario.tiers)})"))
    with printing():
        console().print(table)
    return 0


def _parts(arguments: argparse.Namespace, _words: list[str]) -> int:
    entries = catalogue.catalogue()
    if arguments.json:
        with printing():
            sys.stdout.write(to_text(catalogue.as_json(entries)))
        return 0
    table = Table(box=None, pad_edge=False, show_header=False)
    for _ in range(3):
        table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for entry in entries:
        says = entry.says
        if not entry.ok:
            says += f"; not here: {entry.why}" + (f" (cure: {entry.cure})" if entry.cure else "")
        table.add_row(entry.sort, Text(entry.name, "bold"), "ok" if entry.ok else "-", Text(says))
    with printing():
        console().print(table)
    return 0


def _schema(_arguments: argparse.Namespace, _words: list[str]) -> int:
    """For editors: they complete and check scenario files by it."""
    from bench.scenario.editor import json_schema

    with printing():
        sys.stdout.write(to_text(json_schema()))
    return 0


def _check_nic(arguments: argparse.Namespace, _words: list[str]) -> int:
    from bench.nic_check.command import check, subject_of

    subject = subject_of(arguments.family, arguments.driver, Path())
    findings = []
    for finding in check(subject):
        findings.append(finding)
        if not arguments.json:
            with printing():
                print(finding)
    if arguments.json:
        document = {
            "family": arguments.family,
            "driver": arguments.driver,
            "ok": all(finding.ok for finding in findings),
            "checks": [finding.as_json() for finding in findings],
        }
        with printing():
            sys.stdout.write(to_text(document))
    return 0 if all(finding.ok for finding in findings) else 1


def _doctor(arguments: argparse.Namespace, _words: list[str]) -> int:
    findings = doctor.examine()
    with printing():
        if arguments.json:
            sys.stdout.write(to_text(doctor.as_json(findings)))
        else:
            doctor.print_findings(findings, console())
    return 0 if doctor.healthy(findings) else 3


def _serve(arguments: argparse.Namespace, _words: list[str]) -> int:
    return server_cli.run(arguments)


def _verify(arguments: argparse.Namespace, _words: list[str]) -> int:
    status, line = verify(arguments.dump, arguments.manifest)
    with printing():
        if arguments.json:
            sys.stdout.write(to_text({"status": status, "says": line}))
        else:
            print(line)
    return status


def _decrypt(arguments: argparse.Namespace, _words: list[str]) -> int:
    from bench.decrypt import decrypt

    made = decrypt(
        arguments.dump,
        arguments.out,
        arguments.private_key,
        arguments.key,
        keep_compressed=arguments.keep_compressed,
    )
    with printing():
        print(made.line)
    return 0 if made.whole else 1


#: What plays a command: its arguments and the words of the command line in, the exit status out.
COMMANDS: Final[dict[str, Callable[[argparse.Namespace, list[str]], int]]] = {
    "run": _run,
    "needs": _needs,
    "list": _list,
    "parts": _parts,
    "doctor": _doctor,
    "check-nic": _check_nic,
    "replay": _replay,
    "schema": _schema,
    "serve": _serve,
    "verify": _verify,
    "decrypt": _decrypt,
}
