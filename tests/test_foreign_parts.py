"""Clients and servers in Python that are not ours: what they raise is told, and is no traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import cli
from bench.foreign import family_is_ours
from bench.neighbours import is_ours
from bench.parts import nic_family
from bench.scenario import Scenario, parse_scenario
from nic_models.e1000.driver import E1000Driver
from tests.foreign import PIO, play

pytestmark = pytest.mark.sim

CLIENT = """
from bench.kinds import ClientKind
from netdump.client import NetdumpClient
from netdump.profiles import PROFILES
class Mine(NetdumpClient):
    def dump(self, *words):
        {dump}
def make(*words): {make}
def row(case): {row}
CLIENT = ClientKind(name="mine", says="", profile=row, make=make)
"""
SERVER = """
from bench.kinds import ServerKind
def make(place, options): {make}
SERVER = ServerKind(name="mine", says="", simulated=make)
"""
STORY = (
    'title = "t"\nwhy = "w"\ntiers = ["sim"]\n[machine]\nmemory = "1 MiB"\n{part}\n'
    '[[case]]\nprofile = "netdump2"\nexpect = {{ outcome = "{outcome}" }}\n'
)


def with_client(folder: Path, outcome: str = "complete", **body: str) -> Scenario:
    plain = {"dump": "return super().dump(*words)", "make": "return Mine(*words)"}
    text = CLIENT.format(**(plain | {"row": 'return PROFILES["netdump2"]'} | body))
    (folder / "part.py").write_text(text)
    story = STORY.format(part='[client]\nkind = "part.py:CLIENT"', outcome=outcome)
    path = folder / "story.toml"
    path.write_text(story)
    return parse_scenario(story, "story", str(path))


@pytest.mark.parametrize(
    ("dump", "told"),
    [
        ("return {}[7]", "in its dump: KeyError: 7 ({file}:7 dump)"),
        ("raise SystemExit(0)", "in its dump: SystemExit: 0 ({file}:7 dump)"),
        ("super().dump(*words)", "Mine: its dump gives NoneType, and should give a Report"),
        ("return super().dump()", "in its dump: TypeError: "),
    ],
)
def test_a_client_that_raises_in_its_dump_has_crashed(tmp_path: Path, dump: str, told: str) -> None:
    (case,) = play(with_client(tmp_path, "client-crashed", dump=dump), tmp_path / "run")
    assert case.outcome == "client-crashed"
    assert case.why.startswith(told.format(file=tmp_path / "part.py"))
    assert case.oracles["panic-hygiene"] == "broken"
    assert case.oracle_reasons["panic-hygiene"].startswith("the client crashed: ")
    assert case.met, case.unmet


def test_a_client_of_a_file_plays(tmp_path: Path) -> None:
    (case,) = play(with_client(tmp_path), tmp_path / "run")
    assert case.met, case.unmet


def run(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What a run that ends with 2 says, in one line."""
    words = ["run", str(folder / "story.toml"), "--quiet", "--runs", str(folder / "runs")]
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"make": "1 / 0"}, "the client mine can't be made: ZeroDivisionError: "),
        ({"make": "raise SystemExit(0)"}, "the client mine can't be made: SystemExit: 0 ("),
        ({"make": "pass"}, "make gives a NoneType, which has no image, dump"),
        ({"row": "return case.none"}, "the profile of the client mine can't be made: Attribute"),
    ],
)
def test_a_clients_factory_that_raises_is_one_line_and_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], body: dict[str, str], says: str
) -> None:
    with_client(tmp_path, **body)
    said = run(tmp_path, capsys)
    assert says in said
    assert "pass" in body.values() or f"{tmp_path}/part.py:" in said


@pytest.mark.parametrize(
    ("make", "says"),
    [
        ("return {}['x']", "the server mine can't be made: KeyError: 'x' ({file}:3 make)"),
        ("pass", "the server mine can't be made: make gives a NoneType, which has no start, kill"),
    ],
)
def test_a_servers_factory_that_raises_is_one_line_and_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: str, says: str
) -> None:
    (tmp_path / "part.py").write_text(SERVER.format(make=make))
    story = STORY.format(part='[server]\nkind = "part.py:SERVER"', outcome="complete")
    (tmp_path / "story.toml").write_text(story)
    assert says.format(file=tmp_path / "part.py") in run(tmp_path, capsys)


def test_whose_a_part_is_its_module_says() -> None:
    assert family_is_ours(nic_family("e1000"))
    assert not family_is_ours(nic_family(PIO))
    assert is_ours(E1000Driver)
    assert not is_ours(type("Installed", (E1000Driver,), {"__module__": "somebodys.nic"}))
