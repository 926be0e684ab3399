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
from guest.linux.image import GuestImageUnavailable, guest_image

_SKIPPED = pytest.StashKey[Counter[tuple[str, str, str]]]()


def _qemu_and_a_guest() -> Capability:
    """The tier, and the image of the Linux guest that its tests boot; built the first time."""
    found = PROBES["qemu"]()
    if not found.ok:
        return found
    try:
        guest_image()
    except GuestImageUnavailable as error:
        return Capability(False, f"no Linux guest: {error.why}", error.cure)
    return found


#: Marker -> whether this machine can play it; found out once, and only if somebody asks.
_CAN: Final[dict[str, Callable[[], Capability]]] = {
    "tap": cache(PROBES["tap"]),
    "qemu": cache(_qemu_and_a_guest),
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
