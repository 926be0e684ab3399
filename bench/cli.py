"""``netdump-bench``: play a scenario and print its verdict.

Exit status: 0 all went as expected; 1 it did not; 2 bad input; 3 this machine lacks what was
demanded; 128 and the signal's number for SIGINT (130), SIGTERM and SIGHUP. What the user did wrong,
or the machine lacks, is one line on stderr; only a defect of the bench shows a traceback. With
--json stdout carries one JSON document and nothing else, on failure ``{"error": ..., "status":
...}``. A reader who leaves early (``| head``) changes no exit status.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import Final

from bench.commands import COMMANDS
from bench.console import printing
from bench.errors import BadInput, BenchError, MachineLacks
from bench.options import PROGRAM, parser
from guest.kernel.guard import place

INTERRUPTED: Final = 128 + signal.SIGINT


class _Terminated(KeyboardInterrupt):
    """SIGTERM, or SIGHUP as the terminal closes: cleaned up after like Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.status = 128 + number


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
            options = parser()
            arguments = options.parse_args(words)
            if arguments.command is None:
                options.print_help(sys.stderr)
                return BadInput.status
            try:
                return COMMANDS[arguments.command](arguments, words)
            except SystemExit as left:
                raise BenchError(_who_left(left)) from left
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


def _who_left(left: SystemExit) -> str:
    """No command of ours ends so: a part did, and nothing that it was to do is known to be done."""
    frame = traceback.extract_tb(left.__traceback__)[-1]
    where = place(frame.filename, frame.lineno or 0, frame.name)
    return f"a part ended the command: SystemExit: {left} ({where})"


def _fail(message: str, status: int, as_json: bool) -> int:
    if as_json:
        with contextlib.suppress(BadInput), printing():
            print(json.dumps({"error": message, "status": status}))
    with contextlib.suppress(OSError):  # a stderr that takes nothing: the status must do
        print(f"{PROGRAM}: {message}", file=sys.stderr)
    return status


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
    except ValueError:  # not the main thread: the process and its signals are a caller's
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
