"""``netdump-bench``: play a scenario and print its verdict.

Exit status: 0 all went as expected; 1 it did not; 2 bad input; 3 this machine lacks what was
demanded; 128 and the signal's number for SIGINT (130), SIGTERM and SIGHUP. What the user did wrong,
or the machine lacks, is one line on stderr; only a defect of the bench shows a traceback. With
--json stdout carries one JSON document and nothing else, on failure ``{"error": ..., "status":
...}``. A reader who leaves early (``| head``) changes no exit status.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Final, NoReturn

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench import catalogue, doctor, put_in
from bench.errors import BadInput, BenchError, MachineLacks
from bench.guests import with_kernel
from bench.play import MAX_SEED, play, replay, require_room_for
from bench.progress import Progress, make_progress
from bench.repeat import Trial, outcomes, repeat
from bench.report import WIDTH, print_repeated, print_verdict
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

PROGRAM: Final = "netdump-bench"
DEFAULT_SEED: Final = 1
DEFAULT_RUNS: Final = "runs"
MAX_REPEAT: Final = 10_000
INTERRUPTED: Final = 128 + signal.SIGINT


class _Terminated(KeyboardInterrupt):
    """SIGTERM, or SIGHUP as the terminal closes: cleaned up after like Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.status = 128 + number


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the whole usage above it."""

    def __init__(self, **kwargs: Any) -> None:
        # No abbreviations: what was meant by --js is known only after a mistake was to be told.
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        raise BadInput(f"{message} (`{self.prog} --help` tells more)")


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in words
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that lacks a sign still gets a line
    try:
        with _stops_interrupt():
            _check_current_folder()
            arguments = _parser().parse_args(words)
            run: Callable[[argparse.Namespace, list[str]], int] = arguments.run
            return run(arguments, words)
    except BenchError as error:
        return _fail(str(error), error.status, as_json)
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        message = f"{error.strerror}: allow more of them (ulimit -n)"
        return _fail(message, MachineLacks.status, as_json)
    except KeyboardInterrupt as stop:
        if isinstance(stop, _Terminated):
            return _fail("terminated; nothing was left behind", stop.status, as_json)
        return _fail("interrupted; nothing was left behind", INTERRUPTED, as_json)


def _fail(message: str, status: int, as_json: bool) -> int:
    if as_json:
        with contextlib.suppress(BadInput), _printing():
            print(json.dumps({"error": message, "status": status}))
    with contextlib.suppress(OSError):  # a stderr that takes nothing: the status must do
        print(f"{PROGRAM}: {message}", file=sys.stderr)
    return status


@contextlib.contextmanager
def _printing() -> Iterator[None]:
    """Print in here. Whoever has read enough may leave; a full disk is the user's to mend."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        # What is still in the buffer must not fail once more when the interpreter ends.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            raise BadInput(f"can't write to standard output: {error.strerror}") from None


def _check_current_folder() -> None:
    try:
        os.getcwd()
    except OSError as error:
        raise BadInput(f"the current folder: {error.strerror}; cd to one that exists") from None


@contextlib.contextmanager
def _stops_interrupt() -> Iterator[None]:
    """SIGTERM and SIGHUP end a command as Ctrl-C does; what is ignored (nohup) stays ignored."""

    def stop(number: int, _frame: object) -> None:
        raise _Terminated(number)

    numbers = [
        number
        for number in (signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is signal.SIG_DFL
    ]
    try:
        before = {number: signal.signal(number, stop) for number in numbers}
    except ValueError:  # not the main thread: somebody else's process, somebody else's signals
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# --- the options ----------------------------------------------------------------------------------


def _seed(text: str) -> int:
    try:
        seed = int(text, 0)
    except ValueError:
        seed = -1
    if not 0 <= seed <= MAX_SEED:
        raise argparse.ArgumentTypeError(f"{text!r} is not a seed: a whole number from 0 to 2^63-1")
    return seed


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MAX_REPEAT:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to {MAX_REPEAT:,}")
    return int(text)


def _path(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("is empty: name a file")
    return Path(text)


def _folder(text: str) -> Path:
    if not text:  # a shell variable that was never set
        raise argparse.ArgumentTypeError("is empty: name a folder")
    return Path(text)


def _parser() -> _Parser:
    parser = _Parser(
        prog=PROGRAM,
        description="Kernels that dump themselves over the network, on emulated hardware.",
        epilog="exit status: 0 as expected, 1 not, 2 bad input, 3 this machine lacks something",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {_version()}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=_Parser)
    parser.set_defaults(run=_help_of(parser))

    run = commands.add_parser("run", help="play a scenario and judge it")
    run.add_argument("scenario", metavar="NAME|FILE", help="a scenario's name, or a TOML file")
    run.add_argument("--tier", metavar="T", help=f"{', '.join(TIERS)} (default: the most real)")
    run.add_argument("--seed", type=_seed, default=DEFAULT_SEED, metavar="N", help="default 1")
    run.add_argument("--profile", metavar="P", help=f"only the cases of {', '.join(PROFILES)}")
    _part_options(run)
    _kernel_options(run)
    run.add_argument(
        "--repeat", type=_count, metavar="N", help="play N runs, with N seeds, and compare them"
    )
    run.add_argument("-j", dest="jobs", type=_count, metavar="J", help="... J at a time")
    _output_options(run)
    run.set_defaults(run=_run)

    needs = commands.add_parser("needs", help="groups of Debian packages that a scenario lacks")
    needs.add_argument("scenario", metavar="NAME|FILE")
    needs.add_argument("--tier", metavar="T")
    _part_options(needs)
    _kernel_options(needs)
    needs.set_defaults(run=_needs)

    listing = commands.add_parser("list", help="the scenarios that there are")
    listing.add_argument("--json", action="store_true", help="one JSON document on stdout")
    listing.set_defaults(run=_list)

    parts = commands.add_parser(
        "parts", help="NICs, machines, servers, clients, and what plays here"
    )
    parts.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parts.set_defaults(run=_parts)

    examine = commands.add_parser("doctor", help="what this machine can play, and what it lacks")
    examine.add_argument("--json", action="store_true", help="one JSON document on stdout")
    examine.set_defaults(run=_doctor)

    check = commands.add_parser("check-nic", help="does a family of NICs keep the contract?")
    check.add_argument("family", metavar="NAME|FILE.py:FAMILY")
    check.add_argument(
        "--driver", metavar="FILE", help="instead of its own: FILE.py:CLASS, or FILE.so"
    )
    check.add_argument("--json", action="store_true", help="one JSON document on stdout")
    check.set_defaults(run=_check_nic)

    replay = commands.add_parser("replay", help="play a run again, and compare")
    replay.add_argument("folder", metavar="RUN_FOLDER", type=_folder)
    _output_options(replay, runs_default=None)
    replay.set_defaults(run=_replay)

    grammar = commands.add_parser("schema", help="the grammar of scenario files, as JSON Schema")
    grammar.set_defaults(run=_schema)

    serve = commands.add_parser("serve", help="the dump server by itself, for a real network")
    _serve_options(serve)
    return parser


def _part_options(parser: argparse.ArgumentParser) -> None:
    for section in put_in.SECTIONS:
        parser.add_argument(
            f"--{section}",
            metavar="PART",
            help=f"instead of the scenario's {section}: a name, FILE.py:NAME or FILE.toml",
        )


def _kernel_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--kernel", type=_path, metavar="FILE", help="the Linux guest's: a bzImage or a vmlinux"
    )
    parser.add_argument(
        "--modules",
        type=_folder,
        metavar="DIR",
        help="its modules (default: beside it, or /lib/modules)",
    )


def _output_options(parser: _Parser, runs_default: str | None = DEFAULT_RUNS) -> None:
    where = f"./{runs_default}" if runs_default else "where RUN_FOLDER is"
    parser.add_argument(
        "--runs",
        type=_folder,
        default=Path(runs_default) if runs_default else None,
        metavar="DIR",
        help=f"where run folders go (default {where})",
    )
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--quiet", action="store_true", help="no progress")


def _serve_options(parser: _Parser) -> None:
    from server import cli as server_cli

    server_cli.add_arguments(parser)
    parser.set_defaults(run=lambda arguments, _words: server_cli.run(arguments))


def _help_of(parser: _Parser) -> Callable[[argparse.Namespace, list[str]], int]:
    def show(_arguments: argparse.Namespace, _words: list[str]) -> int:
        parser.print_help(sys.stderr)
        return BadInput.status

    return show


def _version() -> str:
    try:
        return metadata.version(PROGRAM)
    except metadata.PackageNotFoundError:
        return "(not installed)"


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
    with _printing():
        if arguments.json:
            sys.stdout.write(to_text(result.as_json()))
        else:
            print_verdict(result, _console())
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
    again = [sys.executable, "-m", "bench", "run", "--json", "--quiet", "--runs", arguments.runs]
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
    with _printing():
        if arguments.json:
            sys.stdout.write(to_text(found.as_json()))
        else:
            print_repeated(found, _console())
    return found.status


def _replay(arguments: argparse.Namespace, words: list[str]) -> int:
    with _progress(arguments) as progress:
        found = replay(
            arguments.folder,
            runs=arguments.runs,
            progress=progress,
            before_tap=lambda: _restart_as_namespace_root(words),
        )
    with _printing():
        if arguments.json:
            sys.stdout.write(to_text(found.as_json()))
        else:
            console = _console()
            print_verdict(found.result, console)
            console.print(Text(f"{found}"), soft_wrap=True)
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

    command = rootless_reexec_command([sys.executable, "-m", "bench", *words])
    if command:
        sys.stdout.flush()
        os.execvp(command[0], command)


class _Console(Console):
    """A console that leaves a closed pipe to ``_printing``; rich's own exits with 1."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def _console() -> Console:
    """As wide as the terminal, and the verdict's own width elsewhere."""
    return _Console() if sys.stdout.isatty() else _Console(width=WIDTH)


# --- needs, list, schema and doctor ---------------------------------------------------------------


def _needs(arguments: argparse.Namespace, _words: list[str]) -> int:
    """For ``make scenario``, which installs them where it may."""
    scenario = load_scenario(arguments.scenario)
    scenario = _with_parts(scenario, arguments)
    # A kernel that can't be played is told before anything is installed for it.
    with_kernel(scenario, arguments.kernel, arguments.modules, arguments.tier)
    groups = missing_packages(scenario, arguments.tier)
    with _printing():
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
        with _printing():
            sys.stdout.write(to_text({"scenarios": rows}))
        return 0
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for scenario in scenarios:
        table.add_row(scenario.name, Text(f"{scenario.title} ({', '.join(scenario.tiers)})"))
    with _printing():
        _console().print(table)
    return 0


def _parts(arguments: argparse.Namespace, _words: list[str]) -> int:
    entries = catalogue.catalogue()
    if arguments.json:
        with _printing():
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
    with _printing():
        _console().print(table)
    return 0


def _schema(_arguments: argparse.Namespace, _words: list[str]) -> int:
    """For editors: they complete and check scenario files by it."""
    from bench.scenario.editor import json_schema

    with _printing():
        sys.stdout.write(to_text(json_schema()))
    return 0


def _check_nic(arguments: argparse.Namespace, _words: list[str]) -> int:
    from bench.nic_check.command import check, subject_of

    subject = subject_of(arguments.family, arguments.driver, Path())
    findings = []
    for finding in check(subject):
        findings.append(finding)
        if not arguments.json:
            with _printing():
                print(finding)
    if arguments.json:
        document = {
            "family": arguments.family,
            "driver": arguments.driver,
            "ok": all(finding.ok for finding in findings),
            "checks": [finding.as_json() for finding in findings],
        }
        with _printing():
            sys.stdout.write(to_text(document))
    return 0 if all(finding.ok for finding in findings) else 1


def _doctor(arguments: argparse.Namespace, _words: list[str]) -> int:
    findings = doctor.examine()
    with _printing():
        if arguments.json:
            sys.stdout.write(to_text(doctor.as_json(findings)))
        else:
            doctor.print_findings(findings, _console())
    return 0 if doctor.healthy(findings) else 3
