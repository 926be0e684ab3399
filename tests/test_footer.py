"""Where the kernel dump header goes, with and without a footer: what each arrangement catches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench import arrangements, pages
from bench.arrangements import ARRANGEMENTS, NETDUMP2, NOBODY, SERVERS, readers
from netdump.kdh import KernelDumpHeader
from server.infofile import render
from tests.scenario_rig import made, played

pytestmark = pytest.mark.sim

PAGE = Path(__file__).parent.parent / "docs" / "footer.md"
HEADER = KernelDumpHeader(8192, dumpextent=8192, panicstring="a panic")
INFO = render(("198.18.0.2", 20024), HEADER)


def test_the_page_of_the_footer_is_what_the_runs_show() -> None:
    assert PAGE.read_text() == arrangements.document(), (
        "python -m bench.arrangements --document > docs/footer.md"
    )


def test_a_sentence_that_the_runs_do_not_show_is_not_written() -> None:
    """Of a server that calls all complete, say, and of runs in which all is noticed."""
    for cell in (NOBODY, "length", "server"):
        of_all = {m: dict.fromkeys(ARRANGEMENTS | NETDUMP2, cell) for m in arrangements.MISHAPS}
        with pytest.raises(pages.NotBorneOut):
            arrangements.document(lambda _far, rows=of_all: rows)  # type: ignore[misc]


def test_each_arrangement_is_played_before_each_server() -> None:
    """The four are what two columns of the profiles can be."""
    wanted = {(header, footer) for header in ("first", "last") for footer in (False, True)}
    for far in SERVERS:
        assert {
            ("first" if "first" in name else "last", arranged.footer)
            for name, arranged in far.arrangements.items()
            if arranged.profile == "freebsd-14"
        } == wanted


@pytest.mark.parametrize("header", ["first", "last"])
@pytest.mark.parametrize("footer", [False, True])
def test_the_header_goes_where_a_case_says(tmp_path: Path, header: str, footer: bool) -> None:
    case = (
        '[machine]\nmemory = "64 KiB"\nload = "none"\n[nic]\nrx_ring = 64\n'
        f'[client]\nheader = "{header}"\nfooter = {str(footer).lower()}\n'
        '[[case]]\nprofile = "freebsd-14"\nexpect = { outcome = "complete" }\n'
    )
    (result,) = played(made(case), "sim", tmp_path).cases
    assert result.met
    (events,) = tmp_path.glob("*/events.jsonl")
    told = events.read_text()
    first, second = "send the kernel dump header", "send memory"
    if header == "last":
        first, second = second, first
    assert 0 < told.index(first) < told.index(second)
    (info,) = tmp_path.glob("*/dumps/info.*.0")
    assert ("Footer Check: Pass" in info.read_text()) == footer


@pytest.mark.parametrize(
    ("octets", "info", "footer", "wrong", "right"),
    [
        (bytes(8192), INFO, False, [], ["length"]),
        (bytes(8192), INFO, True, ["footer"], ["length"]),
        (bytes(4096), INFO, False, ["length"], []),
        (bytes(8192), "", False, [], []),
        (bytes(8192) + HEADER.pack(), INFO, True, [], ["length", "footer"]),
        (bytes(8192) + HEADER.pack(), "", True, [], ["footer"]),
        (bytes(4096) + HEADER.pack(), "", True, ["footer"], []),
        (bytes(8192) + HEADER.pack()[:-1] + b"?", INFO, True, ["length", "footer"], []),
        (
            bytes(8192) + replace(HEADER, panicstring="another").pack(),
            INFO,
            True,
            ["footer"],
            ["length"],
        ),
        (bytes(8192), INFO + "Footer Check: Pass\n", True, [], ["length", "footer"]),
        (b"", "", True, ["footer"], []),
    ],
)
def test_what_a_reader_finds(
    tmp_path: Path, octets: bytes, info: str, footer: bool, wrong: list[str], right: list[str]
) -> None:
    dump = tmp_path / "dump"
    dump.write_bytes(octets)
    assert readers(dump, info, footer=footer) == (wrong, right)


@pytest.mark.parametrize(
    ("defect", "says"),
    [
        ("miscounts = 4096", "1 hole, 4096 bytes"),
        ("miscounts = -4096", "65536 bytes were promised, data reaches to 69632"),
        ('leftover = "8 KiB"', "69632 bytes were promised, data reaches to 77824"),
    ],
)
def test_a_clumsy_client_is_as_wrong_as_it_says(tmp_path: Path, defect: str, says: str) -> None:
    case = (
        '[machine]\nmemory = "64 KiB"\nload = "none"\n[nic]\nrx_ring = 64\n[client]\n'
        f"kind = '{arrangements.CLUMSY}'\npolls = 50\nretries = 1\n{defect}\n[[case]]\n"
        'profile = "netdump2"\nexpect = { outcome = "failed", error = "ETIMEDOUT" }\n'
    )
    (result,) = played(made(case), "sim", tmp_path).cases
    assert (result.outcome, result.error) == ("failed", "ETIMEDOUT")
    (info,) = tmp_path.glob("*/dumps/info.*.0")
    assert says in info.read_text()


def test_what_a_dead_machine_had_sent_arrives(tmp_path: Path) -> None:
    """It is gone with its last frame on the wire."""
    case = (
        '[machine]\nmemory = "64 KiB"\nload = "none"\nlost = "power"\nlost_after = 20\n'
        '[nic]\nrx_ring = 64\n[[case]]\nprofile = "freebsd-14"\nexpect = { outcome = "lost" }\n'
    )
    (result,) = played(made(case), "sim", tmp_path).cases
    assert result.met
    (dump,) = tmp_path.glob("*/dumps/vmcore.*.partial")
    assert dump.stat().st_size == 20 * 1448
