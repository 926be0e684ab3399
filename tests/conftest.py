"""What all tests share: a test marked with a tier is played where that tier works, else skipped.

It is skipped with the reason and the cure, and the last lines of the run say how many were skipped,
for each reason: those of all workers together (pytest-xdist).
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Final

import pytest
from hypothesis import settings

from bench.tiers import PROBES
from bench.wire.contracts import Capability
from guest.linux.image import GuestImageUnavailable, guest_image

#: No test asserts a speed: an example may take as long as a busy machine makes it.
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")

# A background job of a shell (`make test &`) ignores Ctrl-C, and one of nohup ignores that its
# terminal is closed. So would all that they start: the tests that do either need children that do
# not.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


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


@pytest.fixture(autouse=True)
def _played_or_skipped(request: pytest.FixtureRequest) -> None:
    for tier, can in _CAN.items():
        if request.node.get_closest_marker(tier):
            found = can()
            if not found.ok:
                pytest.skip(f"no {tier} tier: {found.why}; cure: {found.cure}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    for reason, count in Counter(report.longrepr[2] for report in skipped).most_common():
        tests = "1 test was" if count == 1 else f"{count} tests were"
        terminalreporter.write_line(f"{tests} NOT played: {reason.removeprefix('Skipped: ')}")
