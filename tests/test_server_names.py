"""Names of stored dumps: which files are dumps, which are complete, which come last."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench.servers.names import OURS, DumpNames, StoredDump

#: netdumpd: the name is there from the first byte on, a link says that the dump is whole.
NETDUMPD = DumpNames.of_globs(["vmcore.*.last"], ["vmcore.*"])


def lay(folder: Path, *names: str) -> None:
    """Files of these names, each written a second after the one before; A -> B makes a link."""
    for second, name in enumerate(names):
        link, _, target = name.partition(" -> ")
        if target:
            (folder / link).symlink_to(target)
            continue
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
        os.utime(folder / name, (second, second))


def told(names: DumpNames, folder: Path) -> list[tuple[str, bool]]:
    return [(dump.path.name, dump.complete) for dump in names.dumps_in(folder)]


def test_our_own_server_says_it_by_the_dumps_own_name(tmp_path: Path) -> None:
    lay(tmp_path, "vmcore.h.1", "vmcore.h.0.partial", "info.h.0", "bounds.h", "notes")
    lay(tmp_path, "vmcore.h.last -> vmcore.h.1")
    assert told(OURS, tmp_path) == [("vmcore.h.1", True), ("vmcore.h.0.partial", False)]
    assert OURS.strangers(os.listdir(tmp_path)) == ["notes"]


def test_netdumpd_says_it_by_a_link(tmp_path: Path) -> None:
    lay(tmp_path, "vmcore.198.0", "info.198.0", "vmcore.198.1")
    assert told(NETDUMPD, tmp_path) == [("vmcore.198.0", False), ("vmcore.198.1", False)]
    lay(tmp_path, "vmcore.198.last -> vmcore.198.0")
    assert told(NETDUMPD, tmp_path) == [("vmcore.198.0", True), ("vmcore.198.1", False)]
    assert NETDUMPD.strangers(os.listdir(tmp_path)) == [], "it may leave what it likes"


def test_a_link_that_leads_nowhere_marks_nothing(tmp_path: Path) -> None:
    lay(tmp_path, "vmcore.198.0")
    lay(tmp_path, "vmcore.198.last -> gone")
    assert told(NETDUMPD, tmp_path) == [("vmcore.198.0", False)]


def test_dumps_written_at_the_same_time_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    lay(tmp_path, "vmcore.h.10", "vmcore.h.9")
    for path in tmp_path.iterdir():
        os.utime(path, (7, 7))
    assert [name for name, _ in told(OURS, tmp_path)] == ["vmcore.h.9", "vmcore.h.10"]


def test_dumps_in_folders_below_are_found_and_no_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    lay(tmp_path / "elsewhere", "vmcore.x.0")
    (tmp_path / "dumps").mkdir()
    lay(tmp_path / "dumps", "lab/vmcore.h.0", "link -> ../elsewhere")
    dumps = OURS.dumps_in(tmp_path / "dumps")
    assert dumps == [StoredDump(tmp_path / "dumps" / "lab" / "vmcore.h.0", True)]


@pytest.mark.parametrize("globs", [([], []), ([], ["*.part"])])
def test_no_pattern_fits_nothing(globs: tuple[list[str], list[str]], tmp_path: Path) -> None:
    lay(tmp_path, "vmcore.h.0")
    assert DumpNames.of_globs(*globs).dumps_in(tmp_path) == []


def test_a_folder_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    assert OURS.dumps_in(tmp_path / "none") == []
