"""The files of a scenario's parts that are nobody's package: what they were when a run was played.

A replay loads ``FILE.py:NAME``, ``FILE.so`` and a program by path from where they lay, so they may
be others by then. A verdict has the SHA-256 of each. What such a file imports or reads in its turn
is not followed, and neither is what a registered part is made of: that has a version.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from bench.parts import absolute_name, is_library, names_a_file
from bench.scenario import ResolvedCase, Scenario, expand_cases

#: Where a verdict has them: in its ``parts``, beside the sections.
FILES: Final = "files"


def digests(scenario: Scenario) -> dict[str, str]:
    """Absolute path -> SHA-256, hex, of each file that can be read."""
    cases = [case for case in expand_cases(scenario) if not case.forbidden]
    paths = {path for case in cases for path in _paths(scenario, case)}
    found = {path: _digest(path) for path in sorted(paths)}
    return {path: digest for path, digest in found.items() if digest}


def changed(then: Mapping[str, str]) -> list[str]:
    """Those of the files that are not what they were."""
    return [path for path, digest in then.items() if _digest(path) != digest]


def _paths(scenario: Scenario, case: ResolvedCase) -> Iterator[str]:
    bases: dict[str, Path] = {name: part.base for name, part in scenario.replaced.items()}
    names = {
        "nic": case.nic.model,
        "machine": case.machine.kind,
        "server": case.server.kind,
        "client": case.client.kind,
    }
    for section, name in names.items():
        if names_a_file(name):
            path = absolute_name(name, bases.get(section, scenario.base))
            yield path.rpartition(":")[0]
    if case.nic.driver is not None:
        driver = case.nic.driver
        yield driver if is_library(driver) else driver.rpartition(":")[0]
    for part in (case.machine_part, case.server_part, case.client_part):
        yield from part.kind.files(part.options)


def _digest(path: str) -> str:
    """Empty where it can't be read."""
    with suppress(OSError), Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
    return ""
