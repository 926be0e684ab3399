"""A stage for clients that are programs: one case, played and judged as any other.

By itself it plays one in the place where it is run, and prints what came of it:

    python -m tests.command_rig FOLDER stack|silent PROGRAM ARGUMENT...
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest
from rich.console import Console

from bench.progress import Silent
from bench.report import print_verdict
from bench.runner import run_scenario
from bench.scenario import parse_scenario
from bench.verdict import CaseResult, RunResult

SOURCE: Final = Path(__file__).resolve().parents[1] / "examples" / "c-client" / "netdump.c"
#: Those of the client in C.
ARGUMENTS: Final = (
    *("--interface", "{interface}", "--mac", "{mac}", "--mtu", "{mtu}"),
    *("--address", "{address}", "--server", "{server}:{port}", "--gateway", "{gateway}"),
    "{memory}",
)

#: A server that neither saves a client nor counts what came, as netdumpd.
STOCK: Final = "{ rescue = false, strict_finish = false }"

#: A client that uses ordinary sockets. HOW is a dict: see ``sockets``.
_SOCKETS: Final = """
import socket, struct, sys
how = HOW
wire = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
wire.bind(("", 20024))
wire.settimeout(60)
peer, seqno = (sys.argv[1], 20023), 7
def say(kind, payload=b"", offset=0):
    global peer, seqno
    wire.sendto(struct.pack(">IIQII", kind, seqno, offset, len(payload), 0) + payload, peer)
    answer, peer = wire.recvfrom(100)
    assert answer == struct.pack(">I", seqno)
    seqno += 1
body = bytearray(open(sys.argv[2], "rb").read() if len(sys.argv) > 2 else b"its own page" * 4096)
body = bytearray(b"my headers " * 4096)[:how["headers"]] + (body if sys.argv[2:] else body[:4096])
if how["flipped"]:
    body[how["flipped"]] ^= 1
header = bytearray(struct.pack(">20s12sIIQQII64s192s175sBQ4s", b"FreeBSD Kernel Dump", b"amd64", 4,
    2, len(body), 0, 0, 4096, b"sockets", b"none", b"none", 0, len(body), b""))
parity = 0
for at in range(0, 508, 4):
    parity ^= int.from_bytes(header[at:at + 4], "big")
header += parity.to_bytes(4, "big")
say(1)
for at in range(0, len(body) - how["left_out"], how["piece"]):
    say(3, bytes(body[at:at + how["piece"]]), at)
if how["footer"]:
    say(3, bytes(header), len(body))
say(4, bytes(header))
say(2)
"""


def sockets(
    *,
    dumps: str = "own",
    headers: int = 0,
    footer: bool = False,
    flipped: int = 0,
    left_out: int = 0,
    piece: int = 1024,
) -> str:
    """A client that uses the kernel's stack: ``headers`` bytes of headers, and memory or a page of
    its own, but for the last ``left_out`` bytes; one byte is wrong, where ``flipped`` is not 0.
    ``piece``: payload of a message.
    """
    how = {"headers": headers, "footer": footer, "flipped": flipped, "left_out": left_out}
    how |= {"piece": piece}
    script = _SOCKETS.replace("HOW", repr(how))
    words = ["{server}", "{memory}"] if dumps == "memory" else ["{server}"]
    return command(
        sys.executable,
        "-c",
        script.replace("{", "{{").replace("}", "}}"),
        *words,
        dumps=dumps,
        stack=True,
    )


def command(*argv: str, **options: object) -> str:
    """The client's table, of a file."""
    table = {"kind": "command", "argv": list(argv), **options}
    return f"client = {_toml(table)}"


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{key} = {_toml(one)}' for key, one in value.items())} }}"
    return json.dumps(value)


def python(script: str, **options: object) -> str:
    """A client in Python that dumps nothing, or something of its own."""
    return command(sys.executable, "-c", script, **{"dumps": "own", **options})


def compiled(folder: Path, *options: str) -> str:
    """The path of the client in C, with these options; skips where there is no compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler; cure: scripts/debian-packages test, as root")
    program = folder / "-".join(["netdump", *options])
    if not program.exists():
        strict = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", *options)
        subprocess.run([compiler, *strict, "-o", program, SOURCE], check=True, timeout=120)
    return str(program)


class Played:
    """Plays one case with a client, and keeps what came."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.result: RunResult | None = None

    def __call__(
        self,
        client: str | Sequence[str],
        *more: str,
        expect: str = 'outcome = "complete"',
        server: str = "{}",
        memory: str = "1 MiB",
        seed: int = 1,
    ) -> CaseResult:
        text = "\n".join(
            (
                'title = "A client by command"\nwhy = "a test"\ntiers = ["tap"]',
                f'machine = {{ memory = "{memory}", zero_pages = false, load = "none" }}',
                client if isinstance(client, str) else command(*client),
                *more,
                f"[[case]]\nserver = {server}\nexpect = {{ {expect} }}",
            )
        )
        self.result = run_scenario(
            parse_scenario(text, "client", str(self.folder / "client.toml")),
            tier="tap",
            why_this_tier="",
            seed=seed,
            run_folder=self.folder,
            progress=Silent(),
        )
        return self.result.cases[0]

    @property
    def text(self) -> str:
        """The verdict for people, its lines joined."""
        assert self.result is not None
        console = Console(file=io.StringIO(), width=100)
        print_verdict(self.result, console)
        assert isinstance(console.file, io.StringIO)
        return " ".join(console.file.getvalue().split())


def main(folder: str, place: str, *argv: str) -> None:
    client = sockets() if place == "stack" else argv
    json.dump(Played(Path(folder))(client).as_json(), sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
