"""Parts that are not ours, and scenarios with them: examples of the repository, and made ones."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from bench.progress import Silent
from bench.runner import run_scenario
from bench.scenario import Scenario, parse_scenario
from bench.scenario.schema import Nic
from bench.servers.command import CommandOptions
from bench.verdict import CaseResult
from tests.patience import HANG_S

ROOT: Final = Path(__file__).resolve().parents[1]
EXAMPLES: Final = ROOT / "examples"
C_DRIVER: Final = EXAMPLES / "c-driver"
SERVERS: Final = EXAMPLES / "servers"
PIO: Final = f"{EXAMPLES}/pio-nic/pio_nic.py:PIO"

Build = Callable[..., Path]
NO_CC: Final = "no C compiler (cc); cure: apt-get install gcc libc6-dev"


def c_builder(folder: Path) -> Build:
    """``build(source, *options)`` -> a shared library; once for each set of options."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip(NO_CC)

    def build(source: Path, *options: str) -> Path:
        tag = "".join(c if c.isalnum() else "_" for c in "".join(options))
        library = folder / f"{source.stem}{tag}.so"
        if not library.exists():
            command = [compiler, "-O2", "-shared", "-fPIC", "-w"]
            command += [f"-I{C_DRIVER}", *options, "-o", str(library), str(source)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_S)
            assert done.returncode == 0, done.stderr
        return library

    return build


def with_nic(scenario: Scenario, **keys: Any) -> Scenario:
    """The same story with another card or driver in its [nic]."""
    nic = scenario.document.nic
    new = Nic.model_validate({**nic.model_dump(include=nic.model_fields_set), **keys})
    return replace(scenario, document=scenario.document.model_copy(update={"nic": new}))


def with_memory(scenario: Scenario, size: int) -> Scenario:
    """The same story on a machine of that size, in every case."""
    document = scenario.document
    machine = document.machine.model_copy(update={"memory": size})
    cases = tuple(
        case.model_copy(update={"machine": case.machine.model_copy(update={"memory": size})})
        for case in document.case
    )
    smaller = document.model_copy(update={"machine": machine, "case": cases})
    return replace(scenario, document=smaller)


def with_sweep(scenario: Scenario, values: tuple[int, ...]) -> Scenario:
    """The same story with these values of its sweeps alone."""
    cases = tuple(
        case.model_copy(update={"sweep": case.sweep.model_copy(update={"values": values})})
        if case.sweep is not None
        else case
        for case in scenario.document.case
    )
    return replace(scenario, document=scenario.document.model_copy(update={"case": cases}))


def made(
    tmp_path: Path,
    nic: str,
    *,
    profile: str = "netdump2",
    machine: str = "",
    memory: str = "1 MiB",
) -> Scenario:
    """A scenario of one plain case, in a file of that folder; ``nic``: lines of its [nic]."""
    text = (
        'title = "Made"\nwhy = "a test"\ntiers = ["sim", "tap", "qemu"]\n'
        f'[machine]\nmemory = "{memory}"\n{machine}\n[nic]\nrx_ring = 256\n{nic}\n'
        f'[[case]]\nprofile = "{profile}"\nexpect = {{ outcome = "complete" }}\n'
    )
    path = tmp_path / "made.toml"
    path.write_text(text)
    return parse_scenario(text, "made", str(path))


def play(scenario: Scenario, folder: Path, tier: str = "sim", seed: int = 1) -> list[CaseResult]:
    """Its runs, on that tier."""
    folder.mkdir(parents=True, exist_ok=True)
    result = run_scenario(
        scenario,
        tier=tier,
        why_this_tier="",
        seed=seed,
        run_folder=folder,
        progress=Silent(),
    )
    return result.cases


def assert_all_met(cases: list[CaseResult]) -> None:
    assert cases
    assert not {case.name: case.unmet for case in cases if not case.met}


# --- servers by command ---------------------------------------------------------------------------

#: A server's words for where it is.
HERE: Final = ("{address}", "{port}", "{dumpdir}")
SERVER_STORY: Final = """
title = "a test"
why   = "a test"
tiers = ["tap"]
[machine]
memory = "4 MiB"
[server]
kind = "command"
{server}
[[case]]
profile = "{profile}"
expect  = {{ outcome = "complete"{more} }}
"""


def server_command(*argv: object, **options: object) -> CommandOptions:
    return CommandOptions.model_validate({"argv": [*map(str, argv)], **options})


def example_server(program: Path) -> CommandOptions:
    """One that names its dumps as the examples do."""
    return server_command(
        sys.executable, program, *HERE, finished="dump.*", unfinished="dump.*.part"
    )


GOOD_SERVER: Final = example_server(SERVERS / "write_then_ack.py")
HASTY_SERVER: Final = example_server(SERVERS / "ack_then_write.py")
