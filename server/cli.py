"""The command line of the dump server: ``python -m server``, ``netdump-bench serve``.

Standard output gets one line an event, the first of them when the server listens: ``ready ADDRESS
PORT``. With ``--json`` every line is an object. Exit status: 0 after SIGINT or SIGTERM, 2 for an
argument that can't work, 3 where the machine lacks what is needed. With ``--json`` these, too, are
told as an object: ``{"error": ..., "status": ...}``. SIGHUP, as the terminal closes, ends it like
SIGTERM, unless it is ignored (nohup).

``python -m server verify DUMP``, ``netdump-bench verify DUMP``: ``verify.py``.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import ipaddress
import json
import os
import re
import signal
import sys
import time
from collections.abc import Mapping
from types import FrameType
from typing import Any, Final

from netdump.errors import NetdumpError
from netdump.keys import KEY_SIZE
from netdump.messages import HEADER_SIZE, HERALD_PORT
from server.beside import Later, one_thread
from server.config import ServerConfig
from server.core import ServerCore
from server.folder import DumpFolder
from server.gate import BadKeys, parse_keys
from server.readers import MAX_DATAGRAM
from server.shell import CannotListen, Shell
from server.store import StoreError
from server.verify import verify

DEFAULTS: Final = ServerConfig()
#: What is worth a line without --verbose.
NOTABLE: Final = frozenset(
    {
        "ready",
        "begin",
        "complete",
        "incomplete",
        "resumed",
        "not-resumed",
        "no-journal",
        "failed",
        "finish-refused",
        "refused",
        "plain-calls",
        "not-pinned",
        "info-lost",
        "stopped",
    }
)
_UNITS: Final = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
_LACKING: Final = (errno.EACCES, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.EAFNOSUPPORT)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Everything that ``run`` reads."""
    add = parser.add_argument
    add(
        "--bind",
        metavar="ADDR",
        type=_address,
        default="0.0.0.0",
        help="IPv4 address to listen on (all)",
    )
    add("--port", type=_port, default=HERALD_PORT, help="UDP port for HERALDs (%(default)s)")
    add("--dumpdir", metavar="DIR", default=".", help="folder for the dumps (the current one)")
    add(
        "--no-rescue",
        action="store_true",
        help="acknowledge every frame at once, also to stock clients whose bitmap lies",
    )
    add(
        "--stock-acks",
        action="store_true",
        help="acknowledge every FINISHED and call every dump complete, as netdumpd does",
    )
    add(
        "--max-dump",
        metavar="SIZE",
        type=_size,
        default=DEFAULTS.max_dump,
        help="largest dump, e.g. 16G (64G)",
    )
    add(
        "--max-clients",
        metavar="N",
        type=_positive,
        default=DEFAULTS.max_clients,
        help="most sessions (%(default)s)",
    )
    add(
        "--idle",
        metavar="S",
        type=_seconds,
        default=DEFAULTS.idle,
        help="seconds of silence after which a dump is given up (%(default)g)",
    )
    add(
        "--hold",
        metavar="S",
        type=_seconds,
        default=DEFAULTS.hold,
        help="seconds for which an ended session still answers late copies (%(default)g)",
    )
    add(
        "--fsync",
        choices=("none", "finish", "always"),
        default="finish",
        help="force dumps to the disk: never, before FINISHED is acknowledged, before every ack"
        " (%(default)s)",
    )
    add(
        "--max-datagram",
        metavar="BYTES",
        type=_datagram,
        default=MAX_DATAGRAM,
        help="longest datagram understood, for clients with a large MTU (%(default)s)",
    )
    add(
        "--key-file",
        metavar="FILE",
        help="keys of clients, a line each: ADDRESS KEY [MAC], or * KEY (docs/server.md)",
    )
    add(
        "--require-key",
        action="store_true",
        help="serve no client that has not proved that it has its key",
    )
    add(
        "--ready-fd",
        metavar="FD",
        type=_descriptor,
        help="write 'ADDRESS PORT' there, and close it, once the server listens",
    )
    add("--json", action="store_true", help="events as JSON, one object a line")
    loudness = parser.add_mutually_exclusive_group()
    loudness.add_argument("--quiet", "-q", action="store_true", help="only the ready line")
    loudness.add_argument("--verbose", "-v", action="store_true", help="every event")


def run(args: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM; the exit status. Must be called in the main thread."""
    with one_thread() as later:
        return _serve(args, later)


def _serve(args: argparse.Namespace, later: Later) -> int:
    events = EventLines(args.json, "quiet" if args.quiet else "all" if args.verbose else "notable")
    try:
        keys, macs = _keys(args)
    except BadKeys as error:
        return _complain(error, 2, args.json)
    config = ServerConfig(
        rescue=not args.no_rescue,
        strict_finish=not args.stock_acks,
        max_dump=args.max_dump,
        max_clients=args.max_clients,
        idle=args.idle,
        hold=args.hold,
        keys=keys,
        require_key=args.require_key,
    )
    try:
        folder = DumpFolder(args.dumpdir, args.fsync, later)
        core = ServerCore(config, folder, events, time.time, os.urandom(KEY_SIZE))
        shell = Shell(
            core, args.bind, args.port, max_datagram=args.max_datagram, on_event=events, macs=macs
        )
    except (StoreError, CannotListen) as error:
        lacking = isinstance(error, CannotListen) and error.errno in _LACKING
        return _complain(error, 3 if lacking else 2, args.json)

    def stop(signum: int, frame: FrameType | None) -> None:
        shell.stop()

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # not under nohup
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, stop) for number in numbers}
    before_fd = signal.set_wakeup_fd(shell.wakeup_fd, warn_on_full_buffer=False)
    try:
        address, port = shell.address
        events("ready", {"address": address, "port": port})
        left = folder.left_behind(core.not_resumed)
        shell.take_up(core.take_up(left, folder.machine.boot, time.monotonic()))
        try:
            _tell_ready(args.ready_fd, address, port)
        except OSError as error:
            reason = f"can't write to --ready-fd: {error.strerror}"
            return _complain(NetdumpError(reason), 2, args.json)
        shell.run()
        events("stopped", {"refused": dict(core.refused)})
    finally:
        signal.set_wakeup_fd(before_fd)
        for number, handler in before.items():
            signal.signal(number, handler)
        folder.close()
    return 0


def _keys(args: argparse.Namespace) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """The keys and the MACs of --key-file. Raises BadKeys."""
    name = args.key_file
    if name is None:
        if args.require_key:
            raise BadKeys("--require-key without --key-file would serve nobody")
        return {}, {}
    if args.stock_acks:
        raise BadKeys("--key-file: with --stock-acks nobody's offer is read")
    try:
        with open(name, encoding="ascii", errors="replace") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise BadKeys(f"others may read or write it; chmod 600 {name}")
            return parse_keys(file.read())
    except OSError as error:
        raise BadKeys(f"--key-file {name}: {error.strerror}") from error
    except BadKeys as error:
        raise BadKeys(f"--key-file {name}: {error}") from None


def add_verify_arguments(parser: argparse.ArgumentParser) -> None:
    """A dump, and where its manifest is."""
    parser.add_argument("dump", metavar="DUMP", help="a vmcore file of a dump folder, or a copy")
    parser.add_argument("--manifest", metavar="FILE", help="its manifest (the one beside it)")


def main(argv: list[str] | None = None) -> int:
    """``python -m server``."""
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ["verify"]:
        checker = argparse.ArgumentParser(
            prog="server verify", description="Is a stored dump still what its manifest says?"
        )
        add_verify_arguments(checker)
        wanted = checker.parse_args(words[1:])
        status, line = verify(wanted.dump, wanted.manifest)
        print(line)
        return status
    parser = argparse.ArgumentParser(
        prog="server",
        description="Receive FreeBSD network kernel dumps (netdump), keep them and say what came.",
    )
    add_arguments(parser)
    return run(parser.parse_args(words))


class EventLines:
    """Events as lines on standard output, for people or programs."""

    def __init__(self, as_json: bool, loudness: str) -> None:
        self._json = as_json
        self._loudness = loudness
        self._dead = False

    def __call__(self, kind: str, fields: Mapping[str, Any]) -> None:
        wanted = kind == "ready" or self._loudness == "all"
        if not wanted and not (self._loudness == "notable" and kind in NOTABLE):
            return
        if self._json:
            line = json.dumps({"event": kind, "time": round(time.time(), 3), **fields})
        elif kind == "ready":
            line = f"ready {fields['address']} {fields['port']}"
        else:
            line = f"{kind:<14} " + " ".join(
                f"{name}={value}" for name, value in fields.items() if value != ""
            )
        self._print(line)

    def _print(self, line: str) -> None:
        if self._dead:
            return
        try:
            print(line, flush=True)
        except (OSError, ValueError):
            # Whoever read us is gone. Dumps are worth more than lines.
            self._dead = True


def _tell_ready(fd: int | None, address: str, port: int) -> None:
    if fd is not None:
        with os.fdopen(fd, "w") as stream:
            stream.write(f"{address} {port}\n")


def _complain(error: NetdumpError, status: int, as_json: bool) -> int:
    with contextlib.suppress(OSError):
        if as_json:
            print(json.dumps({"error": str(error), "status": status}), flush=True)
        print(f"server: {error}", file=sys.stderr)
    return status


def _address(text: str) -> str:
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no IPv4 address such as 198.18.0.1 (netdump knows no IPv6)"
        ) from None


def _number(text: str, low: int, high: int) -> int:
    if not re.fullmatch(r"[0-9]{1,20}", text) or not low <= int(text) <= high:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from {low} to {high}")
    return int(text)


def _port(text: str) -> int:
    return _number(text, 0, 65535)


def _descriptor(text: str) -> int:
    return _number(text, 0, 1 << 20)


def _positive(text: str) -> int:
    return _number(text, 1, 65536)


def _datagram(text: str) -> int:
    return _number(text, HEADER_SIZE + 512, 65535)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return value


def _size(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,15})\s*([KMGT]?)(i?B)?", text.strip(), re.IGNORECASE)
    size = int(match[1]) << _UNITS[match[2].upper()] if match else 0
    if not 0 < size < 1 << 62:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 512M or 16 GiB")
    return size
