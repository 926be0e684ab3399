"""``python -m bench`` is ``netdump-bench``, and the installed command comes in here as well.

To import what the command is made of takes a noticeable part of a second. Nothing is there to be
cleaned up yet, so Ctrl-C ends the process on the spot then: in one line, and even where an import
would swallow the exception.

No thread of OpenBLAS's is started, here or in a child: ``server/__main__.py`` says why.
"""

from __future__ import annotations

import json
import os
import signal
import sys


def main() -> int:
    """The command; returns its exit status."""
    _open_what_is_closed()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:  # not where it is ignored, as in the background
        signal.signal(signal.SIGINT, _leave)
    from bench.cli import main as command

    signal.signal(signal.SIGINT, handler)
    return command()


def _leave(*_: object) -> None:
    status = 128 + signal.SIGINT
    message = "interrupted; nothing was left behind"
    if "--json" in sys.argv:
        os.write(1, json.dumps({"error": message, "status": status}).encode() + b"\n")
    os.write(2, f"netdump-bench: {message}\n".encode())
    os._exit(status)


def _open_what_is_closed() -> None:
    """A standard stream that is closed (``>&-``) leads nowhere, instead of into our next file."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))


if __name__ == "__main__":
    sys.exit(main())
