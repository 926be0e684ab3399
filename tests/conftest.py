"""What all tests share: a test marked ``tap`` is played where there can be a TAP, else skipped.

It is skipped with the reason and the cure, and the last lines of the run say how many were.
"""

from __future__ import annotations

import pytest

from bench.wire.contracts import Capability
from bench.wire.tap import can_tap

_SKIPPED = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_SKIPPED] = []


@pytest.fixture(scope="session")
def tap_capability() -> Capability:
    """Whether this machine can make a TAP; found out once."""
    return can_tap()


@pytest.fixture(autouse=True)
def _tap_or_skip(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("tap"):
        found: Capability = request.getfixturevalue("tap_capability")
        if not found.ok:
            request.config.stash[_SKIPPED].append(request.node.nodeid)
            pytest.skip(f"no TAP: {found.why}; cure: {found.cure}")


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    skipped = config.stash[_SKIPPED]
    if skipped:
        terminalreporter.write_line(
            f"{len(skipped)} tests of the tap tier were NOT played: this machine makes no TAP"
        )
