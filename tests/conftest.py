"""What all tests share: a test marked with a tier is played where that tier works, else skipped.

It is skipped with the reason and the cure, and the last lines of the run say how many were.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Final

import pytest

from bench.tiers import PROBES
from bench.wire.contracts import Capability

_SKIPPED = pytest.StashKey[Counter[tuple[str, str, str]]]()
#: Marker -> whether this machine can play it; found out once, and only if somebody asks.
_CAN: Final[dict[str, Callable[[], Capability]]] = {
    tier: cache(PROBES[tier]) for tier in ("tap", "qemu")
}


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_SKIPPED] = Counter()


@pytest.fixture(autouse=True)
def _played_or_skipped(request: pytest.FixtureRequest) -> None:
    for tier, can in _CAN.items():
        if request.node.get_closest_marker(tier):
            found = can()
            if not found.ok:
                request.config.stash[_SKIPPED][f"{tier} tier", found.why, found.cure] += 1
                pytest.skip(f"no {tier} tier: {found.why}; cure: {found.cure}")


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    for (tier, why, cure), count in config.stash[_SKIPPED].items():
        terminalreporter.write_line(
            f"{count} tests of the {tier} were NOT played: {why} (cure: {cure})"
        )
