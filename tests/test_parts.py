"""Somebody else's NIC, server, client and machine are played without a change to the bench.

``tests/parts/mine.py`` has one of each. They are given by path, and installed: a folder with the
metadata of a distribution, which Python finds as it finds everything that pip has installed.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.assemble import lacks
from bench.errors import BadInput, MachineLacks
from bench.parts import CLIENTS, MACHINES, NICS, SERVERS
from bench.play import _cannot, _require_parts
from bench.put_in import with_parts
from bench.scenario import (
    TIERS,
    Scenario,
    ScenarioError,
    expand_cases,
    load_scenario,
    parse_scenario,
)
from bench.scenario.schema import Replaceable
from bench.tiers import ROWS, Choice, choose_tier
from bench.wire.contracts import Capability
from tests.patience import HANG_S

MINE = Path(__file__).parent / "parts" / "mine.py"
HOUSE = Path(__file__).resolve().parents[1]
SCENARIOS = ("clean-dump", "lossy-wire")
#: Sort of part -> its name when it is installed, and in its file.
PARTS = {
    "nic": ("counting", "NIC"),
    "server": ("mine", "SERVER"),
    "client": ("patient", "CLIENT"),
    "machine": ("loud", "MACHINE"),
}
TIERS_HERE = [
    pytest.param("sim", marks=pytest.mark.sim),
    pytest.param("tap", marks=pytest.mark.tap),
]


def with_machine(scenario: str, machine: str, tmp_path: Path) -> Path:
    """A machine is the story's own: it is named in the file."""
    text = load_scenario(scenario).text
    found = text.find("[machine]\n")
    if found < 0:
        text = text.replace("[[case]]", f'[machine]\nkind = "{machine}"\n\n[[case]]', 1)
    else:
        text = text.replace("[machine]\n", f'[machine]\nkind = "{machine}"\n', 1)
    path = tmp_path / f"{scenario}.toml"
    path.write_text(text)
    return path


def play(
    tmp_path: Path, scenario: str, tier: str, *words: str, path: Path | None = None
) -> dict[str, Any]:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "bench", "run", scenario, "--tier", tier, *words),
            *("--runs", str(tmp_path / "runs"), "--json", "--quiet"),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(path)] if path else [])},
        cwd=HOUSE,
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    verdict: dict[str, Any] = json.loads(done.stdout)
    assert verdict["passed"]
    return verdict


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder that holds a distribution with those parts, as pip would have put it there."""
    folder = tmp_path / "site"
    metadata = folder / "mine-1.0.dist-info"
    metadata.mkdir(parents=True)
    (folder / "mine_parts.py").write_text(MINE.read_text())
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    lines = [
        f"[netdump_bench.{sort}s]\n{name} = mine_parts:{attribute}\n"
        for sort, (name, attribute) in PARTS.items()
    ]
    (metadata / "entry_points.txt").write_text("\n".join(lines))
    return folder


@pytest.mark.sim
@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("sort", ["nic", "server", "client"])
def test_a_part_in_a_file_is_played(sort: str, scenario: str, tmp_path: Path) -> None:
    words = f"{MINE}:{PARTS[sort][1]}"
    verdict = play(tmp_path, scenario, "sim", f"--{sort}", words)
    assert verdict["parts"][sort]["words"] == words
    again = subprocess.run(
        [sys.executable, "-m", "bench", "replay", verdict["run_folder"], "--quiet"],
        cwd=HOUSE,
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )
    assert again.returncode == 0, again.stdout + again.stderr


@pytest.mark.sim
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_machine_in_a_file_is_played(scenario: str, tmp_path: Path) -> None:
    play(tmp_path, str(with_machine(scenario, f"{MINE}:MACHINE", tmp_path)), "sim")


@pytest.mark.parametrize("tier", TIERS_HERE)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_installed_parts_are_played_by_their_names(
    scenario: str, tier: str, tmp_path: Path, installed: Path
) -> None:
    story = with_machine(scenario, "loud", tmp_path)
    words = [w for sort in ("nic", "server", "client") for w in (f"--{sort}", PARTS[sort][0])]
    verdict = play(tmp_path, str(story), tier, *words, path=installed)
    assert {case["profile"] for case in verdict["cases"]} == {"patient"}
    assert verdict["not_played"], "the cases that are about our profiles' defects"


def test_installed_parts_are_listed(installed: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "parts", "--json"],
        env={**os.environ, "PYTHONPATH": str(installed)},
        cwd=HOUSE,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=True,
    )
    listed = {(row["sort"], row["name"]): row for row in json.loads(done.stdout)["parts"]}
    for sort, (name, _) in PARTS.items():
        assert listed[sort, name]["ok"], listed[sort, name]
    assert {name for sort, name in listed if sort == "tier"} == set(TIERS)


# --- what is wrong with one is said in one line ---------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("gone.py:A", None, r"gone\.py: no such file"),
        ("f.py:A", "B = 1\n", r"f\.py has no A"),
        ("f.py:kindd", "kind = 1\n", 'did you mean "kind"'),
        ("f.py:A", "A = 1\n", "it is a int, where a kind of server has to be a ServerKind"),
        ("f.py:A", "1 / 0\n", r"f\.py: line 1: ZeroDivisionError"),
        ("f.py:A", "def f(:\n", r"f\.py: line 1: SyntaxError"),
        ("./f.py", "", "Write FILE.py:NAME"),
        ("netdumpbench", None, 'did you mean "netdump-bench"'),
    ],
)
def test_a_part_that_is_none_is_one_line(
    name: str, text: str | None, says: str, tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / "f.py").write_text(text)
    with pytest.raises(BadInput, match=says) as refused:
        SERVERS.find(name, tmp_path)
    assert "\n" not in str(refused.value)


HEAD = 'title = "t"\nwhy = "w"\ntiers = ["tap", "sim"]\n'
CASE = '[[case]]\nprofile = "netdump2"\nexpect = { outcome = "complete" }\n'


def test_paths_in_a_scenario_start_at_its_own_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE.read_text())
    text = f'{HEAD}[server]\nkind = "mine.py:SERVER"\nmax_clients = 2\n{CASE}'
    (tmp_path / "story.toml").write_text(text)
    (case,) = expand_cases(load_scenario(tmp_path / "story.toml"))
    assert (case.server_part.kind.name, case.server_part.options.max_clients) == ("mine", 2)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            f'[server]\nkind = "{MINE}:SERVER"\nrescue = false\n{CASE}',
            "x.toml:6: server.rescue: unkno",
        ),
        (
            f'[server]\nkind = "{MINE}:SERVER"\nmax_clients = 0\n{CASE}',
            "x.toml:6: server.max_clients",
        ),
        (f'[server]\nkind = "nobody"\n{CASE}', "x.toml:5: server.kind: no kind of server is named"),
        (f'[machine]\nkind = "linus"\n{CASE}', 'did you mean "linux"'),
        (f'[client]\nkind = "profil"\n{CASE}', 'did you mean "profile"'),
        (
            f'[nic]\nmodel = "e100"\n{CASE}',
            'x.toml:5: nic.model: no family of NICs is named "e100"',
        ),
        ('[[case]]\nexpect = { outcome = "complete" }\n', "case[1].profile: is missing"),
    ],
)
def test_what_is_wrong_with_a_part_is_said_where_it_is_written(text: str, says: str) -> None:
    with pytest.raises(ScenarioError) as refused:
        parse_scenario(HEAD + text, "x", "x.toml")
    assert says in str(refused.value)


COMMAND = """
kind       = "command"
argv       = ["true"]
finished   = "vmcore.*"
unfinished = "*.part"
"""
STRICT = COMMAND + "strict_finish = true\n"


@pytest.mark.parametrize(
    ("scenario", "played", "left_out"),
    [
        ("lossy-wire", {"netdump2", "netdump2 with stock acks"}, {"freebsd-14": "server.rescue"}),
        (
            "ack-alias-hole",
            {"freebsd-14, no rescue", "netdump2, no rescue"},
            {"freebsd-14, rescued": "server.rescue"},
        ),
    ],
)
def test_a_server_without_rescue_plays_what_does_not_ask_for_it(
    scenario: str, played: set[str], left_out: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "server.toml").write_text(COMMAND)
    story = with_parts(load_scenario(scenario), {"server": str(tmp_path / "server.toml")})
    cases = {case.group: case.forbidden for case in expand_cases(story)}
    assert {group for group, why in cases.items() if not why} == played
    for group, key in left_out.items():
        assert cases[group] == f"it sets {key} = True, and this one has False"


def test_a_strict_server_is_not_held_to_what_a_lax_one_does(tmp_path: Path) -> None:
    (tmp_path / "server.toml").write_text(STRICT)
    with pytest.raises(BadInput, match=r"server\.strict_finish = False, and this one has True"):
        with_parts(load_scenario("ack-alias-hole"), {"server": str(tmp_path / "server.toml")})


WRONG = HOUSE / "examples/drivers/forgets_to_reclaim.py:ForgetsToReclaim"
OURS_LAX = 'kind = "netdump-bench"\nrescue = true\n'


@pytest.mark.parametrize(
    ("section", "table", "case", "says"),
    [
        ("server", OURS_LAX, "server = { rescue = false }", "server.rescue = False"),
        (
            "nic",
            'model = "e1000"\npromiscuous = false\n',
            "nic = { promiscuous = true }",
            "nic.pro",
        ),
        ("nic", 'model = "e1000"\n', f'nic = {{ driver = "{WRONG}" }}', "a nic of its own"),
        ("server", COMMAND, f'server = {{ kind = "{MINE}:SERVER" }}', "a server of its own"),
        ("client", f'kind = "{MINE}:CLIENT"\n', 'client = { kind = "profile" }', "a client of its"),
    ],
)
def test_a_case_is_left_out_that_would_mean_something_else(
    section: Replaceable, table: str, case: str, says: str, tmp_path: Path
) -> None:
    (tmp_path / "part.toml").write_text(table)
    other = CASE.replace("[[case]]\n", f'[[case]]\nname = "other"\n{case}\n')
    story = parse_scenario(HEAD + other + CASE, "x", "x.toml")
    made = with_parts(story, {section: str(tmp_path / "part.toml")})
    first, second = expand_cases(made)
    assert says in first.forbidden
    assert not second.forbidden


def test_what_describes_the_scenarios_own_server_is_not_said_of_another(tmp_path: Path) -> None:
    own = '[server]\nkind = "command"\nargv = ["false"]\nready = "up"\nprotocol = "netdump2"\n'
    (tmp_path / "server.toml").write_text(COMMAND)
    story = parse_scenario(HEAD.replace(', "sim"', "") + own + CASE, "x", "x.toml")
    (case,) = expand_cases(with_parts(story, {"server": str(tmp_path / "server.toml")}))
    options = case.server_part.options
    assert (options.argv, options.ready, options.protocol) == (("true",), None, "stock")


def test_how_often_frames_are_sent_again_is_not_asked_of_other_paces(tmp_path: Path) -> None:
    story = load_scenario("clean-dump")
    assert any(case.expect.retransmissions for case in expand_cases(story))
    made = with_parts(story, {"client": f"{MINE}:CLIENT"})
    assert not any(c.expect.retransmissions for c in expand_cases(made) if not c.forbidden)
    lossy = with_parts(load_scenario("lossy-wire"), {"client": f"{MINE}:CLIENT"})
    assert all(c.expect.retransmissions for c in expand_cases(lossy) if not c.forbidden)


def test_the_rules_of_every_part_are_asked_when_one_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "nic.toml").write_text('model = "e1000"\nmode = "locked"\n')
    linux = CASE.replace(
        "[[case]]\n", '[[case]]\nmachine = { kind = "linux", memory = "96 MiB" }\n'
    )
    story = parse_scenario(HEAD.replace('"sim"', '"qemu"') + linux + CASE, "x", "x.toml")
    first, second = expand_cases(with_parts(story, {"nic": str(tmp_path / "nic.toml")}))
    assert first.forbidden.startswith("nic.mode: ")
    assert not second.forbidden


def test_a_part_that_is_put_in_is_present(tmp_path: Path) -> None:
    (tmp_path / "server.toml").write_text(COMMAND + "present = false\n")
    with pytest.raises(BadInput, match="present: a part that is put in is there"):
        with_parts(load_scenario("clean-dump"), {"server": str(tmp_path / "server.toml")})


# --- the tier is one on which something can be played ---------------------------------------------

WORKS = Capability(True, "works")
NO_TAP = Capability(False, "no device", "load the tun module")


def chosen(story: Scenario, demanded: str | None, tap: Capability = WORKS) -> Choice:
    probes = {name: lambda: WORKS for name in ROWS} | {"tap": lambda: tap}
    return choose_tier(story, demanded, probes, _cannot(story))


def test_a_tier_on_which_no_case_can_be_played_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "server.toml").write_text(COMMAND)
    server = with_parts(load_scenario("clean-dump"), {"server": str(tmp_path / "server.toml")})
    assert chosen(server, None).tier == "tap"
    with pytest.raises(BadInput, match="no case can be played on tier sim: a command server can't"):
        chosen(server, "sim")
    with pytest.raises(
        MachineLacks, match=r"tier qemu: a command server .* with the simulated host"
    ):
        chosen(server, "qemu", NO_TAP)
    with pytest.raises(MachineLacks, match="clean-dump can't be played here: not tap: no device"):
        chosen(server, None, NO_TAP)


def test_a_part_that_this_machine_lacks_is_told_with_its_cure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    story = with_parts(load_scenario("clean-dump"), {"server": f"{MINE}:SERVER"})
    (case, *_) = expand_cases(story)
    lacking = replace(case.server_part.kind, name="container", probe=lambda: NO_TAP)
    case = replace(case, server_part=replace(case.server_part, kind=lacking))
    monkeypatch.setattr("bench.play.expand_cases", lambda _story: [case])
    with pytest.raises(MachineLacks, match=r"no container: no device \(cure: load the tun"):
        _require_parts(story)


def test_a_client_in_the_place_of_ours_is_played_without_our_tuning() -> None:
    story = with_parts(load_scenario("ack-alias-hole"), {"client": f"{MINE}:CLIENT"})
    assert {case.group for case in expand_cases(story) if not case.forbidden} == {
        "netdump2, no rescue"
    }


def test_a_part_that_is_fixed_stays(tmp_path: Path) -> None:
    fixed = CASE.replace("[[case]]\n", '[[case]]\nname = "ours"\nfixed = ["server"]\n')
    story = parse_scenario(HEAD + fixed + CASE, "x", "x.toml")
    (tmp_path / "server.toml").write_text(COMMAND)
    made = with_parts(story, {"server": str(tmp_path / "server.toml")})
    assert [case.forbidden for case in expand_cases(made)] == [
        "its server can't be replaced",
        "",
    ]


# --- no module of the bench asks a part for its name ----------------------------------------------

ROOMS = ("bench", "guest", "netdump", "nic_models", "server")


def _names() -> set[str]:
    """Of tiers and of kinds, ours and the tests'."""
    shelves = (NICS, MACHINES, SERVERS, CLIENTS)
    return {*TIERS, *(name for shelf in shelves for name in shelf.names())}


def _compared(path: Path, names: set[str]) -> list[str]:
    """Places where a comparison, a match or a lookup in a display has one of the names in it."""
    found = []
    nodes: list[Any] = list(ast.walk(ast.parse(path.read_text())))
    for node in nodes:
        parts: list[ast.expr] = []
        if isinstance(node, ast.Compare):
            parts = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            parts = [node.value]
        elif isinstance(node, ast.Subscript | ast.Attribute) and isinstance(node.value, ast.Dict):
            parts = [key for key in node.value.keys if key is not None]
        constants = [
            inner.value
            for part in parts
            for inner in ast.walk(part)
            if isinstance(inner, ast.Constant)
        ]
        if any(value in names for value in constants if isinstance(value, str)):
            found.append(f"{path}:{node.lineno}: {ast.unparse(node)}")
    return found


def test_no_module_compares_a_tiers_or_a_kinds_name() -> None:
    names = _names()
    allowed = {HOUSE / "bench" / "tiers.py"}
    found = [
        place
        for room in ROOMS
        for path in sorted((HOUSE / room).rglob("*.py"))
        if path not in allowed
        for place in _compared(path, names)
    ]
    assert not found, "\n".join(found)


def test_the_check_sees_a_comparison(tmp_path: Path) -> None:
    for number, text in enumerate(
        [
            'x == "tap"',
            'x.kind != "linux"',
            'x in ("qemu", None)',
            '{"sim": 1}.get(x)',
            '{"sim": 1}[x]',
            'match x:\n    case "synthetic": pass',
        ]
    ):
        path = tmp_path / f"f{number}.py"
        path.write_text(text + "\n")
        assert _compared(path, _names()), text
    (tmp_path / "ok.py").write_text('ROWS = {"tap": 1}\nx = "tap"\n')
    assert not _compared(tmp_path / "ok.py", _names())


def test_a_server_and_a_client_of_the_same_name_are_tried_each(tmp_path: Path) -> None:
    (tmp_path / "server.toml").write_text(COMMAND)
    story = with_parts(load_scenario("clean-dump"), {"server": str(tmp_path / "server.toml")})
    (case, *_) = expand_cases(story)
    client = replace(case.client_part.kind, name="command", probe=lambda: WORKS)
    server = replace(case.server_part.kind, probe=lambda: NO_TAP)
    case = replace(
        case,
        client_part=replace(case.client_part, kind=client),
        server_part=replace(case.server_part, kind=server),
    )
    lack = lacks(case, {})
    assert lack is not None
    assert lack.why == "no command: no device"
