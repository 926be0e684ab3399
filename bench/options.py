"""The options of ``netdump-bench``: what each command is given, and the values that it takes."""

from __future__ import annotations

import argparse
from importlib import metadata
from pathlib import Path
from typing import Any, Final, NoReturn

from bench import put_in
from bench.errors import BadInput
from bench.play import MAX_SEED
from bench.scenario import PROFILES, TIERS
from server import cli as server_cli

PROGRAM: Final = "netdump-bench"
DEFAULT_SEED: Final = 1
DEFAULT_RUNS: Final = "runs"
MAX_REPEAT: Final = 10_000


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the whole usage above it."""

    def __init__(self, **kwargs: Any) -> None:
        # No abbreviations: what was meant by --js is known only after a mistake was to be told.
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        raise BadInput(f"{message} (`{self.prog} --help` tells more)")


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


def parser() -> Parser:
    """The whole command line; ``command`` is the name of the command, None where none is given."""
    whole = Parser(
        prog=PROGRAM,
        description="Kernels that dump themselves over the network, on emulated hardware.",
        epilog="exit status: 0 as expected, 1 not, 2 bad input, 3 this machine lacks something",
    )
    whole.add_argument("--version", action="version", version=f"%(prog)s {_version()}")
    commands = whole.add_subparsers(
        title="commands", dest="command", metavar="COMMAND", parser_class=Parser
    )

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

    needs = commands.add_parser("needs", help="groups of Debian packages that a scenario lacks")
    needs.add_argument("scenario", metavar="NAME|FILE")
    needs.add_argument("--tier", metavar="T")
    _part_options(needs)
    _kernel_options(needs)

    listing = commands.add_parser("list", help="the scenarios that there are")
    listing.add_argument("--json", action="store_true", help="one JSON document on stdout")

    parts = commands.add_parser(
        "parts", help="NICs, machines, servers, clients, and what plays here"
    )
    parts.add_argument("--json", action="store_true", help="one JSON document on stdout")

    examine = commands.add_parser("doctor", help="what this machine can play, and what it lacks")
    examine.add_argument("--json", action="store_true", help="one JSON document on stdout")

    check = commands.add_parser("check-nic", help="does a family of NICs keep the contract?")
    check.add_argument("family", metavar="NAME|FILE.py:FAMILY")
    check.add_argument(
        "--driver", metavar="FILE", help="instead of its own: FILE.py:CLASS, or FILE.so"
    )
    check.add_argument("--json", action="store_true", help="one JSON document on stdout")

    replay = commands.add_parser("replay", help="play a run again, and compare")
    replay.add_argument("folder", metavar="RUN_FOLDER", type=_folder)
    _output_options(replay, runs_default=None)

    commands.add_parser("schema", help="the grammar of scenario files, as JSON Schema")

    serve = commands.add_parser("serve", help="the dump server by itself, for a real network")
    server_cli.add_arguments(serve)

    verify = commands.add_parser("verify", help="is a stored dump still what its manifest says?")
    server_cli.add_verify_arguments(verify)
    verify.add_argument("--json", action="store_true", help="one JSON document on stdout")

    undo = commands.add_parser("decrypt", help="an encrypted dump, as memory was")
    undo.add_argument(
        "dump", type=_path, metavar="DUMP", help="vmcore_encrypted.HOST.N, or a .partial"
    )
    undo.add_argument("out", type=_path, metavar="OUT", help="what is made: it must not be there")
    undo.add_argument(
        "--private-key",
        type=_path,
        required=True,
        metavar="PEM",
        help="RSA, without a passphrase; dumpon(8) had its public key",
    )
    undo.add_argument(
        "--key", type=_path, metavar="FILE", help="key.HOST.N, if it is not beside DUMP"
    )
    undo.add_argument(
        "--keep-compressed",
        action="store_true",
        help="don't decompress what ends with .gz or .zst",
    )
    return whole


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


def _output_options(parser: Parser, runs_default: str | None = DEFAULT_RUNS) -> None:
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


def _version() -> str:
    try:
        return metadata.version(PROGRAM)
    except metadata.PackageNotFoundError:
        return "(not installed)"
