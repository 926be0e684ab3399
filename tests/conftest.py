"""What all tests share: a test marked with a tier is played where that tier works, else skipped.

It is skipped with the reason and the cure, and the last lines of the run say how many were skipped,
for each reason: those of all workers together (pytest-xdist).
"""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import settings

from bench.guests import guest_nics
from bench.tiers import PROBES
from bench.wire.contracts import Capability
from guest.linux.image import GuestImage, GuestImageUnavailable, guest_image
from server.store import FileStore
from tests.server_rig import Rig

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
        guest_image(nics=guest_nics())
    except GuestImageUnavailable as error:
        return Capability(False, f"no Linux guest: {error.why}", error.cure)
    return found


def _docker() -> Capability:
    """An engine: the machine's, or one that is started for the session where none answers."""
    from bench.servers.engine import can_docker

    found = can_docker()
    if found.ok or os.geteuid() != 0:
        return found
    script = Path(__file__).parent.parent / "scripts" / "docker-engine"
    folder = tempfile.mkdtemp(prefix="netdump-engine-")

    def end() -> None:
        subprocess.run([script, "stop", folder], check=False, capture_output=True)
        subprocess.run(["rm", "-r", folder], check=False)

    started = subprocess.run(
        [script, "start", "--plain", folder], capture_output=True, text=True, check=False
    )
    atexit.register(end)
    if started.returncode:
        why = started.stderr.strip().removeprefix("docker-engine: ")
        return Capability(False, why, found.cure)
    os.environ["DOCKER_HOST"] = started.stdout.strip().partition("=")[2]
    return can_docker()


#: Marker -> whether this machine can play it; found out once, when first asked for.
_CAN: Final[dict[str, Callable[[], Capability]]] = {
    "tap": cache(PROBES["tap"]),
    "qemu": cache(_qemu_and_a_guest),
    "docker": cache(_docker),
}


def _named(marker: str) -> str:
    return f"{marker} tier" if marker in PROBES else marker


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The scenarios first: they take longest, and none of them should be what is waited for."""
    items.sort(key=lambda item: item.path.name != "test_scenarios.py")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-golden", action="store_true", help="write golden tables anew, and compare then"
    )


@pytest.fixture(autouse=True)
def _played_or_skipped(request: pytest.FixtureRequest) -> None:
    for tier, can in _CAN.items():
        if request.node.get_closest_marker(tier):
            found = can()
            if not found.ok:
                pytest.skip(f"no {_named(tier)}: {found.why}; cure: {found.cure}")


@pytest.fixture(autouse=True)
def _stores_are_closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A server in a test is dropped without a word; its descriptors would stay, file by file."""
    made: list[FileStore] = []
    opens = FileStore.__init__

    def opened(store: FileStore, *wanted: Any, **more: Any) -> None:
        opens(store, *wanted, **more)
        made.append(store)

    monkeypatch.setattr(FileStore, "__init__", opened)
    yield
    for store in made:
        store.close()


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    """The dump server without sockets, on a folder of the test's own. Other rigs replace it."""
    return Rig(tmp_path)


@pytest.fixture(scope="session")
def real_image() -> GuestImage:
    """The guest image that the bench itself would use; built if need be, from Debian's packages."""
    try:
        return guest_image(progress=print, nics=guest_nics())
    except GuestImageUnavailable as error:
        pytest.skip(f"no guest image: {error.why}; cure: {error.cure}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    for reason, count in Counter(report.longrepr[2] for report in skipped).most_common():
        tests = "1 test was" if count == 1 else f"{count} tests were"
        terminalreporter.write_line(f"{tests} NOT played: {reason.removeprefix('Skipped: ')}")
